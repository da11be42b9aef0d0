"""What a recurrent cell does to signals, from its tree alone: moments and derivatives.

Every node's value is taken for a Gaussian of its mean and variance, independent of the others; its
mean squared derivatives by x_t, h_(t-1) and c_(t-1) go along. W x_t has unit variance, U h_(t-1)
and c_(t-1) that of h and c a step before. This is a caricature, made to be fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from netwright.spaces.recurrent import Cell

STEPS = 3
_SMALL, _LARGE = 1e-6, 1e6

Quantity = tuple[tuple[float, ...], float, float]  # values, scale of distances, share of the cost


@dataclass(slots=True)
class Signal:
    """Mean and variance of a value, and its mean squared derivatives by x, h and c."""

    mean: float
    variance: float
    by_x: float = 0.0
    by_h: float = 0.0
    by_c: float = 0.0

    @property
    def square(self) -> float:
        """The mean square."""
        return self.mean * self.mean + self.variance


def portrait(cell: Cell) -> list[Quantity]:
    """Return the quantities of a cell, logarithms to base 2, each with scale and share.

    In order: memory (c_t by c_(t-1)), h_t by c_(t-1), h_t by h_(t-1), h_t by x_t, c_t by x_t, c_t
    by h_(t-1), sizes of h_t and of c_t; then for each level of the tree, leaves first, the sorted
    mean squares and the sorted balances of h over x of its nodes.
    """
    h, c = 0.5, 0.5
    nodes: list[Signal] = []
    for _ in range(STEPS):
        nodes, state = _step(cell, h, c)
        h, c = _clamp(nodes[-1].square), _clamp(state.square)
    out = nodes[-1]
    single = (
        (state.by_c, 1.5, 0.20),
        (out.by_c, 1.5, 0.10),
        (out.by_h, 1.5, 0.10),
        (out.by_x, 1.5, 0.10),
        (state.by_x, 1.5, 0.06),
        (state.by_h, 1.5, 0.06),
        (out.square, 1.5, 0.08),
        (state.square, 1.5, 0.08),
    )
    found: list[Quantity] = [((_log(v),), scale, share) for v, scale, share in single]
    levels: dict[int, list[Signal]] = {}
    heights: list[int] = []
    for i, node in enumerate(nodes):
        heights.append(1 + max((heights[j] for j in cell.children(i)), default=-1))
        levels.setdefault(heights[i], []).append(node)
    for level in levels.values():
        squares = tuple(sorted(_log(node.square) for node in level))
        balances = tuple(sorted(_log(node.by_h) - _log(node.by_x) for node in level))
        found += [(squares, 1.0, 0.14 / len(levels)), (balances, 1.0, 0.08 / len(levels))]
    return found


def _step(cell: Cell, h: float, c: float) -> tuple[list[Signal], Signal]:
    """Return the nodes after one step, and c_t; h and c are mean squares of the step before."""
    nodes: list[Signal] = []
    state = Signal(0.0, 0.0)
    taken, memory = (Signal(0.0, 1.0, by_x=1.0), Signal(0.0, h, by_h=1.0)), Signal(0.0, c, by_c=1.0)
    for i, (combine, activation) in enumerate(cell.nodes):
        below = cell.children(i)
        left, right = (nodes[below[0]], nodes[below[1]]) if below else taken
        value = _COMBINE[combine](left, right)
        if i == cell.c_from:
            state = value
        value = _ACTIVATE[activation](value)
        if i == cell.c_into:
            value = _ACTIVATE[cell.inject[1]](_COMBINE[cell.inject[0]](value, memory))
        nodes.append(value)
    return nodes, state


def _clamp(value: float) -> float:
    return min(max(value, _SMALL), _LARGE)


def _log(value: float) -> float:
    return math.log2(_clamp(value))


def _weighted(left: Signal, right: Signal, a: float, b: float, mean: float, var: float) -> Signal:
    """Return the signal whose derivative has mean square a on the left and b on the right."""
    return Signal(
        max(min(mean, _LARGE), -_LARGE),
        _clamp(var),
        a * left.by_x + b * right.by_x,
        a * left.by_h + b * right.by_h,
        a * left.by_c + b * right.by_c,
    )


def _add(left: Signal, right: Signal) -> Signal:
    mean, var = left.mean + right.mean, left.variance + right.variance
    return _weighted(left, right, 1.0, 1.0, mean, var)


def _elem_mult(left: Signal, right: Signal) -> Signal:
    a, b = right.square, left.square
    mean = left.mean * right.mean
    return _weighted(left, right, a, b, mean, a * b - mean * mean)


def _max(left: Signal, right: Signal) -> Signal:
    """Clark's moments of the larger of two Gaussians."""
    theta = math.sqrt(left.variance + right.variance)
    z = (left.mean - right.mean) / theta
    a, density = _normal(z)
    mean = left.mean * a + right.mean * (1 - a) + theta * density
    square = left.square * a + right.square * (1 - a)
    square += (left.mean + right.mean) * theta * density
    return _weighted(left, right, a, 1 - a, mean, square - mean * mean)


def _normal(z: float) -> tuple[float, float]:
    """Return distribution and density of the standard normal at z."""
    return 0.5 * math.erfc(-z / math.sqrt(2)), math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _through(signal: Signal, slope: float, mean: float, variance: float) -> Signal:
    """Return the signal after a function of mean squared slope `slope`."""
    return Signal(
        mean, _clamp(variance), slope * signal.by_x, slope * signal.by_h, slope * signal.by_c
    )


def _identity(signal: Signal) -> Signal:
    return signal


def _sigmoid(signal: Signal) -> Signal:
    """By the probit approximation (MacKay 1992)."""
    shrink = 1 / math.sqrt(1 + math.pi * signal.variance / 8)
    p = 0.5 * (1 + math.tanh(shrink * signal.mean / 2))
    slope = shrink * p * (1 - p)
    return _through(signal, slope * slope, p, p * (1 - p) * (1 - shrink))


def _tanh(signal: Signal) -> Signal:
    """As 2 sigmoid(2 x) - 1."""
    half = _sigmoid(Signal(2 * signal.mean, 4 * signal.variance, 1.0))
    return _through(signal, 16 * half.by_x, 2 * half.mean - 1, 4 * half.variance)


def _relu(signal: Signal) -> Signal:
    deviation = math.sqrt(max(signal.variance, _SMALL))
    p, density = _normal(signal.mean / deviation)
    mean = signal.mean * p + deviation * density
    square = signal.square * p + signal.mean * deviation * density
    return _through(signal, p, mean, square - mean * mean)


def _sin(signal: Signal) -> Signal:
    mean = math.sin(signal.mean) * math.exp(-signal.variance / 2)
    twice = math.cos(2 * signal.mean) * math.exp(-2 * signal.variance)
    return _through(signal, (1 + twice) / 2, mean, (1 - twice) / 2 - mean * mean)


_COMBINE = {"add": _add, "elem_mult": _elem_mult, "max": _max}
_ACTIVATE = {
    "identity": _identity,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "sin": _sin,
}
