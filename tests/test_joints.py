from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netwright.children import joints, openmp
from netwright.children.compiled import part
from netwright.children.conv import build
from netwright.children.joints import averaged, fast, halved, handed, joined
from netwright.children.lanes import counted, summed
from netwright.children.layers import ConvNormRelu
from netwright.children.whole import whole
from netwright.seeding import rng
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv
from tests.layers import BOUNDS, LAST, both, images, in_threads, last, near, needs_openmp
from tests.strategies import conv_architectures

pytestmark = pytest.mark.usefixtures("one_thread")

sizes = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(1, 70),
    sizes,
    sizes,
    st.integers(1, 4),
    st.sampled_from(sorted(BOUNDS, key=str)),
    st.booleans(),
    st.booleans(),
)
def test_a_layer_and_its_gradients_are_the_plain_ones(
    n: int,
    channels: int,
    h: int,
    w: int,
    takers: int,
    dtype: torch.dtype,
    rectify: bool,
    beside: bool,
) -> None:
    torch.manual_seed(channels)
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    layer = ConvNormRelu(nn.Conv2d(3, channels, 3, padding=1, bias=False), norm, rectify)
    layer = last(layer)
    x, senders = images(n, 3, h, w, dtype), torch.randn(takers, n, channels, h, w)
    shortcut = images(n, channels, h, w, dtype) if beside else None
    inputs = [x] if shortcut is None else [x, shortcut]
    results: list[Any] = []
    for plainly in (True, False):
        one = copy.deepcopy(layer)
        for leaf in inputs:
            leaf.grad = None
        with (
            both(plainly),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
        ):
            outputs = one.handed(x, takers, shortcut)
        assert len(outputs) == takers
        total = sum((y.float() * s).sum() for y, s in zip(outputs, senders, strict=True))
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [leaf.grad for leaf in (*inputs, *one.parameters())]
        results.append((outputs[0].detach(), gradients, dict(one.named_buffers())))
    (y, gradients, buffers), (y_fast, gradients_fast, buffers_fast) = results
    near(y_fast, y, dtype)
    for name in buffers:
        torch.testing.assert_close(buffers_fast[name], buffers[name], rtol=1e-4, atol=1e-5)
    if dtype == torch.float32:
        for found, wanted in zip(gradients_fast, gradients, strict=True):
            assert found is not None
            assert wanted is not None
            # of few pixels a channel's deviation can be tiny, which enlarges every rounding
            near(found, wanted, dtype, scale=50)


def test_evaluation_uses_the_running_moments() -> None:
    torch.manual_seed(0)
    layer = ConvNormRelu(nn.Conv2d(4, 6, (1, 1), (2, 1), bias=False), nn.BatchNorm2d(6))
    layer = last(layer)
    for _ in range(3):
        layer(images(8, 4, 5, 5))
    layer.eval()
    x, shortcut = images(8, 4, 5, 5).detach(), images(8, 6, 3, 5).detach()
    with torch.no_grad():
        for beside in (None, shortcut):
            (found,) = layer.handed(x, 1, beside)
            with joints.plain():
                (wanted,) = layer.handed(x, 1, beside)
            near(found, wanted, torch.float32)
    with joints.plain():
        fixed = layer(x)
    near(layer(x).detach(), fixed.detach(), torch.float32)  # with gradients: the plain one


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 40), sizes, sizes, st.sampled_from(sorted(BOUNDS, key=str))
)
def test_pooling_and_its_gradient_are_exactly_the_plain_ones(
    n: int, c: int, h: int, w: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(h * w)
    x = images(n, c, h, w, dtype)
    x.data = (x.data * 2).round()  # with equals among the four
    y, again = halved(x, 2)
    sent = torch.randn_like(y)
    torch.autograd.backward([y, again], [sent, torch.zeros_like(sent)])
    found, x.grad = x.grad, None
    wanted = F.max_pool2d(x, 2, ceil_mode=True)
    wanted.backward(sent)  # type: ignore[no-untyped-call]
    assert torch.equal(y, wanted)
    assert found is not None
    assert x.grad is not None
    assert torch.equal(found, x.grad)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), sizes, sizes), min_size=1, max_size=4))
def test_joining_and_averaging_are_padding_concatenation_and_mean(
    shapes: list[tuple[int, int, int]],
) -> None:
    torch.manual_seed(0)
    inputs = [images(2, *shape) for shape in shapes]
    size = max(s[1] for s in shapes), max(s[2] for s in shapes)
    results = []
    for plainly in (True, False):
        for x in inputs:
            x.grad = None
        with both(plainly):
            whole = joined(inputs, size)
            mean = averaged(inputs, size) if not plainly else whole.mean((2, 3))
        torch.manual_seed(1)
        total = (whole * torch.randn(whole.shape)).sum() + (mean * torch.randn(mean.shape)).sum()
        total.backward()  # type: ignore[no-untyped-call]
        results.append([whole.detach(), mean.detach(), *(x.grad for x in inputs)])
    for found, wanted in zip(results[1], results[0], strict=True):
        assert found is not None
        assert wanted is not None
        near(found, wanted, torch.float32)


