"""The space of recurrent cells (Zoph & Le 2017, 3.4) and its canonical form."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from netwright.children.steps import plain_layer
from netwright.errors import ArchitectureError, SpaceError
from netwright.spaces import load_architecture, space_from_dict
from netwright.spaces.recurrent import (
    ACTIVATIONS,
    COMBINATIONS,
    Cell,
    RecurrentSettings,
    architecture_of,
    canonical_cell,
    cell_from_tokens,
    cell_of,
    reordered,
    space,
)
from tests.strategies import PUBLISHED, cells

WHOLE = RecurrentSettings(combinations=COMBINATIONS, activations=ACTIVATIONS)


def test_base_eight_has_34_tokens_and_the_papers_number_of_cells() -> None:
    paper = space("paper")
    assert len(paper) == 2 * (2 * 8 - 1) + 4 == 34
    assert paper.size() == 8**15 * 8 * 15**2
    assert len(space("two", RecurrentSettings(base=2))) == 10


def test_decisions_stand_in_the_papers_order() -> None:
    names = [d.name for d in space("two", RecurrentSettings(base=2)).decisions]
    assert names == [
        "node0.combine",
        "node0.activation",
        "node1.combine",
        "node1.activation",
        "node2.combine",
        "node2.activation",
        "inject.combine",
        "inject.activation",
        "cell.from",
        "cell.into",
    ]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"base": 1}, "space.base"),
        ({"base": 65}, "space.base"),
        ({"combinations": ("add", "add")}, "space.combinations"),
        ({"combinations": ()}, "space.combinations"),
        ({"activations": ("tanh", "cos")}, "space.activations"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        RecurrentSettings(**settings)  # type: ignore[arg-type]


def test_a_cell_with_an_index_out_of_range_is_refused() -> None:
    values = {**PUBLISHED.values(), "cell.from": 99}
    with pytest.raises(ArchitectureError, match=r"'cell.from' must be one of 0, 1, .* got 99"):
        space("paper").architecture(values, "cell.json")
    with pytest.raises(SpaceError, match="c_into must be a node, from 0 to 14; got 15"):
        Cell(PUBLISHED.nodes, PUBLISHED.inject, 12, 15)


def test_the_published_cell_is_shipped_and_reads_as_published() -> None:
    shipped, architecture = load_architecture("nascell")
    assert cell_of(architecture) == PUBLISHED
    assert shipped.size() == space("paper").size()
    lines = PUBLISHED.equations()
    assert lines[3] == "n3 = relu((W3 x_t) * (U3 h_(t-1)))"
    assert lines[8:14] == [
        "n8 = tanh(n0 * n1)",
        "n8' = tanh(n8 + c_(t-1))",
        "n9 = tanh(n2 + n3)",
        "n10 = tanh(n4 * n5)",
        "n11 = sigmoid(n6 + n7)",
        "n12 = n8' * n9",
    ]
    assert lines[14:] == [
        "c_t = n8' * n9",
        "n13 = tanh(n10 + n11)",
        "n14 = tanh(n12 * n13)",
        "h_t = n14",
    ]


def test_tokens_and_values_give_the_same_cell() -> None:
    paper = space("paper")
    architecture = architecture_of(paper, PUBLISHED)
    tokens = list(dict(architecture).values())
    assert cell_from_tokens([t for t in tokens if not isinstance(t, tuple | float)]) == PUBLISHED
    with pytest.raises(SpaceError, match=r"2\(2B - 1\) \+ 4 tokens; got 5"):
        cell_from_tokens(["add", "tanh", "add", 0, 0])


def test_a_space_comes_back_from_its_description() -> None:
    whole = space("whole", WHOLE)
    again = space_from_dict(whole.to_dict())
    assert again.fingerprint == whole.fingerprint


# --- canonical form -----------------------------------------------------------------------------


@given(cells(), st.integers(0, 2**32))
def test_cells_with_children_swapped_count_once(cell: Cell, seed: int) -> None:
    """Swapping the subtrees under any inner node of a balanced tree changes no function."""
    swapped = reordered(cell, _swapped_order(cell, random.Random(seed)))
    whole = space(
        "x", RecurrentSettings(base=cell.base, combinations=COMBINATIONS, activations=ACTIVATIONS)
    )
    one = whole.canonical(architecture_of(whole, cell))
    assert whole.canonical(architecture_of(whole, swapped)) == one
    assert whole.canonical(one) == one


@given(cells(), st.integers(0, 2**32))
def test_the_canonical_cell_computes_the_same_function(cell: Cell, seed: int) -> None:
    """With the leaves' weights moved along, h and c agree to rounding, step after step."""
    other, order = canonical_cell(cell)
    generator = torch.Generator().manual_seed(seed)
    units = 3

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.5

    z, u = draw(4, cell.base * units), draw(cell.base * units, units)
    h0, c0 = draw(2, units), draw(2, units)
    places = [k for old in order[: cell.base] for k in range(old * units, (old + 1) * units)]
    expected = plain_layer(cell, z, u, None, h0, c0, (2, 2))
    got = plain_layer(other, z[:, places], u[places], None, h0, c0, (2, 2))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_relu_of_what_is_never_negative_is_identity() -> None:
    two = space("two", RecurrentSettings(base=2))
    nodes = (("add", "sigmoid"), ("add", "sigmoid"), ("elem_mult", "relu"))
    plain = (*nodes[:2], ("elem_mult", "identity"))
    pair = [
        two.canonical(architecture_of(two, Cell(n, ("add", "tanh"), 2, 2))) for n in (nodes, plain)
    ]
    assert pair[0] == pair[1]
    # c_(t-1) may be negative, so after an inject relu must stay: leaf 0 is injected here.
    kept = two.canonical(architecture_of(two, Cell(nodes, ("add", "identity"), 2, 0)))
    assert kept["node2.activation"] == "relu"


