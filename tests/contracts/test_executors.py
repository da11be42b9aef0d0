"""What every executor promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netwright.errors import ChildError
from netwright.executors.local import InProcess
from netwright.executors.processes import Processes
from netwright.protocols import Executor
from netwright.space import Architecture
from netwright.trial import Evaluation
from tests.strategies import small_space

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "in_process": InProcess,
    "processes": lambda: Processes(2),
}


class _Evaluator:
    """Gives the seed as a score, and fails for odd seeds."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        if seed % 2:
            raise ChildError(f"odd {seed} on {device}")
        return Evaluation(reward=float(seed), score=float(seed), details={"device": device})


@pytest.fixture(params=sorted(EXECUTORS))
def executor(request: pytest.FixtureRequest) -> Executor:
    return EXECUTORS[request.param]()


def test_futures_hold_results_and_exceptions(executor: Executor) -> None:
    assert executor.workers >= 1
    architecture = next(iter(small_space().enumerate()))
    futures = [executor.submit(_Evaluator(), architecture, seed) for seed in range(4)]
    assert [f.result().score for f in futures[::2]] == [0.0, 2.0]
    for seed, future in zip((1, 3), futures[1::2], strict=True):
        with pytest.raises(ChildError, match=f"odd {seed} on cpu"):
            future.result()
    executor.shutdown()
