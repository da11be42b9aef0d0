"""The Optuna sampler, with Optuna's own suite for samplers; studies written for Optuna."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import netwright as nw
from netwright.errors import ObjectivesError, StudyError
from netwright.evaluators.synthetic import Additive
from netwright.protocols import Controller
from netwright.seeding import derive_seed
from netwright.space import SearchSpace
from netwright.store import SqlStore
from netwright.trial import Evaluation, Trial
from tests.strategies import small_space

optuna = pytest.importorskip("optuna")
suite = pytest.importorskip("optuna.testing.pytest_samplers")

from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from netwright.integrations.optuna import NetwrightSampler, export_study  # noqa: E402
from netwright.integrations.optuna_space import infer, parameter  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def random_search(space: SearchSpace, seed: int) -> Controller:
    return nw.RandomSearch(space, seed=seed)


# --- Optuna's own suite. Left out: its multi-objective case, for this sampler refuses such studies.


class _Sampler:
    @pytest.fixture
    def sampler(self) -> Callable[[], NetwrightSampler]:
        return lambda: NetwrightSampler(seed=0)


class TestBasic(_Sampler, suite.BasicSamplerTestCase):  # type: ignore[misc,name-defined]
    pass


class TestRelative(_Sampler, suite.RelativeSamplerTestCase):  # type: ignore[misc,name-defined]
    pass


class TestSingleOnly(_Sampler, suite.SingleOnlySamplerTestCase):  # type: ignore[misc,name-defined]
    pass
