"""What a controller believes of designs not tried: a Bayesian regression on their decisions.

Rewards count by their order alone: ranks, mapped to a normal distribution, so that neither scale
nor a few failures matter. The model is linear in the decisions, in their pairs, and in how often
options were taken: a Gaussian process with covariances of the form `single m + pairs m^2`, m a
product of `Features`. Sources: rank targets, Conover and Iman (1981); draws by Matheron's rule,
Wilson et al. (2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import ndtr, ndtri

from netwright.controllers.likeness import Features

Array = NDArray[Any]
MOST = 1000  # trials that a model is taught: the best half and the newest half of them
LEVEL = 0.3  # variance of the mean
PRODUCTS = 64  # of two random directions, that make up a draw of the pairs
WAVES = 128  # random ones, that make up a draw of the local part (Rahimi and Recht 2007)
IN_CACHE = 2**16  # numbers that are worked on at a time
NEAR = 0.5  # distance of unit vectors, at which the local part is alike by exp(-1/2)


def normal_ranks(rewards: Array) -> Array:
    """Return the ranks of `rewards` [n] as quantiles of a normal distribution; equals share one."""
    _, place, count = np.unique(rewards, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count + (count + 1) / 2
    targets: Array = ndtri((middle[place] - 0.5) / len(rewards))
    return targets


def taught_by(rewards: Array, first: int) -> Array:
    """Return which trials, from `first` on, a model is taught: of too many the best and newest."""
    kept = np.arange(first, len(rewards))
    if len(kept) > MOST:
        older, newest = kept[: -MOST // 2], kept[-MOST // 2 :]
        best = np.argsort(-rewards[older], kind="stable")[: MOST // 2]
        kept = np.concatenate([older[np.sort(best)], newest])
    return kept


def _scaled(rewards: Array) -> Array:
    scaled: Array = (rewards - rewards.mean()) / max(float(rewards.std()), 1e-12)
    return scaled


class ValueModel:
    """The posterior after `rewards` [n] of designs with `features`; n >= 1.

    ranked: whether the targets are the rewards' normal ranks, or the rewards scaled alone.
    pairs: share in [0, 1] of the decisions' variance that is explained by pairs of them. shared:
    share in [0, 1] of the whole that goes by how often options were taken. noise: variance of what
    nothing explains, > 0, where that of the rewards is 1. local: share in [0, 1] of the decisions'
    variance that only near designs have in common, so that little is taken to be known of far ones.
    """

    def __init__(
        self,
        features: Features,
        rewards: Array,
        *,
        pairs: float,
        shared: float,
        noise: float,
        local: float = 0.0,
        ranked: bool = True,
    ) -> None:
        self._told = features
        self._last: tuple[Features, Array] | None = None
        own = (1 - shared) * (1 - local)
        self._parts = ((own * (1 - pairs), own * pairs), (shared / 2, shared / 2))
        self._local = (1 - shared) * local
        self._noise = noise
        self.targets = normal_ranks(rewards) if ranked else _scaled(rewards)
        self._plain = self._covariance(features, features).astype(np.float64)
        covariance = self._plain.copy()
        covariance[np.diag_indices_from(covariance)] += noise
        self._factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._weights = self._solve(self.targets)

    def _covariance(self, a: Features, b: Features) -> Array:
        found: Array = np.full((len(a), len(b)), LEVEL, dtype=np.float32)
        rows = max(1, IN_CACHE // max(1, len(b)))
        for first in range(0, len(a), rows):
            block = slice(first, first + rows)
            self._add_covariance(a[block], b, found[block])
        return found

    def _add_covariance(self, a: Features, b: Features, found: Array) -> None:
        for (single, pairs), x, y in zip(
            self._parts, (a.own, a.shared), (b.own, b.shared), strict=True
        ):
            near = self._local if x is a.own else 0.0
            if single or pairs or near:
                m = x @ y.T
                weight = pairs * m
                weight += single
                weight *= m
                found += weight
                if near:
                    m -= 1
                    m /= NEAR**2
                    np.exp(m, out=m)
                    m *= near
                    found += m

    def _to_told(self, features: Features) -> Array:
        """Return the covariance to what was told; that of the last features is kept."""
        if self._last is None or self._last[0] is not features:
            self._last = (features, self._covariance(features, self._told))
        return self._last[1]

    def _solve(self, values: Array) -> Array:
        found: Array = cho_solve(self._factor, values, check_finite=False)
        return found

    def mean(self, features: Features) -> Array:
        """Return the expected target of designs [m]."""
        found: Array = self._to_told(features) @ self._weights
        return found

    def world(self, generator: np.random.Generator) -> Callable[[Features], Array]:
        """Draw a world from the posterior; return what gives the targets of designs [m] in it."""
        prior = self._prior(generator)
        noise = math.sqrt(self._noise) * generator.standard_normal(len(self.targets))
        weights = self._solve(self.targets - prior(self._told) - noise)

        def targets(features: Features) -> Array:
            found: Array = prior(features) + self._to_told(features) @ weights
            return found

        return targets

    def _prior(self, generator: np.random.Generator) -> Callable[[Features], Array]:
        """Draw from the prior; the pairs' part is a sum of products of random directions."""
        level = math.sqrt(LEVEL) * generator.standard_normal()
        sides = (self._told.own.shape[1], self._told.shared.shape[1])
        drawn = [
            (
                math.sqrt(single) * generator.standard_normal(d, dtype=np.float32),
                (pairs / PRODUCTS) ** 0.5 * generator.standard_normal((d, PRODUCTS), np.float32),
                generator.standard_normal((d, PRODUCTS), np.float32),
            )
            for (single, pairs), d in zip(self._parts, sides, strict=True)
        ]

        waves = generator.standard_normal((sides[0], WAVES), np.float32) / np.float32(NEAR)
        phases = 2 * math.pi * generator.random(WAVES, np.float32)
        heights = math.sqrt(2 * self._local / WAVES) * generator.standard_normal(WAVES, np.float32)

        def targets(features: Features) -> Array:
            found: Array = np.full(len(features), level)
            if self._local:
                found += np.cos(features.own @ waves + phases) @ heights
            for (line, one, other), x in zip(drawn, (features.own, features.shared), strict=True):
                found += x @ line + ((x @ one) * (x @ other)).sum(1)
            return found

        return targets

    def improvement(self, features: Features) -> Array:
        """Return by how much each design is expected to beat the best so far [m]."""
        to_told = self._to_told(features)
        shrunk = solve_triangular(
            self._factor[0].astype(np.float32), to_told.T, lower=True, check_finite=False
        )
        own = LEVEL + sum(map(sum, self._parts)) + self._local
        deviation = np.sqrt(np.maximum(own - (shrunk * shrunk).sum(0), 1e-9))
        best = float((self._plain @ self._weights).max())
        u = (to_told @ self._weights - best) / deviation
        density = np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
        found: Array = deviation * (u * ndtr(u) + density)
        return found
