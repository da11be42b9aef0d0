"""An Optuna study's parameters as a search space, inferred from its trials."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from netwright.space import Architecture, Assignment, Choice, Option, SearchSpace

MAX_OPTIONS = 64  # values of a number that is a choice
GRID = 16  # options of an integer on a logarithmic scale, at most
PROPOSED = "netwright:proposed"  # a trial's system attribute: options of what was proposed for it
Row = Mapping[str, Option]


@dataclass(frozen=True)
class Parameter:
    """An Optuna parameter as a choice: `options[k]` stands for `values[k]`."""

    distribution: BaseDistribution
    options: tuple[Option, ...]
    values: tuple[Any, ...]

    def value(self, option: Any) -> Any:
        """Return what Optuna calls `option`."""
        return self.values[self.options.index(option)]

    def option(self, value: Any) -> Option:
        """Return the option of `value`; of a number, the nearest one."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.options[int(self.distribution.to_internal_repr(value))]
        scale = math.log if getattr(self.distribution, "log", False) else float
        apart = [abs(scale(other) - scale(value)) for other in self.values]
        return self.options[apart.index(min(apart))]


def parameter(distribution: BaseDistribution) -> Parameter | None:
    """Return `distribution` as a choice, None where it is none.

    Choices are categories, numbers in steps with 2 to `MAX_OPTIONS` values, and integers on a
    logarithmic scale: all of up to `GRID` of them, of more a geometric grid of as many at most.
    """
    if distribution.single():
        return None
    values: tuple[Any, ...]
    if isinstance(distribution, CategoricalDistribution):
        values = tuple(distribution.choices)
        return Parameter(distribution, _labels(values), values)
    if isinstance(distribution, IntDistribution) and _wide(distribution):
        ratio = distribution.high / distribution.low
        grid = {round(distribution.low * ratio ** (k / (GRID - 1))) for k in range(GRID)}
        values = tuple(sorted(grid))
    elif isinstance(distribution, IntDistribution):
        if (distribution.high - distribution.low) // distribution.step >= MAX_OPTIONS:
            return None
        values = tuple(range(distribution.low, distribution.high + 1, distribution.step))
    elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        if steps >= MAX_OPTIONS:
            return None
        values = tuple(
            min(distribution.low + k * distribution.step, distribution.high)
            for k in range(steps + 1)
        )
    else:
        return None
    return Parameter(distribution, values, values)


def _wide(distribution: IntDistribution) -> bool:
    """Say whether it is on a logarithmic scale and has too many integers to take them all."""
    return distribution.log and distribution.high - distribution.low >= GRID


def _labels(values: Sequence[Any]) -> tuple[Option, ...]:
    """Return the categories themselves where they are plain and differ, else numbered texts."""
    if all(_plain(value) for value in values) and len(set(values)) == len(values):
        return tuple(values)
    return tuple(f"{k}: {value}" for k, value in enumerate(values))


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value == value


def draw(distribution: BaseDistribution, generator: random.Random) -> Any:
    """Draw a value uniformly, on the logarithmic scale where the distribution has one."""
    if isinstance(distribution, CategoricalDistribution):
        return generator.choice(distribution.choices)
    if isinstance(distribution, IntDistribution):
        if not distribution.log:
            return generator.randrange(distribution.low, distribution.high + 1, distribution.step)
        low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
        drawn = round(math.exp(generator.uniform(low, high)))
        return min(max(drawn, distribution.low), distribution.high)
    if not isinstance(distribution, FloatDistribution):
        raise TypeError(f"a distribution of Optuna's is needed; got {distribution!r}")
    if distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        value = distribution.low + generator.randint(0, steps) * distribution.step
    elif distribution.log:
        low, high = math.log(distribution.low), math.log(distribution.high)
        value = math.exp(generator.uniform(low, high))
    else:
        value = generator.uniform(distribution.low, distribution.high)
    return min(max(value, distribution.low), distribution.high)


@dataclass(frozen=True)
class Encoded:
    """A trial's values in an inferred space; `given` has those it did not ask for."""

    values: Assignment
    given: dict[str, Option]


