"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from netwright.study import Study
from netwright.trial import Trial


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over `total` steps; call what it gives with a note after each."""
    with _progress(console) as progress:
        task = progress.add_task(what, total=total, note="")
        yield lambda note: progress.update(task, advance=1, note=note)


@contextmanager
def search_progress(
    console: Console, study: Study, trials: int, what: str = "searching"
) -> Iterator[Callable[[Trial], None]]:
    """A bar over a search: trials, time left, the score of the best and the failures so far."""
    done = study.trials
    failed = sum(not trial.completed for trial in done)
    best = max((trial for trial in done if trial.completed), key=_reward, default=None)

    def note() -> str:
        return f"best {'-' if best is None else f'{best.score:.4f}'}" + (
            f", {failed} failed" if failed else ""
        )

    with _progress(console) as progress:
        total = max(trials, len(done))
        task = progress.add_task(what, total=total, completed=len(done), note=note())

        def on_trial(trial: Trial) -> None:
            nonlocal failed, best
            failed += not trial.completed
            if trial.completed and (best is None or _reward(trial) > _reward(best)):
                best = trial
            progress.update(task, advance=1, note=note())

        yield on_trial


def _reward(trial: Trial) -> float:
    return trial.reward or 0.0
