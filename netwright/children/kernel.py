"""The element-wise tree of a recurrent cell, compiled once for every cell of every space.

A cell is data here: two small arrays say what each node does, and the compiled code runs over
them, a tile of hidden units at a time, whose nodes stay in the cache. What is compiled is kept on
disk; a new cell costs nothing. `netwright.children.steps.plain_step` is the readable version,
against which this one is tested.

tanh, and sigmoid(x) = (1 + tanh(x / 2)) / 2, are in float32 a rational function fitted to a
relative error of 2e-8 (4e-7 after rounding), in float64 the library's. NaN stays NaN everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from netwright.children.compiled import held_as, jit, part, wide
from netwright.spaces.recurrent import ACTIVATIONS, COMBINATIONS, Cell

TILE = 512  # units at a time
VECTORS = 32  # units at a time in a compiled loop: what is left of them is slow
ADD, MULT = (COMBINATIONS.index(name) for name in ("add", "elem_mult"))
TANH, SIGMOID, RELU, SIN = (ACTIVATIONS.index(n) for n in ("tanh", "sigmoid", "relu", "sin"))


def program(cell: Cell) -> tuple[Any, Any]:
    """Return the cell as (combinations, activations), int64 [2B], the inject last."""
    rows = (*cell.nodes, cell.inject)
    return (
        np.array([COMBINATIONS.index(combine) for combine, _ in rows]),
        np.array([ACTIVATIONS.index(activation) for _, activation in rows]),
    )


def _tanh(x: Any) -> Any:
    raise NotImplementedError


@overload(_tanh)
def _tanh_by_type(x: Any) -> Any:
    if x is not types.float32:

        def exact(x: Any) -> Any:
            return math.tanh(x)

        return exact

    f = np.float32

    def rational(x: Any) -> Any:
        y = f(9.0) if x > f(9.0) else x
        y = f(-9.0) if y < f(-9.0) else y
        s = y * y
        p = f(1.3354352021263056e-08) * s + f(2.060885239584257e-05)
        p = (p * s + f(0.003495574040048693)) * s + f(0.13381013805226194)
        p = p * s + f(0.9999999794871548)
        q = f(7.776429441277211e-07) * s + f(0.0003285611822567876)
        q = (q * s + f(0.02587692864959304)) * s + f(0.46714329407877625)
        return y * p / (q * s + f(1.0))

    return rational


@part
def _activate(kind: int, a: Any, source: int, target: int, n: int) -> None:
    """a[target, :n] = activation(a[source, :n])"""
    if kind == TANH:
        for k in range(n):
            a[target, k] = _tanh(a[source, k])
    elif kind == SIGMOID:
        half = a.dtype.type(0.5)
        for k in range(n):
            a[target, k] = half + half * _tanh(half * a[source, k])
    elif kind == RELU:
        zero = a.dtype.type(0)
        for k in range(n):
            x = a[source, k]
            a[target, k] = zero if x <= zero else x
    elif kind == SIN:
        for k in range(n):
            a[target, k] = math.sin(a[source, k])
    else:
        for k in range(n):
            a[target, k] = a[source, k]


@part
def _combine(kind: int, a: Any, left: int, right: int, target: int, n: int) -> None:
    """a[target, :n] = combination(a[left, :n], a[right, :n])"""
    if kind == ADD:
        for k in range(n):
            a[target, k] = a[left, k] + a[right, k]
    elif kind == MULT:
        for k in range(n):
            a[target, k] = a[left, k] * a[right, k]
    else:
        for k in range(n):
            x, y = a[left, k], a[right, k]
            a[target, k] = x if x > y or x != x else y


@part
def _through(kind: int, a: Any, operand: int, value: int, g: Any, row: int, n: int) -> None:
    """Take the gradient g[row, :n] back through an activation."""
    if kind == TANH:
        one = a.dtype.type(1)
        for k in range(n):
            y = a[value, k]
            g[row, k] *= one - y * y
    elif kind == SIGMOID:
        one = a.dtype.type(1)
        for k in range(n):
            y = a[value, k]
            g[row, k] *= y * (one - y)
    elif kind == RELU:
        zero = a.dtype.type(0)
        for k in range(n):
            g[row, k] = zero if a[value, k] <= zero else g[row, k]
    elif kind == SIN:
        for k in range(n):
            g[row, k] *= math.cos(a[operand, k])


@part
def _apart(
    kind: int, a: Any, left: int, right: int, g: Any, row: int, to: int, also: int, n: int
) -> None:
    """Take g[row, :n] back through a combination, into g[to] and g[also]; `row` may be `to`."""
    if kind == ADD:
        for k in range(n):
            d = g[row, k]
            g[to, k] = d
            g[also, k] = d
    elif kind == MULT:
        for k in range(n):
            d = g[row, k]
            g[to, k] = d * a[right, k]
            g[also, k] = d * a[left, k]
    else:
        half, zero = a.dtype.type(0.5), a.dtype.type(0)
        for k in range(n):
            d = g[row, k]
            x, y = a[left, k], a[right, k]
            g[to, k] = d if x > y else (half * d if x == y else zero)
            g[also, k] = d if y > x else (half * d if x == y else zero)


@part
def _join(
    kind: int, z: Any, v: Any, i: int, row: int, first: int, units: int, a: Any, n: int
) -> None:
    """a[2i, :n] = combination(z, v): the products of leaf i, from unit `first` of row `row` on."""
    filled = 0
    while filled < n:
        m, at = min(units - first, n - filled), i * units + first
        if kind == ADD:
            for k in range(m):
                a[2 * i, filled + k] = wide(z[row, at + k]) + wide(v[row, at + k])
        elif kind == MULT:
            for k in range(m):
                a[2 * i, filled + k] = wide(z[row, at + k]) * wide(v[row, at + k])
        else:
            for k in range(m):
                x, y = wide(z[row, at + k]), wide(v[row, at + k])
                a[2 * i, filled + k] = x if x > y or x != x else y
        filled, row, first = filled + m, row + 1, 0


@part
def _operands(pair: int, c_into: int, injected: int) -> Any:
    """The rows of a with what a pair of nodes gives, injected where that is; see `_tree`."""
    left = injected + 1 if 2 * pair == c_into else 4 * pair + 1
    right = injected + 1 if 2 * pair + 1 == c_into else 4 * pair + 3
    return left, right


@part
def _tree(
    combines: Any,
    activations: Any,
    c_into: int,
    z: Any,
    v: Any,
    row: int,
    first: int,
    units: int,
    a: Any,
    n: int,
) -> None:
    """Fill a tile's rows: a[2i] operand and a[2i + 1] value of node i; then those of the inject.

    The tile is n units, row after row, from unit `first` of row `row` of z and v on; its a[-1] must
    hold c_(t-1). Past n it is filled up to a whole number of vectors with what is there.
    """
    nodes = combines.shape[0] - 1
    leaves = (nodes + 1) // 2
    injected = 2 * nodes
    whole = (n + VECTORS - 1) // VECTORS * VECTORS
    for i in range(nodes):
        if i < leaves:
            _join(combines[i], z, v, i, row, first, units, a, n)
        else:
            left, right = _operands(i - leaves, c_into, injected)
            _combine(combines[i], a, left, right, 2 * i, whole)
        _activate(activations[i], a, 2 * i, 2 * i + 1, whole)
        if i == c_into:
            _combine(combines[nodes], a, 2 * i + 1, injected + 2, injected, whole)
            _activate(activations[nodes], a, injected, injected + 1, whole)


@jit
def forward_step(
    combines: Any,
    activations: Any,
    c_from: int,
    c_into: int,
    z: Any,
    v: Any,
    start: int,
    rows: int,
    c_before: Any,
    c_start: int,
    out: Any,
    c_out: Any,
    mask: Any,
    onward: Any,
    next_rows: int,
) -> None:
    """One step of `rows` sequences, from row `start` of the packed arrays.

    z, v [N, B * H]: input and hidden products, which may be bfloat16 (`array_of`). c_before
    [.., H] from row `c_start`. Writes h and c
    to `out` and `c_out` [N, H], and h * mask, what the next step multiplies, to the next
    `next_rows` rows of `onward` [N, H]. mask: [rows, H], or [0, H] for none.
    """
    units = out.shape[1]
    nodes = combines.shape[0] - 1
    a = np.zeros((2 * nodes + 3, TILE), out.dtype)
    c = 2 * nodes + 2
    root = 2 * nodes - 1 if c_into != nodes - 1 else 2 * nodes + 1
    before, masks = c_before.reshape(-1)[c_start * units :], mask.reshape(-1)
    h, state = out.reshape(-1)[start * units :], c_out.reshape(-1)[start * units :]
    following = onward.reshape(-1)[(start + rows) * units :]
    for first in range(0, rows * units, TILE):
        n = min(TILE, rows * units - first)
        for k in range(n):
            a[c, k] = before[first + k]
        row, unit = start + first // units, first % units
        _tree(combines, activations, c_into, z, v, row, unit, units, a, n)
        for k in range(n):
            h[first + k] = a[root, k]
        for k in range(n):
            state[first + k] = a[2 * c_from, k]
        goes_on = min(n, next_rows * units - first)
        if masks.shape[0] > 0:
            for k in range(goes_on):
                following[first + k] = a[root, k] * masks[first + k]
        else:
            for k in range(goes_on):
                following[first + k] = a[root, k]


@part
def _leaf(
    kind: int,
    z: Any,
    v: Any,
    i: int,
    g: Any,
    g_z: Any,
    g_v: Any,
    row: int,
    first: int,
    units: int,
    n: int,
) -> None:
    """Take g[i, :n] back through a leaf's combination."""
    half, zero = g.dtype.type(0.5), g.dtype.type(0)
    done = 0
    while done < n:
        m, at = min(units - first, n - done), i * units + first
        if kind == ADD:
            for k in range(m):
                g_z[row, at + k] = held_as(g_z, g[i, done + k])
            for k in range(m):
                g_v[row, at + k] = held_as(g_v, g[i, done + k])
        elif kind == MULT:
            for k in range(m):
                g_z[row, at + k] = held_as(g_z, g[i, done + k] * wide(v[row, at + k]))
            for k in range(m):
                g_v[row, at + k] = held_as(g_v, g[i, done + k] * wide(z[row, at + k]))
        else:
            for k in range(m):
                x, y, d = wide(z[row, at + k]), wide(v[row, at + k]), g[i, done + k]
                g_z[row, at + k] = held_as(g_z, d if x > y else (half * d if x == y else zero))
                g_v[row, at + k] = held_as(g_v, d if y > x else (half * d if x == y else zero))
        done, row, first = done + m, row + 1, 0


