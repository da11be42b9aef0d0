"""What `search`, `resume` and `status` do, and on what `tune` trains."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console

from netwright.config import Config
from netwright.console import err, note, print_json, resume_from, say
from netwright.errors import NetwrightError, UsageError
from netwright.interrupts import graceful, terminated_as_interrupted
from netwright.progress import say_progress, search_progress
from netwright.protocols import Executor
from netwright.showing import row_of
from netwright.study import Study
from netwright.trial import Trial, TrialState
from netwright.workspace import Workspace


def run_search(
    config: Config, study: Study, trials: int, console: Console, what: str = "searching"
) -> bool:
    """Run a search with a bar, on the configured workers; say whether it came to its end.

    Ctrl-C and SIGTERM let the children that run end, see `graceful`; `KeyboardInterrupt` where they
    were not given the time.
    """

    if len(study) >= trials:
        return True
    tell = partial(note, console=console)

    with (
        config.execution.running(config.subject(), tell) as (executor, said),
        search_progress(console, study, trials, what) as on_trial,
        graceful(study.stop, tell) as stopping,
    ):
        if said:
            tell(said)
        study.run(trials, executor, on_trial, tell)
    return len(study) >= trials or not stopping.asked


@contextmanager
def grid_workers(config: Config, console: Console) -> Iterator[Executor]:
    """Give what trains the runs of a grid: the search's workers, which no hang_limit kills.

    That is of children, and a run may be longer.
    """
    tell = partial(note, console=console)

    execution = replace(config.execution, hang_limit=0.0)
    with (
        terminated_as_interrupted(),
        execution.running(config.subject(), tell) as (executor, said),
    ):
        if said:
            tell(said)
        yield executor


def _stopped(n: int) -> str:
    return f", {n} stopped early" if n else ""


def workers_of(text: str) -> int:
    """Return the number of workers that `--workers` names, 0 for auto."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--workers must be 1 or more, or auto; got {text!r}; use --workers auto")
    return int(text)


def _short(trial: Trial) -> str:
    alone = trial.evaluation is not None and trial.evaluation.short
    return " after a short training" if alone else ""


def search_and_say(
    place: Workspace, config: Config, study: Study, trials: int, as_json: bool
) -> None:
    """Run a search and print its best; raises where every trial failed or it was interrupted."""
    resume_from(place.name)
    if not run_search(config, study, trials, err):
        raise KeyboardInterrupt
    done = study.trials
    failed = [trial for trial in done if trial.state is TrialState.FAILED]
    stopped = sum(trial.state is TrialState.STOPPED for trial in done)
    if len(failed) == len(done):
        raise NetwrightError(
            f"all {len(done)} trials failed; the last one: {failed[-1].failure}; see "
            f"netwright top {place.name} --json"
        )
    best = study.best
    if as_json:
        print_json({"study": place.name, "trials": len(done), "best": row_of(best)})
        return
    say(
        f"{len(done)} trials, {len(failed)} failed{_stopped(stopped)}; best: trial {best.number}, "
        f"validation {config.metric.name} {best.score:.4f}{_short(best)}"
    )
    others = "show, tune, train, export, report" if config.trains else "show"
    say(f"study: {place.name}   next: netwright top {shlex.quote(place.name)}, or {others} of it")


def status(place: Workspace) -> dict[str, Any]:
    """Return how a study stands, reading its journal alone: a search that runs is not disturbed."""
    with closing(place.store()) as store:
        outlines, holder = store.outlines(), store.holder()
    states = [outline.state for outline in outlines]
    counts = {str(state): states.count(state) for state in TrialState}
    searched_by = None
    if holder is not None:
        searched_by = {
            "host": holder.host,
            "pid": holder.pid,
            "since": holder.since,
            "heartbeat": holder.age,
            "alive": holder.holds,
            "progress": dict(holder.progress),
        }
    proposed = counts.pop(str(TrialState.RUNNING))
    done = sum(counts.values())
    return {"trials": done, **counts, "unfinished": proposed, "searched_by": searched_by}


def say_status(place: Workspace, found: dict[str, Any]) -> list[str]:
    """Return `status` in lines."""
    early = _stopped(found["stopped"])
    lines = [
        f"{place.name}: {found['trials']} trials finished, {found['failed']} of them failed{early}"
        f"; {found['unfinished']} proposed and not finished"
    ]
    by = found["searched_by"]
    if by is None:
        return [
            *lines,
            f"nobody searches now; go on with: netwright resume {shlex.quote(place.name)}",
        ]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(by["since"]))
    who = f"process {by['pid']} on {by['host']} since {since}"
    if not by["alive"]:
        return [
            *lines,
            f"its search by {who} died; go on with: netwright resume {shlex.quote(place.name)}",
        ]
    progress = by["progress"]
    lines.append(f"searched by {who}, seen {by['heartbeat']:.0f} s ago")
    if progress:
        lines.append(f"{progress['done']} of {progress['target']}: {say_progress(progress)}")
    return lines
