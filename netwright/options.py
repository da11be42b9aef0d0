"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
