"""Children whose modules are not those that were built: as torch's own layers would have them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune
from torch.optim.swa_utils import update_bn

from netwright.children.conv import build
from netwright.children.layers import ConvNormRelu
from netwright.children.whole import whole
from netwright.seeding import rng
from netwright.spaces import conv
from tests.layers import LAST, both, images, last, near

pytestmark = pytest.mark.usefixtures("one_thread")


def _child() -> Any:
    torch.manual_seed(0)
    space = conv.v2(6)
    child = build(space, space.sample(rng(0, 0, "kept")), (3, 9, 8), 5)
    return child.to(memory_format=LAST)  # type: ignore[call-overload]


def _images(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return images(6, 3, 9, 8, dtype).detach()


def _trained(child: Any, x: Tensor) -> list[Tensor]:
    """Return logits, moments and gradients."""
    logits = child(x)
    logits.float().square().sum().backward()
    gradients = [p.grad for p in child.parameters() if p.grad is not None]
    return [logits.detach(), *child.buffers(), *gradients]


def _same(child: Any, x: Tensor) -> None:
    """Compare a child, in training and in use, with the plain one."""
    twin = copy.deepcopy(child)
    for _ in range(2):
        found = _trained(child, x)
        with both(plainly=True):
            wanted = _trained(twin, x)
        for a, b in zip(found, wanted, strict=True):
            near(a, b, x.dtype, scale=50)
    with torch.no_grad():
        found_used = child.eval()(x)
        with both(plainly=True):
            wanted_used = twin.eval()(x)
    near(found_used, wanted_used, x.dtype, scale=50)


def _layer() -> ConvNormRelu:
    torch.manual_seed(0)
    return last(ConvNormRelu(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)))


def _each(change: Callable[[ConvNormRelu], None]) -> Any:
    """Return a child whose layers are changed."""
    child = _child()
    for layer in child.layers:
        change(layer)
    return child


def test_children_of_another_type_are_torchs() -> None:
    _same(_child().bfloat16(), _images(torch.bfloat16))
    layer = _layer().double()
    x = images(4, 3, 8, 8).double().detach()
    found = layer(x)
    with both(plainly=True):
        assert torch.equal(found, layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_layers_of_another_type_than_their_images_are_refused_as_by_torch(
    dtype: torch.dtype,
) -> None:
    layer, x = _layer().to(dtype), images(4, 3, 8, 8).detach()
    moments = [m.clone() for m in layer.buffers()]
    assert whole([layer], x) is None
    with pytest.raises(RuntimeError, match=r"Input type .* and weight type"):
        layer(x)
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), moments, strict=True))
    assert whole([layer.float()], x)


def _strided(layer: ConvNormRelu) -> None:
    _, norm = layer.first_two()
    norm.weight = nn.Parameter(torch.linspace(0.5, 1.5, 2 * norm.num_features)[::2])
    norm.bias = nn.Parameter(torch.linspace(-1, 1, 3 * norm.num_features)[::3])


def _expanded(layer: ConvNormRelu) -> None:
    _, norm = layer.first_two()
    norm.weight = nn.Parameter(torch.full((1,), 0.7).expand(norm.num_features))


def _apart(layer: ConvNormRelu) -> None:
    _, norm = layer.first_two()
    norm.running_mean = torch.zeros(2 * norm.num_features)[::2]


@pytest.mark.parametrize("change", [_strided, _expanded, _apart])
def test_what_is_not_dense_is_read_where_it_lies(change: Callable[[ConvNormRelu], None]) -> None:
    child = _each(change)
    dense = copy.deepcopy(child)
    for layer in dense.layers:
        _, norm = layer.first_two()
        norm.weight = nn.Parameter(norm.weight.detach().contiguous())
        norm.bias = nn.Parameter(norm.bias.detach().contiguous())
        norm.running_mean = norm.running_mean.contiguous()
    for _ in range(2):
        for a, b in zip(_trained(child, _images()), _trained(dense, _images()), strict=True):
            near(a, b, torch.float32, scale=50)


def test_a_normalisation_of_other_channels_is_refused_as_by_torch() -> None:
    layer = last(ConvNormRelu(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(8)))
    with pytest.raises(RuntimeError, match="should contain 64 elements not 8"):
        layer(images(4, 3, 8, 8).detach())


def _frozen(layer: ConvNormRelu) -> None:
    layer.first_two()[1].eval()


def _cumulative(layer: ConvNormRelu) -> None:
    layer.first_two()[1].momentum = None


def _without_moments(layer: ConvNormRelu) -> None:
    layer[1] = nn.BatchNorm2d(layer.first_two()[1].num_features, track_running_stats=False)


def _unaffine(layer: ConvNormRelu) -> None:
    layer[1] = nn.BatchNorm2d(layer.first_two()[1].num_features, affine=False)


def _grouped(layer: ConvNormRelu) -> None:
    layer[1] = nn.GroupNorm(1, layer.first_two()[1].num_features)


def _otherwise_rectified(layer: ConvNormRelu) -> None:
    layer[2] = nn.GELU()


def _clipped(layer: ConvNormRelu) -> None:
    layer.append(nn.Hardtanh(0, 0.5))


def _biased(layer: ConvNormRelu) -> None:
    convolution, _ = layer.first_two()
    convolution.bias = nn.Parameter(torch.ones(convolution.out_channels))


class _Halving(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def _of_another_class(layer: ConvNormRelu) -> None:
    layer.first_two()[0].__class__ = _Halving


@pytest.mark.parametrize(
    "change",
    [
        _frozen,
        _cumulative,
        _without_moments,
        _unaffine,
        _grouped,
        _otherwise_rectified,
        _clipped,
        _biased,
        _of_another_class,
    ],
)
def test_other_modules_in_a_layer_do_what_they_do(change: Callable[[ConvNormRelu], None]) -> None:
    _same(_each(change), _images())


def test_frozen_moments_stay() -> None:
    child = _each(_frozen)
    before = [m.clone() for m in child.buffers()]
    _trained(child, _images())
    assert all(torch.equal(a, b) for a, b in zip(child.buffers(), before, strict=True))


def test_a_synchronised_normalisation_is_used_as_by_torch() -> None:
    child = nn.SyncBatchNorm.convert_sync_batchnorm(_child()).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad(), both(plainly=True):
        wanted = child(_images())
    with torch.no_grad():
        near(child(_images()), wanted, torch.float32)


def test_moments_are_worked_out_anew_for_averaged_weights() -> None:
    child, x = _child(), _images()
    twin = copy.deepcopy(child)
    update_bn([x, x + 1], child)
    with both(plainly=True):
        update_bn([x, x + 1], twin)
    for a, b in zip(child.buffers(), twin.buffers(), strict=True):
        near(a, b, torch.float32)


KINDS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["layer", "0", "1", "2"])
def test_hooks_are_called_as_in_torchs_layers(kind: str, part: str) -> None:
    def say(module: Any, *_: object) -> None:
        said.append(kind)

    said: list[str] = []
    counts = []
    for plainly in (False, True):
        child = _child()
        layer = child.layers[2]
        if "backward" in kind:
            layer.get_submodule("2").inplace = False  # torch wants it so
        getattr(layer if part == "layer" else layer.get_submodule(part), kind)(say)
        with both(plainly):
            _trained(child, _images())
        counts.append(len(said))
        said.clear()
    assert counts == [1, 1]


def test_hooks_on_all_modules_are_called_as_in_torchs_layers() -> None:
    seen: list[list[str]] = []
    for plainly in (False, True):
        child = _child()
        seen.append([])
        held = register_module_forward_hook(lambda m, *_: seen[-1].append(type(m).__name__))
        with both(plainly):
            _trained(child, _images())
        held.remove()
    assert seen[0] == seen[1]
    assert "BatchNorm2d" in seen[0]


def test_pruned_weights_are_trained_as_by_torch() -> None:
    trained = []
    for plainly in (False, True):
        child = _child().to(memory_format=torch.contiguous_format)
        for layer in child.layers:
            prune.l1_unstructured(layer[0], "weight", 0.5)  # type: ignore[no-untyped-call]
        optimiser = torch.optim.SGD(child.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            with both(plainly):
                _trained(child, _images())
            optimiser.step()
        trained.append([p.detach() for p in child.parameters()])
    for found, wanted in zip(*trained, strict=True):
        near(found, wanted, torch.float32, scale=50)


@pytest.mark.parametrize("part", [0, 1])
def test_weights_that_change_before_the_way_back_are_noticed(part: int) -> None:
    for hooked in (False, True):
        child = _child()
        if hooked:  # layer by layer
            child.layers[0].register_forward_hook(lambda *_: None)
        total = child(_images()).sum()
        with torch.no_grad():
            child.layers[1][part].weight.mul_(0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


def test_memory_is_where_the_images_are_whatever_the_default() -> None:
    child = _child()
    twin = copy.deepcopy(child)
    wanted = _trained(twin, _images())
    x = _images()
    with torch.device("meta"):
        found = _trained(child, x)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
    child.layers[0].register_forward_hook(lambda *_: None)  # layer by layer
    with torch.device("meta"):
        logits = child(x)
        logits.sum().backward()
    near(logits.detach(), wanted[0], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pixel_that_comes_out_is_refused_as_by_torch(dtype: torch.dtype) -> None:
    norm = nn.BatchNorm2d(4)
    layer = ConvNormRelu(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), norm)
    x = torch.randn(1, 3, 2, 2).to(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(x)
        assert norm.running_var is not None
        assert norm.running_var.isfinite().all()
        layer(torch.cat([x, x + 1]))