def test_a_chain_of_sums_is_one_sum() -> None:
    """(a + b) + (c + d) = (a + c) + (b + d): one form; with an activation between, two."""
    four = space("four", RecurrentSettings(base=4))
    leaves = [("add", name) for name in ("tanh", "sigmoid", "relu", "identity")]

    def cell(order: list[int], between: str) -> Cell:
        inner = (("add", between), ("add", between), ("add", "tanh"))
        return Cell((*(leaves[i] for i in order), *inner), ("add", "tanh"), 6, 6)

    for between, same in (("identity", True), ("tanh", False)):
        forms = {
            four.canonical(architecture_of(four, cell(order, between)))
            for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 0, 2, 1])
        }
        assert (len(forms) == 1) is same


def test_marked_nodes_are_not_merged_into_a_chain() -> None:
    """Where c is taken from inside a sum, its operands may not change places with the others."""
    four = space("four", RecurrentSettings(base=4))
    leaves = [("add", name) for name in ("tanh", "sigmoid", "relu", "identity")]
    inner = (("add", "identity"), ("add", "identity"), ("add", "tanh"))
    one, other = (
        four.canonical(
            architecture_of(four, Cell((*(leaves[i] for i in o), *inner), ("add", "tanh"), 4, 6))
        )
        for o in ([0, 1, 2, 3], [0, 2, 1, 3])
    )
    assert one != other


def _swapped_order(cell: Cell, rng: random.Random) -> list[int]:
    """Return an order with the subtrees of random balanced nodes swapped."""
    order = list(range(len(cell.nodes)))

    def leaves_under(node: int) -> int:
        below = cell.children(node)
        return sum(map(leaves_under, below)) if below else 1

    def swap(a: int, b: int) -> None:
        order[a], order[b] = order[b], order[a]
        for one, two in zip(cell.children(a), cell.children(b), strict=True):
            swap(one, two)

    for node in range(cell.base, len(cell.nodes)):
        left, right = cell.children(node)
        if _shape(cell, left) == _shape(cell, right) and rng.random() < 0.5:
            swap(left, right)
    return order


def _shape(cell: Cell, node: int) -> str:
    return f"({''.join(_shape(cell, child) for child in cell.children(node))})"


@given(cells(bases=(2, 3, 4)), st.integers(0, 9))
def test_a_dead_cell_gives_zeros_and_another_does_not(cell: Cell, seed: int) -> None:
    """Without biases and from zeros; 8 units see both signs of what relu takes."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(5 * 3, cell.base * 8, generator=generator, dtype=torch.float64)
    u = torch.randn(cell.base * 8, 8, generator=generator, dtype=torch.float64)
    zero = torch.zeros(3, 8, dtype=torch.float64)
    h, _ = plain_layer(cell, z, u, None, zero, zero, [3] * 5)
    assert (h == 0).all().item() or not cell.dead


def test_what_makes_a_cell_dead() -> None:
    # n0 and n1 are W x * U 0 = 0, and so is n2; c_t = 0. A sigmoid or a sum of leaves is not.
    zeros = (("elem_mult", "tanh"), ("elem_mult", "relu"), ("add", "tanh"))
    assert Cell(zeros, ("add", "tanh"), 1, 0).dead
    assert not Cell(zeros, ("add", "sigmoid"), 1, 0).dead
    assert not Cell((*zeros[:2], ("add", "sigmoid")), ("add", "tanh"), 1, 0).dead
    # n1 = W1 x + U1 h goes into c, which comes back at n0; n2 = n0' * n1 lives from step 2 on.
    late = (("elem_mult", "tanh"), ("add", "tanh"), ("elem_mult", "tanh"))
    assert not Cell(late, ("add", "tanh"), 1, 0).dead
    assert Cell(late, ("elem_mult", "tanh"), 1, 0).dead
