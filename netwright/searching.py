"""What `search`, `resume` and `status` do."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from netwright.config import Config
from netwright.interrupts import graceful
from netwright.progress import say_progress, search_progress
from netwright.study import Study
from netwright.trial import TrialState
from netwright.workspace import Workspace


def run_search(config: Config, study: Study, trials: int, err: Console) -> bool:
    """Run a search with a bar, on the configured workers; say whether it came to its end.

    Ctrl-C and SIGTERM let the children that run end, see `graceful`; `KeyboardInterrupt` where they
    were not given the time.
    """

    if len(study) >= trials:
        return True

    def say(text: str) -> None:
        err.print(f"netwright: {text}", markup=False)

    if config.execution.workers == 0:
        say("measuring how many workers this machine feeds best, once")
    with (
        config.execution.running() as (executor, said),
        search_progress(err, study, trials) as on_trial,
        graceful(study.stop, say) as stopping,
    ):
        if said:
            say(said)
        study.run(trials, executor, on_trial, say)
    return len(study) >= trials or not stopping.asked


def status(place: Workspace) -> dict[str, Any]:
    """Return how a study stands, reading its journal alone: a search that runs is not disturbed."""
    store = place.store()
    try:
        outlines, holder = store.outlines(), store.holder()
    finally:
        store.close()
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
    lines = [
        f"{place.name}: {found['trials']} trials finished, {found['failed']} of them failed; "
        f"{found['unfinished']} proposed and not finished"
    ]
    by = found["searched_by"]
    if by is None:
        return [*lines, f"nobody searches now; go on with: netwright resume {place.name}"]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(by["since"]))
    who = f"process {by['pid']} on {by['host']} since {since}"
    if not by["alive"]:
        return [
            *lines,
            f"its search by {who} died; go on with: netwright resume {place.name}",
        ]
    progress = by["progress"]
    lines.append(f"searched by {who}, seen {by['heartbeat']:.0f} s ago")
    if progress:
        lines.append(f"{progress['done']} of {progress['target']}: {say_progress(progress)}")
    return lines
