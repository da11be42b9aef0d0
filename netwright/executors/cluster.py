"""Evaluations on a Ray cluster, whose nodes may come and go (extra `ray`)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from netwright.errors import ConfigError, MissingExtraError
from netwright.executors import worker
from netwright.protocols import Evaluator
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.trial import Evaluation

LOOK = 1.0  # seconds between two looks at the cluster's resources


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", 'execution.executor = "ray"') from error
    return ray


def _outcome(
    key: str,
    pickled: bytes,
    architecture: Architecture,
    seed: int,
    device: str,
    rule: Rule | None,
    threads: int,
) -> bytes:
    """Run in a worker: the evaluation or the exception, pickled."""
    worker.set_threads(threads)
    try:
        return worker.evaluate(key, pickled, architecture, seed, device, rule)
    except Exception as error:
        return pickle.dumps(error)


@dataclass(eq=False)
class _Task:
    arguments: tuple[Any, ...]
    outer: Future[Evaluation]
    attempt: int = 0
    reference: Any = None
    timer: threading.Timer | None = None
    hung: bool = False


class RayExecutor:
    """Runs each evaluation as a Ray task of `cpus` processors and `gpus` GPUs (fractions too).

    workers: at most so many at once; 0 for as many as the cluster has resources for, which is
    looked at again as nodes come and go. address: of a running cluster, "auto" for the one of this
    machine, "" to start one here, which ends with `shutdown`. threads: of torch in each child, 0
    leaves its own. time_limit: seconds from when a child is handed to Ray, 0 for none. retries: how
    often a child whose worker or node was lost is tried again, >= 0.

    Raises `MissingExtraError` without Ray, `ConfigError` where no cluster answers.
    """

    def __init__(
        self,
        workers: int = 0,
        address: str = "",
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        threads: int = 1,
        time_limit: float = 0.0,
        retries: int = 1,
    ) -> None:
        self._ray = _ray()
        self._most, self._cpus, self._gpus = workers, cpus, gpus
        self._threads, self.time_limit, self.retries = threads, time_limit, retries
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._remote = self._ray.remote(**options)(_outcome)
        self._evaluator: tuple[Evaluator, str, Any] | None = None
        self._seen = (-LOOK, 1)
        self._under_way: set[_Task] = set()
        self._closed = False

    def _connect(self, address: str) -> None:
        local = {} if address else {"include_dashboard": False}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # a child is no background work here
        try:
            self._ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"execution.address must be of a running Ray cluster; got {address!r} "
                f"({str(error).splitlines()[0][:120]}); start it, or leave the address out"
            ) from error

    @property
    def workers(self) -> int:
        """How many run at once with the nodes that are there."""
        at, found = self._seen
        if time.monotonic() - at >= LOOK:
            there = self._ray.cluster_resources()
            rooms = [
                int(there.get(kind, 0.0) / share + 1e-9)
                for kind, share in (("CPU", self._cpus), ("GPU", self._gpus))
                if share
            ]
            found = min(rooms, default=1)
            self._seen = (time.monotonic(), found)
        return min(found, self._most) if self._most else found

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        """Start an evaluation; its future holds the result or a `ChildError` with the cause."""
        if self._evaluator is None or self._evaluator[0] is not evaluator:
            pickled = worker.packed(evaluator, self._ray.cloudpickle.dumps)
            key = hashlib.sha256(pickled).hexdigest()
            self._evaluator = (evaluator, key, self._ray.put(pickled))
        _, key, stored = self._evaluator
        device = "cuda" if self._gpus else "cpu"
        outer: Future[Evaluation] = Future()
        outer.set_running_or_notify_cancel()
        arguments = (key, stored, architecture, seed, device, rule, self._threads)
        self._start(_Task(arguments, outer))
        return outer

    def _start(self, task: _Task) -> None:
        task.reference = self._remote.remote(*task.arguments)
        self._under_way.add(task)
        if self.time_limit:
            task.timer = threading.Timer(self.time_limit, self._kill, (task,))
            task.timer.daemon = True
            task.timer.start()
        task.reference.future().add_done_callback(partial(self._ended, task))

    def _kill(self, task: _Task) -> None:
        task.hung = True
        self._ray.cancel(task.reference, force=True)

    def _ended(self, task: _Task, inner: Future[bytes]) -> None:
        if task.timer is not None:
            task.timer.cancel()
        self._under_way.discard(task)
        error = inner.exception()
        if error is not None:
            self._lost(task, error)
            return
        worker.settle(task.outer, worker.received(inner.result()))

    def _lost(self, task: _Task, error: BaseException) -> None:
        """Try again, or fail the child: its worker or its node is gone."""
        if task.attempt < self.retries and not self._closed:
            task.attempt, task.hung = task.attempt + 1, False
            try:
                self._start(task)
            except Exception:  # whatever Ray says once it is gone; here it would be said to nobody
                worker.settle(task.outer, worker.ended())
            return
        times = task.attempt + 1
        if self._closed:
            cause = worker.stopped()
        elif task.hung:
            cause = worker.killed(self.time_limit, times)
        else:
            said = next(iter(str(error).splitlines()), "")[:200]
            cause = worker.died(f"{type(error).__name__}: {said}", times)
        worker.settle(task.outer, cause)

    def shutdown(self) -> None:
        """Stop; running evaluations are killed, and their futures hold a `ChildError`."""
        self._closed = True
        for task in list(self._under_way):
            with contextlib.suppress(Exception):
                self._ray.cancel(task.reference, force=True)
        if self._own:
            self._ray.shutdown()
        for task in list(self._under_way):
            worker.settle(task.outer, worker.stopped())
