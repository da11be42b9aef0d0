"""What a controller believes of designs not tried: a Bayesian regression on their decisions.

Rewards count by their order alone: ranks, mapped to a normal distribution, so that neither scale
nor a few failures matter. The model is linear in the decisions and in their pairs: a Gaussian
process with the covariance `level + single m + pairs m^2`, where m is the share of decisions in
which two designs agree. Sources: rank targets, Conover and Iman (1981); draws by Matheron's rule,
Wilson et al. (2020).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import ndtr, ndtri

Array = NDArray[Any]
LEVEL = 0.3  # variance of the mean
PRODUCTS = 128  # of two random directions, that make up a draw of the pairs


def normal_ranks(rewards: Array) -> Array:
    """Return the ranks of `rewards` [n] as quantiles of a normal distribution; equals share one."""
    _, place, count = np.unique(rewards, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count + (count + 1) / 2
    targets: Array = ndtri((middle[place] - 0.5) / len(rewards))
    return targets


class ValueModel:
    """The posterior after `rewards` [n] of designs with features [n, d], unit vectors; n >= 1.

    pairs: share in [0, 1] of the variance that pairs of decisions explain; single ones explain the
    rest. noise: variance of what neither explains, > 0, where that of the rewards is 1.
    """

    def __init__(self, features: Array, rewards: Array, pairs: float, noise: float) -> None:
        self._x = features
        self._single, self._pairs, self._noise = 1.0 - pairs, pairs, noise
        self.targets = normal_ranks(rewards)
        covariance = self._covariance(features, features).astype(np.float64)
        self._plain = covariance.copy()
        covariance[np.diag_indices_from(covariance)] += noise
        self._factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._weights = self._solve(self.targets)

    def _covariance(self, a: Array, b: Array) -> Array:
        m = a @ b.T
        found: Array = LEVEL + (self._single + self._pairs * m) * m
        return found

    def _solve(self, values: Array) -> Array:
        found: Array = cho_solve(self._factor, values, check_finite=False)
        return found

    def mean(self, features: Array) -> Array:
        """Return the expected target of designs [m]."""
        found: Array = self._covariance(features, self._x) @ self._weights
        return found

    def draw(self, features: Array, generator: np.random.Generator) -> Array:
        """Return the targets of designs [m] in one world drawn from the posterior."""
        both = np.concatenate([features, self._x])
        prior = self._prior(both, generator)
        here, told = prior[: len(features)], prior[len(features) :]
        noise = math.sqrt(self._noise) * generator.standard_normal(len(told))
        weights = self._solve(self.targets - told - noise)
        drawn: Array = here + self._covariance(features, self._x) @ weights
        return drawn

    def _prior(self, x: Array, generator: np.random.Generator) -> Array:
        """Draw from the prior; the pairs' part is a sum of products of random directions."""
        d = x.shape[1]
        level = math.sqrt(LEVEL) * generator.standard_normal()
        single = x @ generator.standard_normal(d, dtype=np.float32)
        one = generator.standard_normal((d, PRODUCTS), dtype=np.float32)
        other = generator.standard_normal((d, PRODUCTS), dtype=np.float32)
        pairs = ((x @ one) * (x @ other)).sum(1) / math.sqrt(PRODUCTS)
        drawn: Array = level + math.sqrt(self._single) * single + math.sqrt(self._pairs) * pairs
        return drawn

    def improvement(self, features: Array) -> Array:
        """Return by how much each design is expected to beat the best so far [m]."""
        to_told = self._covariance(features, self._x)
        shrunk = solve_triangular(self._factor[0], to_told.T, lower=True, check_finite=False)
        whole = (features * features).sum(1)
        own = LEVEL + (self._single + self._pairs * whole) * whole
        deviation = np.sqrt(np.maximum(own - (shrunk * shrunk).sum(0), 1e-9))
        best = float((self._plain @ self._weights).max())
        u = (to_told @ self._weights - best) / deviation
        density = np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
        found: Array = deviation * (u * ndtr(u) + density)
        return found
