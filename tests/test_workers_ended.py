"""Workers that are ended while they start or run: they say nothing, and nobody waits for them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pebble import ProcessExpired

from netwright.errors import ChildError, UsageError
from netwright.executors import cluster, processes
from netwright.executors.cluster import RayExecutor
from netwright.executors.processes import Processes
from netwright.interrupts import all_held, graceful
from netwright.space import Architecture
from netwright.trial import Evaluation
from tests.strategies import small_space

ARCHITECTURE = next(iter(small_space().enumerate()))


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def _start_slowly(begun: Path, go: Path) -> int:
    (begun / str(os.getpid())).touch()
    _wait_for(go.exists)
    return 1


class _Threads:
    """A number of threads that a worker receives when `go` is there, before its channel."""

    def __init__(self, begun: Path, go: Path) -> None:
        self.paths = begun, go

    def __reduce__(self) -> tuple[Any, ...]:
        return _start_slowly, self.paths


class _Endless:
    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        Path(device).touch()
        while True:
            time.sleep(0.01)


def test_workers_that_are_still_starting_end_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    begun.mkdir()
    executor = Processes(2, threads=_Threads(begun, go))  # type: ignore[arg-type]
    end, ending = processes._Workers.end, threading.Event()

    def ended(workers: processes._Workers) -> None:
        ending.set()
        end(workers)

    def terminated(process: processes._Worker) -> None:
        if not ending.is_set():  # pebble does, which has let go of what a start needs
            go.touch()
            process.join(60)
        SpawnProcess.terminate(process)

    monkeypatch.setattr(processes._Workers, "end", ended)
    monkeypatch.setattr(processes._Worker, "terminate", terminated)
    future = executor.submit(_Endless(), ARCHITECTURE, 0)
    _wait_for(lambda: len(list(begun.iterdir())) == 2)
    executor.shutdown()
    assert capfd.readouterr().err == ""
    assert isinstance(future.exception(0), ChildError)


def test_what_runs_at_a_shutdown_ends(tmp_path: Path) -> None:
    executor = Processes(1, (str(tmp_path / "runs"),))
    futures = [executor.submit(_Endless(), ARCHITECTURE, n) for n in range(2)]
    _wait_for((tmp_path / "runs").exists)
    executor.shutdown()
    assert [str(future.exception(10)) for future in futures] == ["stopped before it ended"] * 2


def test_a_pools_workers_are_known_by_what_starts_them(tmp_path: Path) -> None:
    """Not by pebble's own, which may be called otherwise tomorrow."""
    executor = Processes(2, (str(tmp_path / "runs"),), threads=0)
    executor.submit(_Endless(), ARCHITECTURE, 0)
    _wait_for((tmp_path / "runs").exists)
    workers = executor._workers._begun
    assert len(workers) == 2
    assert set(workers) <= set(multiprocessing.active_children())
    executor.shutdown()
    assert not any(process.is_alive() for process in workers)
    with pytest.raises(OSError, match="the pool is over"):
        executor._workers.Process().start()
    assert "_pool._" not in Path(processes.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_wait_while_workers_are_started_whichever_thread_takes_them(
    number: signal.Signals,
) -> None:
    over, seen = threading.Event(), []
    thread = threading.Thread(target=over.wait)
    thread.start()
    before = signal.signal(number, lambda n, _: seen.append(n))
    try:
        with all_held():
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            for _ in range(2):
                signal.pthread_kill(thread.ident or 0, number)
                time.sleep(0.01)
            assert seen == []
        _wait_for(lambda: len(seen) > 0)
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(number, before)
        over.set()
        thread.join()


def test_what_runs_has_its_time_also_where_nobody_can_be_told() -> None:
    def say(_: str) -> None:
        raise OSError("the terminal has hung up")

    def runs() -> None:
        with graceful(lambda: asked.append(1), say, limit=0.1):
            signal.raise_signal(signal.SIGTERM)
            threading.Event().wait(60)

    asked: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        runs()
    assert asked == [1]


def _broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("Unexpected error within the Pool")


def test_a_worker_that_cannot_be_started_again_ends_its_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = Processes(1)
    pool = executor._pool
    inner: Future[Any] = Future()
    monkeypatch.setattr(pool, "schedule", lambda *_, **__: inner)
    future = executor.submit(_Endless(), ARCHITECTURE, 0)
    monkeypatch.setattr(pool, "schedule", _broken)
    monkeypatch.setattr(type(pool), "active", True)
    inner.set_exception(ProcessExpired("killed", -9, 1))  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match=r"^workers must start and stay; theirs ended"):
        future.result(0)
    with pytest.raises(UsageError, match=r"^workers must start and stay; theirs ended"):
        executor.submit(_Endless(), ARCHITECTURE, 1)
    executor.shutdown()


class _Gone:
    """Takes what it is sent once; then it is gone."""

    def __init__(self) -> None:
        self.sent: list[Future[bytes]] = []

    def remote(self, *_: object) -> Any:
        if self.sent:
            raise ConnectionError("the cluster is gone")
        self.sent.append(Future())
        return SimpleNamespace(future=lambda: self.sent[0])


def test_a_child_that_ray_cannot_begin_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = _Gone()
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        remote=lambda **_: lambda _: gone,
        put=lambda _: "there",
        cloudpickle=SimpleNamespace(dumps=lambda _: b""),
    )
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    executor = RayExecutor(1, retries=1)
    future = executor.submit(_Endless(), ARCHITECTURE, 0)
    gone.sent[0].set_exception(RuntimeError("its node left"))
    with pytest.raises(UsageError, match=r"^workers must start and stay; theirs ended"):
        future.result(0)
    executor.shutdown()


def _endless_step(folder: Path) -> Callable[[], object]:
    def step() -> None:
        (folder / str(os.getpid())).touch()
        time.sleep(600)

    return step


def test_a_measurement_that_is_interrupted_leaves_no_process_and_no_word(tmp_path: Path) -> None:
    """The terminal's interrupt goes to the processes that are measured too."""
    script = (
        "from functools import partial; from pathlib import Path; "
        "from netwright.executors.probe import _measured; "
        "from tests.test_workers_ended import _endless_step\n"
        f"try: _measured(2, 1, partial(_endless_step, Path({str(tmp_path)!r})))\n"
        "except KeyboardInterrupt: print('over')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("over\n", "")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
