"""Learning rates over a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("constant", "decay", "drops", "cosine")


def step_rate(base: float, epoch: int, epochs: int, drops: Sequence[float], factor: float) -> float:
    """Return the rate of `epoch` (from 0): `base` times `factor` for each drop passed.

    drops: shares of the run in (0, 1), such as 0.5 and 0.75 (Huang et al. 2016), rounded to epochs;
    the first epoch is before all of them.
    """
    return float(base * factor ** sum(epoch >= max(1, round(drop * epochs)) for drop in drops))


def decay_rate(base: float, epoch: int, after: int, factor: float) -> float:
    """Return the rate of `epoch` (from 0): `base`, times `factor` for each epoch past `after`.

    Zaremba et al. 2014: their medium LSTM has base 1, after 6, factor 1 / 1.2.
    """
    return float(base * factor ** max(0, epoch + 1 - after))


def cosine_rate(base: float, progress: float) -> float:
    """Return the rate after the share `progress` in [0, 1] of the run, from `base` to 0."""
    return base * (1 + math.cos(math.pi * progress)) / 2
