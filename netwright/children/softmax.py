"""The loss of a softmax and its gradient in one go over the logits, compiled.

PyTorch's own makes four arrays of the logits' size, in float32, and bfloat16 is cast there and
back. Here a row is worked out in float32 in the cache and its gradient put in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from netwright.children.compiled import array_of, held_as, jit, part, summing, wide

LANES = 64


def softmax_loss(logits: Tensor, bias: Tensor, targets: Tensor, g_bias: Tensor) -> Tensor:
    """Return the summed negative log-likelihood under softmax(logits + bias), float32 [].

    logits: float32 or bfloat16 [N, V], contiguous; becomes the gradient by itself. bias: float32
    [V]. targets: int64 [N], not checked. g_bias: float32 [V], becomes the gradient by `bias`.
    """
    assert logits.is_contiguous(), logits.stride()
    g_bias.zero_()
    loss = _rows(array_of(logits), bias.numpy(), targets.numpy(), g_bias.numpy())
    return torch.tensor(loss, dtype=torch.float32, device="cpu")


@part
def _highest(y: Any) -> Any:
    """Return the largest of y; lane by lane, which is compiled to vectors."""
    lanes = np.full(LANES, -np.inf, y.dtype)
    whole = y.shape[0] // LANES * LANES
    for first in range(0, whole, LANES):
        for k in range(LANES):
            x = y[first + k]
            lanes[k] = lanes[k] if x < lanes[k] else x
    highest = y[0]
    for k in range(LANES):
        highest = max(highest, lanes[k])
    for k in range(whole, y.shape[0]):
        highest = max(highest, y[k])
    return highest


@summing
def _row(y: Any, bias: Any, bits: Any, power: Any, target: int, g_bias: Any) -> float:
    """Turn logits y [V] into softmax(y + bias) less one at `target`; return the loss.

    bits, power: int32 and float32 [V], the same memory. exp is 2^n 2^r, the second a polynomial of
    Cephes.
    """
    f = np.float32
    for k in range(y.shape[0]):
        y[k] += bias[k]
    highest = _highest(y)
    wanted = y[target]
    for k in range(y.shape[0]):
        t = (y[k] - highest) * f(1.4426950408889634)
        t = f(-126) if t < f(-126) else t
        n = np.floor(t + f(0.5))
        r = t - n
        p = f(1.535336188319500e-4) * r + f(1.339887440266574e-3)
        p = (p * r + f(9.618437357674640e-3)) * r + f(5.550332471162809e-2)
        p = (p * r + f(2.402264791363012e-1)) * r + f(6.931472028550421e-1)
        y[k] = p * r + f(1)
        bits[k] = (np.int32(n) + np.int32(127)) << np.int32(23)
    total = f(0)
    for k in range(y.shape[0]):
        y[k] *= power[k]
        total += y[k]
    share = f(1) / total
    for k in range(y.shape[0]):
        y[k] *= share
    y[target] -= f(1)
    for k in range(y.shape[0]):
        g_bias[k] += y[k]
    loss: float = np.log(total) + (highest - wanted)
    return loss


@jit
def _rows(logits: Any, bias: Any, targets: Any, g_bias: Any) -> float:
    bits = np.empty(logits.shape[1], np.int32)
    power = bits.view(np.float32)
    y = np.empty(logits.shape[1], np.float32)
    loss = 0.0
    for n in range(logits.shape[0]):
        for k in range(y.shape[0]):
            y[k] = wide(logits[n, k])
        loss += _row(y, bias, bits, power, targets[n], g_bias)
        for k in range(y.shape[0]):
            logits[n, k] = held_as(logits, y[k])
    return loss
