"""An Optuna study's parameters as a search space."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import optuna
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

import netwright as nw
from netwright.integrations.optuna_space import GRID, infer, parameter
from netwright.space import SearchSpace

LAYERS = IntDistribution(1, 4)
UNITS = CategoricalDistribution((16, 32))


def frozen(**params: object) -> optuna.trial.FrozenTrial:
    """Return a completed trial; integers are layers, texts and booleans two categories."""
    found: dict[str, BaseDistribution] = {}
    for name, value in params.items():
        if isinstance(value, bool):
            found[name] = CategoricalDistribution((False, True))
        elif isinstance(value, str):
            found[name] = CategoricalDistribution(("a", "b", "c"))
        elif isinstance(value, float):
            found[name] = FloatDistribution(0, 1)
        else:
            found[name] = UNITS if name.startswith("units") else LAYERS
    return optuna.trial.create_trial(params=params, distributions=found, value=0.0)


def conditions(
    trials: Sequence[optuna.trial.FrozenTrial],
) -> dict[str, dict[str, tuple[object, ...]]]:
    space = infer(trials).space
    assert space is not None
    return {d.name: dict(d.when) for d in space.decisions}


def test_conditions_come_from_which_trials_have_a_parameter() -> None:
    trials = [
        frozen(layers=1, units0=16),
        frozen(layers=4, units0=32, units1=16, units2=16),
        frozen(layers=2, units0=16, units1=16),
    ]
    # Three layers were not seen: as near to two as to four, so as two, the first.
    assert conditions(trials) == {
        "layers": {},
        "units0": {},
        "units1": {"layers": (2, 3, 4)},
        "units2": {"layers": (4,)},
    }
    assert conditions([frozen(kind="a", x=True), frozen(kind="b")]) == {
        "kind": {},
        "x": {"kind": ("a",)},
    }


def test_two_conditions_where_one_does_not_do() -> None:
    trials = [
        frozen(kind=kind, on=on, **({"x": True} if kind != "c" and on else {}))
        for kind in "abc"
        for on in (False, True)
    ]
    assert conditions(trials)["x"] == {"kind": ("a", "b"), "on": ("1: True",)}


def test_what_choices_do_not_explain_is_given_where_a_trial_lacks_it() -> None:
    trials = [frozen(rate=0.9, kind="a", x=True), frozen(rate=0.1, kind="a")]
    found = infer(trials)
    assert found.unexplained == {"x"}
    assert not found.whole
    first, second = (found.encode(trial) for trial in trials)
    assert first is not None
    assert second is not None
    assert (first.values, first.given) == ({"kind": "a", "x": "1: True"}, {})
    assert second.given == {"x": "0: False"}


@st.composite
def choice_spaces(draw: st.DrawFn) -> SearchSpace:
    """Return up to 81 architectures; choices hold under up to two earlier ones."""
    made: list[nw.Choice] = []
    for i in range(draw(st.integers(1, 4))):
        parents = draw(st.lists(st.sampled_from(made), max_size=2, unique=True)) if made else []
        when = {
            parent.name: draw(st.lists(st.sampled_from(parent.options), min_size=1, unique=True))
            for parent in parents
        }
        made.append(nw.Choice(f"d{i}", tuple("abc"[: draw(st.integers(1, 3))]), when))
    return SearchSpace("generated", made)


@settings(max_examples=50)
@given(space=choice_spaces(), seed=st.integers(0, 2**32))
def test_all_of_a_space_gives_it_back_and_a_part_fits_its_trials(
    space: SearchSpace, seed: int
) -> None:
    own = {
        d.name: CategoricalDistribution(d.options)
        for d in space.decisions
        if isinstance(d, nw.Choice)
    }
    everything = list(space.enumerate())
    random.Random(seed).shuffle(everything)
    trials = [
        optuna.trial.create_trial(params=dict(a), distributions={n: own[n] for n in a}, value=0.0)
        for a in everything
    ]
    for n in {1, 2, len(trials) // 2 or 1, len(trials)}:
        part = infer(trials[:n])
        for trial in trials[:n]:
            encoded = part.encode(trial)
            assert encoded is not None
            asked = {k: v for k, v in encoded.values.items() if k not in encoded.given}
            assert asked == {k: v for k, v in trial.params.items() if k in part.parameters}
    found = infer(trials)
    assert found.unexplained == set()
    if found.space is not None:
        expected = {
            frozenset((k, v) for k, v in a.items() if not own[k].single()) for a in everything
        }
        assert {frozenset(a.items()) for a in found.space.enumerate()} == expected


def test_numbers_as_options() -> None:
    stepped = parameter(IntDistribution(2, 10, step=4))
    assert stepped is not None
    assert stepped.options == (2, 6, 10)
    rates = parameter(FloatDistribution(0.0, 0.5, step=0.25))
    assert rates is not None
    assert rates.options == (0.0, 0.25, 0.5)
    grid = parameter(IntDistribution(1, 1024, log=True))
    assert grid is not None
    # Steps of 1024^(1/15) = 1.587: 1, 1.59, 2.52, 4, 6.35, 10.1, 16, ...
    assert grid.options[:7] == (1, 2, 3, 4, 6, 10, 16)
    assert (grid.options[-1], len(grid.options)) == (1024, 16)
    assert grid.option(5) == 6  # 6/5 = 1.2 and 5/4 = 1.25: nearer to 6 by logarithm
    assert parameter(IntDistribution(1, 64)) is not None
    assert parameter(IntDistribution(1, 65)) is None
    assert parameter(FloatDistribution(0, 1)) is None
    assert parameter(IntDistribution(3, 3)) is None
    texts = parameter(CategoricalDistribution((None, True, 1)))
    assert texts is not None
    assert texts.options == ("0: None", "1: True", "2: 1")
    assert [texts.value(option) for option in texts.options] == [None, True, 1]


@st.composite
def few_integers(draw: st.DrawFn) -> IntDistribution:
    """Return a distribution of 2 to `GRID` integers."""
    more = draw(st.integers(1, GRID - 1))
    if draw(st.booleans()):
        low = draw(st.integers(1, 10**6))
        return IntDistribution(low, low + more, log=True)
    low, step = draw(st.integers(-(10**6), 10**6)), draw(st.integers(1, 1000))
    rest = draw(st.integers(0, step - 1))  # Optuna lowers `high` to the last step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return IntDistribution(low, low + more * step + rest, step=step)


@given(distribution=few_integers())
@example(distribution=IntDistribution(1, 16, log=True))
def test_every_one_of_few_integers_can_be_decided(distribution: IntDistribution) -> None:
    found = parameter(distribution)
    assert found is not None
    everything = range(distribution.low, distribution.high + 1, distribution.step)
    assert found.values == tuple(everything)
    assert [found.value(found.option(value)) for value in everything] == list(everything)
