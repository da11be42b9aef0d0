"""Recurrent layers: the equations, the compiled steps, and the interface of nn.LSTM."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from netwright.children import cell_code, products, recurrent, small, steps, tiles
from netwright.children.openmp import openmp
from netwright.children.small import small_layer
from netwright.children.steps import fast_layer, plain_layer, plain_step, run_layer
from netwright.errors import ArchitectureError, ConfigError
from netwright.nn import Recurrent
from netwright.spaces.recurrent import Cell
from tests.strategies import PUBLISHED, cells

LAYERS = {"plain": plain_layer, "fast": fast_layer}


def _draws(seed: int, dtype: torch.dtype = torch.float64) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.4) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return values.to(dtype).requires_grad_()

    return draw


# --- the equations ------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_worked_example_of_section_3_4(layer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Base 2: leaf 0 (add, tanh), leaf 1 (mult, relu), root (mult, sigmoid); inject (add, relu).

    The first index is 1, c_t from leaf 1; the second is 0, c_(t-1) into leaf 0.
    """
    cell = Cell(
        (("add", "tanh"), ("elem_mult", "relu"), ("elem_mult", "sigmoid")), ("add", "relu"), 1, 0
    )
    draw = _draws(0)
    x, w1, w2, w3, w4 = draw(1, 3), draw(4, 3), draw(4, 4), draw(4, 3), draw(4, 4)
    h, c = draw(1, 4), draw(1, 4)
    a0 = torch.tanh(x @ w1.t() + h @ w2.t())
    a1 = torch.relu((x @ w3.t()) * (h @ w4.t()))
    a0_injected = torch.relu(a0 + c)
    z, u = x @ torch.cat([w1, w3]).t(), torch.cat([w2, w4])
    h_t, c_t = layer(cell, z, u, None, h, c, (1,))
    torch.testing.assert_close(h_t, torch.sigmoid(a0_injected * a1))
    torch.testing.assert_close(c_t, (x @ w3.t()) * (h @ w4.t()))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_published_cell_is_its_equations(
    layer: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    draw = _draws(1)
    z, weight, h, c = draw(5, 16), draw(16, 2), draw(5, 2), draw(5, 2)
    u, v = z.chunk(8, 1), (h @ weight.t()).chunk(8, 1)
    sigmoid, tanh, relu = torch.sigmoid, torch.tanh, torch.relu
    n0, n1, n2 = sigmoid(u[0] + v[0]), relu(u[1] + v[1]), sigmoid(u[2] + v[2])
    n3, n4, n5 = relu(u[3] * v[3]), tanh(u[4] + v[4]), sigmoid(u[5] + v[5])
    n6, n7 = tanh(u[6] + v[6]), sigmoid(u[7] + v[7])
    p0, p1, p2, p3 = tanh(n0 * n1), tanh(n2 + n3), tanh(n4 * n5), sigmoid(n6 + n7)
    c_t = tanh(p0 + c) * p1
    got = layer(PUBLISHED, z, weight, None, h, c, (5,))
    torch.testing.assert_close(got[1], c_t)
    torch.testing.assert_close(got[0], tanh(c_t * tanh(p2 + p3)))


# --- the compiled steps -------------------------------------------------------------------------


def _gradients(
    layer: Callable[..., tuple[Tensor, Tensor]],
    cell: Cell,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    units: int,
    masked: bool,
    biased: bool,
    seed: int,
) -> list[Tensor]:
    """Return h, c and all gradients of a random weighting of both.

    The recurrent weights are scaled by their number, as a layer's own are: with more, a cell
    without a bounded activation multiplies rounding by millions in four steps.
    """
    draw = _draws(seed, dtype)
    rows, count = cell.base * units, sum(sizes)
    z, u = draw(count, rows), draw(rows, units, scale=0.4 / units**0.5)
    h0, c0 = draw(sizes[0], units), draw(sizes[0], units)
    bias = draw(rows) if biased else None
    mask = (draw(sizes[0], units).detach() > 0).to(dtype) * 2 if masked else None
    h, c = layer(cell, z, u, bias, h0, c0, sizes, mask)
    weights = draw(count, units).detach(), draw(count, units).detach()
    ((h * weights[0]).sum() + (c * weights[1]).sum()).backward()  # type: ignore[no-untyped-call]
    leaves = [z, u, h0, c0] + ([bias] if bias is not None else [])
    return [h.detach(), c.detach(), *(t.grad for t in leaves if t.grad is not None)]


@settings(max_examples=20)
@given(
    cells(),
    st.sampled_from([(3, 3, 3), (4, 2, 2, 1), (1,)]),
    st.sampled_from([1, 5, 515]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_compiled_steps_equal_the_plain_ones(
    cell: Cell, sizes: tuple[int, ...], units: int, masked: bool, biased: bool, seed: int
) -> None:
    """515 units are more than a tile. In float64 both round alike, up to the order of sums."""
    arguments = (cell, torch.float64, sizes, units, masked, biased, seed)
    expected = _gradients(plain_layer, *arguments)
    got = _gradients(fast_layer, *arguments)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9 * max(1.0, float(a.abs().max())))


def _small_gradients(
    cell: Cell,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    masked: bool,
    seed: int,
    fast: bool,
    inputs: int = 9,
    units: int = 17,
) -> list[Tensor]:
    """Return h, c and all gradients of a layer."""
    draw = _draws(seed, dtype)
    rows, count = cell.base * units, sum(sizes)
    x, w, u = draw(count, inputs), draw(rows, inputs, scale=0.3), draw(rows, units, scale=0.1)
    h0, c0 = draw(sizes[0], units), draw(sizes[0], units)
    mask = (draw(sizes[0], units).detach() > 0).to(dtype) * 2 if masked else None
    if fast:
        h, c = small_layer(cell, x, w, u, h0, c0, sizes, mask)
    else:
        h, c = plain_layer(cell, nn.functional.linear(x, w), u, None, h0, c0, sizes, mask)
    weights = draw(count, units).detach(), draw(count, units).detach()
    total = (h * weights[0]).sum() + (c * weights[1]).sum()
    return [h.detach(), c.detach(), *torch.autograd.grad(total, (x, w, u, h0, c0))]


@settings(max_examples=12)
@given(
    cells(bases=(2, 8)),
    st.sampled_from([(8,) * 5, (27, 9, 8, 3, 1, 1), (30,)]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_small_layers_equal_the_plain_ones(
    cell: Cell, sizes: tuple[int, ...], masked: bool, seed: int
) -> None:
    """The steps are more than one group of those whose gradients of weights are made at once."""
    expected = _small_gradients(cell, torch.float64, sizes, masked, seed, fast=False)
    got = _small_gradients(cell, torch.float64, sizes, masked, seed, fast=True)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9 * max(1.0, float(a.abs().max())))


@pytest.fixture
def short_vectors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile as for a processor whose vectors are half as long."""

    class Features(dict[str, bool]):
        def flatten(self) -> str:
            return "+avx2,+fma,-avx512f"

    from llvmlite import binding  # type: ignore[import-untyped]

    if not binding.get_host_cpu_features().get("avx2"):
        pytest.skip("another kind of processor")
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "haswell")
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: Features(avx2=True))
    for made in (cell_code.code_of, products.products_of):
        made.cache_clear()
    yield
    for made in (cell_code.code_of, products.products_of):
        made.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_layers_on_a_processor_with_short_vectors(
    short_vectors: None, dtype: torch.dtype
) -> None:
    sizes = (12, 11, 8, 8, 7)
    expected = _small_gradients(PUBLISHED, torch.float64, sizes, True, 5, fast=False)
    got = _small_gradients(PUBLISHED, dtype, sizes, True, 5, fast=True)
    bound = 2e-5 if dtype == torch.float32 else 1e-9
    for a, b in zip(expected, got, strict=True):
        assert float((b.double() - a).abs().max()) <= bound * max(1.0, float(a.abs().max()))


@pytest.mark.skipif(openmp() is None, reason="a torch with another library of threads")
def test_threads_change_no_bit() -> None:
    found = []
    sizes, threads = (12, 11, 8, 8, 7), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(
                _small_gradients(PUBLISHED, torch.float32, sizes, True, 5, fast=True)
                + _gradients(fast_layer, PUBLISHED, torch.float64, sizes, 19, True, True, 5)[:2]
            )
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


in_tiles = pytest.mark.skipif(not tiles.fit((16,)), reason="a processor without AVX512-BF16")
BF16 = torch.bfloat16
SMOOTH = replace(  # without steps in its gradient, over which rounding would take single units
    PUBLISHED, nodes=tuple((c, "tanh" if f == "relu" else f) for c, f in PUBLISHED.nodes)
)


@in_tiles
@pytest.mark.parametrize("widths", [(9, 17), (40, 33), (32, 16)])
@pytest.mark.parametrize("sizes", [(20,) * 10, (40, 33, 20, 17, 16), (16,), (64, 63)])
def test_layers_in_tiles_are_near_the_plain_ones(
    sizes: tuple[int, ...], widths: tuple[int, int]
) -> None:
    """The inputs are rounded to 8 bits as well."""
    for masked in (True, False):

        def run(kind: torch.dtype, fast: bool, masked: bool = masked) -> list[Tensor]:
            layer = fast_layer if fast else plain_layer
            found = _small_gradients(SMOOTH, kind, sizes, masked, 3, fast, *widths)
            return found + _gradients(layer, SMOOTH, kind, sizes, widths[1], masked, True, 3)

        for a, b in zip(run(torch.float64, False), run(BF16, True), strict=True):
            assert float((b.double() - a).norm()) <= 0.01 * float(a.norm())


@in_tiles
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_tiles_is_as_near_as_one_in_vectors(
    monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(SMOOTH, 79, 79, 2, bias=bias), torch.randn(12, 20, 79)

    def run(narrow: bool) -> list[Tensor]:
        layer.zero_grad()
        with torch.autocast("cpu", BF16, enabled=narrow):
            out, (h, c) = layer(x)
        assert out.dtype == (BF16 if narrow else torch.float32)
        (out.float().square().sum() + h.float().sum() + c.sum()).backward()
        assert all(p.grad is not None and p.grad.dtype == p.dtype for p in layer.parameters())
        return [out.float(), c, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    exact, tiled = run(False), run(True)
    for module in (small, steps):  # vectors would stand in for tiles
        monkeypatch.setattr(module, "fit", lambda batch_sizes: False)
    plain = run(True)
    assert any(not torch.equal(one, other) for one, other in zip(tiled, plain, strict=True))
    for a, b, other in zip(exact, tiled, plain, strict=True):
        error, reference = (float((x - a).detach().norm()) for x in (b, other))
        assert 0 < error <= 1.5 * reference + 0.002 * float(a.detach().norm())


@in_tiles
@pytest.mark.skipif(openmp() is None, reason="a torch with another library of threads")
def test_threads_change_no_bit_in_tiles() -> None:
    found = []
    sizes, threads = (40, 33, 20, 17, 16, 16, 16, 16, 16), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(
                _small_gradients(PUBLISHED, BF16, sizes, True, 5, True, 40, 33)
                + _gradients(fast_layer, PUBLISHED, BF16, sizes, 33, True, False, 5)[:2]
            )
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_small_layers_are_taken_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def watched(*arguments: Any) -> tuple[Tensor, Tensor]:
        taken.append(len(arguments))
        return small_layer(*arguments)

    monkeypatch.setattr(recurrent, "small_layer", watched)
    torch.manual_seed(0)
    layer, x = Recurrent(PUBLISHED, 5, 4, num_layers=2, bias=False), torch.randn(6, 9, 5)
    got, _ = layer(x)
    assert len(taken) == 2
    monkeypatch.setattr(small, "WEIGHTS", 0)
    torch.testing.assert_close(layer(x)[0], got)
    monkeypatch.setattr(small, "WEIGHTS", 1 << 18)
    layer(x[:, :7])  # too few rows a step
    Recurrent(PUBLISHED, 5, 4)(x)  # biases
    assert len(taken) == 2


def test_a_graph_can_be_gone_back_through_twice() -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(PUBLISHED, 5, 4, bias=False), torch.randn(6, 9, 5)
    total = layer(x)[0].sum()
    parameters = list(layer.parameters())
    first = torch.autograd.grad(total, parameters, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, parameters), strict=True):
        assert torch.equal(a, b)


@settings(max_examples=12)
@given(cells(bases=(8,)), st.booleans(), st.integers(0, 2**32))
def test_one_step_in_float32_is_near_float64(cell: Cell, masked: bool, seed: int) -> None:
    """tanh and sigmoid are approximated in float32; a tree of four levels keeps 1e-5."""
    got = _gradients(fast_layer, cell, torch.float32, (4,), 7, masked, True, seed)
    expected = _gradients(plain_layer, cell, torch.float64, (4,), 7, masked, True, seed)
    for a, b in zip(expected, got, strict=True):
        scale = max(1.0, float(a.abs().max()))
        near = (b.double() - a).abs() <= 2e-5 * scale
        # The kinks of relu and max may be on another side after rounding, for single units.
        assert float(near.float().mean()) > 0.97


def test_tanh_and_sigmoid_are_right_to_a_few_units_in_the_last_place() -> None:
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([0.0, 1e-6, -1e-6, 50, -50])])
    for name, function in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        leaf = Cell((("add", name), ("add", name), ("max", "identity")), ("max", "identity"), 0, 0)
        z = torch.stack([x, x], 1)
        zero = torch.zeros(len(x), 1)
        low = torch.full((len(x), 1), -9.0)
        h, _ = fast_layer(leaf, z, torch.zeros(2, 1), None, zero, low, (len(x),))
        expected = function(x.double())
        error = (h[:, 0].double() - expected).abs()
        assert float(error.max()) < 5e-7
        if name == "tanh":
            relative = error[x != 0] / expected[x != 0].abs()
            assert float(relative.max()) < 8e-7


@pytest.mark.parametrize("name", ["identity", "tanh", "sigmoid", "relu", "sin"])
@pytest.mark.parametrize("combine", ["add", "elem_mult", "max"])
def test_not_a_number_comes_through(name: str, combine: str) -> None:
    """A diverged child must be seen, so no activation or combination may hide NaN."""
    node = (combine, name)
    cell = Cell((node, node, node), node, 2, 0)
    z = torch.full((1, 2), float("nan"))
    h, c = fast_layer(cell, z, torch.ones(2, 1), None, torch.ones(1, 1), torch.ones(1, 1), (1,))
    assert h.isnan().all()
    assert c.isnan().all()


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradcheck(layer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    draw = _draws(3)
    mask = torch.tensor([[0.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    arguments = (draw(5, 16), draw(16, 2), draw(16), draw(2, 2), draw(2, 2))

    def run(z: Tensor, u: Tensor, bias: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return layer(PUBLISHED, z, u, bias, h, c, (2, 2, 1), mask)

    assert torch.autograd.gradcheck(run, arguments)


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    layer = Recurrent("nascell", 16, 32)
    x = torch.randn(6, 3, 16)
    expected, (_, c) = layer(x)
    got, (_, c_low) = layer.bfloat16()(x.bfloat16())
    assert got.dtype == c_low.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, atol=0.03, rtol=0.05)
    torch.testing.assert_close(c_low.float(), c, atol=0.03, rtol=0.05)
    got.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in layer.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_what_was_first_run_in_inference_mode_can_be_trained(bias: bool) -> None:
    steps.constant.cache_clear()
    steps.numbers_of.cache_clear()
    layer = Recurrent("nascell", 4, 8, bias=bias)
    x = torch.randn(5, 3, 4)
    with torch.inference_mode():
        expected, _ = layer(x)
    got, _ = layer(x)
    assert torch.equal(got, expected)
    got.sum().backward()


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("width", [8, 400])
@pytest.mark.parametrize("bias", [True, False])
def test_torchs_default_device_is_no_matter(bias: bool, width: int, narrow: bool) -> None:
    layer, x = Recurrent("nascell", 4, width, bias=bias), torch.randn(2, 16, 4)

    def gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            out, _ = layer(x)
        return [out, *torch.autograd.grad(out.float().sum(), list(layer.parameters()))]

    expected = gradients()
    with torch.device("meta"):
        got = gradients()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_other_devices_take_the_plain_steps() -> None:
    zero = torch.zeros(2, 4, device="meta")
    z, u = torch.zeros(2, 32, device="meta"), torch.zeros(32, 4, device="meta")
    h, c = run_layer(PUBLISHED, z, u, None, zero, zero, (2,))
    assert h.shape == c.shape == (2, 4)


# --- the interface of nn.LSTM -------------------------------------------------------------------

FORMS = [
    {},
    {"num_layers": 2},
    {"bias": False},
    {"batch_first": True},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
]


def _pair(**form: object) -> tuple[Recurrent, nn.LSTM]:
    torch.manual_seed(0)
    return Recurrent(PUBLISHED, 5, 4, **form), nn.LSTM(5, 4, **form)  # type: ignore[arg-type]


def _shapes(result: tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]) -> list[object]:
    out, (h, c) = result
    if isinstance(out, PackedSequence):
        return [out.data.shape, out.batch_sizes.tolist(), h.shape, c.shape]
    return [out.shape, h.shape, c.shape]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_shapes_and_parameter_names_are_those_of_lstm(form: dict[str, object]) -> None:
    ours, theirs = _pair(**form)
    names = {n: tuple(p.shape) for n, p in theirs.named_parameters()}
    assert {n: (p.shape[0] // 2, *p.shape[1:]) for n, p in ours.named_parameters()} == names
    x = torch.randn(3, 6, 5)
    packed = pack_padded_sequence(x, [6, 2, 4], batch_first=True, enforce_sorted=False)
    for given_ in (x, torch.randn(6, 5), packed):
        assert _shapes(ours(given_)) == _shapes(theirs(given_))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packed_sequences_give_what_each_gives_alone(form: dict[str, object]) -> None:
    ours, _ = _pair(**form)
    directions = 2 if form.get("bidirectional") else 1
    sequences = [torch.randn(n, 5) for n in (2, 6, 4)]
    h0, c0 = torch.randn(2, int(str(form.get("num_layers", 1))) * directions, 3, 4)
    packed = pack_sequence(sequences, enforce_sorted=False)
    out, (h, c) = ours(packed, (h0, c0))
    padded, lengths = nn.utils.rnn.pad_packed_sequence(out)
    for i, sequence in enumerate(sequences):
        alone, (h_i, c_i) = ours(sequence, (h0[:, i], c0[:, i]))
        torch.testing.assert_close(padded[: int(lengths[i]), i], alone)
        torch.testing.assert_close(h[:, i], h_i)
        torch.testing.assert_close(c[:, i], c_i)


def test_batch_first_only_changes_places() -> None:
    ours, _ = _pair()
    first = Recurrent(PUBLISHED, 5, 4, batch_first=True)
    first.load_state_dict(ours.state_dict())
    x = torch.randn(6, 3, 5)
    torch.testing.assert_close(first(x.transpose(0, 1))[0].transpose(0, 1), ours(x)[0])


def test_state_hands_over() -> None:
    """Two halves with the state carried are the whole."""
    for form in ({}, {"num_layers": 2}):
        ours, _ = _pair(**form)
        x = torch.randn(8, 3, 5)
        whole, end = ours(x)
        first, state = ours(x[:3])
        second, last = ours(x[3:], state)
        torch.testing.assert_close(torch.cat([first, second]), whole)
        for a, b in zip(last, end, strict=True):
            torch.testing.assert_close(a, b)


def test_backwards_reads_from_the_end() -> None:
    ours, _ = _pair(bidirectional=True)
    forwards = Recurrent(PUBLISHED, 5, 4)
    state = ours.state_dict()
    forwards.load_state_dict(
        {n.removesuffix("_reverse"): p for n, p in state.items() if n.endswith("_reverse")}
    )
    x = torch.randn(6, 3, 5)
    out, (h, _) = ours(x)
    expected, (end, _) = forwards(x.flip(0))
    torch.testing.assert_close(out[..., 4:], expected.flip(0))
    torch.testing.assert_close(h[1], end[0])


def test_dropout_stands_between_layers_only() -> None:
    torch.manual_seed(0)
    one = Recurrent(PUBLISHED, 5, 4, dropout=0.5)
    x = torch.randn(6, 3, 5)
    torch.testing.assert_close(one(x)[0], one(x)[0])
    two = Recurrent(PUBLISHED, 5, 4, num_layers=2, dropout=0.5)
    assert not torch.equal(two(x)[0], two(x)[0])
    torch.testing.assert_close(two.eval()(x)[0], two(x)[0])


def test_recurrent_dropout_keeps_its_mask_over_the_steps() -> None:
    """A cell that outputs h_(t-1) + 1 counts the steps in the units that are not dropped."""
    counter = Cell(
        (("add", "identity"), ("add", "identity"), ("add", "identity")), ("max", "identity"), 0, 0
    )
    layer = Recurrent(counter, 1, 200, bias=False, recurrent_dropout=0.5)
    half = torch.eye(200) / 2
    layer.load_state_dict(
        {"weight_ih_l0": torch.full((400, 1), 0.5), "weight_hh_l0": torch.cat([half, half])}
    )
    low = (torch.zeros(1, 1, 200), torch.full((1, 1, 200), -100.0))
    out, _ = layer(torch.ones(3, 1, 1), low)
    # Kept units are doubled at every step: 1, 2 * 1 + 1, 2 * 3 + 1; dropped ones stay at 1.
    last = {float(v) for v in out[2, 0].detach().unique()}
    assert last == {1.0, 7.0}
    assert layer.eval()(torch.ones(3, 1, 1), low)[0][2].unique().tolist() == [3.0]


def test_a_state_dict_can_be_saved_and_moved() -> None:
    ours, _ = _pair(num_layers=2)
    other = Recurrent("nascell", 5, 4, num_layers=2)
    other.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 5)
    torch.testing.assert_close(other(x)[0], ours(x)[0])
    torch.testing.assert_close(ours.double()(x.double())[0], other(x)[0].double())


def test_torch_export_takes_the_plain_steps() -> None:
    ours, _ = _pair(bidirectional=True)
    x = torch.randn(4, 2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(ours.eval(), (x,))
    torch.testing.assert_close(program.module()(x)[0], ours(x)[0])


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (torch.zeros(2, 3, 6), None, "input_size, 5; got 6"),
        (torch.zeros(5), None, "2 or 3 dimensions; got 1"),
        (torch.zeros(0, 3, 5), None, "a step and a sequence"),
        (torch.zeros(2, 3, 5), torch.zeros(1, 2, 4), r"h_0 must be \[1, 3, 4\]; got \[1, 2, 4\]"),
    ],
)
def test_wrong_shapes_are_named(x: Tensor, state: Tensor | None, message: str) -> None:
    ours, _ = _pair()
    with pytest.raises(ValueError, match=message):
        ours(x, None if state is None else (state, state))


def test_wrong_settings_are_named() -> None:
    for setting in ({"num_layers": 0}, {"dropout": 1.0}, {"recurrent_dropout": -0.1}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            Recurrent(PUBLISHED, 5, 4, **setting)
    with pytest.raises(ArchitectureError, match="recurrent space; 'v1' is of a conv space"):
        Recurrent("v1", 5, 4)


def test_plain_step_shapes() -> None:
    draw = _draws(0)
    h, c = plain_step(PUBLISHED, draw(3, 16), draw(3, 16), draw(3, 2))
    assert h.shape == c.shape == (3, 2)


@pytest.mark.parametrize("width", [6, 300])
@pytest.mark.filterwarnings("ignore:.*")  # a trace's: of shapes in Python
def test_a_layer_can_be_traced(width: int) -> None:
    """A small layer, and one whose weights are not."""
    torch.manual_seed(0)
    layer, x = Recurrent(PUBLISHED, 5, width), torch.randn(3, 16, 5)
    traced = torch.jit.trace(layer, x)  # type: ignore[no-untyped-call]
    for one, other in zip(traced(x + 1)[1], layer(x + 1)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
