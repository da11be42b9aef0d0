"""Architectures as arrays, and how alike they are."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.controllers.designs import Catalogue, joined
from netwright.controllers.encoding import Encoding
from netwright.controllers.likeness import Likeness
from netwright.space import Architecture, Choice, Connections, SearchSpace
from tests.strategies import CONV_SPACES, small_space, spaces

ANY = st.one_of(spaces(), st.sampled_from([small_space(), *CONV_SPACES.values()]))
SEEDS = st.integers(0, 2**32)
FEW = settings(max_examples=15)


@functools.cache
def _catalogue(space: SearchSpace) -> Catalogue:
    return Catalogue(Encoding(space))


def _links(space: SearchSpace, architecture: Architecture) -> dict[tuple[str, str], bool]:
    """Return every link that could be taken, and whether it is."""
    found = {}
    for decision in space.decisions:
        if isinstance(decision, Connections) and decision.name in architecture:
            taken = architecture[decision.name]
            assert isinstance(taken, tuple)
            for source in space.sources(decision, architecture):
                found[decision.name, source] = source in taken
    return found


@FEW
@given(ANY, SEEDS)
def test_reading_and_writing_are_inverse(space: SearchSpace, seed: int) -> None:
    generator = random.Random(seed)
    drawn = [space.sample(generator) for _ in range(8)]
    catalogue = _catalogue(space)
    designs = catalogue.read(drawn)
    assert catalogue.written(designs) == drawn
    assert catalogue.read(catalogue.written(designs)).keys() == designs.keys()
    parts = joined([designs[:3], designs[3:]])
    assert catalogue.written(parts) == drawn


@FEW
@given(ANY, SEEDS)
def test_random_designs_are_architectures_of_the_space(space: SearchSpace, seed: int) -> None:
    catalogue = _catalogue(space)
    designs = catalogue.random(12, np.random.default_rng(seed))
    for architecture in catalogue.written(designs):
        assert space.architecture(dict(architecture)) == architecture
    again = catalogue.read(catalogue.written(designs))
    for field in ("choice", "links", "active", "open"):
        assert np.array_equal(getattr(again, field), getattr(designs, field)), field


@FEW
@given(ANY, SEEDS, st.integers(1, 8))
def test_mutated_designs_are_architectures_of_the_space(
    space: SearchSpace, seed: int, most: int
) -> None:
    generator = np.random.default_rng(seed)
    catalogue = _catalogue(space)
    parents = catalogue.random(12, generator)
    before = catalogue.written(parents)
    children = catalogue.mutated(parents, generator.integers(1, most + 1, 12), generator)
    for architecture in catalogue.written(children):
        assert space.architecture(dict(architecture)) == architecture
    assert catalogue.written(parents) == before  # parents are left as they are


@FEW
@given(ANY, SEEDS)
def test_one_change_differs_in_one_decision_that_held(space: SearchSpace, seed: int) -> None:
    generator = np.random.default_rng(seed)
    catalogue = _catalogue(space)
    parents = catalogue.random(12, generator)
    children = catalogue.mutated(parents, np.ones(12, dtype=np.int64), generator)
    for parent, child in zip(catalogue.written(parents), catalogue.written(children), strict=True):
        chosen = [
            name
            for name in parent
            if name in child and isinstance(space[name], Choice) and parent[name] != child[name]
        ]
        was, now = _links(space, parent), _links(space, child)
        flipped = [link for link in was if link in now and was[link] != now[link]]
        free = [
            d
            for d in space.decisions
            if isinstance(d, Choice) and d.name in parent and len(d.options) > 1
        ]
        assert len(chosen) + len(flipped) == (1 if free or was else 0)
        if flipped:
            assert parent.keys() == child.keys()


@FEW
@given(SEEDS, st.integers(1, 8))
def test_what_is_given_holds(seed: int, most: int) -> None:
    catalogue = _catalogue(CONV_SPACES["types"])
    generator = np.random.default_rng(seed)
    fixed = {"depth": 3, "learning_rate": 0.01}
    drawn = catalogue.random(12, generator, fixed)
    other = catalogue.random(12, generator)  # of any depth
    changes = generator.integers(1, most + 1, 12)
    for designs in (
        drawn,
        catalogue.mutated(drawn, changes, generator, fixed),
        catalogue.mutated(other, changes, generator, fixed),
    ):
        for architecture in catalogue.written(designs):
            assert (architecture["depth"], architecture["learning_rate"]) == (3, 0.01)
            assert catalogue.space.architecture(dict(architecture)) == architecture


@FEW
@given(ANY, SEEDS)
def test_keys_differ_as_architectures_do(space: SearchSpace, seed: int) -> None:
    generator = np.random.default_rng(seed)
    catalogue = _catalogue(space)
    parents = catalogue.random(12, generator)
    children = catalogue.mutated(parents, np.ones(12, dtype=np.int64), generator)
    both = joined([parents, children])
    keys, written = both.keys(), catalogue.written(both)
    assert len(set(zip(keys, written, strict=True))) == len(set(keys)) == len(set(written))


def test_every_option_and_link_is_drawn_about_as_often() -> None:
    space = small_space()
    designs = _catalogue(space).random(4000, np.random.default_rng(0))
    half = designs.choice[:, 0].mean()
    assert half == pytest.approx(0.5, abs=0.04)  # five deviations
    thirds = np.bincount(designs.choice[designs.active[:, 1], 1]) / designs.active[:, 1].sum()
    assert thirds == pytest.approx(np.full(3, 1 / 3), abs=0.06)
    assert designs.links[designs.open].mean() == pytest.approx(0.5, abs=0.04)


@FEW
@given(ANY, SEEDS)
def test_features_are_unit_vectors_and_equal_ones_product_is_one(
    space: SearchSpace, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    catalogue = _catalogue(space)
    parents = catalogue.random(8, generator)
    children = catalogue.mutated(parents, np.ones(8, dtype=np.int64), generator)
    designs = joined([parents, children])
    features = Likeness(catalogue).of(designs)
    assert len(features) == 16
    # A space without anything to decide has no features of its own.
    decides = (designs.active & (catalogue.options > 1)).any(1) | designs.open.any(1)
    assert (features.own**2).sum(1)[decides] == pytest.approx(1, abs=1e-5)
    assert not features.own[~decides].any()
    assert (features.shared**2).sum(1) == pytest.approx(1, abs=1e-5)
    product = features.own @ features.own.T
    assert product.max() <= 1 + 1e-5
    keys = designs.keys()
    for i in np.flatnonzero(decides):
        for j in np.flatnonzero(decides):
            assert (product[i, j] > 1 - 1e-4) == (keys[i] == keys[j]), (i, j)


@FEW
@given(ANY, SEEDS)
def test_of_links_alone_the_product_is_the_share_of_equal_ones(
    space: SearchSpace, seed: int
) -> None:
    catalogue = _catalogue(space)
    designs = catalogue.random(12, np.random.default_rng(seed))
    taken, left = designs.links.astype(float), (designs.open & ~designs.links).astype(float)
    equal = taken @ taken.T + left @ left.T
    own = Likeness(catalogue).of(designs).own[:, int(catalogue.options.sum()) :].astype(float)
    own /= np.maximum(np.sqrt((own**2).sum(1, keepdims=True)), 1e-6)
    size = np.sqrt(np.diag(equal))
    assert own @ own.T == pytest.approx(equal / np.maximum(np.outer(size, size), 1e-9), abs=1e-5)


def test_near_numbers_are_more_alike_than_far_ones_and_names_are_not() -> None:
    space = SearchSpace(
        "two", [Choice("size", (16, 32, 64, 128)), Choice("kind", ("a", "b", "c", "d"))]
    )
    catalogue = _catalogue(space)
    made = [{"size": s, "kind": "a"} for s in (16, 32, 64, 128)]
    made += [{"size": 16, "kind": k} for k in "bcd"]
    own = Likeness(catalogue).of(catalogue.read([space.architecture(m) for m in made])).own
    to_first = own @ own[0]
    assert to_first[0] > to_first[1] > to_first[2] > to_first[3] >= 0.5
    assert to_first[4:] == pytest.approx(0.5)
