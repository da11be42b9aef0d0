"""Images, layers and networks, and whether their fast versions are the plain ones."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from netwright.children import joints, openmp, passes
from netwright.children.layers import ConvNormRelu

LAST = torch.channels_last
# bfloat16 has 8 bits: a number is off by up to 2^-8 of itself, and sums by a little more
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def both(plainly: bool) -> AbstractContextManager[None]:
    return joints.plain() if plainly else nullcontext()


def images(n: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=LAST)
    return x.requires_grad_()


def last(layer: ConvNormRelu) -> ConvNormRelu:
    return layer.to(memory_format=LAST)  # type: ignore[call-overload,no-any-return]


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    bound = BOUNDS[dtype] * scale * max(1.0, float(wanted.abs().max()))
    assert float((found.float() - wanted.float()).abs().max()) <= bound


needs_openmp = pytest.mark.skipif(
    openmp.openmp() is None, reason="torch's threads are not of a known OpenMP library here"
)


def _trained(child: nn.Module, x: Tensor, threads: int) -> list[Tensor]:
    """Return logits, gradients and running moments, worked out in so many threads."""
    torch.set_num_threads(threads)
    one = copy.deepcopy(child)
    logits = one(x)
    logits.square().sum().backward()
    found = [logits.detach(), *one.buffers(), *(p.grad for p in one.parameters())]
    return [tensor for tensor in found if tensor is not None]


def in_threads(network: nn.Module, x: Tensor) -> None:
    """Train in one thread and in three, all passes shared, and compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "WORTH", 1)  # every pass is shared
        one, several, again = (_trained(network, x, n) for n in (1, 3, 3))
    for found, wanted, repeated in zip(several, one, again, strict=True):
        assert torch.equal(found, repeated)
        size = float(wanted.float().norm()) + 1e-3
        assert float((found - wanted).float().norm()) <= 0.02 * size
