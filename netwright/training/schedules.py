"""Learning rates over a training run."""

from __future__ import annotations

from collections.abc import Sequence


def step_rate(base: float, epoch: int, epochs: int, drops: Sequence[float], factor: float) -> float:
    """Return the rate of `epoch` (from 0): `base` times `factor` for each drop passed.

    drops: shares of the run in (0, 1), such as 0.5 and 0.75 (Huang et al. 2016).
    """
    return float(base * factor ** sum(epoch >= round(drop * epochs) for drop in drops))
