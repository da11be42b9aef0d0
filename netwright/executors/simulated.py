"""Workers under a simulated clock: a search of thousands of hours in seconds, for measurements."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from netwright.executors.worker import evaluated
from netwright.protocols import Evaluator
from netwright.scheduling import Ended
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.trial import Evaluation

Duration = Callable[[Architecture, int], float]


class Simulated:
    """An executor and the `Clock` of its study; synthetic: what runs is `evaluator`, at once.

    workers: >= 1. duration: simulated seconds of a child from its architecture and seed, > 0.
    lost: from the same, the `Exception` of a child that is lost at the end of its time, or None.
    """

    def __init__(
        self,
        workers: int,
        duration: Duration,
        lost: Callable[[Architecture, int], Exception | None] | None = None,
    ) -> None:
        self.workers = workers
        self._duration = duration
        self._lost = lost
        self._now = 0.0
        self._submitted = 0
        self._running: list[tuple[float, int, Ended, Evaluation | Exception]] = []

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        """Evaluate now; the future ends when the clock is there."""
        future: Future[Evaluation] = Future()
        result: Evaluation | Exception | None = self._lost and self._lost(architecture, seed)
        if result is None:
            try:
                result = evaluated(evaluator, architecture, seed, "cpu", rule)
            except Exception as error:
                result = error
        end = self._now + self._duration(architecture, seed)
        heapq.heappush(self._running, (end, self._submitted, future, result))
        self._submitted += 1
        return future

    def time(self) -> float:
        """Return the simulated seconds since the beginning."""
        return self._now

    def wait(self, ended: SimpleQueue[Ended], timeout: float) -> Ended | None:
        """Move the clock to the end of the next child; no longer than `timeout` without one."""
        if not self._running:
            self._now += timeout
            return None
        self._now, _, future, result = heapq.heappop(self._running)
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
        return ended.get_nowait()

    def shutdown(self) -> None:
        """Do nothing: nothing runs between calls."""
