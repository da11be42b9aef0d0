"""Small layers in vectors of bfloat16: any cell, any width, and how near their activations are."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from netwright.children import small
from netwright.children.compiled import has_vectors
from netwright.children.small_pairs import paired_layer
from netwright.nn import Recurrent
from netwright.spaces.recurrent import Cell
from tests.strategies import PUBLISHED
from tests.test_recurrent import BF16, _small_gradients

pytestmark = pytest.mark.skipif(not has_vectors(), reason="a processor without AVX512-BF16")


@pytest.fixture(autouse=True)
def without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the vectors also where there are tiles."""
    monkeypatch.setattr(small, "has_tiles", lambda: False)


def _smooth_cell(base: int, drawn: random.Random) -> Cell:
    """Return a cell without steps in its gradient, over which rounding would take single units."""

    def node() -> tuple[str, str]:
        return drawn.choice(["add", "elem_mult"]), drawn.choice(["tanh", "sigmoid"])

    count = 2 * base - 1
    nodes = tuple(node() for _ in range(count))
    return Cell(nodes, node(), drawn.randrange(count), drawn.randrange(count))


@pytest.mark.parametrize("seed", range(6))
def test_cells_of_any_leaves_are_near_the_plain_ones(seed: int) -> None:
    """Widths are below, at and above whole vectors; rows odd, falling, and of two groups' steps."""
    drawn = random.Random(seed)
    cell = _smooth_cell((2, 4, 8)[seed % 3], drawn)
    widths = [(9, 17), (17, 9), (33, 40), (8, 16), (79, 79), (130, 3)][seed]
    sizes = [(20,) * 9, (33, 19, 17), (16,), (25,) * 3, (31,) * 17, (47, 16)][seed]
    for masked in (True, False):
        exact = _small_gradients(cell, torch.float64, sizes, masked, seed, False, *widths)
        found = _small_gradients(cell, BF16, sizes, masked, seed, True, *widths)
        for a, b in zip(exact, found, strict=True):
            assert bool(torch.isfinite(b).all())
            assert float((b.double() - a).norm()) <= 0.012 * float(a.norm() + 1e-3)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, BF16])
def test_gradients_that_nobody_wants_are_not_made(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x, h, c = (torch.randn(n, k).to(kind) for n, k in ((40, 5), (20, 7), (20, 7)))
    w, u = (torch.randn(56, k).to(kind).requires_grad_() for k in (5, 7))
    found = []
    for wanted in (False, True):
        x, h, c = (t.detach().requires_grad_(wanted) for t in (x, h, c))
        out, cs = paired_layer(PUBLISHED, x, w, u, h, c, (20, 20))
        assert (out.dtype, cs.dtype) == (BF16, kind)
        found.append(torch.autograd.grad(out.float().sum() + cs.float().sum(), (w, u)))
        assert all(g.dtype == kind for g in found[-1])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_tanh_and_sigmoid_are_right_to_far_less_than_bfloat16s_last_place() -> None:
    x = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([0.0, 1e-6, 50, -50])])
    x = x.to(BF16).float()[:, None]
    one, zero, low = torch.ones(2, 1), torch.zeros(2, 1), torch.full((len(x), 1), -9.0)
    for name, function in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        cell = Cell((("add", name), ("add", name), ("max", "identity")), ("max", "identity"), 2, 0)
        h = torch.zeros(len(x), 1)
        _, c = paired_layer(cell, x, one, zero, h, low, (len(x),))  # c_t is in float32
        expected = function(x.double())
        assert float(c.abs().max()) <= 1
        assert float((c.double() - expected).abs().max()) < 2.5e-4
        if name == "tanh":
            relative = (c.double() - expected).abs()[x != 0] / expected.abs()[x != 0]
            assert float(relative.max()) < 2.5e-4


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_what_is_far_out_keeps_a_gradient(name: str) -> None:
    """As bfloat16, what is kept of it would be one, and what goes back for good nothing."""
    cell = Cell((("add", name), ("add", name), ("add", "identity")), ("add", "identity"), 2, 0)
    x, zero, one = (
        torch.full((16, 1), 50.0, requires_grad=True),
        torch.zeros(16, 1),
        torch.ones(2, 1),
    )
    out, _ = paired_layer(cell, x, one, one, zero, zero, (16,))
    out.float().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert 0 < float(x.grad.min()) <= float(x.grad.max()) < 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_sequence(bad: float) -> None:
    torch.manual_seed(0)
    x, h, c = torch.randn(40, 5), torch.zeros(20, 7), torch.zeros(20, 7)
    w, u = torch.randn(56, 5), torch.randn(56, 7)
    x[3, 2] = bad
    out, _ = paired_layer(PUBLISHED, x, w, u, h, c, (20, 20))
    finite = torch.isfinite(out).all(1)
    assert not (finite[3] and bad != bad)
    others = torch.ones(40, dtype=torch.bool)
    others[[3, 23]] = False
    assert bool(finite[others].all())


def test_small_layers_of_bfloat16_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def watched(*given: object) -> object:
        taken.append(given)
        return paired_layer(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(small, "paired_layer", watched)
    layer, x = Recurrent(PUBLISHED, 5, 4, bias=False), torch.randn(6, 20, 5)
    layer(x)
    assert not taken
    with torch.autocast("cpu", BF16):
        out, (h, c) = layer(x)
        assert len(taken) == 1
        zero = torch.zeros(20, 4)
        again, (h_n, c_n) = layer.first(x, zero, zero)
    for one, other in ((out, again), (h[0], h_n), (c[0], c_n)):
        assert torch.equal(one, other)


def test_a_mask_of_h_is_variational_dropout() -> None:
    torch.manual_seed(0)
    layer = Recurrent(PUBLISHED, 5, 4, bias=False, recurrent_dropout=0.5)
    x = torch.randn(6, 20, 5)
    with torch.autocast("cpu", BF16):
        torch.manual_seed(1)
        out, _ = layer(x)
        torch.manual_seed(1)
        mask = nn.functional.dropout(torch.ones(20, 4), 0.5)
        (w, u), zero = layer.parameters(), torch.zeros(20, 4)
        again, _ = paired_layer(PUBLISHED, x.flatten(0, 1), w, u, zero, zero, (20,) * 6, mask)
    assert torch.equal(out.flatten(0, 1), again)
