"""A child whose layers are all convolutions, forward and backward, as one function of autograd's.

On small images what a step costs is calls: of autograd, of views, of a function a layer. So here
autograd knows one call, and where a child is small it makes again what it did in an earlier step
(`netwright.children.kept`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from netwright.children.joints import Size, casts_to, fast, hooked, spread
from netwright.children.kept import Steps
from netwright.children.layers import WIDE, ConvNormRelu, Parts
from netwright.children.plan import Plan
from netwright.children.ways import Child, Place, ahead, back

if TYPE_CHECKING:
    from torch.nn import Module


def whole(layers: Sequence[Module], images: Tensor) -> list[Parts] | None:
    """Return what `features` takes of these layers in training, None where it does not here."""
    if not torch.is_grad_enabled() or images.requires_grad or not fast(images, casts_to(images)):
        return None
    if len(images) < 2:
        return None
    found = []
    for m in layers:
        if type(m) is not ConvNormRelu or not m.training or not m.rectify or hooked(m):
            return None
        parts = m.parts()
        if parts is None:
            return None
        found.append(parts)
    return found


def features(
    plan: Plan,
    takers: Counter[Place],
    layers: Sequence[Any],
    parts: Sequence[Parts],
    images: Tensor,
    size: Size,
    kept: Steps,
) -> Tensor:
    """Return the mean of each channel of the last outputs, padded to `size`: float32 [N, C].

    takers: how many take each output at each level. parts: what `whole` gave. kept: steps of these
    layers, and no others.
    """
    images = images.to(casts_to(images) or images.dtype)
    learnt = [weight for weights, _ in parts for weight in weights]
    child = Child(plan, takers, layers, learnt, [state for _, state in parts], size)
    found: Tensor = _Whole.apply(child, kept, images, *learnt)  # type: ignore[no-untyped-call]
    return found


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, child: Child, kept: Steps, images: Tensor, *learnt: Tensor) -> Tensor:
        ctx.child, ctx.dtype = child, images.dtype
        # weights too where the way back takes them as they are, so that a change is noticed
        ctx.save_for_backward(*learnt[1::3], *(learnt[::3] if images.dtype is WIDE else ()))
        ctx.turn = kept.begin(child, images)
        if ctx.turn is not None:
            return child.means(ctx.turn.leaves)
        ctx.way, leaves = ahead(child, images)
        ctx.shapes = [x.shape for x in leaves]
        return child.means(leaves)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        child = ctx.child
        if child is None:
            raise RuntimeError("a child's gradient can be taken once; run it forward again")
        gains = ctx.saved_tensors[: len(child.layers)]
        ctx.child = None
        turn, ctx.turn = ctx.turn, None
        if turn is not None:
            return (None, None, None, *turn.end(child, gains, g))
        parts = zip(child.parts(g, ctx.shapes), ctx.shapes, strict=True)
        given = [spread(part, ctx.dtype, shape) for part, shape in parts]
        way, ctx.way = ctx.way, None
        return (None, None, None, *back(child.plan, way, gains, given))
