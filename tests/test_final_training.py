"""The final training of images takes the point of the grid that it is given, and [final]."""

from __future__ import annotations

import random
from typing import Any

import pytest

from netwright.config import load_config
from netwright.tasks.images import ImageConfig

POINT = {"learning_rate": 0.03, "weight_decay": 3e-4, "epsilon": 1e-3, "drops": [0.4, 0.9]}
TINY = ["data.train_limit=200", "training.epochs=1", "space.depths=[2]", "space.filters=[4]"]


def config(*settings: str) -> ImageConfig:
    made = load_config("digits", [*TINY, "space.pools=[1]", *settings])
    assert isinstance(made, ImageConfig)
    return made


def trained(made: ImageConfig, point: Any) -> dict[str, Any]:
    space = made.make_space()
    opened: list[int] = []
    finished = made.train_final(
        space,
        space.sample(random.Random(0)),
        point=point,
        child_seed=1,
        opened=lambda: opened.append(1),
    )
    assert opened == [1]
    return dict(finished.record)


def test_all_four_values_of_a_point_are_trained_with() -> None:
    record = trained(config("final.epochs=2"), POINT)
    recipe, child = record["recipe"], record["child"]
    assert recipe["epochs"] == 2
    assert (recipe["learning_rate"], recipe["weight_decay"]) == (0.03, 3e-4)
    assert list(recipe["drops"]) == [0.4, 0.9]
    assert child["batch_norm_epsilon"] == 1e-3


def test_without_a_point_they_are_the_configurations_own() -> None:
    made = config("final.epochs=0", "training.weight_decay=2e-4")
    recipe = trained(made, None)["recipe"]
    assert recipe["epochs"] == 1
    assert recipe["weight_decay"] == 2e-4
    assert recipe["learning_rate"] == made.training.learning_rate


def test_a_final_network_is_as_much_wider_as_it_says() -> None:
    """Two layers of 4 filters; with 3 more each the same layers have 7."""
    plain, wide = (trained(config("final.epochs=1", f"final.widen={n}"), None) for n in (0, 3))
    assert wide["child"]["widen"] == plain["child"]["widen"] + 3
    assert wide["parameters"] > 1.5 * plain["parameters"]


@pytest.mark.parametrize("key", sorted(POINT))
def test_each_value_of_the_grid_reaches_the_child(key: str) -> None:
    made = config()
    grid = made.grid()[0]
    before, after = made.at(grid), made.at({**grid, key: POINT[key]})
    assert before != after
