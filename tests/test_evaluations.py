"""Results that no process can read, and arguments that no journal can hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError, DataError, StudyError, UsageError
from netwright.evaluators.synthetic import choices_space
from netwright.executors import worker
from netwright.executors.processes import Processes
from netwright.space import Architecture
from netwright.store import sqlite_url
from netwright.study import Study
from netwright.trial import Evaluation
from tests.homesick import Homesick

SPACE = choices_space(3, 3)
ARCHITECTURE = next(iter(SPACE.enumerate()))


# --- workers ------------------------------------------------------------------------------


def test_a_result_that_is_not_readable_here_fails_its_child() -> None:
    executor = Processes(1)
    try:
        error = executor.submit(Homesick(), ARCHITECTURE, 0).exception(120)
        assert isinstance(error, ChildError)
        assert str(error) == "its result cannot be read here: ValueError: far from home"
    finally:
        executor.shutdown()


def test_a_child_ends_once() -> None:
    future: Future[Evaluation] = Future()
    worker.settle(future, worker.stopped())
    worker.settle(future, Evaluation(reward=1.0, score=1.0))
    assert str(future.exception()) == "stopped before it ended"


def test_a_function_that_cannot_be_sent_to_workers_is_one_line_and_no_trial() -> None:
    study = Study(SPACE, RandomSearch(SPACE), lambda architecture: 1.0)
    executor = Processes(1)
    try:
        with pytest.raises(UsageError, match=r"importable by workers; got .*; put it in a module"):
            study.run(2, executor)
    finally:
        executor.shutdown()
    assert len(study) == 0


class Absent:
    """Does not find its data where it arrives."""

    def __setstate__(self, state: object) -> None:
        raise DataError("no such folder")

    def __getstate__(self) -> int:
        return 1

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        raise NotImplementedError


def test_what_an_evaluator_says_of_its_data_on_arrival_is_kept() -> None:
    with pytest.raises(DataError, match=r"^no such folder$"):
        worker.evaluate("absent", worker.packed(Absent()), ARCHITECTURE, 0, "cpu")


# --- studies ------------------------------------------------------------------------------


class Own(RandomSearch):
    """A person's own controller."""

    settings: Any = None


@dataclass(frozen=True)
class OwnSettings:
    a: int = 1


def test_a_controllers_settings_are_of_any_kind(tmp_path: Path) -> None:
    for settings, held in (({"a": 1}, {"a": 1}), (OwnSettings(), {"a": 1}), ("odd", {})):
        controller = Own(SPACE)
        controller.settings = settings
        study = Study(SPACE, controller)
        assert study.store.header()["controller"]["settings"] == held


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"config": {"data": Path("x")}}, "config of a study must be of numbers, texts"),
        ({"notes": {"data": Path("x")}}, "notes of a study must be of numbers, texts"),
        ({"seed": 0.5}, "seed must be a whole number; got 0.5"),
        ({"failure_reward": float("inf")}, "failure_reward must be finite; got inf"),
        ({"failure_reward": "low"}, "failure_reward must be finite; got 'low'"),
    ],
)
def test_what_a_journal_cannot_hold_is_one_line(
    tmp_path: Path, arguments: Mapping[str, Any], says: str
) -> None:
    path = tmp_path / "new" / "s.db"
    with pytest.raises(UsageError) as caught:
        Study(SPACE, RandomSearch(SPACE), storage=sqlite_url(path), **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.parent.exists()


def test_numbers_of_numpy_begin_a_study() -> None:
    seed: Any = np.int64(3)
    controller = RandomSearch(SPACE, seed=seed)
    study = Study(SPACE, controller, seed=seed, failure_reward=np.float32(-1.0))  # type: ignore[arg-type]
    header = study.store.header()
    assert (header["seed"], header["controller_seed"], header["failure_reward"]) == (3, 3, -1.0)


def test_a_study_goes_on_with_its_controllers_seed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    def opened(seed: int) -> Study:
        return Study(SPACE, RandomSearch(SPACE, seed=seed), storage=sqlite_url(path))

    opened(1)
    opened(1)
    with pytest.raises(StudyError, match="controller_seed was '1' and is '2'"):
        opened(2)
    with sqlite3.connect(path) as connection:  # as journals were before the seed was kept
        connection.execute("DELETE FROM header WHERE key = 'controller_seed'")
    opened(2)
