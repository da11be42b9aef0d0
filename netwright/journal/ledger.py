"""What a study remembers of its trials: an outline of each, whole ones where they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from netwright.protocols import Store
from netwright.space import SearchSpace
from netwright.trial import Outline, Trial, TrialState

KEPT = 20_000  # whole trials in memory
ENDED = (TrialState.COMPLETED, TrialState.STOPPED)


class Ledger:
    """The trials of a store.

    What a search calls for each trial takes a time that does not grow with their number; `read`,
    `running` and `top` look at every one.

    lowest: the lowest reward that the controller was told of, failed trials aside. What has not
    been told is left out, so that it does not depend on which child of a proposal ends first.
    """

    def __init__(self, store: Store, space: SearchSpace) -> None:
        self._store = store
        self._space = space
        self._whole: dict[int, Trial] = {}
        self._first: dict[str, int] = {}
        self.outlines: list[Outline] = []
        self.finished = 0
        self.lowest = math.inf

    def __len__(self) -> int:
        return len(self.outlines)

    def read(self) -> None:
        """Read the outlines of a journal that is there."""
        self.outlines = self._store.outlines()
        waiting = {
            outline.batch for outline in self.outlines if outline.state is TrialState.RUNNING
        }
        for number, outline in enumerate(self.outlines):
            self._count(number, outline)
            if outline.told or outline.batch not in waiting:
                self._hear(outline)

    def _count(self, number: int, outline: Outline) -> None:
        self.finished += outline.state is not TrialState.RUNNING
        if outline.state in ENDED:
            self._first.setdefault(outline.canonical, number)

    def _hear(self, outline: Outline) -> None:
        if outline.state in ENDED and outline.reward is not None:
            self.lowest = min(self.lowest, outline.reward)

    def add(self, trials: Sequence[Trial], canonical: Sequence[str]) -> None:
        """Take in new trials."""
        for trial, own in zip(trials, canonical, strict=True):
            self.outlines.append(Outline(trial.batch, own))
            self._whole[trial.number] = trial

    def finish(self, trial: Trial) -> None:
        """Take in how a trial ended."""
        outline = self.outlines[trial.number]
        outline.state, outline.reward = trial.state, trial.reward
        self._whole[trial.number] = trial
        self._count(trial.number, outline)

    def first(self, canonical: str) -> int | None:
        """Return the first trial of this canonical form that completed or was stopped early."""
        return self._first.get(canonical)

    def running(self) -> list[int]:
        """Return the numbers of the trials without an end."""
        state = TrialState.RUNNING
        return [n for n, outline in enumerate(self.outlines) if outline.state is state]

    def trials(self, numbers: Iterable[int]) -> list[Trial]:
        """Return whole trials, in the order asked for."""
        wanted = list(numbers)
        missing = sorted({n for n in wanted if n not in self._whole})
        found = {t.number: t for t in self._store.trials(self._space, missing)} if missing else {}
        result = [self._whole[n] if n in self._whole else found[n] for n in wanted]
        if len(self._whole) + len(found) <= KEPT:
            self._whole.update(found)
        return result

    def told(self, numbers: Iterable[int]) -> None:
        """Note that the controller heard of these; let go of whole ones, once there are many."""
        for number in numbers:
            self._hear(self.outlines[number])
            if len(self._whole) > KEPT:
                self._whole.pop(number, None)

    def top(self, n: int) -> list[int]:
        """Return the n completed trials of the highest rewards, each canonical form once."""
        seen: set[str] = set()
        result: list[int] = []
        state = TrialState.COMPLETED
        done = [i for i, outline in enumerate(self.outlines) if outline.state is state]
        for number in sorted(done, key=lambda i: (-(self.outlines[i].reward or 0.0), i)):
            if len(result) == n:
                break
            if self.outlines[number].canonical not in seen:
                seen.add(self.outlines[number].canonical)
                result.append(number)
        return result