@part
def _arrive(
    g_out: Any,
    g_c_out: Any,
    mask: Any,
    g_onward: Any,
    g_c: Any,
    goes_on: int,
    g: Any,
    nodes: int,
    n: int,
) -> None:
    """Put the gradients of h_t and c_t into g[nodes - 1] and g[nodes + 1], see `backward_step`.

    All are flat, from the tile's first unit on; the next step took `goes_on` of its units.
    """
    for k in range(n):
        g[nodes - 1, k] = g_out[k]
        g[nodes + 1, k] = 0
    for k in range(goes_on):
        g[nodes + 1, k] = g_c[k]
    if mask.shape[0] > 0:
        for k in range(goes_on):
            g[nodes - 1, k] += g_onward[k] * mask[k]
    else:
        for k in range(goes_on):
            g[nodes - 1, k] += g_onward[k]
    if g_c_out.shape[0] > 0:
        for k in range(n):
            g[nodes + 1, k] += g_c_out[k]


@jit
def backward_step(
    combines: Any,
    activations: Any,
    c_from: int,
    c_into: int,
    z: Any,
    v: Any,
    start: int,
    rows: int,
    c_before: Any,
    c_start: int,
    g_out: Any,
    g_c_out: Any,
    mask: Any,
    g_onward: Any,
    g_c: Any,
    next_rows: int,
    g_z: Any,
    g_v: Any,
) -> None:
    """Undo `forward_step`, working its values out again.

    g_out, g_c_out: gradients of all outputs, g_c_out [0, H] for none. g_onward: [rows, H], of what
    the next step multiplied, its first `next_rows` rows. g_c: [rows, H], of c_t on entry, in its
    first `next_rows` rows; of c_(t-1) on return. Writes g_z and g_v [N, B * H].
    """
    units = g_out.shape[1]
    nodes = combines.shape[0] - 1
    leaves = (nodes + 1) // 2
    a = np.zeros((2 * nodes + 3, TILE), g_out.dtype)
    g = np.zeros((nodes + 2, TILE), g_out.dtype)
    c, injected = 2 * nodes + 2, 2 * nodes
    before, masks = c_before.reshape(-1)[c_start * units :], mask.reshape(-1)
    g_h, g_state = g_out.reshape(-1)[start * units :], g_c_out.reshape(-1)[start * units :]
    g_next, g_c_next = g_onward.reshape(-1), g_c.reshape(-1)
    for first in range(0, rows * units, TILE):
        n = min(TILE, rows * units - first)
        whole = (n + VECTORS - 1) // VECTORS * VECTORS
        row, unit = start + first // units, first % units
        for k in range(n):
            a[c, k] = before[first + k]
        _tree(combines, activations, c_into, z, v, row, unit, units, a, n)
        goes_on = min(n, next_rows * units - first)
        _arrive(
            g_h[first:], g_state[first:], masks[first:], g_next[first:], g_c_next[first:],
            goes_on, g, nodes, n,
        )  # fmt: skip
        for i in range(nodes - 1, -1, -1):
            if i == c_into:
                _through(activations[nodes], a, injected, injected + 1, g, i, whole)
                _apart(combines[nodes], a, 2 * i + 1, c, g, i, i, nodes, whole)
            _through(activations[i], a, 2 * i, 2 * i + 1, g, i, whole)
            if i == c_from:
                for k in range(whole):
                    g[i, k] += g[nodes + 1, k]
            if i >= leaves:
                left, right = _operands(i - leaves, c_into, injected)
                below = 2 * (i - leaves)
                _apart(combines[i], a, left, right, g, i, below, below + 1, whole)
        for i in range(leaves):
            _leaf(combines[i], z, v, i, g, g_z, g_v, row, unit, units, n)
        for k in range(n):
            g_c_next[first + k] = g[nodes, k]
