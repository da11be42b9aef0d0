"""Attempts of a search: where it is stuck, it begins anew and remembers only what not to repeat."""

from __future__ import annotations

import math


class Attempts:
    """Tells where the attempt that runs began.

    An attempt ends when `patience` trials in a row, `start` random ones of its beginning not
    counted, were no better than the best of the attempt before them.
    """

    def __init__(self, patience: int, start: int) -> None:
        self._patience, self._start = patience, start
        self.first = 0
        self._trials = 0
        self._best = -math.inf
        self._since = 0

    def take(self, reward: float) -> None:
        """Take the next trial's reward in."""
        self._trials += 1
        self._since += 1
        if reward > self._best:
            self._best, self._since = reward, 0
        if self._trials - self.first <= self._start:
            self._since = 0
        if self._since >= self._patience:
            self.first, self._best, self._since = self._trials, -math.inf, 0
