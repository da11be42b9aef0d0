"""Hypothesis strategies: spaces and architectures."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from netwright.space import Architecture, Choice, Connections, Decision, Option, SearchSpace
from netwright.spaces import conv
from netwright.spaces.recurrent import ACTIVATIONS, COMBINATIONS, Cell, cell_from_tokens


def small_space() -> SearchSpace:
    """Return 28 architectures with a conditional choice and conditional connections."""
    return SearchSpace(
        "small",
        [
            Choice("type", ("a", "b")),
            Choice("size", (1, 2, 3), {"type": "a"}),
            Connections("first.inputs", "first"),
            Connections("second.inputs", "second", ("first",), {"type": "b"}),
            Choice("rate", (0.1, 0.2)),
            Connections("third.inputs", "third", ("first", "second")),
        ],
    )


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Return a generated space of a few decisions, with conditions and connections."""
    decisions: list[Decision] = []
    anchors: list[str] = []
    for i in range(draw(st.integers(1, 6))):
        earlier = [d for d in decisions if isinstance(d, Choice)]
        when: dict[str, list[Option]] = {}
        if draw(st.booleans()) and earlier:
            parent: Choice = draw(st.sampled_from(earlier))
            when[parent.name] = draw(
                st.lists(st.sampled_from(parent.options), min_size=1, unique=True)
            )
        if draw(st.booleans()):
            options = tuple(range(draw(st.integers(1, 3))))
            decisions.append(Choice(f"d{i}", options, when))
        else:
            decisions.append(Connections(f"d{i}", f"a{i}", anchors, when))
            anchors.append(f"a{i}")
    return SearchSpace("generated", decisions)


CONV_SPACES = {
    "v1": conv.v1(5),
    "v2": conv.v2(5),
    "v3": conv.space("v3", conv.ConvSettings(depths=(5,), filters=(6, 12), block=3, pools=(4, 9))),
    "types": conv.space(
        "types",
        conv.ConvSettings(
            depths=(2, 3, 5),
            strides=(1, 2, 3),
            layer_types=conv.LAYER_TYPES,
            learning_rates=(0.1, 0.01),
        ),
    ),
    "plain": conv.space("plain", conv.ConvSettings(depths=(4,), skips=False, pools=(2,))),
    "pools": conv.space(
        "pools", conv.ConvSettings(depths=(4,), layer_types=("max_pool", "conv"), pools=(1, 3))
    ),
}


@st.composite
def conv_architectures(draw: st.DrawFn) -> tuple[SearchSpace, Architecture]:
    """Return a convolutional space and a sample of it."""
    space = CONV_SPACES[draw(st.sampled_from(sorted(CONV_SPACES)))]
    return space, space.sample(random.Random(draw(st.integers(0, 2**32))))


_TOKENS = """
    add sigmoid add relu add sigmoid elem_mult relu add tanh add sigmoid add tanh add sigmoid
    elem_mult tanh add tanh elem_mult tanh add sigmoid elem_mult identity add tanh elem_mult tanh
    add tanh 12 8
"""
PUBLISHED = cell_from_tokens(_TOKENS.split())  # NASCell, Zoph & Le 2017, appendix


@st.composite
def cells(draw: st.DrawFn, bases: tuple[int, ...] = (2, 3, 4, 5, 8)) -> Cell:
    """Return any cell of the whole space, max and sin included."""
    base = draw(st.sampled_from(bases))
    node = st.tuples(st.sampled_from(COMBINATIONS), st.sampled_from(ACTIVATIONS))
    nodes = draw(st.lists(node, min_size=2 * base - 1, max_size=2 * base - 1))
    index = st.integers(0, 2 * base - 2)
    return Cell(tuple(nodes), draw(node), draw(index), draw(index))
