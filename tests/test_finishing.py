"""The best run of a grid goes by its reward, also in journals that have none."""

from __future__ import annotations

from typing import Any

import pytest

from netwright.finishing import best_run

LOST: dict[str, Any] = {"trial": 9, "setting": {}, "score": None, "failure": "not finite"}


def run(trial: int, score: float, reward: float | None = None) -> dict[str, Any]:
    more = {} if reward is None else {"reward": reward}
    return {"trial": trial, "setting": {}, "score": score, **more}


@pytest.mark.parametrize(
    ("records", "best"),
    [
        ([run(0, 90.0, 0.7), run(1, 80.0, 0.9), run(2, 80.0, 0.9), LOST], 1),
        ([run(0, 0.9), LOST, run(1, 0.95)], 1),
        ([run(0, 0.9), run(1, 0.95, 0.86), run(2, 0.92, 0.78)], 1),
    ],
    ids=["lower is better", "without rewards", "some without"],
)
def test_the_best_run_goes_by_reward(records: list[dict[str, Any]], best: int) -> None:
    found = best_run(records)
    assert found is not None
    assert found["trial"] == best


def test_no_run_is_best_where_none_has_a_score() -> None:
    assert best_run([]) is None
    assert best_run([LOST]) is None
