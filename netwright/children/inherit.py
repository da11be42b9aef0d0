"""Warm starts: a child takes over what an earlier one learned at the same places.

A place is a layer, an input layer of it, a channel of either, and a pixel from the filter's middle;
in the classifier an output layer and its channel. Moments of normalisation go with their channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from netwright.children.conv import ConvNet
from netwright.children.plan import IMAGE, Plan

Span = tuple[int, int]
CLASSIFIER = -1


@dataclass(frozen=True)
class _Block:
    """Weights that two networks share: of a layer, or the classifier's.

    out: channels out. inputs: where channels in begin in one and in the other, and how many.
    rows, columns: where pixels begin in one and in the other, and how many.
    """

    layer: int
    out: int
    inputs: tuple[tuple[int, int, int], ...]
    rows: tuple[int, int, int] = (0, 0, 1)
    columns: tuple[int, int, int] = (0, 0, 1)

    @property
    def size(self) -> int:
        return self.out * sum(n for _, _, n in self.inputs) * self.rows[2] * self.columns[2]


def likest(plan: Plan, donors: Sequence[Plan]) -> int:
    """Return which donor, of one or more, gives the most weights; the first of equals."""
    given = [sum(block.size for block in _shared(plan, donor)) for donor in donors]
    return given.index(max(given))


@torch.no_grad()
def inherit(child: ConvNet, donor: ConvNet) -> None:
    """Copy the donor's weights to their places in the child; what it lacks stays as it was."""
    for block in _shared(child.plan, donor.plan):
        at_classifier = block.layer == CLASSIFIER
        one = child.classifier if at_classifier else child.layers[block.layer]
        other = donor.classifier if at_classifier else donor.layers[block.layer]
        for to, of in zip(_numbers(one), _numbers(other), strict=True):
            if to.dim() == 1:
                to[: block.out] = of[: block.out].to(to.device)
                continue
            for a, b, n in block.inputs:
                mine, its = to[: block.out, a : a + n], of[: block.out, b : b + n]
                if to.dim() == 4:
                    (r, s, height), (c, d, width) = block.rows, block.columns
                    mine = mine[:, :, r : r + height, c : c + width]
                    its = its[:, :, s : s + height, d : d + width]
                mine.copy_(its)


def _numbers(module: nn.Module) -> list[Tensor]:
    """Return its weights and its normalisation's moments, in order."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [x.detach() for name, x in named if not name.endswith("num_batches_tracked")]


def _shared(one: Plan, other: Plan) -> Iterator[_Block]:
    """Yield the blocks of weights that have the same place in both: of convolutions, classifier."""
    for i, (mine, its) in enumerate(zip(one.layers, other.layers, strict=False)):
        if mine.kind == its.kind == "conv":
            yield _Block(
                i,
                min(mine.channels, its.channels),
                _both(_channels(one, mine.inputs), _channels(other, its.inputs)),
                *(_middle(a, b) for a, b in zip(mine.kernel, its.kernel, strict=True)),
            )
    outputs = _both(_channels(one, one.outputs), _channels(other, other.outputs))
    yield _Block(CLASSIFIER, one.classes, outputs)


def _channels(plan: Plan, layers: Sequence[int]) -> dict[int, Span]:
    """Return which channels of the layers' join come from each, [begin, end)."""
    ends = [0]
    for j in layers:
        ends.append(ends[-1] + (plan.image[0] if j == IMAGE else plan.layers[j].channels))
    return dict(zip(layers, pairwise(ends), strict=True))


def _both(one: dict[int, Span], other: dict[int, Span]) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (a, other[j][0], min(b - a, other[j][1] - other[j][0]))
        for j, (a, b) in one.items()
        if j in other
    )


def _middle(one: int, other: int) -> tuple[int, int, int]:
    width = min(one, other)
    return (one - width) // 2, (other - width) // 2, width
