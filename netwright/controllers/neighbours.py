"""Architectures that differ in one decision: the steps of evolution and of local search."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from netwright.protocols import PolicySnapshot
from netwright.space import Architecture, Choice, Option, SearchSpace, Value


def changes(
    space: SearchSpace, parent: Architecture, given: Mapping[str, Option] | None = None
) -> list[tuple[str, Value]]:
    """Return every change of one decision: another option, or one connection taken or left.

    Choices of `given` do not change.
    """
    fixed = given or {}
    found: list[tuple[str, Value]] = []
    for name, now in parent.items():
        decision = space[name]
        if isinstance(decision, Choice):
            if name not in fixed:
                found += [(name, option) for option in decision.options if option != now]
            continue
        sources = space.sources(decision, parent)
        for changed in sources:
            taken = {*now} ^ {changed}  # type: ignore[misc]
            found.append((name, tuple(s for s in sources if s in taken)))
    return found


def changed(
    space: SearchSpace,
    parent: Architecture,
    name: str,
    value: Value,
    generator: random.Random,
    given: Mapping[str, Option] | None = None,
) -> Architecture:
    """Return `parent` with one decision set to `value`; what comes to hold is drawn uniformly.

    Connections whose sources no longer hold are left. Choices of `given` are as given.
    """
    fixed = given or {}
    chosen: dict[str, Value] = {}
    for decision in space.decisions:
        own = decision.name
        if not space.holds(decision, chosen):
            continue
        now = value if own == name else parent.get(own)
        if isinstance(decision, Choice):
            now = fixed.get(own, now)
            chosen[own] = generator.choice(decision.options) if now is None else now
            continue
        sources = space.sources(decision, chosen)
        if now is None:
            chosen[own] = tuple(s for s in sources if generator.random() < 0.5)
        else:
            chosen[own] = tuple(s for s in sources if s in now)  # type: ignore[operator]
    return space.architecture(chosen)


def mutate(
    space: SearchSpace,
    parent: Architecture,
    generator: random.Random,
    given: Mapping[str, Option] | None = None,
) -> Architecture:
    """Return `parent` with one decision changed; what comes to hold is drawn uniformly.

    Every decision is as likely as any other, whatever the number of its options. Choices of
    `given`, and decisions with a single possible value, are left alone. A parent in which nothing
    can change is returned as it is, but that choices of `given` are as given.
    """
    ways: dict[str, list[Value]] = {}
    for name, value in changes(space, parent, given):
        ways.setdefault(name, []).append(value)
    if not ways:
        name = next(iter(parent))
        return changed(space, parent, name, parent[name], generator, given)
    name = generator.choice(list(ways))
    return changed(space, parent, name, generator.choice(ways[name]), generator, given)


def shares(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    otherwise: PolicySnapshot,
    given: Mapping[str, Option] | None = None,
) -> PolicySnapshot:
    """Return `otherwise` with the shares of options and connections among `architectures`.

    Decisions that hold in none of them, and those of `given`, stay as in `otherwise`.
    """
    options, connections = dict(otherwise.options), dict(otherwise.connections)
    for decision in space.decisions:
        values = [a[decision.name] for a in architectures if decision.name in a]
        if not values or (given and decision.name in given):
            continue
        if isinstance(decision, Choice):
            found = [values.count(option) / len(values) for option in decision.options]
            options[decision.name] = tuple(found)
        else:
            taken = [sum(s in v for v in values) for s in decision.sources]  # type: ignore[operator]
            connections[decision.name] = tuple(t / len(values) for t in taken)
    return PolicySnapshot(entropy=otherwise.entropy, options=options, connections=connections)
