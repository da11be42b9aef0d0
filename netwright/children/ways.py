"""A child whose layers are all convolutions: its way ahead and its way back, outside of autograd.

The child's own order stands in for autograd's: layers forward, and from the last to the first back,
with lists of what has arrived at each output. The arithmetic is that of
`netwright.children.joints` and `netwright.children.layers`, call by call.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netwright.children.convolution import Inputs, Where, alone, in_tiles
from netwright.children.joints import Size, apart, join, parts_of, pool, unpool
from netwright.children.layers import ConvNormRelu, Done, State, convolve, pixels_of, where_of
from netwright.children.layers import back as layer_back
from netwright.children.plan import IMAGE, Layer, Plan

Place = tuple[int, int]  # an output, and how often it is pooled


@dataclass(frozen=True, slots=True)
class Child:
    """What both ways take of a child.

    takers: how many take each output at each level. learnt, states: of each layer, as
    `ConvNormRelu.parts` has them. size: of the last outputs, when they are padded.
    """

    plan: Plan
    takers: Counter[Place]
    layers: Sequence[ConvNormRelu]
    learnt: Sequence[Tensor]
    states: Sequence[State]
    size: Size

    @property
    def area(self) -> int:
        """Return over how many pixels a channel's mean is taken."""
        return self.size[0] * self.size[1]

    def means(self, leaves: Sequence[Tensor]) -> Tensor:
        """Return the mean of each channel of the last outputs, side by side."""
        return torch.cat([x.sum((2, 3), dtype=torch.float32) for x in leaves], 1) / self.area

    def parts(self, g: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        """Return what a pixel of each last output takes of the gradient of `means`: [N, C] each."""
        return torch.split(g / self.area, [shape[1] for shape in shapes], 1)


@dataclass(slots=True)
class Way:
    """What the way back needs, and outputs not taken yet. shapes: of outputs at their levels."""

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


def ahead(child: Child, images: Tensor) -> tuple[Way, list[Tensor]]:
    """Return the last outputs, and what the way back needs."""
    plan, way = child.plan, Way(child.takers)
    way.arrive((IMAGE, 0), images)
    for n, (layer, module) in enumerate(zip(plan.layers, child.layers, strict=True)):
        inputs, where = _inputs(way, layer, module)
        weight, gain, bias = child.learnt[3 * n : 3 * n + 3]
        y, done = convolve(inputs, weight, gain, bias, where, child.states[n], True)
        way.layers.append(done)
        way.arrive((n, layer.level), y)
        del inputs, y
    return way, [way.take(i, plan.level) for i in plan.outputs]


def back(
    plan: Plan, way: Way, gains: Sequence[Tensor], given: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of all that is learnt; `given` are those of the last outputs."""
    sent: dict[Place, list[Tensor]] = defaultdict(list)
    for i, g in zip(plan.outputs, given, strict=True):
        sent[i, plan.level].append(g)
    found: list[Tensor | None] = []
    for n in range(len(plan.layers) - 1, -1, -1):
        layer = plan.layers[n]
        for level in range(plan.level, layer.level, -1):
            if (n, level) in way.places:
                here, below = sent.pop((n, level)), (n, level - 1)
                (rows, columns), place = way.shapes[below][2:], way.places.pop((n, level))
                sent[below].append(unpool(here[0], here, place, (rows, columns)))
        done, arrived = way.layers.pop(), sent.pop((n, layer.level))
        learns = [i for i in layer.inputs if i != IMAGE]
        parts, *rest = layer_back(done, gains[n], arrived, (bool(learns), True))
        found = [*rest, *found]
        if parts is not None:
            if len(done.inputs.images) == 1:  # perhaps several, joined
                shapes = [way.shapes[i, layer.level] for i in layer.inputs]
                parts = parts_of(apart(parts[0], layer.in_size, layer.stride), shapes)
            for i, part in zip(layer.inputs, parts, strict=True):
                if i != IMAGE:
                    sent[i, layer.level].append(part)
    return found


def _inputs(way: Way, layer: Layer, module: ConvNormRelu) -> tuple[Inputs, Where]:
    """Return what a layer's convolution takes, and stride and padding; by torch it is joined."""
    images = [way.take(i, layer.level) for i in layer.inputs]
    convolution = module.first_two()[0]
    if in_tiles(images[0]):
        return Inputs(tuple(images), layer.in_size), where_of(convolution)
    x, where = pixels_of(convolution, join(images, layer.in_size))
    return alone(x), where
