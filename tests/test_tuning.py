"""The grid on several workers: what it notes is that of one, in the same order."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import pytest
from rich.console import Console

from netwright import tuning
from netwright.config import load_config
from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError, WorkersEndedError
from netwright.executors.processes import Processes
from netwright.protocols import Evaluator
from netwright.searching import grid_workers
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.study import Study
from netwright.tasks.images import ImageConfig
from netwright.trial import Evaluation

GRID = [
    "tune.top=2",
    "tune.learning_rates=[0.05, 0.1]",
    "tune.weight_decays=[1e-4]",
    "training.epochs=1",
    "data.train_limit=200",
]


def searched(config: ImageConfig) -> Study:
    space = config.make_space()
    study = Study(space, RandomSearch(space, seed=1), lambda architecture: 1.0)
    study.run(3)
    return study


def test_two_processes_note_what_one_does() -> None:
    """But for the seconds: the same runs, scores and order, of data read once a process."""
    config = cast(ImageConfig, load_config("digits", [*GRID, "execution.threads=1"]).settled())
    alone, shared = searched(config), searched(config)
    list(tuning.tune(config, alone, config.make_evaluator(alone.space)))
    workers = Processes(2)
    try:
        list(tuning.tune(config, shared, config.make_evaluator(shared.space), workers))
    finally:
        workers.shutdown()
    noted = [
        [{k: v for k, v in event.payload.items() if k != "cost"} for event in study.events("tune")]
        for study in (alone, shared)
    ]
    assert noted[0] == noted[1]
    assert len({record["score"] for record in noted[0]}) > 1


def test_a_worker_reads_the_data_of_a_grid_once() -> None:
    config = cast(ImageConfig, load_config("digits", GRID))
    evaluator = config.make_evaluator(config.make_space())
    first, other = (
        tuning._AtPoint(config, evaluator, point)
        for point in tuning.points(config, evaluator.space)[:2]
    )
    one, two = (_sent(there) for there in (first, other))
    assert one.evaluator is two.evaluator
    assert (one.point, two.point) == (first.point, other.point)


def _sent(there: tuning._AtPoint) -> tuning._AtPoint:
    import pickle

    found: tuning._AtPoint = pickle.loads(pickle.dumps(there))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_grid_and_its_workers(number: signal.Signals) -> None:
    """No hang_limit holds for them: it is of children, and runs may be longer."""
    config = load_config(
        "digits", ["execution.executor=processes", "execution.workers=2", "execution.hang_limit=5"]
    )
    before = signal.getsignal(number)
    used: list[Processes] = []

    def use() -> None:
        with grid_workers(config, Console(quiet=True)) as executor:
            assert isinstance(executor, Processes)
            used.append(executor)
            os.kill(os.getpid(), number)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        use()
    assert signal.getsignal(number) == before
    assert (used[0].workers, used[0].time_limit) == (2, 0.0)
    space = ImageConfig().make_space()
    with pytest.raises(WorkersEndedError):
        used[0].submit(Idle(), space.sample(random.Random(0)), 0)


class Idle:
    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        raise AssertionError("nobody is left to do it")


class Scripted:
    """An executor of two workers, whose runs end when and as the test says."""

    workers = 2

    def __init__(self) -> None:
        self.begun: list[Future[Evaluation]] = []
        self.points: list[Any] = []
        self.more = threading.Semaphore(0)

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        assert sum(not future.done() for future in self.begun) < self.workers
        self.points.append(cast(Any, evaluator).point)
        self.begun.append(Future())
        self.more.release()
        return self.begun[-1]

    def shutdown(self) -> None:
        pass

    def end(self, number: int, result: float | Exception) -> None:
        if isinstance(result, Exception):
            self.begun[number].set_exception(result)
        else:
            self.begun[number].set_result(Evaluation(reward=result, score=result))


@pytest.fixture
def under_way() -> Iterator[tuple[Study, Scripted, list[Any], threading.Thread]]:
    config = cast(ImageConfig, load_config("digits", GRID))
    study, workers = searched(config), Scripted()
    records: list[Any] = []
    evaluator = config.make_evaluator(study.space)

    def go() -> None:
        try:
            records.extend(tuning.tune(config, study, evaluator, workers))
        except WorkersEndedError as error:
            records.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    for _ in range(2):
        assert workers.more.acquire(timeout=10)
    yield study, workers, records, thread
    thread.join(timeout=10)
    assert not thread.is_alive()


Way = tuple[Study, Scripted, list[Any], threading.Thread]


def test_who_is_ready_first_makes_room_and_is_noted_in_its_place(under_way: Way) -> None:
    study, workers, records, thread = under_way
    workers.end(1, 0.9)
    assert workers.more.acquire(timeout=10), "a third began though the first still runs"
    assert not study.events("tune")
    workers.end(2, ChildError("lost"))
    assert workers.more.acquire(timeout=10)
    workers.end(0, 0.9)
    workers.end(3, 0.5)
    thread.join(timeout=10)
    assert [record["score"] for record in records] == [0.9, 0.9, None, 0.5]
    assert [record["trial"] for record in records] == [0, 0, 1, 1]
    assert records[2]["failure"] == "lost"
    assert tuning.best_setting(study) == (0, workers.points[0], 0.9)


def test_workers_that_ended_fail_no_run_of_the_grid(under_way: Way) -> None:
    study, workers, records, thread = under_way
    workers.end(0, 0.7)
    assert workers.more.acquire(timeout=10)
    workers.end(1, WorkersEndedError("workers must stay"))
    thread.join(timeout=10)
    assert isinstance(records[-1], WorkersEndedError)
    assert [event.payload["score"] for event in study.events("tune")] == [0.7]
    workers.end(2, 0.1)
