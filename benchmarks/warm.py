"""Warm starts: children that begin with what fits of an earlier child's trained weights.

Kept to be measured by `benchmarks.fidelity --donors`; nothing in Netwright uses it. Results:
docs/results/economy.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from netwright.children.conv import ConvNet
from netwright.children.joints import ConvNormRelu
from netwright.children.plan import IMAGE, Plan

Pair = tuple[Tensor, Tensor]  # of the same shape: of the child, of the donor


def likest(child: ConvNet, donors: Sequence[ConvNet]) -> ConvNet:
    """Return the donor that gives the most numbers, the first of equals."""
    return max(donors, key=lambda donor: sum(to.numel() for to, _ in _shared(child, donor)))


@torch.no_grad()
def inherit(child: ConvNet, donor: ConvNet) -> float:
    """Copy the donor's weights to their places in the child; return the share so copied, [0, 1].

    A place: layer, input layer, channel of either, pixel from the filter's middle; for the
    classifier, output layer and channel. Moments of normalisation go with their channels. What the
    donor lacks stays as it was drawn.
    """
    copied = 0
    for to, of in _shared(child, donor):
        to.copy_(of)
        copied += to.numel()
    return copied / sum(x.numel() for x in _numbers(child))


def _numbers(net: ConvNet) -> Iterator[Tensor]:
    for module in net.layers:
        assert isinstance(module, ConvNormRelu), "layers of other kinds are not measured"
        convolution, norm = module[0], module[1]
        assert isinstance(convolution, nn.Conv2d)
        yield convolution.weight
        yield from _of_norm(norm)
    yield net.classifier.weight
    yield net.classifier.bias


def _of_norm(norm: nn.Module) -> tuple[Tensor, ...]:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _shared(child: ConvNet, donor: ConvNet) -> Iterator[Pair]:
    """Yield what has the same place in both, as views."""
    one, other = child.plan, donor.plan
    for i in range(min(len(one.layers), len(other.layers))):
        mine, its = child.layers[i], donor.layers[i]
        assert isinstance(mine, ConvNormRelu)
        assert isinstance(its, ConvNormRelu)
        weight, given = mine[0].weight, its[0].weight
        assert isinstance(weight, Tensor)
        assert isinstance(given, Tensor)
        out = min(len(weight), len(given))
        rows, columns = (_middle(weight.shape[k], given.shape[k]) for k in (2, 3))
        ends = (_channels(plan, plan.layers[i].inputs) for plan in (one, other))
        for a, b in _both(*ends):
            yield (
                weight[:out, a, rows[0], columns[0]],
                given[:out, b, rows[1], columns[1]],
            )
        for to, of in zip(_of_norm(mine[1]), _of_norm(its[1]), strict=True):
            yield to[:out], of[:out]
    for a, b in _both(_channels(one, one.outputs), _channels(other, other.outputs)):
        yield child.classifier.weight[:, a], donor.classifier.weight[:, b]
    yield child.classifier.bias, donor.classifier.bias


def _channels(plan: Plan, layers: Sequence[int]) -> dict[int, slice]:
    """Return which channels of the layers' join come from each."""
    sizes = [plan.image[0] if j == IMAGE else plan.layers[j].channels for j in layers]
    ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return {j: slice(a, b) for j, (a, b) in zip(layers, pairwise(ends), strict=True)}


def _both(one: dict[int, slice], other: dict[int, slice]) -> Iterator[tuple[slice, slice]]:
    for j, a in one.items():
        if j in other:
            b = other[j]
            width = min(a.stop - a.start, b.stop - b.start)
            yield slice(a.start, a.start + width), slice(b.start, b.start + width)


def _middle(one: int, other: int) -> tuple[slice, slice]:
    width = min(one, other)
    a, b = (one - width) // 2, (other - width) // 2
    return slice(a, a + width), slice(b, b + width)
