from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.errors import SpaceError
from netwright.space import Architecture, SearchSpace, Value
from netwright.spaces import conv
from tests.strategies import CONV_SPACES, conv_architectures


def test_v1_has_the_papers_tokens_and_size() -> None:
    space = conv.v1(15)
    assert [d.name for d in space.decisions[:8]] == [
        "layer1.height",
        "layer1.width",
        "layer1.filters",
        "layer1.inputs",
        "layer2.height",
        "layer2.width",
        "layer2.filters",
        "layer2.inputs",
    ]
    # 15 layers of 4 heights, 4 widths, 4 filter counts, and 1 + ... + 14 connections
    assert space.size() == 64**15 * 2**105


def test_v2_has_strides_in_the_papers_order() -> None:
    kinds = [d.name.split(".")[1] for d in conv.v2(2).decisions[:6]]
    assert kinds == ["height", "width", "stride_height", "stride_width", "filters", "inputs"]
    assert conv.v2(2).size() == (64 * 9) ** 2 * 2


def test_v3_is_thirteen_blocks() -> None:
    assert conv.v3().size() == 64**13 * 2**78
    assert conv.levels(conv.v3(), 5) == (1 - 1, 1, 1)  # layers 13, 14, 15; pooling after 13
    assert conv.levels(conv.v3(), 8) == (1, 1, 1)
    assert conv.levels(conv.v3(), 9) == (2, 2, 2)


def test_layer_types_bring_their_own_decisions() -> None:
    space = CONV_SPACES["types"]
    for seed in range(30):
        a = space.sample(random.Random(seed))
        for i in range(1, conv.depth_of(space, a) + 1):
            own = {name.split(".")[1] for name in a if name.startswith(f"layer{i}.")}
            expected = {
                "conv": {"height", "width", "stride_height", "stride_width", "filters"},
                "max_pool": {"pool_size", "pool_stride"},
                "avg_pool": {"pool_size", "pool_stride"},
                "lcn": {"window"},
                "batch_norm": set(),
            }[str(a[f"layer{i}.type"])]
            assert own == expected | {"type", "inputs"}


def test_a_given_depth_ends_the_architecture_there() -> None:
    space = CONV_SPACES["types"]
    a = space.sample(random.Random(3), {"depth": 3})
    assert "layer3.inputs" in a
    assert "layer4.inputs" not in a


@given(conv_architectures())
def test_canonical_form_is_of_the_space_and_its_own_canonical(
    drawn: tuple[SearchSpace, Architecture],
) -> None:
    space, architecture = drawn
    once = space.canonical(architecture)
    assert space.canonical(once) == once


def _renumber(space: SearchSpace, a: Mapping[str, Value], order: tuple[int, ...]) -> Architecture:
    """Put old layer order[k] at place k + 1; the order must go along the connections."""
    number = {old: k + 1 for k, old in enumerate(order)}
    values: dict[str, Value] = {}
    for old, new in number.items():
        for name, value in a.items():
            layer, _, what = name.partition(".")
            if layer == f"layer{old}" and what == "inputs":
                assert isinstance(value, tuple)
                fed = sorted(number[int(source[5:])] for source in value)
                values[f"layer{new}.inputs"] = tuple(f"layer{j}" for j in fed)
            elif layer == f"layer{old}":
                values[f"layer{new}.{what}"] = value
    return space.architecture(values)


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_renumbered_layers_have_one_canonical_form(seed: int) -> None:
    space = conv.space(
        "n", conv.ConvSettings(depths=(5,), heights=(1,), widths=(1,), filters=(4, 8))
    )
    a = space.sample(random.Random(seed))
    inputs = {i: conv.inputs_of(space, a, i) for i in range(1, 6)}
    forms = set()
    for order in itertools.permutations(range(1, 6)):
        place = {old: k for k, old in enumerate(order)}
        if all(place[j] < place[i] for i in inputs for j in inputs[i]):
            forms.add(space.canonical(_renumber(space, a, order)))
    assert len(forms) == 1


def _edges(space: SearchSpace, a: Architecture) -> list[tuple[object, ...]]:
    """Return layers by what they are, and edges by what they join: the same for isomorphic ones."""
    own = {
        i: tuple(
            (n.split(".")[1], v)
            for n, v in a.items()
            if n.startswith(f"layer{i}.") and "inputs" not in n
        )
        for i in range(1, conv.depth_of(space, a) + 1)
    }
    result: list[tuple[object, ...]] = [(repr(o),) for o in own.values()]
    for i in own:
        result += [(repr(own[j]), repr(own[i])) for j in conv.inputs_of(space, a, i)]
    return sorted(result, key=repr)


@given(conv_architectures())
def test_canonical_form_joins_the_same_layers(drawn: tuple[SearchSpace, Architecture]) -> None:
    space, architecture = drawn
    assert _edges(space, space.canonical(architecture)) == _edges(space, architecture)


def test_different_networks_keep_different_forms() -> None:
    space = conv.space(
        "n", conv.ConvSettings(depths=(3,), heights=(1,), widths=(1,), filters=(4, 8))
    )
    forms = {space.canonical(a) for a in space.enumerate()}
    # Counted by hand from the DAGs on 3 layers with 2 labels:
    # no edge: multisets of 3 labels, 4. One edge: 4 labelled edges x 2 for the single one, 8.
    # Two edges: chain of 3, 8; a fork (one feeds two), 2 x 3; a join (two feed one), 3 x 2.
    # Three edges: total order, 8.
    assert len(forms) == 4 + 8 + 8 + 6 + 6 + 8


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"heights": (2,)}, "space.heights must be odd"),
        ({"filters": (0,)}, "space.filters must be 1 or more; got 0"),
        ({"filters": ()}, "space.filters must have an option"),
        ({"layer_types": ("dense",)}, "space.layer_types must be of conv"),
        ({"learning_rates": (0.0,)}, "must be above 0"),
        ({"depths": (5, 3)}, "space.depths must rise"),
        ({"pools": (15,)}, "space.pools must stand before the last layer"),
        ({"block": 3, "layer_types": ("conv", "lcn")}, "must be conv alone"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        conv.ConvSettings(**settings)  # type: ignore[arg-type]
