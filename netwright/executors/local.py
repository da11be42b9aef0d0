"""Evaluations in this process."""

from __future__ import annotations

from concurrent.futures import Future

from netwright.executors.worker import evaluated
from netwright.protocols import Evaluator
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.trial import Evaluation


class InProcess:
    """Runs each evaluation at once, in the caller's thread; an interrupt reaches the caller."""

    workers = 1

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        """Evaluate now and return the finished future."""
        future: Future[Evaluation] = Future()
        try:
            future.set_result(evaluated(evaluator, architecture, seed, self.device, rule))
        except Exception as error:
            future.set_exception(error)
        try:
            return future
        finally:
            del future  # of the error's own frames, which hold the child and its memory

    def shutdown(self) -> None:
        """Do nothing: nothing runs between calls."""
