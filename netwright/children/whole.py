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

from netwright.children.joints import Size, fast, spread
from netwright.children.kept import Steps
from netwright.children.layers import ConvNormRelu
from netwright.children.plan import Plan
from netwright.children.ways import Child, Place, ahead, back

if TYPE_CHECKING:
    from torch.nn import Module


def whole(layers: Sequence[Module], images: Tensor) -> bool:
    """Return whether `features` takes these layers in training here."""
    return (
        torch.is_grad_enabled()
        and all(
            type(m) is ConvNormRelu and m.training and m.rectify and not m._forward_hooks
            for m in layers
        )
        and not images.requires_grad
        and fast(images)
        and len(images) > 1
    )


def features(
    plan: Plan,
    takers: Counter[Place],
    layers: Sequence[Any],
    images: Tensor,
    size: Size,
    kept: Steps,
) -> Tensor:
    """Return the mean of each channel of the last outputs, padded to `size`: float32 [N, C].

    takers: how many take each output at each level. kept: steps of these layers, and no others.
    """
    if torch.is_autocast_enabled("cpu"):
        images = images.to(torch.get_autocast_dtype("cpu"))
    learnt = [weight for layer in layers for weight in layer.learnt()]
    child = Child(plan, takers, layers, learnt, size)
    found: Tensor = _Whole.apply(child, kept, images, *learnt)  # type: ignore[no-untyped-call]
    return found


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, child: Child, kept: Steps, images: Tensor, *learnt: Tensor) -> Tensor:
        ctx.child, ctx.dtype = child, images.dtype
        ctx.save_for_backward(*learnt[1::3])
        ctx.turn = kept.begin(child, images)
        if ctx.turn is not None:
            return child.means(ctx.turn.leaves)
        ctx.way, leaves = ahead(child, images)
        ctx.shapes = [x.shape for x in leaves]
        return child.means(leaves)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        child, gains = ctx.child, ctx.saved_tensors
        if child is None:
            raise RuntimeError("a child's gradient can be taken once; run it forward again")
        ctx.child = None
        turn, ctx.turn = ctx.turn, None
        if turn is not None:
            return (None, None, None, *turn.end(child, gains, g))
        parts = zip(child.parts(g, ctx.shapes), ctx.shapes, strict=True)
        given = [spread(part, ctx.dtype, shape) for part, shape in parts]
        way, ctx.way = ctx.way, None
        return (None, None, None, *back(child.plan, way, gains, given))