@dataclass(frozen=True)
class Inferred:
    """What a study's trials say of its space.

    space: None while no parameter is a choice.
    parameters: by name, in the order of the space's decisions.
    unexplained: those of them that some trials leave out for a reason the choices do not show.
    known: every parameter seen, with its distribution; None where that changed between trials.
    """

    space: SearchSpace | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    unexplained: frozenset[str] = frozenset()
    known: dict[str, BaseDistribution | None] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether the choices are all there is: equal architectures are equal trials."""
        return not any(
            distribution is None or (name not in self.parameters and not distribution.single())
            for name, distribution in self.known.items()
        )

    def like(self, other: Inferred) -> bool:
        """Whether both encode every trial alike."""
        return (
            (self.space and self.space.fingerprint) == (other.space and other.space.fingerprint)
            and self.parameters == other.parameters
            and self.unexplained == other.unexplained
        )

    def encode(self, trial: FrozenTrial) -> Encoded | None:
        """Return the trial's values; None where it does not fit the space."""
        if any(
            name not in self.known or self.known[name] not in (None, distribution)
            for name, distribution in trial.distributions.items()
        ):
            return None
        values: Assignment = {}
        given: dict[str, Option] = {}
        for decision in self.space.decisions if self.space else ():
            name, holds = decision.name, SearchSpace.holds(decision, values)
            own = self.parameters[name]
            if holds and name in trial.params:
                values[name] = own.option(trial.params[name])
            elif holds and name in self.unexplained:
                values[name] = given[name] = own.options[0]
            elif holds or name in trial.params:
                return None
        return Encoded(values, given)

    def begun(self, trial: FrozenTrial) -> Architecture | None:
        """Return what a trial evaluates that was begun; None where that is not known.

        What was proposed for it stands for what it has not asked for yet.
        """
        proposed = trial.system_attrs.get(PROPOSED, {})
        chosen = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        values: Assignment = {}
        for decision in self.space.decisions if self.space else ():
            name = decision.name
            if not SearchSpace.holds(decision, values):
                continue
            own = self.parameters[name]
            if name in chosen:
                try:
                    values[name] = own.option(chosen[name])
                except (TypeError, ValueError):  # enqueued, and not of the distribution
                    return None
            elif proposed.get(name) in own.options:
                values[name] = proposed[name]
            else:
                return None
        return self.space.architecture(values) if self.space else None


def infer(trials: Sequence[FrozenTrial]) -> Inferred:
    """Infer the space of completed trials.

    A parameter that some of them leave out holds under the fewest earlier choices that tell the
    two kinds of trials apart. Of a number, values not yet seen go with the nearest one seen; of a
    category, they do not hold. Where no choices tell them apart, the parameter is `unexplained`: it
    holds wherever it might.
    """
    known: dict[str, BaseDistribution | None] = {}
    count: dict[str, int] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if known.setdefault(name, distribution) != distribution:
                known[name] = None
            count[name] = count.get(name, 0) + 1
    found = {name: parameter(one) for name, one in known.items() if one is not None}
    # A parent is there wherever its child is, so in this order parents come first.
    names = sorted((name for name in found if found[name]), key=lambda name: -count[name])
    parameters = {name: own for name in names if (own := found[name]) is not None}
    rows = [
        {name: parameters[name].option(t.params[name]) for name in names if name in t.params}
        for t in trials
    ]
    decisions: list[Choice] = []
    unexplained: set[str] = set()
    for name in names:
        parents = {d.name: parameters[d.name] for d in decisions if d.name not in unexplained}
        when, explained = _conditions(name, parents, rows)
        if not explained:
            unexplained.add(name)
        decisions.append(Choice(name, parameters[name].options, when))
    space = SearchSpace("optuna", decisions) if decisions else None
    return Inferred(space, parameters, frozenset(unexplained), known)


def _conditions(
    name: str, parents: Mapping[str, Parameter], rows: Sequence[Row]
) -> tuple[dict[str, tuple[Option, ...]], bool]:
    """Return under which choices `name` holds, and whether they explain every row."""
    present = [row for row in rows if name in row]
    absent = [row for row in rows if name not in row]
    seen = {
        other: {row[other] for row in present}
        for other in parents
        if all(other in row for row in present)
    }
    when: dict[str, tuple[Option, ...]] = {}
    while absent:
        left = {
            other: [row for row in absent if row.get(other) in options]
            for other, options in seen.items()
        }
        best = min(left, key=lambda other: len(left[other]), default=None)
        if best is None or len(left[best]) == len(absent):
            return when, False
        when[best] = _options(best, parents[best], seen[best], rows)
        absent = left[best]
    return when, True


def _options(
    name: str, own: Parameter, holding: set[Option], rows: Sequence[Row]
) -> tuple[Option, ...]:
    """Return the options of `name` under which another holds, those never seen filled in."""
    if isinstance(own.distribution, CategoricalDistribution):
        return tuple(option for option in own.options if option in holding)
    met = {row[name] for row in rows if name in row}
    places = [k for k, option in enumerate(own.options) if option in met]

    def nearest(k: int) -> Option:
        return own.options[min(places, key=lambda place: abs(place - k))]

    return tuple(option for k, option in enumerate(own.options) if nearest(k) in holding)
