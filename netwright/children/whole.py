"""A child whose layers are all convolutions, forward and backward, as one function of autograd's.

On small images what a step costs is calls: of autograd, of views, of a function a layer. Here the
child's own order stands in for autograd's: layers forward, and from the last to the first back,
with lists of what has arrived at each output. The arithmetic is that of
`netwright.children.joints` and `netwright.children.layers`, call by call.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from netwright.children.convolution import Inputs, Where, alone, in_tiles
from netwright.children.joints import Size, fast, join, parts_of, pool, spread, unpool
from netwright.children.layers import ConvNormRelu, Done, back, convolve, pixels_of, where_of
from netwright.children.plan import IMAGE, Layer, Plan

if TYPE_CHECKING:
    from torch.nn import Module

Place = tuple[int, int]  # an output, and how often it is pooled


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
    plan: Plan, takers: Counter[Place], layers: Sequence[Any], images: Tensor, size: Size
) -> Tensor:
    """Return the mean of each channel of the last outputs, padded to `size`: float32 [N, C].

    takers: how many take each output at each level.
    """
    if torch.is_autocast_enabled("cpu"):
        images = images.to(torch.get_autocast_dtype("cpu"))
    learnt = [weight for layer in layers for weight in layer.learnt()]
    found: Tensor = _Whole.apply(  # type: ignore[no-untyped-call]
        plan, takers, layers, images, size, *learnt
    )
    return found


@dataclass(slots=True)
class _Way:
    """What the way back needs, and outputs not taken yet. shapes: of outputs at their levels."""

    area: int
    takers: Counter[Place]
    outputs: dict[Place, list[Tensor]] = field(default_factory=dict)
    layers: list[Done] = field(default_factory=list)
    places: dict[Place, Tensor] = field(default_factory=dict)
    shapes: dict[Place, torch.Size] = field(default_factory=dict)

    def arrive(self, place: Place, y: Tensor) -> None:
        """Put an output down for all who take it."""
        self.shapes[place], self.outputs[place] = y.shape, [y] * self.takers[place]

    def take(self, i: int, level: int) -> Tensor:
        """Return an output to one of its takers; the last one leaves nothing behind."""
        if (i, level) not in self.outputs:
            y, self.places[i, level] = pool(self.take(i, level - 1))
            self.arrive((i, level), y)
        return self.outputs[i, level].pop()


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        takers: Counter[Place],
        layers: Sequence[ConvNormRelu],
        images: Tensor,
        size: Size,
        *learnt: Tensor,
    ) -> Tensor:
        way = _Way(size[0] * size[1], takers)
        way.arrive((IMAGE, 0), images)
        for n, (layer, module) in enumerate(zip(plan.layers, layers, strict=True)):
            inputs, where = _inputs(way, layer, module)
            weight, gain, bias = learnt[3 * n : 3 * n + 3]
            y, done = convolve(inputs, weight, gain, bias, where, module.state(), True)
            way.layers.append(done)
            way.arrive((n, layer.level), y)
            del inputs, y
        leaves = [way.take(i, plan.level) for i in plan.outputs]
        ctx.plan, ctx.way, ctx.dtype = plan, way, images.dtype
        ctx.save_for_backward(*learnt[1::3])
        return torch.cat([x.sum((2, 3), dtype=torch.float32) for x in leaves], 1) / way.area

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        plan, way, gains = ctx.plan, ctx.way, ctx.saved_tensors
        if not way.layers:
            raise RuntimeError("a child's gradient can be taken once; run it forward again")
        sent: dict[Place, list[Tensor]] = defaultdict(list)
        shapes = [way.shapes[i, plan.level] for i in plan.outputs]
        each = torch.split(g / way.area, [shape[1] for shape in shapes], 1)
        for i, part, shape in zip(plan.outputs, each, shapes, strict=True):
            sent[i, plan.level].append(spread(part, ctx.dtype, shape))
        found: list[Tensor | None] = []
        for n in range(len(plan.layers) - 1, -1, -1):
            layer = plan.layers[n]
            for level in range(plan.level, layer.level, -1):
                if (n, level) in way.places:
                    here, below = sent.pop((n, level)), (n, level - 1)
                    size, place = way.shapes[below][2:], way.places.pop((n, level))
                    sent[below].append(unpool(here[0], here, place, size))
            done, arrived = way.layers.pop(), sent.pop((n, layer.level))
            learns = [i for i in layer.inputs if i != IMAGE]
            parts, *rest = back(done, gains[n], arrived, (bool(learns), True))
            found = [*rest, *found]
            if parts is not None:
                if len(done.inputs.images) == 1:  # perhaps several, joined
                    shapes = [way.shapes[i, layer.level] for i in layer.inputs]
                    parts = parts_of(_apart(parts[0], layer.in_size, layer.stride), shapes)
                for i, part in zip(layer.inputs, parts, strict=True):
                    if i != IMAGE:
                        sent[i, layer.level].append(part)
        return (None, None, None, None, None, *found)


def _inputs(way: _Way, layer: Layer, module: ConvNormRelu) -> tuple[Inputs, Where]:
    """Return what a layer's convolution takes, and stride and padding; by torch it is joined."""
    images = [way.take(i, layer.level) for i in layer.inputs]
    convolution = module.first_two()[0]
    if in_tiles(images[0]):
        return Inputs(tuple(images), layer.in_size), where_of(convolution)
    x, where = pixels_of(convolution, join(images, layer.in_size))
    return alone(x), where


def _apart(g: Tensor, size: Size, stride: tuple[int, int]) -> Tensor:
    """Return `g`, or where some rows and columns were taken zeros [N, C, *size] with it there."""
    if g.shape[2:] == size:
        return g
    shape = (*g.shape[:2], *size)
    found = torch.empty(shape, dtype=g.dtype, memory_format=torch.channels_last).zero_()
    found[:, :, :: stride[0], :: stride[1]] = g
    return found
