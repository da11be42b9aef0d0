from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.controllers.random import log_uniform
from netwright.errors import ArchitectureError, SpaceError
from netwright.space import (
    Architecture,
    Choice,
    Connections,
    SearchSpace,
    decision_from_dict,
    decision_to_dict,
)
from netwright.spaces import conv, space_from_dict
from tests.strategies import small_space, spaces


@given(spaces())
def test_size_is_the_number_of_enumerated_architectures(space: SearchSpace) -> None:
    found = list(space.enumerate())
    assert len(found) == len(set(found)) == space.size()


def test_size_of_the_small_space_by_hand() -> None:
    # type a: 3 sizes x 2 rates x third takes of {first}: 2 -> 12
    # type b: second takes of {first}: 2 x 2 rates x third takes of {first, second}: 4 -> 16
    assert small_space().size() == 12 + 16


@given(spaces(), st.integers(0, 2**32))
def test_samples_are_valid_and_survive_json(space: SearchSpace, seed: int) -> None:
    import json

    drawn = space.sample(random.Random(seed))
    assert space.architecture(dict(drawn)) == drawn
    assert space.architecture(json.loads(drawn.to_json())) == drawn
    assert hash(space.architecture(dict(drawn))) == hash(drawn)


@given(spaces())
def test_spaces_survive_their_files(space: SearchSpace) -> None:
    again = space_from_dict(space.to_dict())
    assert again.fingerprint == space.fingerprint
    assert again.decisions == space.decisions
    assert [decision_from_dict(decision_to_dict(d)) for d in space.decisions] == list(
        space.decisions
    )


def test_sampling_follows_its_own_probabilities() -> None:
    space = small_space()
    rng = random.Random(1)
    n = 20_000
    counts = Counter(space.sample(rng) for _ in range(n))
    total = 0.0
    for architecture in space.enumerate():
        p = math.exp(log_uniform(space, architecture))
        total += p
        # five standard deviations of a binomial count
        assert abs(counts[architecture] - n * p) < 5 * math.sqrt(n * p * (1 - p))
    assert total == pytest.approx(1.0)


def test_given_fixes_a_choice() -> None:
    space = small_space()
    drawn = [space.sample(random.Random(i), {"type": "b"}) for i in range(50)]
    assert {a["type"] for a in drawn} == {"b"}
    assert all("size" not in a for a in drawn)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"type": "c"}, "'type' must be one of a, b; got 'c'"),
        ({"type": "a"}, "must decide 'size'"),
        ({"type": "b", "size": 1}, "'size' holds only when type is a; got 1"),
        (
            {"type": "a", "size": 1, "first.inputs": ["x"]},
            "'first.inputs' may take nothing; got 'x'",
        ),
        (
            {"type": "a", "size": 1, "first.inputs": [], "rate": 0.1, "third.inputs": ["second"]},
            "'third.inputs' may take first; got 'second'",
        ),
        (
            {"type": "a", "size": 1, "first.inputs": [], "rate": 0.1, "third.inputs": "first"},
            "must be a list of anchors; got 'first'",
        ),
        ({"type": "a", "size": True}, "'size' must be one of 1, 2, 3; got True"),
    ],
)
def test_wrong_values_are_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        small_space().architecture(values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_of_no_decision_is_refused() -> None:
    space = SearchSpace("one", [Choice("a", (1, 2))])
    with pytest.raises(ArchitectureError, match="got 'b' in the architecture; remove it"):
        space.architecture({"a": 1, "b": 2})


def test_an_architecture_of_another_space_is_refused() -> None:
    one, other = SearchSpace("s", [Choice("a", (1, 2))]), SearchSpace("s", [Choice("a", (1, 3))])
    with pytest.raises(ArchitectureError, match=r"space 's' \(\w{16}\); got one of \w{16};"):
        other.check(one.architecture({"a": 1}))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SearchSpace("s", []), "at least one decision"),
        (lambda: Choice("a", ()), "at least one option"),
        (lambda: Choice("a", (1, 1)), "must differ"),
        (lambda: Choice("a", (True,)), "got True"),
        (lambda: SearchSpace("s", [Choice("a", (1,)), Choice("a", (2,))]), "is there twice"),
        (lambda: SearchSpace("s", [Choice("a", (1,), {"b": 1})]), "must name an earlier choice"),
        (
            lambda: SearchSpace("s", [Choice("b", (1,)), Choice("a", (1,), {"b": 2})]),
            "must use its options",
        ),
        (lambda: SearchSpace("s", [Connections("a", "x", ("y",))]), "must be earlier anchors"),
        (lambda: Choice("a", (1,), {"b": ()}), "needs options"),
    ],
)
def test_impossible_spaces_are_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(SpaceError, match=says):
        make()


def test_architectures_are_mappings_and_frozen() -> None:
    architecture = small_space().sample(random.Random(0))
    assert dict(architecture)["type"] == architecture["type"]
    with pytest.raises(AttributeError):
        architecture.space = "x"  # type: ignore[misc]
    assert architecture != Architecture("other", architecture.values_)


def test_the_size_of_a_deep_space_is_counted() -> None:
    space = conv.v1(300)
    assert space.size() == (4 * 4 * 4) ** 300 * 2 ** (300 * 299 // 2)
    assert conv.space("d", conv.ConvSettings(depths=(1, 2), skips=True)).size() == 64 + 64 * 64 * 2
