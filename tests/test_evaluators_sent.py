"""What is wrong with an evaluator or its result is said, and costs no more than it must."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError, UsageError
from netwright.executors import worker
from netwright.executors.local import InProcess
from netwright.executors.processes import Processes
from netwright.space import Choice, SearchSpace
from netwright.study import Study
from netwright.trial import Evaluation, TrialState

SPACE = SearchSpace("plain", [Choice("a", tuple(range(50)))])


class Odd:
    """An evaluator that gives or raises what it is told to."""

    space = SPACE

    def __init__(self, gives: Any = None) -> None:
        self.gives = gives

    def evaluate(self, architecture: Mapping[str, Any], seed: int, device: str) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


class FussyError(Exception):
    """Can be sent, and not be received."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("fussy")


def failure(gives: Any) -> str:
    study = Study(SPACE, RandomSearch(SPACE), Odd(gives))
    study.run(1)
    assert study.trials[0].state is TrialState.FAILED
    return str(study.trials[0].failure)


def test_an_evaluator_that_gives_a_number_is_told_what_it_must_give() -> None:
    assert failure(0.9) == "TypeError: an evaluator must return an Evaluation; got 0.9"


def test_an_endless_number_of_parameters_fails_the_child() -> None:
    said = failure(Evaluation(reward=1.0, score=1.0, parameters=float("inf")))  # type: ignore[arg-type]
    assert "numbers and words" in said


def test_a_failure_is_kept_whatever_its_words() -> None:
    assert failure(ValueError("caf\udce9.png\0")) == "ValueError: caf\\udce9.png\\0"


@dataclass
class Local:
    """Becomes a class of a module that workers do not have."""

    space = SPACE

    def evaluate(self, architecture: Mapping[str, Any], seed: int, device: str) -> Evaluation:
        return Evaluation(reward=1.0, score=1.0)


def test_workers_that_cannot_import_an_evaluator_end_the_search_and_fail_no_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator = Local()
    executor = Processes(1)
    try:
        broken = worker.packed(evaluator).replace(b"Local", b"Locax")
        monkeypatch.setattr(worker, "packed", lambda _: broken)
        study = Study(SPACE, RandomSearch(SPACE), evaluator)
        with pytest.raises(UsageError, match=r"importable by workers; got .*Locax.*; put it"):
            study.run(3, executor)
        assert study.trials == []
    finally:
        executor.shutdown()


def test_an_evaluator_that_cannot_be_sent_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"importable by workers; got .*lambda.*; put it"):
        worker.packed(Odd(lambda: 0))


def test_a_result_that_cannot_be_received_fails_the_child_and_the_search_ends() -> None:
    pickled = worker.packed(Giving())
    with pytest.raises(ChildError, match="cannot be sent to another process"):
        worker.evaluate("giving", pickled, SPACE.sample(random.Random(0)), 0, "cpu")


class Giving(Odd):
    """Gives what can be pickled alone."""

    def evaluate(self, architecture: Mapping[str, Any], seed: int, device: str) -> Any:
        return Evaluation(reward=1.0, score=1.0, details={"why": FussyError(1, 2)})  # type: ignore[dict-item]


class Big(Odd):
    """Holds something in its frame when it fails."""

    held: weakref.ref[Any]

    def evaluate(self, architecture: Mapping[str, Any], seed: int, device: str) -> Any:
        network = np.zeros(1000)
        Big.held = weakref.ref(network)
        raise ValueError("no memory")


def test_what_a_failed_child_held_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        future = InProcess().submit(Big(), SPACE.sample(random.Random(0)), 0)
        assert isinstance(future.exception(), ValueError)
        del future
        assert Big.held() is None
    finally:
        gc.enable()


def test_arguments_of_a_study_that_are_no_good_are_refused() -> None:
    with pytest.raises(UsageError, match="failure_reward must be finite; got nan"):
        Study(SPACE, RandomSearch(SPACE), Odd(), failure_reward=float("nan"))
    assert Study(SPACE, RandomSearch(SPACE), Odd(), seed=np.int64(3)).seed == 3  # type: ignore[arg-type]
