"""The command `netwright compare`, thin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netwright.console import err, note, print_json, say
from netwright.options import JsonOpt, SetOpt, written


def compare(
    config: Annotated[str, typer.Argument(help="A TOML file or a preset's name.")],
    target: Annotated[
        Path | None, written("FOLDER", "runs/compare-NAME by default.", "--out")
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Of each search.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Of each controller.")] = None,
    workers: Annotated[
        str | None,
        typer.Option("--workers", metavar="N|auto", help="Children, or searches, at once."),
    ] = None,
    settings: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Compare controllers on one space by paired seeds; run again to go on."""
    from netwright.comparing import Comparison, check_entries
    from netwright.config import load_config, set_threads
    from netwright.progress import counting
    from netwright.searching import workers_of

    extra = [f"study.trials={trials}"] if trials is not None else []
    extra += [f"compare.seeds={seeds}"] if seeds is not None else []
    extra += [f"execution.workers={workers_of(workers)}"] if workers is not None else []
    loaded = load_config(config, [*(settings or []), *extra])
    loaded.execution.check_children()
    loaded.execution.check_device()
    set_threads(loaded)
    check_entries(loaded)
    comparison = Comparison(loaded, target or Path("runs") / f"compare-{loaded.name}")
    comparison.begin()
    ended = len(comparison.runs) - len(comparison.missing())
    with counting(err, "searches", len(comparison.runs)) as advance:
        for _ in range(ended):
            advance("")
        for run in comparison.go_on(note):
            advance(run.name)
    found = comparison.write()
    if as_json:
        print_json({key: value for key, value in found.items() if key != "text"})
        return
    say(found["text"])
    say(f"written: {', '.join(found['files'])}")
