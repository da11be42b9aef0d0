"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def written(metavar: str, about: str, *names: str) -> Any:
    """Return the option of a path that is to be written, by its parameter's name without `names`.

    A URL is refused, which is no path.
    """
    return typer.Option(*names, parser=_path, metavar=metavar, help=about)


def _path(text: str) -> Path:
    if "://" in text:
        from netwright.errors import UsageError
        from netwright.journal.database import hidden

        raise UsageError(
            f"files are written to a path; got the URL {hidden(text)!r}; give a path, and the URL "
            f"as the study (for Optuna's as --optuna)"
        )
    return Path(text)


StudyArg = Annotated[
    str, typer.Argument(help="The study's folder, or its database's URL.", show_default=False)
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
SetOpt = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, such as training.epochs=5; repeat.")
]
TrialsOpt = Annotated[int | None, typer.Option("--trials", min=1, help="Finished trials to reach.")]
WorkersOpt = Annotated[
    str | None,
    typer.Option("--workers", metavar="N|auto", help="Children at once; auto measures."),
]
StudyOpt = Annotated[
    str | None,
    typer.Option("--study", help="The study's folder, runs/NAME by default, or a database's URL."),
]
