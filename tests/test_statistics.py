"""Intervals and paired tests over seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.report.statistics import EXACT, interval, paired_p

DIFFERENCES = st.lists(st.integers(-9, 9), min_size=1, max_size=8)


def test_one_value_or_equal_values_have_no_width() -> None:
    for values in ([0.25], [2.0] * 7):
        found = interval(np.array(values))
        assert found.mean == found.low == found.high == values[0]


def test_an_interval_by_hand() -> None:
    # Of two values the mean of a resample is a, (a + b) / 2 or b, with 1/4, 1/2 and 1/4.
    found = interval(np.array([1.0, 3.0]))
    assert (found.mean, found.low, found.high) == (2.0, 1.0, 3.0)


def test_the_same_seed_gives_the_same_bits() -> None:
    values = np.arange(9.0) ** 2
    assert interval(values) == interval(values.copy())
    assert interval(values, seed=1) != interval(values)


@pytest.mark.parametrize(
    ("kind", "n", "least"), [("normal", 5, 88), ("normal", 30, 90), ("exponential", 30, 86)]
)
def test_an_interval_holds_the_mean_about_as_often_as_it_says(
    kind: str, n: int, least: int
) -> None:
    draws = np.random.default_rng(3)
    mean = {"normal": 0.0, "exponential": 1.0}[kind]
    held = 0
    for _ in range(200):
        found = interval(getattr(draws, kind)(size=n))
        held += found.low <= mean <= found.high
    assert 2 * least <= held <= 198  # plain percentiles of five: some 85 of 100


def test_p_by_hand() -> None:
    assert paired_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == 2 / 32  # all up or all down
    assert paired_p(np.array([3.0])) == 1.0
    assert paired_p(np.zeros(6)) == 1.0
    # Of +-1 +-2 +-4 as far as |1 - 2 + 4| = 3 or further: sums 7, 5, 3, each with its opposite.
    assert paired_p(np.array([1.0, -2.0, 4.0])) == 6 / 8


@given(DIFFERENCES)
def test_p_is_the_share_of_signs_that_go_as_far(differences: list[int]) -> None:
    signs = itertools.product((1, -1), repeat=len(differences))
    far = [
        abs(sum(s * d for s, d in zip(sign, differences, strict=True))) >= abs(sum(differences))
        for sign in signs
    ]
    assert paired_p(np.array(differences, dtype=float)) == sum(far) / len(far)


@given(DIFFERENCES, st.sampled_from([1e-14, 0.1, 1 / 3, 1e4 / 7, 1e12]))
def test_p_has_neither_sign_nor_scale(differences: list[int], scale: float) -> None:
    values = np.array(differences, dtype=float)
    assert paired_p(values) == paired_p(-values) == paired_p(values * scale)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_random_signs_agree_with_all_of_them(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.4, 1.0, EXACT)
    # A pair of difference 0 changes nothing but the number of pairs, and so the method.
    assert paired_p(np.append(values, 0.0)) == pytest.approx(paired_p(values), abs=0.02)


def test_p_of_random_signs_is_never_zero() -> None:
    assert paired_p(np.ones(30)) == 1 / 10_001


def test_p_of_what_is_not_known_is_not_known() -> None:
    assert math.isnan(paired_p(np.array([0.1, math.nan])))
