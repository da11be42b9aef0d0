"""Evaluations in processes of this machine, which may be killed, hang or run out of memory."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from pebble import ProcessExpired, ProcessPool

from netwright.errors import ChildError, UsageError
from netwright.executors import worker
from netwright.interrupts import all_held
from netwright.machine import telling, watched
from netwright.protocols import Evaluator
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.trial import Evaluation

SETTLED = 1.0  # seconds after which a pool that breaks is seen to have
ENDING = 3.0  # seconds for workers to end by themselves


def ignore_interrupts() -> None:
    """Leave an interrupt from the terminal to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _begin(threads: int, once: Any) -> None:
    ignore_interrupts()
    if once is not None:
        telling(partial(_say, once))
    worker.set_threads(threads)


def _say(once: Any, text: str) -> None:
    """Say it where no other worker has; on a terminal the line of a bar is gone first."""
    if once.acquire(block=False):
        begin = "\r\x1b[K" if sys.stderr.isatty() else ""
        with suppress(OSError):  # that nobody reads it is no child's fault
            os.write(sys.stderr.fileno(), f"{begin}netwright: {text}\n".encode())


class _Worker(SpawnProcess):
    """A worker that its pool starts, unless that is over."""

    def __init__(self, workers: _Workers, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._workers: _Workers | None = workers

    def start(self) -> None:
        """Start it; raises `OSError`, as where no process can be, once the pool is over."""
        assert self._workers is not None, "it is not sent to another process before"
        self._workers.start(self, super().start)

    def __getstate__(self) -> object:
        return self.__dict__ | {"_workers": None}


class _Workers(SpawnContext):
    """What a pool starts its workers by, which so knows them all."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._over = threading.Lock(), False
        self._begun: list[_Worker] = []

    def Process(self, *given: Any, **named: Any) -> _Worker:  # type: ignore[override]  # noqa: N802
        return _Worker(self, *given, **named)

    def start(self, process: _Worker, begin: Callable[[], None]) -> None:
        with self._lock:
            if self._over:
                raise OSError("the pool is over")
            begin()
            self._begun = [*(other for other in self._begun if other.is_alive()), process]

    def end(self) -> None:
        """End all, also those that are still starting; no more are started."""
        with self._lock:
            self._over = True
        for process in self._begun:
            process.terminate()
        deadline = time.monotonic() + ENDING
        for process in self._begun:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()


@dataclass(frozen=True)
class _Task:
    key: str
    pickled: bytes
    architecture: Architecture
    seed: int
    device: str
    rule: Rule | None


class Processes:
    """Keeps `workers` processes, started afresh (spawn), each with its own threads.

    workers: >= 1. devices: torch devices, handed out evenly. threads: of torch in each worker, 0
    leaves its own number. time_limit: seconds after which a child is killed with its worker, 0 for
    none; the evaluator's own limit, which needs no killing, should be shorter. retries: how often
    an evaluation whose worker died or was killed is tried again before it fails, >= 0. recycle:
    evaluations after which a worker is started afresh, 0 for never; what one leaks is gone with it.

    A worker that dies costs its evaluation alone. Close it with `shutdown`, which kills what runs.
    """

    def __init__(
        self,
        workers: int = 2,
        devices: Sequence[str] = ("cpu",),
        *,
        threads: int = 1,
        time_limit: float = 0.0,
        retries: int = 1,
        recycle: int = 0,
    ) -> None:
        if workers < 1 or not devices or retries < 0 or recycle < 0:
            raise ValueError(
                f"workers must be 1 or more, with a device and no negative retries; got "
                f"{workers}, {list(devices)}, {retries}"
            )
        self.workers = workers
        self.time_limit = time_limit
        self.retries = retries
        self._busy = Counter(dict.fromkeys(devices, 0))
        self._lock = threading.Lock()
        self._closed = False
        self._under_way: set[Future[Evaluation]] = set()
        self._pickled: tuple[Evaluator, str, bytes] | None = None
        self._workers = _Workers()
        once = self._workers.Semaphore() if watched() else None
        self._pool = ProcessPool(
            max_workers=workers,
            initializer=_begin,
            initargs=(threads, once),
            context=self._workers,
            max_tasks=recycle,
        )

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        """Start an evaluation; its future holds the result or a `ChildError` with the cause."""
        if self._pickled is None or self._pickled[0] is not evaluator:
            pickled = worker.packed(evaluator)
            self._pickled = (evaluator, hashlib.sha256(pickled).hexdigest(), pickled)
        with self._lock:
            device = min(self._busy, key=lambda name: self._busy[name])
            self._busy[device] += 1
        outer: Future[Evaluation] = Future()
        outer.set_running_or_notify_cancel()
        self._under_way.add(outer)
        self._start(outer, _Task(*self._pickled[1:], architecture, seed, device, rule), 0)
        return outer

    def _start(self, outer: Future[Evaluation], task: _Task, attempt: int) -> Future[Any]:
        sent = (task.key, task.pickled, task.architecture, task.seed, task.device, task.rule)
        try:
            with all_held():
                inner = self._pool.schedule(
                    worker.evaluate, args=sent, timeout=self.time_limit or None
                )
        except RuntimeError as error:  # the pool broke just now, or could start no process
            raise worker.ended() from error
        inner.add_done_callback(partial(self._ended, outer, task, attempt))
        started: Future[Any] = inner
        return started

    def _watch(self, outer: Future[Evaluation], again: Future[Any]) -> None:
        """End `outer` where the pool was just breaking: what it then takes in never ends."""

        def look() -> None:
            if not (again.done() or self._pool.active or self._closed):
                self._settle(outer, worker.ended())

        timer = threading.Timer(SETTLED, look)
        timer.daemon = True
        timer.start()

    def _ended(
        self, outer: Future[Evaluation], task: _Task, attempt: int, inner: Future[Any]
    ) -> None:
        error = None if inner.cancelled() else inner.exception()
        lost = isinstance(error, ProcessExpired | FutureTimeoutError)
        broken: BaseException | None = error if isinstance(error, BrokenProcessPool) else None
        if lost and attempt < self.retries and self._pool.active:
            try:
                self._watch(outer, self._start(outer, task, attempt + 1))
                return
            except UsageError as unstarted:
                broken = unstarted
        with self._lock:
            self._busy[task.device] -= 1
        if error is None and not inner.cancelled():
            self._settle(outer, worker.received(inner.result()))
        elif error is None or self._closed:
            self._settle(outer, worker.stopped())
        elif broken is not None:
            self._settle(outer, worker.ended())
        else:
            self._settle(outer, self._cause(error, attempt + 1) if lost else error)

    def _settle(self, outer: Future[Evaluation], result: Evaluation | BaseException) -> None:
        self._under_way.discard(outer)
        worker.settle(outer, result)

    def _cause(self, error: BaseException, times: int) -> ChildError:
        if isinstance(error, ProcessExpired):
            code = int(error.exitcode or 0)
            how = f"signal {-code} ({_signal(-code)})" if code < 0 else f"exit code {code}"
            return worker.died(how, times)
        return worker.killed(self.time_limit, times)

    def shutdown(self) -> None:
        """Stop; running evaluations are killed, and their futures hold a `ChildError`."""
        self._closed = True
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._workers.end()  # before the pool lets go of what those need that are still starting
        self._pool.join()
        for outer in list(self._under_way):
            self._settle(outer, worker.stopped())


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