def test_gradients_of_several_takers_are_added_up() -> None:
    x = images(2, 5, 4, 3)
    one, two, three, unused = handed(x, 4)
    slices = torch.cat([one, two], 1).square().sum() + three.mean((2, 3)).sum()
    slices.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 4 * x.detach() + 1 / 12)
    assert unused.shape == x.shape


def _second(outputs: list[Tensor], x: Tensor) -> Tensor:
    """Return a derivative of the gradient of the outputs' cubes and of `x`'s own."""
    total = torch.stack([(y**3).sum() for y in outputs]).sum() + (x**3).sum()
    (g,) = torch.autograd.grad(total, x, create_graph=True)
    g.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("joint", [handed, halved])
def test_a_second_derivative_of_compiled_passes_is_refused(joint: Any) -> None:
    x = images(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        _second(joint(x, 2), x)


def test_joining_and_averaging_have_the_plain_second_derivative() -> None:
    x = images(2, 3, 4, 4)
    twin = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    found = _second([joined([x, x[:, :2]], (6, 5)), averaged([x], (6, 6))], x)
    with joints.plain():
        wanted = _second([joined([twin, twin[:, :2]], (6, 5)), twin.sum((2, 3)) / 36], twin)
    near(found, wanted, torch.float32)


def test_what_is_not_finite_stays_so() -> None:
    layer = last(ConvNormRelu(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)))
    x = images(4, 2, 3, 3).detach()
    x[1, 0, 2, 2] = float("nan")
    assert fast(x)
    y = layer(x)
    assert torch.isnan(y).all()  # by the mean; a ReLU of comparisons alone would hide it
    assert torch.isnan(halved(x, 1)[0]).sum() == 1


def test_other_layouts_and_unknown_threads_take_the_plain_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = images(2, 3, 4, 4)
    assert fast(x)
    assert not fast(x.double())
    assert not fast(x.contiguous())
    with joints.plain():
        assert not fast(x)
    monkeypatch.setattr(openmp, "openmp", lambda: None)
    assert fast(x)
    torch.set_num_threads(2)
    assert not fast(x)


def _hand() -> Any:
    torch.manual_seed(0)
    space = conv.v2(6)
    child = build(space, space.sample(rng(0, 0, "test")), (3, 9, 8), 4)
    return child.to(memory_format=LAST)  # type: ignore[call-overload]


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_is_torchs(training: bool) -> None:
    child, x = _hand().train(training), images(2, 3, 9, 8).detach()[:0]
    assert not fast(x)
    with torch.set_grad_enabled(training):
        assert child(x).shape == (0, 4)
    assert halved(x, 1)[0].shape == (0, 3, 5, 4)


@pytest.mark.parametrize("training", [True, False])
def test_half_precision_by_autocast_is_torchs(training: bool) -> None:
    child, x = _hand().train(training), images(4, 3, 9, 8).detach()
    twin = copy.deepcopy(child)
    with torch.autocast("cpu", torch.float16), torch.set_grad_enabled(training):
        found = child(x)
        with joints.plain():
            wanted = twin(x)
    assert torch.allclose(found, wanted, atol=1e-2)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.filterwarnings("ignore:.*")  # a trace's: of shapes in Python
def test_a_child_can_be_traced(grad: bool) -> None:
    child, x = _hand().eval(), images(4, 3, 9, 8).detach()
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(child, x)  # type: ignore[no-untyped-call]
        near(traced(x + 1), child(x + 1), torch.float32)


@pytest.mark.parametrize("training", [True, False])
def test_a_child_is_compiled_whole(training: bool) -> None:
    child, x = _hand().train(training), images(4, 3, 9, 8).detach()
    twin = copy.deepcopy(child)
    torch._dynamo.reset()
    found = torch.compile(child, backend="eager", fullgraph=True)(x)  # type: ignore[no-untyped-call]
    near(found.detach(), twin(x).detach(), torch.float32)


@needs_openmp
@settings(max_examples=5, deadline=None)
@given(conv_architectures())
def test_a_child_of_several_threads_is_the_one_of_one_thread(
    drawn: tuple[SearchSpace, Architecture],
) -> None:
    torch.manual_seed(0)
    child = build(*drawn, (3, 9, 8), 4).to(memory_format=LAST)  # type: ignore[call-overload]
    x = images(5, 3, 9, 8).detach()
    in_threads(child, x)


