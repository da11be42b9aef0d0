"""Workers that die, hang, or give back what cannot be sent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError, TimeLimitError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.executors.processes import Processes
from netwright.protocols import Executor
from netwright.space import Architecture
from netwright.study import Study
from netwright.trial import Evaluation
from tests.strategies import small_space

ARCHITECTURE = next(iter(small_space().enumerate()))


class OddError(Exception):
    """Cannot be unpickled: it takes two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class Misbehaving:
    """Does what its name says for odd seeds; counts its calls in a file."""

    def __init__(self, how: str, calls: Path) -> None:
        self.how, self.calls = how, calls

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        with self.calls.open("a") as file:
            file.write(f"{seed} {os.getpid()}\n")
        if seed % 2:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "once" and self.calls.read_text().count(f"{seed} ") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "hung":
                time.sleep(600)
            if self.how == "exits":
                os._exit(3)
            if self.how == "timeout":
                raise TimeoutError("no answer from a mirror")
            if self.how == "raises":
                raise OddError("one", "two")
            if self.how == "unpicklable":
                details: Any = {"function": lambda: 0}
                return Evaluation(reward=1.0, score=1.0, details=details)
        return Evaluation(reward=float(seed), score=float(seed), details={"pid": os.getpid()})


@contextmanager
def pool(**settings: Any) -> Iterator[Processes]:
    executor = Processes(2, **settings)
    try:
        yield executor
    finally:
        executor.shutdown()


@pytest.mark.parametrize(
    ("how", "settings", "message", "calls"),
    [
        ("killed", {}, r"the worker died: signal 9 \(SIGKILL\), 2 times", 2),
        ("killed", {"retries": 0}, r"the worker died: signal 9 \(SIGKILL\)$", 1),
        ("exits", {"retries": 0}, "the worker died: exit code 3", 1),
        ("hung", {"time_limit": 10.0, "retries": 0}, "killed with its worker after 10 s", 1),
    ],
)
def test_a_lost_worker_costs_its_evaluation_alone(
    how: str, settings: dict[str, Any], message: str, calls: int, tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    with pool(**settings) as executor:
        futures = [executor.submit(Misbehaving(how, log), ARCHITECTURE, n) for n in range(4)]
        for n in (0, 2):
            assert futures[n].result(60).score == n
        for n in (1, 3):
            with pytest.raises(ChildError, match=message):
                futures[n].result(60)
            assert log.read_text().count(f"{n} ") == calls
    assert (how == "hung") == isinstance(futures[1].exception(), TimeLimitError)


def test_a_timeout_of_the_childs_own_is_its_failure_and_no_hang(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with pool() as executor:
        future = executor.submit(Misbehaving("timeout", log), ARCHITECTURE, 1)
        with pytest.raises(ChildError, match="TimeoutError: no answer from a mirror") as caught:
            future.result(60)
    assert not isinstance(caught.value, TimeLimitError)
    assert len(log.read_text().splitlines()) == 1


def test_a_worker_lost_once_is_tried_again(tmp_path: Path) -> None:
    with pool() as executor:
        future = executor.submit(Misbehaving("once", tmp_path / "calls"), ARCHITECTURE, 1)
        assert future.result(60).score == 1.0
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_a_result_that_cannot_be_sent_fails_its_evaluation(tmp_path: Path) -> None:
    with pool() as executor:
        bad = executor.submit(Misbehaving("unpicklable", tmp_path / "calls"), ARCHITECTURE, 1)
        with pytest.raises(ChildError, match=r"cannot be sent to another process: .*pickle"):
            bad.result(60)
        good = executor.submit(Misbehaving("unpicklable", tmp_path / "calls"), ARCHITECTURE, 2)
        assert good.result(60).score == 2.0


def test_an_exception_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    with pool() as executor:
        bad = executor.submit(Misbehaving("raises", tmp_path / "calls"), ARCHITECTURE, 1)
        with pytest.raises(ChildError, match="OddError: one"):
            bad.result(60)


def test_workers_are_kept_and_both_are_used(tmp_path: Path) -> None:
    evaluator = Misbehaving("well", tmp_path / "calls")
    with pool() as executor:
        futures = [executor.submit(evaluator, ARCHITECTURE, n) for n in range(12)]
        pids = {f.result(60).details["pid"] for f in futures}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_devices_are_handed_out_evenly(tmp_path: Path) -> None:
    executor = Processes(2, ("cuda:0", "cuda:1"))
    try:
        evaluator = Where()
        futures = [executor.submit(evaluator, ARCHITECTURE, n) for n in range(2)]
        assert {f.result(60).details["device"] for f in futures} == {"cuda:0", "cuda:1"}
    finally:
        executor.shutdown()


class Where:
    """Says which device it was given."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        return Evaluation(reward=0.0, score=0.0, details={"device": device})


def test_a_study_survives_its_workers(tmp_path: Path) -> None:
    space = small_space()
    evaluator = Misbehaving("killed", tmp_path / "calls")
    study = Study(
        space, RandomSearch(space, seed=1, batch=4), evaluator, "sqlite://", retrain_duplicates=True
    )
    with pool(retries=0) as executor:
        study.run(8, executor)
    failures = {t.failure for t in study.trials if not t.completed}
    assert len(study.trials) == 8
    assert all(t.completed == (t.seed % 2 == 0) for t in study.trials)
    assert failures <= {"WorkerLostError: the worker died: signal 9 (SIGKILL)"}


def test_workers_change_nothing_of_a_search() -> None:
    """The controller is told whole proposals in order, whichever child ends first."""
    space = choices_space(6, 3)
    evaluator = Additive(space, seed=0)

    def searched(executor: Executor | None) -> list[tuple[str, float | None]]:
        settings = PolicySettings(batch=4, learning_rate=0.05)
        study = Study(space, PolicyGradient(space, settings, seed=2), evaluator, "sqlite://")
        study.run(12, executor)
        return [(t.architecture.to_json(), t.reward) for t in study.trials]

    with pool() as executor:
        assert searched(executor) == searched(None)
