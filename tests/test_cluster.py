"""Children on a real Ray cluster, one of whose two nodes is removed in mid-search."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError, ConfigError, DataError, MissingExtraError, TimeLimitError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.executors.cluster import RayExecutor
from netwright.loop import Mode
from netwright.space import Architecture
from netwright.study import Study
from netwright.trial import Evaluation
from tests.homesick import Homesick
from tests.ray_cluster import two_nodes

SPACE = choices_space(6, 3)
ARCHITECTURE = next(iter(SPACE.enumerate()))
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of its sockets and processes


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, Any]]:
    with two_nodes() as made:
        yield made


class Misbehaving:
    """Does what `how` says."""

    def __init__(self, how: str) -> None:
        self.how = how

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        if self.how == "exits":
            os._exit(3)
        if self.how == "hangs":
            time.sleep(600)
        if self.how == "raises":
            raise ChildError("its own")
        if self.how == "bad data":
            raise DataError("not there")
        details = {"x": (i for i in range(3))} if self.how == "unpicklable" else {"x": device}
        return Evaluation(reward=seed, score=seed, details=details)  # type: ignore[arg-type]


def _outcome(executor: RayExecutor, how: str) -> BaseException | None:
    return executor.submit(Misbehaving(how), ARCHITECTURE, 5).exception(300)


def test_what_goes_wrong_fails_its_child_alone(nodes: tuple[Any, Any]) -> None:
    executor = RayExecutor(address=nodes[0].address, retries=1)
    assert executor.workers == 2
    good = executor.submit(Misbehaving("no"), ARCHITECTURE, 7).result(300)
    assert (good.score, good.details["x"]) == (7, "cpu")
    error = _outcome(executor, "exits")
    assert isinstance(error, ChildError)
    assert str(error).startswith("the worker died: WorkerCrashedError")
    assert str(error).endswith(", 2 times")
    assert str(_outcome(executor, "raises")) == "its own"
    assert isinstance(_outcome(executor, "bad data"), DataError)
    assert "cannot be sent to another process" in str(_outcome(executor, "unpicklable"))
    error = executor.submit(Homesick(), ARCHITECTURE, 5).exception(300)
    assert str(error) == "its result cannot be read here: ValueError: far from home"
    executor.shutdown()


def test_a_hung_child_is_killed(nodes: tuple[Any, Any]) -> None:
    executor = RayExecutor(address=nodes[0].address, retries=0, time_limit=2.0)
    error = _outcome(executor, "hangs")
    assert isinstance(error, TimeLimitError)
    assert "after 2 s" in str(error)
    executor.shutdown()


class Slow(Additive):
    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        time.sleep(0.3)
        return super().evaluate(architecture, seed, device)


def test_a_search_goes_on_when_a_node_leaves(nodes: tuple[Any, Any]) -> None:
    cluster, second = nodes
    executor = RayExecutor(address=cluster.address, retries=2)
    mode = Mode(queue=True)
    study = Study(SPACE, RandomSearch(SPACE, batch=4), Slow(SPACE), mode=mode)
    seen: list[int] = []

    def on_trial(trial: object) -> None:
        seen.append(executor.workers)
        if len(seen) == 6:
            cluster.remove_node(second, allow_graceful=False)

    study.run(24, executor, on_trial)
    assert len(study.trials) == 24
    assert all(trial.completed for trial in study.trials)
    assert seen[0] == 2
    deadline = time.monotonic() + 60  # on a busy machine Ray learns of it late
    while executor.workers != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert executor.workers == 1
    executor.shutdown()


def test_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'netwright\[ray\]'"):
        RayExecutor()


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuses(**_: object) -> None:
        raise ConnectionError("nobody there\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuses)
    with pytest.raises(ConfigError, match=r"got 'far:1' \(nobody there\)"):
        RayExecutor(address="far:1")
