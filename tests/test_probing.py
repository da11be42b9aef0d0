"""Probes: every change of one decision, the fewer alike the more often."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.controllers.designs import Catalogue
from netwright.controllers.encoding import Encoding
from netwright.controllers.guided import Guided, GuidedSettings
from netwright.controllers.neighbours import changes
from netwright.controllers.probing import TRIES, Probes
from netwright.evaluators.synthetic import choices_space
from netwright.space import Architecture, Choice, SearchSpace, Value
from netwright.spaces import recurrent
from netwright.trial import Trial
from tests.strategies import CONV_SPACES, small_space, spaces

ANY = st.one_of(spaces(), st.sampled_from([small_space(), *CONV_SPACES.values()]))
LINK = "a link"
CELLS = recurrent.space("cells", recurrent.RecurrentSettings(base=3))
LARGE = recurrent.space("cells")  # of base 8


def _change(space: SearchSpace, parent: Architecture, probe: Architecture) -> tuple[str, Value]:
    """Return the first decision that is not as in the parent: others follow from it."""
    differ = [d.name for d in space.decisions if parent.get(d.name) != probe.get(d.name)]
    return differ[0], probe[differ[0]]


def _kind(space: SearchSpace, name: str) -> str:
    decision = space[name]
    return decision.kind if isinstance(decision, Choice) else LINK


@settings(max_examples=25)
@given(ANY, st.integers(0, 2**32), st.booleans())
def test_probes_are_all_changes_of_one_kind(space: SearchSpace, seed: int, fix: bool) -> None:
    catalogue, generator = Catalogue(Encoding(space)), np.random.default_rng(seed)
    design = catalogue.random(1, generator)
    (parent,) = catalogue.written(design)
    choices = [d.name for d in space.decisions if isinstance(d, Choice) and d.name in parent]
    fixed: dict[str, Any] = {name: parent[name] for name in choices[:1] if fix}
    probes = catalogue.written(Probes(catalogue).of(design, design[:0], 1e9, generator, fixed))
    assert all(space.architecture(dict(probe)) == probe for probe in probes)
    found = [_change(space, parent, probe) for probe in probes]
    wanted = changes(space, parent, fixed)
    kinds = {_kind(space, name) for name, _ in found}
    places = {w if _kind(space, w[0]) == LINK else w[0]: _kind(space, w[0]) for w in wanted}
    sizes = Counter(places.values())
    rare = {kind for kind, n in sizes.items() if 3 * n * len(sizes) <= len(places)}
    assert kinds <= rare
    assert len(kinds) == bool(rare)
    assert Counter(found) == Counter(w for w in wanted if _kind(space, w[0]) in kinds)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_kinds_that_stand_alone_come_as_often_as_is_set(share: float) -> None:
    catalogue, generator = Catalogue(Encoding(CELLS)), np.random.default_rng(3)
    design = catalogue.random(1, generator)
    (parent,) = catalogue.written(design)
    first: Counter[str] = Counter()
    for _ in range(400):
        probes = catalogue.written(Probes(catalogue).of(design, design[:0], share, generator)[:1])
        first[_kind(CELLS, _change(CELLS, parent, probes[0])[0]) if probes else "none"] += 1
    # from and into: 1 - 4/14 each; six of combine and of activation: 1/6 - 4/14, so never
    each = min(0.5, share * 10 / 14)
    for kind, part in {"from": each, "into": each, "none": 1 - 2 * each}.items():
        assert first[kind] == pytest.approx(400 * part, abs=40)
    assert set(first) <= {"from", "into", "none"}


def test_what_was_tried_often_is_not_probed() -> None:
    catalogue, generator = Catalogue(Encoding(LARGE)), np.random.default_rng(3)
    design = catalogue.random(1, generator)
    (parent,) = catalogue.written(design)
    told = catalogue.random(20, generator)
    tried = Counter(found["cell.from"] for found in catalogue.written(told))
    few = {o for o in LARGE["cell.from"].options if tried[o] < TRIES and o != parent["cell.from"]}  # type: ignore[union-attr]
    assert 0 < len(few) < len(LARGE["cell.from"].options) - 1  # type: ignore[union-attr]
    for _ in range(20):
        probes = catalogue.written(Probes(catalogue).of(design, told, 1.0, generator))
        found = {probe["cell.from"] for probe in probes} - {parent["cell.from"]}
        assert found in (set(), few)


def test_a_space_without_such_kinds_is_searched_as_without_probes() -> None:
    space = choices_space(8, 4)
    own = GuidedSettings(start=5, sampled=0, mutants=32, uniform=32, rounds=0)
    with_, without = (
        Guided(space, dataclasses.replace(own, probes=probes)) for probes in (1.0, 0.0)
    )
    for number in range(16):
        (found,) = with_.propose(1)
        assert [found] == without.propose(1)
        told = [Trial(number=number, batch=0, architecture=found, seed=0, reward=number % 5)]
        with_.tell(told)
        without.tell(told)


@pytest.mark.parametrize(("probes", "least", "most"), [(0.0, 0, 0), (0.3, 3, 11), (1.0, 11, 15)])
def test_every_second_pick_may_be_a_probe(probes: float, least: int, most: int) -> None:
    own = GuidedSettings(start=10, probes=probes, sampled=0, mutants=0, uniform=64, rounds=0)
    controller = Guided(LARGE, own, seed=1)
    told: list[Architecture] = []
    probed = 0
    for number in range(40):
        (found,) = controller.propose(1)
        if number >= 10:
            now = told[-1]  # the best
            near = sum(found[name] != now[name] for name in now) == 1
            assert number % 2 == 0 or not near
            probed += near
        told.append(found)
        controller.tell(
            [Trial(number=number, batch=0, architecture=found, seed=0, reward=number / 40)]
        )
    assert least <= probed <= most
