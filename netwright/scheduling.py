"""Which trial to start next, and how busy the workers are; each step takes constant time."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from netwright.trial import Evaluation, Trial, TrialState

Ended = Future[Evaluation]


class Clock(Protocol):
    """Time, and waiting for it; a simulated one makes a day of children pass at once."""

    def time(self) -> float:
        """Return seconds since some epoch."""

    def wait(self, ended: SimpleQueue[Ended], timeout: float) -> Ended | None:
        """Return the next evaluation that ended, None when none does in `timeout` seconds."""


class WallClock:
    """The machine's own."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def wait(self, ended: SimpleQueue[Ended], timeout: float) -> Ended | None:
        """Return the next evaluation that ended, None when none does in `timeout` seconds."""
        try:
            return ended.get(timeout=timeout)
        except Empty:
            return None


class Pending:
    """Unfinished trials: ready to start, running, or held while an equal one is trained.

    together: start equal ones at once (a study that trains duplicates again).
    """

    def __init__(self, together: bool) -> None:
        self._together = together
        self._ready: deque[tuple[int, str]] = deque()
        self._held: dict[str, list[int]] = {}
        self._forms: set[str] = set()
        self.running: dict[int, str] = {}
        self.held = 0

    def __len__(self) -> int:
        return len(self._ready) + self.held + len(self.running)

    def add(self, number: int, canonical: str) -> None:
        """Queue a trial."""
        self._ready.append((number, canonical))

    def take(self) -> int | None:
        """Return the next trial that may start, as one that runs; None where none may."""
        while self._ready:
            number, canonical = self._ready.popleft()
            if canonical not in self._forms or self._together:
                self._forms.add(canonical)
                self.running[number] = canonical
                return number
            self._held.setdefault(canonical, []).append(number)
            self.held += 1
        return None

    def end(self, number: int) -> None:
        """Forget a trial that ended; those held behind it come next.

        One that was asked for before the study was opened again may end without having run.
        """
        canonical = self.running.pop(number, None)
        if canonical is None:
            self._forget(number)
            return
        if self._together:
            return
        self._forms.discard(canonical)
        freed = self._held.pop(canonical, [])
        self.held -= len(freed)
        self._ready.extendleft((other, canonical) for other in reversed(freed))

    def _forget(self, number: int) -> None:
        self._ready = deque(entry for entry in self._ready if entry[0] != number)
        for held in self._held.values():
            if number in held:
                held.remove(number)
                self.held -= 1


@dataclass
class Watch:
    """How a run goes: what progress bars and `netwright status` show.

    target: finished trials to reach. done, failed, stopped: finished trials of the study. before:
    of those, the ones of earlier runs. trained: children trained in this run. busy, offered:
    worker-seconds used and there.
    """

    target: int
    workers: int
    started: float
    done: int = 0
    failed: int = 0
    stopped: int = 0
    running: int = 0
    trained: int = 0
    busy: float = 0.0
    offered: float = 0.0
    best: float | None = None
    best_reward: float | None = None
    before: int = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._at, self.before = self.started, self.done

    def change(self, now: float, running: int, workers: int) -> None:
        """Take in how many run from now on; what ran until now is counted."""
        self.busy, self.offered = self._used(now)
        self._at, self.running, self.workers = now, running, workers

    def _used(self, now: float) -> tuple[float, float]:
        passed = max(0.0, now - self._at)
        offered = self.offered + passed * max(self.workers, self.running)
        return self.busy + passed * self.running, offered

    def end(self, trial: Trial, trained: bool) -> None:
        """Count a finished trial; trained: in this run."""
        self.done += 1
        self.failed += trial.state is TrialState.FAILED
        self.stopped += trial.state is TrialState.STOPPED
        self.trained += trained
        if not trial.completed:
            return
        assert trial.reward is not None
        if self.best_reward is None or trial.reward > self.best_reward:
            self.best_reward, self.best = trial.reward, trial.score

    def to_dict(self, now: float) -> dict[str, Any]:
        """Return what to show: rates in children an hour, times in seconds."""
        passed = max(0.0, now - self.started)
        busy, offered = self._used(now)
        left, finished = self.target - self.done, self.done - self.before
        return {
            "target": self.target,
            "done": self.done,
            "failed": self.failed,
            "stopped": self.stopped,
            "running": self.running,
            "workers": self.workers,
            "best": self.best,
            "passed": passed,
            "an_hour": 3600 * self.trained / passed if passed and self.trained else None,
            "left": passed * left / finished if finished else None,
            "utilisation": busy / offered if offered else None,
        }
