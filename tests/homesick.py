"""An evaluator whose results can be read in the process that made them, and in no other."""

from __future__ import annotations

import os
from typing import Any

from netwright.space import Architecture
from netwright.trial import Evaluation


class _Home:
    def __init__(self, process: int) -> None:
        if process != os.getpid():
            raise ValueError("far from home")

    def __reduce__(self) -> tuple[Any, ...]:
        return _Home, (os.getpid(),)


class Homesick:
    """Gives such a result."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        details: Any = {"at": _Home(os.getpid())}
        return Evaluation(reward=1.0, score=1.0, details=details)
