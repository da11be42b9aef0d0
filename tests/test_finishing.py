"""The best run of a grid goes by its reward, also in journals that have none."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from netwright import finishing, tuning
from netwright.config import load_config
from netwright.controllers.random import RandomSearch
from netwright.evaluators.image import ImageEvaluator
from netwright.study import Study
from netwright.tasks import images
from netwright.tasks.images import ImageConfig
from netwright.training.image import Recipe
from netwright.trial import Evaluation
from netwright.tuning import best_run

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


def test_the_own_settings_of_an_architecture_have_its_own_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The grid's run without a point trains as the final training without one does."""
    sets = ["space.learning_rates=[0.01, 0.02]", "space.depths=[2]", "space.pools=[1]"]
    config = load_config("digits", [*sets, "tune.learning_rates=[0.1]"])
    assert isinstance(config, ImageConfig)
    space = config.make_space()
    architecture = space.sample(random.Random(0), {"learning_rate": 0.02})
    rates: list[float] = []

    class Asked:
        def __init__(self) -> None:
            self.space = space

        def evaluate_module(self, make: object, recipe: Recipe, *_: object) -> None:
            rates.append(recipe.learning_rate)

    for point in tuning.points(config, space):
        config.evaluate_point(cast(ImageEvaluator, Asked()), architecture, point, 0)
    assert rates == [0.1, 0.1, 0.02]  # two decays of the grid, then its own
    monkeypatch.setattr(
        images, "train_final", lambda *given, **_: rates.append(given[2].learning_rate)
    )
    with pytest.raises(AttributeError):  # nothing was trained
        config.train_final(space, architecture, point=None, child_seed=0, opened=lambda: None)
    assert rates[-1] == 0.02
    plain = load_config("digits", ["tune.learning_rates=[0.1]"])
    assert None not in tuning.points(plain, plain.make_space())


def test_the_runs_of_an_architecture_share_a_seed_that_its_trial_did_not_have() -> None:
    """A child that was lucky in the search is not so again, at its own settings alone."""
    space = ImageConfig().make_space()
    grid = ["tune.top=2", "tune.learning_rates=[0.05, 0.1]", "tune.weight_decays=[1e-4]"]
    config = load_config("digits", grid)
    study = Study(space, RandomSearch(space, seed=1), lambda architecture: 1.0)
    study.run(3)
    seeds: dict[int, set[int]] = {}
    points: list[Any] = []

    class Asked:
        space = study.space

        def evaluate_module(self, make: Any, recipe: Any, seed: int, device: str) -> Evaluation:
            seeds.setdefault(len(points) // 2, set()).add(seed)
            points.append(recipe.learning_rate)
            return Evaluation(reward=float(len(points)), score=0.5)

    records = list(tuning.tune(config, study, cast(Any, Asked())))
    assert [record["trial"] for record in records] == [0, 0, 1, 1]
    assert points == [0.05, 0.1, 0.05, 0.1]
    assert [len(each) for each in seeds.values()] == [1, 1]
    assert seeds[0] != seeds[1]
    assert not {trial.seed for trial in study.trials} & (seeds[0] | seeds[1])
    assert tuning.best_setting(study) == (1, records[-1]["setting"], 0.5)


def test_runs_of_the_grid_may_be_longer_than_children() -> None:
    """All are as long, the run at the search's own settings too, and count as another grid's."""
    space = ImageConfig().make_space()
    study = Study(space, RandomSearch(space, seed=1), lambda architecture: 1.0)
    study.run(1)
    lengths: list[int] = []

    class Asked:
        space = study.space

        def evaluate_module(self, make: Any, recipe: Recipe, *_: object) -> Evaluation:
            lengths.append(recipe.epochs)
            return Evaluation(reward=0.5, score=0.5)

    grid = ["training.epochs=2", "tune.top=1", "tune.learning_rates=[0.05]"]
    for more in ([], ["tune.epochs=2"], ["tune.epochs=7"], ["tune.epochs=0"]):
        config = load_config("digits", [*grid, *more])
        assert len(list(tuning.tune(config, study, cast(Any, Asked())))) == 3
    assert lengths == [2] * 6 + [7] * 3


def test_the_winner_was_trained_where_the_last_grid_still_chooses_it() -> None:
    space = ImageConfig().make_space()
    study = Study(space, RandomSearch(space, seed=1), lambda architecture: 1.0)
    study.run(3)
    assert study.best.number == 0
    assert not finishing.was_trained(study)
    study.store.add_event("train", {"trial": 1})
    assert not finishing.was_trained(study)
    study.store.add_event("train", {"trial": 0})
    assert finishing.was_trained(study)
    point = {"learning_rate": 0.1}
    study.store.add_event("tune", {**run(0, 0.9, 0.9), "setting": point})
    assert not finishing.was_trained(study)
    study.store.add_event("train", {"trial": 0, "setting": point})
    assert finishing.was_trained(study)
