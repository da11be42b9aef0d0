"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from netwright.study import Study
from netwright.trial import Trial


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over `total` steps; call what it gives with a note after each."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    ) as progress:
        task = progress.add_task(what, total=total, note="")
        yield lambda note: progress.update(task, advance=1, note=note)


def say_progress(progress: Mapping[str, Any]) -> str:
    """Return how a search goes in a line, from what `Study.progress` gives."""
    if not progress:
        return ""
    best, rate, left = progress["best"], progress["an_hour"], progress["left"]
    used = progress["utilisation"]
    parts = [
        f"best {'-' if best is None else f'{best:.4f}'}",
        "" if left is None else f"{_duration(left)} left",
        f"{progress['running']} running",
        f"{progress['failed']} failed" if progress["failed"] else "",
        f"{progress['stopped']} stopped" if progress.get("stopped") else "",
        "" if rate is None else f"{rate:,.0f} children/h",
        "" if used is None else f"{used:.0%} busy",
    ]
    return ", ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _Watched(ProgressColumn):
    """What the study's watch says, twice a second."""

    max_refresh = 0.5

    def __init__(self, study: Study) -> None:
        self._study = study
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(say_progress(self._study.progress()), no_wrap=True, overflow="ellipsis")


@contextmanager
def search_progress(
    console: Console, study: Study, trials: int, what: str = "searching"
) -> Iterator[Callable[[Trial], None]]:
    """A bar over a search: trials and time, and what `say_progress` says."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Watched(study),
        console=console,
    ) as progress:
        task = progress.add_task(what, total=max(trials, len(study)), completed=len(study))
        yield lambda trial: progress.update(task, completed=len(study))