@needs_openmp
@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
def test_large_passes_are_shared_and_exact_where_nothing_is_summed(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[tuple[int, ...]] = []
    library = openmp.openmp()
    assert library is not None
    run = library.run

    def noted(function: int, numbers: tuple[int, ...], threads: int) -> None:
        shared.append(numbers)
        run(function, numbers, threads)

    monkeypatch.setattr(library, "run", noted)
    x = images(16, 40, 9, 7, dtype)
    results: list[tuple[Tensor, Tensor]] = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        x.grad = None
        y, again = halved(x, 2)
        torch.autograd.backward([y, again], [y.detach(), again.detach()])
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    assert len(shared) == 2
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@settings(max_examples=15, deadline=None)
@given(conv_architectures())
def test_a_whole_child_is_the_plain_one(drawn: tuple[SearchSpace, Architecture]) -> None:
    torch.manual_seed(0)
    child = build(*drawn, (3, 9, 8), 4).to(memory_format=LAST)  # type: ignore[call-overload]
    x = images(4, 3, 9, 8).detach()
    results: dict[str, Any] = {}
    for way in ("plain", "whole", "layer by layer"):
        one = copy.deepcopy(child)
        if way == "layer by layer":
            one.layers[0].register_forward_hook(lambda module, inputs, output: None)
        with both(way == "plain"):
            logits = one(x)
        logits.square().sum().backward()
        buffers = dict(one.named_buffers())
        results[way] = (logits.detach(), [p.grad for p in one.parameters()], buffers)
    wanted, gradients, buffers = results["plain"]
    for way in ("whole", "layer by layer"):
        logits, gradients_fast, buffers_fast = results[way]
        near(logits, wanted, torch.float32, scale=50)
        for name in buffers:
            torch.testing.assert_close(buffers_fast[name], buffers[name], rtol=1e-3, atol=1e-4)
        for found, right in zip(gradients_fast, gradients, strict=True):
            assert found is not None
            assert right is not None
            size = float(right.norm()) + 1e-3
            assert float((found - right).norm()) <= 0.02 * size


def test_a_whole_child_goes_back_once() -> None:
    child = build(conv.v1(), conv.v1().sample(rng(0, 0, "test")), (3, 4, 4), 2)
    total = child.to(memory_format=LAST)(images(2, 3, 4, 4).detach()).sum()  # type: ignore[call-overload]
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once; run it forward again"):
        total.backward()


def test_only_children_of_convolutions_in_training_are_one_function() -> None:
    torch.manual_seed(0)
    layer = last(ConvNormRelu(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)))
    x = images(4, 2, 3, 3).detach()
    assert whole([layer], x)
    assert not whole([layer, nn.ReLU()], x)
    assert not whole([layer], x.contiguous())
    assert not whole([layer], x[:1])
    assert not whole([layer], images(4, 2, 3, 3))  # whose gradient someone wants
    with torch.no_grad():
        assert not whole([layer], x)
    layer.eval()
    assert not whole([layer], x)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 130), st.sampled_from([np.float32, np.uint16]))
def test_vectors_stay_within_their_arrays_and_are_sums(
    channels: int, pixels: int, kind: type[Any]
) -> None:
    draw = np.random.default_rng(channels)
    n, turn = pixels * channels, math.lcm(channels, 16)

    def framed(size: int, of: type[Any]) -> tuple[Any, Any]:
        around = np.full(size + 64, 7, of)
        return around, around[32 : 32 + size]

    x = (draw.standard_normal(n).astype(np.float32).view(np.uint32) >> 16 << 16).view(np.float32)
    held = (x.view(np.uint32) >> 16).astype(np.uint16) if kind is np.uint16 else x
    (around, to), (around_one, one), (around_two, two) = (
        framed(size, np.float32) for size in (n, turn, turn)
    )
    one[:] = two[:] = 0
    _counted(held, np.zeros(turn, np.float32), one, two)
    by_channel = x.reshape(pixels, channels)
    found = one.reshape(-1, channels).sum(0), two.reshape(-1, channels).sum(0)
    np.testing.assert_allclose(found[0], by_channel.sum(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[1], np.square(by_channel).sum(0), rtol=1e-4, atol=1e-3)
    steps = np.array([channels * held.itemsize, 0])
    places = np.array([held.ctypes.data, held.ctypes.data])
    _summed(places, steps, held, pixels, to.reshape(pixels, channels))
    np.testing.assert_allclose(to.reshape(pixels, channels), by_channel + by_channel[0])
    for outside in (around, around_one, around_two):
        assert (outside[:32] == 7).all()
        assert (outside[-32:] == 7).all()


@part
def _counted(x: Any, shift: Any, one: Any, two: Any) -> None:
    counted(x, shift, one, two)


@part
def _summed(places: Any, steps: Any, like: Any, pixels: int, to: Any) -> None:
    summed(places, steps, like, pixels, to)
