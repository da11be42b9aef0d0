"""What every executor promises."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue

import pytest

from netwright.errors import ChildError
from netwright.executors.cluster import RayExecutor
from netwright.executors.local import InProcess
from netwright.executors.processes import Processes
from netwright.executors.simulated import Simulated
from netwright.protocols import Evaluator, Executor
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.trial import Evaluation
from tests.ray_cluster import two_nodes
from tests.strategies import small_space

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "in_process": InProcess,
    "processes": lambda: Processes(2),
    "simulated": lambda: _Waited(2, lambda architecture, seed: 1.0),
}


class _Waited(Simulated):
    """Ends each child at once, as its clock would."""

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        future = super().submit(evaluator, architecture, seed, rule)
        ended: SimpleQueue[Future[Evaluation]] = SimpleQueue()
        future.add_done_callback(ended.put)
        self.wait(ended, 0.0)
        return future


class _Evaluator:
    """Gives the seed as a score, and fails for odd seeds."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        if seed % 2:
            raise ChildError(f"odd {seed} on {device}")
        return Evaluation(reward=float(seed), score=float(seed), details={"device": device})


@pytest.fixture(params=[*sorted(EXECUTORS), "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param != "ray":
        yield EXECUTORS[request.param]()
        return
    with two_nodes() as (cluster, _), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield RayExecutor(address=cluster.address)


def test_futures_hold_results_and_exceptions(executor: Executor) -> None:
    assert executor.workers >= 1
    architecture = next(iter(small_space().enumerate()))
    futures = [executor.submit(_Evaluator(), architecture, seed) for seed in range(4)]
    assert [f.result().score for f in futures[::2]] == [0.0, 2.0]
    for seed, future in zip((1, 3), futures[1::2], strict=True):
        with pytest.raises(ChildError, match=f"odd {seed} on cpu"):
            future.result()
    executor.shutdown()
