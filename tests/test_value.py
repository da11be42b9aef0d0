"""The value model against dense numpy on small cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri

from netwright.controllers.designs import Catalogue
from netwright.controllers.encoding import Encoding
from netwright.controllers.guided import LEAST_NOISE
from netwright.controllers.likeness import Features, Likeness
from netwright.controllers.value import LEVEL, ValueModel, normal_ranks
from tests.strategies import small_space

Array = NDArray[Any]

PAIRS, SHARED, NOISE = 0.4, 0.3, 0.05


@pytest.fixture(scope="module")
def features() -> tuple[Features, Features]:
    """Features of 9 told designs and of 6 others."""
    catalogue = Catalogue(Encoding(small_space()))
    designs = catalogue.random(200, np.random.default_rng(2))
    _, first = np.unique(designs.keys(), return_index=True)
    found = Likeness(catalogue).of(designs[np.sort(first)[:15]])
    return found[:9], found[9:]


def _model(told: Features, rewards: Array, *, ranked: bool = True) -> ValueModel:
    return ValueModel(told, rewards, pairs=PAIRS, shared=SHARED, noise=NOISE, ranked=ranked)


def _covariance(a: Features, b: Features) -> Array:
    own = a.own.astype(float) @ b.own.T
    shared = a.shared.astype(float) @ b.shared.T
    decisions = (1 - PAIRS) * own + PAIRS * own**2
    found: Array = LEVEL + (1 - SHARED) * decisions + SHARED * (shared + shared**2) / 2
    return found


def _posterior(told: Features, targets: Array, new: Features) -> tuple[Array, Array]:
    inverse = np.linalg.inv(_covariance(told, told) + NOISE * np.eye(len(told)))
    across = _covariance(new, told)
    return across @ inverse @ targets, _covariance(new, new) - across @ inverse @ across.T


REWARDS = np.array([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4, 0.6])


def test_ranks_by_hand() -> None:
    found = normal_ranks(np.array([5.0, -1.0, 7.0, 5.0]))
    # Ranks 2.5, 1, 4, 2.5 of four; the middle of the k-th quarter is (k - 1/2) / 4.
    assert found == pytest.approx(ndtri([0.5, 0.125, 0.875, 0.5]))
    assert normal_ranks(np.array([3.0])) == pytest.approx([0.0])
    assert normal_ranks(np.full(5, 0.7)) == pytest.approx(np.zeros(5))


@settings(max_examples=50)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_ranks_keep_order_and_ties_and_forget_the_scale(values: list[int]) -> None:
    rewards = np.array(values, dtype=float)
    ranks = normal_ranks(rewards)
    assert np.array_equal(np.sign(ranks[:, None] - ranks), np.sign(rewards[:, None] - rewards))
    for changed in (np.exp(rewards), rewards**3, 1e6 * rewards - 3):
        assert np.array_equal(normal_ranks(changed), ranks)
    assert normal_ranks(-rewards) == pytest.approx(-ranks)
    assert ranks.mean() == pytest.approx(0, abs=0.5)


def test_the_mean_is_that_of_the_posterior(features: tuple[Features, Features]) -> None:
    told, new = features
    model = _model(told, REWARDS)
    for some in (new, told):
        mean, _ = _posterior(told, normal_ranks(REWARDS), some)
        assert model.mean(some) == pytest.approx(mean, abs=1e-4)


def test_rewards_may_be_taken_as_they_are(features: tuple[Features, Features]) -> None:
    told, new = features
    skewed = np.exp(5 * REWARDS)
    mean, _ = _posterior(told, (skewed - skewed.mean()) / skewed.std(), new)
    assert _model(told, skewed, ranked=False).mean(new) == pytest.approx(mean, abs=1e-4)
    assert not np.allclose(_model(told, skewed).mean(new), mean, atol=0.01)
    assert np.isfinite(_model(told, np.ones(9), ranked=False).mean(new)).all()


def test_worlds_have_the_posteriors_mean_and_variance(features: tuple[Features, Features]) -> None:
    told, new = features
    model = _model(told, REWARDS)
    generator = np.random.default_rng(5)
    n = 1000
    drawn = np.array([model.world(generator)(new) for _ in range(n)])
    mean, covariance = _posterior(told, normal_ranks(REWARDS), new)
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(0) - mean) < 4.5 * deviation / np.sqrt(n)).all()
    # A finite sum of products has the exact covariance; of n draws it is some sqrt(2 / n) off.
    off = np.abs(np.cov(drawn.T) - covariance) / np.outer(deviation, deviation)
    assert off.max() < 5 * np.sqrt(2 / n)


def test_one_world_is_one_function(features: tuple[Features, Features]) -> None:
    told, new = features
    world = _model(told, REWARDS).world(np.random.default_rng(1))
    assert world(new)[2:4] == pytest.approx(world(new[2:4]), abs=1e-5)
    again = _model(told, REWARDS).world(np.random.default_rng(1))
    assert np.array_equal(again(new), world(new))


def test_improvement_is_the_integral_over_what_is_better(
    features: tuple[Features, Features],
) -> None:
    told, new = features
    model = _model(told, REWARDS)
    targets = normal_ranks(REWARDS)
    best = _posterior(told, targets, told)[0].max()
    mean, covariance = _posterior(told, targets, new)
    for found, m, v in zip(model.improvement(new), mean, np.diag(covariance), strict=True):
        y = np.linspace(best, best + 12 * np.sqrt(v), 20_001)
        density = np.exp(-((y - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        integral = ((y - best) * density).sum() * (y[1] - y[0])
        assert found == pytest.approx(integral, rel=0.01, abs=1e-5)
    assert (model.improvement(told) >= 0).all()


def test_one_reward_is_enough(features: tuple[Features, Features]) -> None:
    told, new = features
    model = _model(told[:1], np.array([0.3]))
    assert model.mean(new) == pytest.approx(np.zeros(6))
    assert (model.improvement(new) > 0).all()


def test_the_least_noise_keeps_equal_designs_apart() -> None:
    catalogue = Catalogue(Encoding(small_space()))
    designs = Likeness(catalogue).of(catalogue.random(600, np.random.default_rng(0)))
    rewards = np.random.default_rng(1).random(600)
    for pairs, local in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5)):
        model = ValueModel(
            designs, rewards, pairs=pairs, shared=0.0, local=local, noise=LEAST_NOISE
        )
        assert np.isfinite(model.mean(designs)).all()
        assert np.isfinite(model.improvement(designs)).all()


def test_designs_that_have_only_near_ones_in_common_are_learnt() -> None:
    """`local` = 1 leaves nothing to single decisions or pairs."""
    rows = np.eye(12, dtype=np.float32)
    features = Features(rows, np.ones((12, 1), dtype=np.float32))
    rewards = np.arange(12.0)
    for local in (0.9, 1.0):
        model = ValueModel(features, rewards, pairs=0.0, shared=0.0, noise=1e-3, local=local)
        assert np.corrcoef(model.mean(features), model.targets)[0, 1] > 0.999
