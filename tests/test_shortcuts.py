from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netwright.children import joints
from netwright.children.baselines import ResNet
from netwright.children.joints import thinned
from netwright.children.layers import ConvNormRelu
from tests.layers import BOUNDS, LAST, both, images, in_threads, last, near, needs_openmp

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
def test_a_shortcut_passes_gradients_exactly_where_the_output_is_not_zero(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    layer = last(ConvNormRelu(nn.Conv2d(2, 21, 1, bias=False), nn.BatchNorm2d(21)))
    x, shortcut = images(3, 2, 5, 3, dtype).detach(), images(3, 21, 5, 3, dtype)
    shortcut.data[1, 7, 4, 2] = float("nan")
    shortcut.data[2, 7, 4, 2] = float("-inf")
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y, again = layer.handed(x, 2, shortcut)
    sent = [torch.randn_like(y).contiguous(memory_format=LAST) for _ in range(2)]
    y.backward(sent[0], retain_graph=True)  # type: ignore[no-untyped-call]
    alone = shortcut.grad
    assert alone is not None
    passed = ~(y <= 0)
    assert torch.isnan(y).sum() == 1
    assert torch.isnan(y[1, 7, 4, 2])
    assert torch.equal(alone, torch.where(passed, sent[0], torch.zeros_like(y)))
    shortcut.grad = None
    torch.autograd.backward([y, again], sent)
    assert shortcut.grad is not None
    total = (sent[0].float() + sent[1].float()).to(dtype)
    assert torch.equal(shortcut.grad, torch.where(passed, total, torch.zeros_like(y)))


def test_a_shortcut_nobody_learns_from_changes_no_other_gradient() -> None:
    torch.manual_seed(0)
    layer = last(ConvNormRelu(nn.Conv2d(2, 19, 3, bias=False), nn.BatchNorm2d(19)))
    x, shortcut = images(4, 2, 5, 6), images(4, 19, 3, 4)
    found = []
    for beside in (shortcut, shortcut.detach()):
        leaves = [x, *layer.parameters()]
        total = layer.handed(x, 1, beside)[0].square().sum()
        found.append(torch.autograd.grad(total, leaves))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_shortcut_of_another_shape_is_refused() -> None:
    layer = last(ConvNormRelu(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)))
    x = images(4, 2, 3, 3)
    for shape in ((1, 3, 3, 3), (4, 3, 3, 4)):
        with pytest.raises(ValueError, match=r"output's shape \(4, 3, 3, 3\), got"):
            layer.handed(x, 1, images(*shape))
        with joints.plain(), pytest.raises(ValueError, match=r"output's shape \(4, 3, 3, 3\)"):
            layer.handed(x, 1, images(*shape))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(sorted(BOUNDS, key=str)),
)
def test_thinning_and_its_gradients_are_exactly_the_plain_ones(
    n: int, channels: int, more: int, h: int, w: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = images(n, channels, h, w, dtype)
    results: list[tuple[Tensor, Tensor]] = []
    for plainly in (True, False):
        x.grad = None
        with both(plainly):
            y = thinned(x, 2, channels + more)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape).to(dtype))  # type: ignore[no-untyped-call]
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def _step(network: nn.Module, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Return logits, and gradients and running moments after a step in training, float32."""
    one = copy.deepcopy(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = one(x.to(dtype)).float()
    logits.square().sum().backward()
    found = [*one.buffers(), *(p.grad for p in one.parameters())]
    return logits.detach(), [tensor.float() for tensor in found if tensor is not None]


def test_residual_networks_are_the_plain_ones() -> None:
    torch.manual_seed(0)
    network = ResNet(3, 4).to(memory_format=LAST)  # type: ignore[call-overload]
    x = images(8, 3, 16, 16).detach()
    with joints.plain():
        wanted, right = _step(network, x, torch.float32)
        logits_plain, plain = _step(network, x, torch.bfloat16)
    found, full = _step(network, x, torch.float32)
    near(found, wanted, torch.float32)
    assert _apart(full, right) <= 2e-3 * _apart(right)  # a ReLU at 0 may fall to either side
    found, narrow = _step(network, x, torch.bfloat16)
    assert _apart([found], [wanted]) <= 1.5 * _apart([logits_plain], [wanted])
    assert _apart(narrow, right) <= 1.5 * _apart(plain, right)
    network.eval()
    with torch.no_grad():
        found = network(x)
        with joints.plain():
            near(found, network(x), torch.float32)


def _apart(some: list[Tensor], others: list[Tensor] | None = None) -> float:
    """Return the distance between two lists of tensors, or of one from zeros."""
    others = others or [torch.zeros_like(tensor) for tensor in some]
    pairs = zip(some, others, strict=True)
    return float(sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5)


@needs_openmp
def test_a_residual_network_of_several_threads_is_the_one_of_one_thread() -> None:
    torch.manual_seed(0)
    network = ResNet(3, 4, 1).to(memory_format=LAST)  # type: ignore[call-overload]
    in_threads(network, images(5, 3, 9, 8).detach())
