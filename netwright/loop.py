"""The loop of a search: fill the workers, take what ends, stop when asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from netwright.errors import WorkerLostError, WorkersEndedError
from netwright.keeper import Keeper
from netwright.protocols import Evaluator, Executor
from netwright.scheduling import Ended, Watch
from netwright.trial import Trial

TICK = 1.0  # seconds after which a waiting loop looks whether it shall stop


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How proposals are kept in flight.

    queue: tell each result as it comes, and propose whenever a worker is free; otherwise up to
    `replicas` proposals are in flight, and each is told whole (paper, 3.2).
    """

    queue: bool = False
    replicas: int = 1


class Loop:
    """Runs a study's trials on an executor until `target` are finished, or `stop` is called."""

    def __init__(
        self,
        keeper: Keeper,
        evaluator: Evaluator,
        executor: Executor,
        mode: Mode,
        watch: Watch,
        on_trial: Callable[[Trial], None] | None,
    ) -> None:
        self._keeper = keeper
        self._evaluator = evaluator
        self._executor = executor
        self._mode = mode
        self._watch = watch
        self._on_trial = on_trial
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._running: dict[Ended, Trial] = {}
        self._starting: Trial | None = None
        self._lost: list[Trial] = []  # with their workers, while the search was told to end
        self.stopping = False

    def run(self, check: Callable[[], None]) -> None:
        """Go on to the end; `check` is called before each write and each wait, and may raise."""
        while self._missing > 0:
            self._fill(check)
            if self._missing <= 0 or (self.stopping and not self._running):
                return
            check()
            self._take(check)

    @property
    def _missing(self) -> int:
        return self._watch.target - self._keeper.ledger.finished

    def interrupted(self) -> list[int]:
        """Return the numbers of the trials that are running still, or were lost at the end."""
        starting = [] if self._starting is None else [self._starting]
        return sorted(t.number for t in [*starting, *self._running.values(), *self._lost])

    def _fill(self, check: Callable[[], None]) -> None:
        """Start trials while workers are free and trials may start."""
        while not self.stopping and (missing := self._missing) > 0:
            check()
            if min(self._executor.workers, missing) <= len(self._running):
                return
            trial = self._keeper.next()
            if trial is None:
                if not self._may_propose(missing):
                    return
                self._keeper.propose()
                continue
            settled = self._keeper.settle(trial, self._mode.queue)
            if settled is not None:
                self._after(settled, trained=False)
                continue
            self._start(trial)

    def _start(self, trial: Trial) -> None:
        self._starting = trial
        self._change(len(self._running) + 1)
        try:
            future = self._submit(trial)
        except WorkersEndedError:
            if self.stopping:
                return
            raise
        self._starting = None
        self._running[future] = trial
        future.add_done_callback(self._ended.put)

    def _submit(self, trial: Trial) -> Ended:
        submit = self._executor.submit
        return submit(self._evaluator, trial.architecture, trial.seed, trial.rule)

    def _may_propose(self, missing: int) -> bool:
        keeper = self._keeper
        if self._mode.queue:
            unneeded = len(keeper.pending) >= missing
            return not unneeded and keeper.pending.held < self._executor.workers
        if keeper.batches == 0:
            return True
        return keeper.batches < self._mode.replicas and len(keeper.pending) < missing

    def _take(self, check: Callable[[], None]) -> None:
        """Wait for an evaluation that ends, and take what ended beside it too."""
        future = self._keeper.clock.wait(self._ended, TICK)
        while future is not None:
            check()
            trial = self._running.pop(future)
            self._change(len(self._running))
            result = future.exception() or future.result()
            if self.stopping and isinstance(result, WorkerLostError | WorkersEndedError):
                self._lost.append(trial)  # what tells a search to end may end its workers too
            else:
                done = self._keeper.ended(trial, result)
                self._after(self._keeper.record(done, self._mode.queue), trained=True)
            try:
                future = self._ended.get_nowait()
            except Empty:
                return

    def _change(self, running: int) -> None:
        self._watch.change(self._keeper.clock.time(), running, self._executor.workers)

    def _after(self, trial: Trial, trained: bool) -> None:
        self._watch.end(trial, trained)
        if self._on_trial is not None:
            self._on_trial(trial)
