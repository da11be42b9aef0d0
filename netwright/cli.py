"""The commands, thin: each is a few lines of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netwright.compare_command import compare
from netwright.console import err, goes_on, out, print_json, run, say
from netwright.errors import NetwrightError, UsageError
from netwright.network_commands import export, predict
from netwright.options import (
    JsonOpt,
    SetOpt,
    StudyArg,
    StudyOpt,
    TrialsOpt,
    WorkersOpt,
    written,
)

if TYPE_CHECKING:
    from netwright.config import Config
    from netwright.study import Study
    from netwright.workspace import Workspace

app = typer.Typer(
    help="Designs neural networks for your data by reinforcement learning.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _prepare(config: Config) -> None:
    from netwright.config import set_threads

    config.execution.check_device()
    set_threads(config)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Designs neural networks for your data by reinforcement learning."""
    if version:
        from netwright import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def presets(as_json: JsonOpt = False) -> None:
    """List the configurations that come with Netwright."""
    from netwright.config import load_config
    from netwright.config import presets as shipped

    rows = [{"name": name, "about": load_config(name).about} for name in shipped()]
    if as_json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['name']:<{width}}  {row['about']}")


@app.command()
def config(
    config: Annotated[str, typer.Argument(help="A TOML file or a preset's name.")],
    settings: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Print a configuration whole, with every default, as TOML."""
    from netwright.config import load_config, to_toml

    loaded = load_config(config, settings or [])
    if as_json:
        print_json(loaded.to_dict())
        return
    print(to_toml(loaded.to_dict()), end="")


@app.command()
def search(
    config: Annotated[str, typer.Argument(help="A TOML file or a preset's name.")],
    study: StudyOpt = None,
    trials: TrialsOpt = None,
    workers: WorkersOpt = None,
    settings: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Search an architecture: sample, train, learn, again."""
    from netwright.config import load_config
    from netwright.searching import search_and_say, workers_of
    from netwright.workspace import Workspace

    extra = [f"study.trials={trials}"] if trials is not None else []
    extra += [f"execution.workers={workers_of(workers)}"] if workers is not None else []
    loaded = load_config(config, [*(settings or []), *extra])
    place = Workspace(study or Path("runs") / loaded.name)
    loaded.execution.check_children()
    _prepare(loaded)
    begun = place.begin(loaded)
    search_and_say(place, place.config(), begun, loaded.study.trials, as_json)


@app.command()
def resume(
    study: StudyArg,
    trials: TrialsOpt = None,
    workers: WorkersOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Go on with a search that stopped, or take it further with --trials."""
    from netwright.searching import search_and_say, workers_of
    from netwright.workspace import Workspace

    place = Workspace(study)
    config, opened = place.open()
    if workers is not None:
        config = replace(config, execution=replace(config.execution, workers=workers_of(workers)))
    config.check_noted(
        opened.store.header()["notes"], place.name, config.describe(opened.evaluator)
    )
    _prepare(config)
    search_and_say(place, config, opened, trials or config.study.trials, as_json)


@app.command()
def status(study: StudyArg, as_json: JsonOpt = False) -> None:
    """Say how a search stands, from another terminal too; it is not disturbed."""
    from netwright.searching import say_status
    from netwright.searching import status as found
    from netwright.workspace import Workspace

    place = Workspace(study)
    if as_json:
        print_json(found(place))
        return
    for line in say_status(place, found(place)):
        say(line)


@app.command()
def top(
    study: StudyArg,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 10,
    as_json: JsonOpt = False,
) -> None:
    """List the best architectures, each once."""
    from netwright.report.tables import top_table
    from netwright.workspace import Workspace

    place = Workspace(study)
    _, opened = place.open()
    best = opened.top(n)
    if as_json:
        from netwright.showing import row_of

        rows = [row_of(t) for t in opened.trials if not t.completed]
        failed = [row for row in rows if row["state"] == "failed"]
        stopped = [row for row in rows if row["state"] == "stopped"]
        print_json({"top": [row_of(t) for t in best], "failed": failed, "stopped": stopped})
        return
    if best:
        out.print(top_table(best, n, out.width if out.is_terminal else None))
        return
    done = opened.trials
    why = f"all {len(done)} failed; the last one: {done[-1].failure}" if done else "none has ended"
    say(f"no trial has a score: {why}; see netwright top {place.name} --json")


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            help="A study (its folder, or its database's URL), STUDY:best, STUDY:TRIAL, an "
            "architecture file, or one of v1, nascell, lstm and gru.",
        ),
    ],
    trial: Annotated[int | None, typer.Argument(help="A trial's number, for a study.")] = None,
    svg: Annotated[Path | None, written("FILE", "Also draw it into this file.")] = None,
    save: Annotated[Path | None, written("FILE", "Also write its architecture file.")] = None,
    settings: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show one architecture: its layers or its equations, and its size."""
    from netwright.showing import resolve
    from netwright.spaces import save_architecture
    from netwright.writing import write_whole

    shown = resolve(what, trial, settings or [])
    if svg is not None:
        write_whole(svg, shown.svg())
    if save is not None:
        save_architecture(save, shown.space, shown.architecture)
    if as_json:
        print_json(shown.to_dict())
        return
    out.print(shown.table())
    say(shown.summary())


@app.command()
def tune(study: StudyArg, settings: SetOpt = None, as_json: JsonOpt = False) -> None:
    """Try the small grid of training settings on the best few, on validation data."""
    from netwright import tuning
    from netwright.fitting import say_setting
    from netwright.progress import counting
    from netwright.searching import grid_workers

    _, config, opened = _open(study, settings)
    evaluator = config.make_evaluator(opened.space) if settings else opened.evaluator
    assert evaluator is not None
    runs = tuning.tune_runs(config, opened)
    if not runs:
        _ = opened.best
    config.prepare(evaluator)
    cells = len({number for number, _ in runs})
    what = f"{len(runs)} runs = {cells} architectures x {len(runs) // cells} settings"
    err.print(what, markup=False)
    goes_on("finished runs")
    records: list[Any] = []
    with grid_workers(config, err) as executor, counting(err, "tuning", len(runs)) as advance:
        for record in tuning.tune(config, opened, evaluator, executor):
            records.append(record)
            run = tuning.best_run(records)
            advance(f"best {run['score']:.4f}" if run else "")
    best = tuning.best_setting(opened)
    if best is None:
        raise NetwrightError(f"all {len(runs)} runs of the grid failed; see the report")
    number, setting, score = best
    if as_json:
        print_json({"runs": len(runs), "trial": number, "setting": setting, "score": score})
        return
    found = f"trial {number}, {say_setting(setting)}: validation {config.metric.name} {score:.4f}"
    say(f"best of {len(runs)} runs: {found}")


def _open(study: str | Path, settings: list[str] | None) -> tuple[Workspace, Config, Study]:
    """Open a study; `settings` may change what comes after the search, not the search."""
    from netwright.config import config_from_dict, with_settings
    from netwright.workspace import Workspace

    place = Workspace(study)
    searched, opened = place.open()
    config = searched
    if settings:
        config = config_from_dict(with_settings(searched.to_dict(), settings), "--set")
        searched.check_same_search(config)
    _prepare(config)
    if searched.reads_like(config):
        notes = opened.store.header()["notes"]
        searched.check_noted(notes, place.name, searched.describe(opened.evaluator))
    return place, config, opened


@app.command()
def train(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY|CONFIG",
            help="A study (its folder, or its database's URL), whose winner is trained; or, with "
            "--cell, a TOML file or a preset's name, which has data, budget and recipe.",
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            "--cell",
            help="Instead of a winner: v1, nascell, lstm, gru, STUDY:best, STUDY:TRIAL or a file. "
            "Without CONFIG, v1 and the like take cifar10-v1.",
        ),
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="The grid first, for --cell.")] = False,
    config: Annotated[str | None, typer.Option(help="CONFIG, as an option.")] = None,
    target: Annotated[
        Path | None,
        written(
            "FOLDER",
            "Of the network; by default STUDY/network (of a URL runs/DATABASE/network) or "
            "runs/CONFIG-CELL/network.",
            "--out",
        ),
    ] = None,
    settings: SetOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Train the winner, or any architecture, test it once, save it."""
    from netwright.fitting import fit, train_fitted, train_winner
    from netwright.workspace import is_url

    source = what or config
    study = source is not None and (is_url(source) or Path(source).is_dir())
    if architecture is not None and None in (what, config) and not study:
        loaded, name, space, chosen = fit(architecture, source, settings or [])
        _prepare(loaded)
        finished, target, times = train_fitted(loaded, name, space, chosen, target, tune)
        where = f"for {target}"
    elif what is not None and architecture is None and config is None and not tune:
        place, loaded, opened = _open(what, settings)
        finished, target, times = train_winner(place, loaded, opened, target)
        where = "of this study"
    else:
        raise UsageError(
            "train takes a study, or --cell (--architecture) and a configuration, one of them; "
            "see --help"
        )
    if times > 1 and not as_json:
        err.print(f"note: the test set {where} was opened {times} times", markup=False)
    _say_trained(loaded, finished.record, target, as_json)


def _say_trained(loaded: Config, record: Mapping[str, Any], target: Path, as_json: bool) -> None:
    from netwright.fitting import say_setting

    if as_json:
        print_json({"network": str(target), **record})
        return
    if record["tuned"]:
        score = f"validation {loaded.metric.name} {record['validation_score']:.4f}"
        say(f"tuned: {say_setting(record.get('setting'))} ({score})")
    say(f"{loaded.summary(record)}; saved in {target}")


app.command()(export)
app.command()(predict)


@app.command()
def report(
    study: StudyArg,
    control: Annotated[
        str | None,
        typer.Option(metavar="STUDY", help="A study of the same budget to compare with."),
    ] = None,
    target: Annotated[
        Path | None,
        written(
            "FILE", "STUDY/report.html, of a URL runs/DATABASE/report.html, by default.", "--out"
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about the study."""
    from netwright.reporting import write_study_report
    from netwright.workspace import Workspace

    path = target or Workspace(study).report
    write_study_report(study, control, path)
    say(f"report: {path}")


app.command()(compare)


@app.command()
def demo(
    study: Annotated[
        str, typer.Option(help="The study's folder, or a database's URL.")
    ] = "runs/demo",
    settings: SetOpt = None,
) -> None:
    """Search, tune, train, test, export and report on scikit-learn's digits, in minutes."""
    from netwright.demo import run_demo

    run_demo(study, settings or [], out, err)


def main() -> None:
    """Run a command; bad input is one line and exit code 2."""
    run(app)


if __name__ == "__main__":
    main()
