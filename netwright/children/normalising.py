"""Batch normalisation, what is added to it, and its ReLU: passes over memory for compiled code.

What the arguments are: `netwright.children.passes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.arrived import added_rows, dense
from netwright.children.compiled import carray, jit, part, pointer, wide
from netwright.children.lanes import counted, mixed, moved, moved_beside, passed, passed_by, period
from netwright.children.team import (
    array,
    line_of,
    meet,
    number,
    share,
    sums_of,
    takers_of,
    whole_of,
)

TILE = 4096  # numbers, which stay in the nearest cache


@part
def _tiled(values: Any) -> Any:
    """[C] -> float32 [P], again and again"""
    channels = values.shape[0]
    found = np.empty(period(channels), np.float32)
    for start in range(0, found.shape[0], channels):
        for c in range(channels):
            found[start + c] = values[c]
    return found


@part
def _folded(tile: Any, channels: int, to: Any) -> None:
    """to[C] = the sum over a tile's rows, float64"""
    to[:] = 0
    for start in range(0, tile.shape[0], channels):
        piece = tile[start : start + channels]
        for c in range(channels):
            to[c] += piece[c]


@part
def _rows(channels: int) -> int:
    """A tile's, whose numbers are some periods."""
    turn = period(channels)
    return max(1, TILE // turn) * (turn // channels)


@part
def _moments(x: Any, mean: Any, variance: Any, sums: Any, team: Any) -> None:
    """Write each channel's mean and (biased) variance over `x` [M, C], float64 [C]."""
    m, channels = x.shape
    rows = _rows(channels)
    flat = x.reshape(-1)
    shift = np.empty(channels, np.float32)
    for c in range(channels):
        shift[c] = wide(flat[c])
    shifts = _tiled(shift)
    one, two = np.zeros_like(shifts), np.zeros_like(shifts)
    begin, end = share(team, m, rows)
    for first in range(begin, end, rows):
        piece = flat[first * channels : min(first + rows, m) * channels]
        counted(piece, shifts, one, two)
    _folded(one, channels, sums[team[0], 0])
    _folded(two, channels, sums[team[0], 1])
    meet(team)
    total = whole_of(sums)
    for c in range(channels):
        d = total[0, c] / m
        v = total[1, c] / m - d * d
        variance[c] = max(0.0, v) if v == v else v
        mean[c] = shift[c] + d


@part
def _piece(address: int, first: int, last: int, like: Any) -> Any:
    """Numbers first .. last of those at an address."""
    return array(address + first * like.itemsize, (last - first,), like)


@part
def _scaled(x: Any, scale: Any, shift: Any, rectify: int, beside: int, y: Any, team: Any) -> None:
    """y = x * scale + shift by channel, and 0 where that is negative; [M, C], y may be x.

    beside: the address of what is added before, [M, C], 0 for none.
    """
    m, channels = x.shape
    rows = _rows(channels)
    a, b = _tiled(scale), _tiled(shift)
    source, target = x.reshape(-1), y.reshape(-1)
    low = np.float32(0) if rectify else np.float32(-np.inf)
    begin, last = share(team, m, rows)
    for first in range(begin, last, rows):
        start, end = first * channels, min(first + rows, m) * channels
        if beside:
            other = _piece(beside, start, end, x)
            moved_beside(source[start:end], a, b, low, other, target[start:end])
        else:
            moved(source[start:end], a, b, low, target[start:end])


@jit
def scaled(
    like: Any,
    x: int,
    m: int,
    channels: int,
    scale: int,
    shift: int,
    rectify: int,
    beside: int,
    y: int,
    team: Any,
) -> None:
    """y = x * scale + shift by channel, and 0 where that is negative; [M, C], y may be x.

    beside: the address of what is added before, [M, C], 0 for none.
    """
    size = (m, channels)
    before, after = array(x, size, like), array(y, size, like)
    a, b = line_of(scale, channels), line_of(shift, channels)
    _scaled(before, a, b, rectify, beside, after, team)


@jit
def normalised(
    like: Any,
    x: int,
    m: int,
    channels: int,
    of_weight: int,
    of_bias: int,
    of_mean: int,
    of_variance: int,
    of_count: int,
    momentum_bits: int,
    epsilon_bits: int,
    rectify: int,
    beside: int,
    y: int,
    of_line: int,
    of_sums: int,
    team: Any,
) -> None:
    """Batch normalisation of `x` [M, C] and its ReLU, into `y`; the running moments move on.

    count: int64 [1], of steps, 0 for none.
    beside: the address of what is added before the ReLU, [M, C], 0 for none.
    line: float32 [4, C], on return the scale and shift of x, its mean, 1 / its deviation.
    momentum_bits, epsilon_bits: float64, its bits. sums: see `sums_of`.
    """
    momentum, epsilon = number(momentum_bits), number(epsilon_bits)
    source = array(x, (m, channels), like)
    gain, bias = line_of(of_weight, channels), line_of(of_bias, channels)
    running_mean, running_variance = line_of(of_mean, channels), line_of(of_variance, channels)
    line = carray(pointer(of_line), (4, channels), np.float32)
    mean, variance = np.empty(channels), np.empty(channels)
    _moments(source, mean, variance, sums_of(of_sums, team, channels), team)
    if team[0] == 0:
        if of_count:
            carray(pointer(of_count), (1,), np.int64)[0] += 1
        for c in range(channels):
            inverse = 1 / np.sqrt(variance[c] + epsilon)
            scale = gain[c] * inverse
            line[0, c], line[1, c] = scale, bias[c] - mean[c] * scale
            line[2, c], line[3, c] = mean[c], inverse
            running_mean[c] += momentum * (mean[c] - running_mean[c])
            running_variance[c] += momentum * (variance[c] * m / (m - 1) - running_variance[c])
    meet(team)
    _scaled(source, line[0], line[1], rectify, beside, array(y, (m, channels), like), team)


@part
def _gathered(
    x: Any,
    scale: Any,
    shift: Any,
    mean: Any,
    rectify: int,
    y: int,
    takers: Any,
    height: int,
    width: int,
    g: Any,
    sums: Any,
    team: Any,
) -> None:
    """Add the takers' gradients up and take them back through the ReLU, into `g` [M, C].

    y: the address of what the ReLU gave, 0 where x, scaled, tells what passed. sums: float64
    [threads, 2, C], of g and of g * (x - mean), each thread its own.
    """
    m, channels = x.shape
    rows = _rows(channels)
    a, b, centre = _tiled(scale), _tiled(shift), _tiled(mean)
    source, target = x.reshape(-1), g.reshape(-1)
    none = np.float32(0)
    low = none if rectify else np.float32(-np.inf)
    d = np.empty(rows * channels, np.float32)
    one, two = np.zeros_like(a), np.zeros_like(a)
    many = takers.shape[0] if dense(takers, channels, height, width) else -1
    begin, last = share(team, m, rows)
    for first in range(begin, last, rows):
        some = min(rows, m - first)
        start, end = first * channels, (first + some) * channels
        before, after = source[start:end], target[start:end]
        if many == 1 and y == 0:
            g_y = _piece(takers[0, 0], start, end, x)
            passed(after, before, g_y, one, two, a, b, centre, low, none)
            continue
        if many == 2 and y != 0:
            seen = _piece(y, start, end, x)
            g_y, more = _piece(takers[0, 0], start, end, x), _piece(takers[1, 0], start, end, x)
            passed_by(after, before, g_y, more, seen, one, two, centre, low, none)
            continue
        added_rows(takers, x, first, some, height, width, d)
        if y:
            seen = _piece(y, start, end, x)
            passed_by(after, before, d, none, seen, one, two, centre, low, none)
        else:
            passed(after, before, d, one, two, a, b, centre, low, none)
    _folded(one, channels, sums[team[0], 0])
    _folded(two, channels, sums[team[0], 1])


@part
def _undone(x: Any, g: Any, of_g: Any, of_x: Any, constant: Any, to: Any, team: Any) -> None:
    """to = g * of_g + x * of_x + constant by channel; [M, C], to may be g."""
    m, channels = x.shape
    rows = _rows(channels)
    a, b, c = _tiled(of_g), _tiled(of_x), _tiled(constant)
    source, sent, target = x.reshape(-1), g.reshape(-1), to.reshape(-1)
    begin, last = share(team, m, rows)
    for first in range(begin, last, rows):
        start, end = first * channels, min(first + rows, m) * channels
        mixed(target[start:end], sent[start:end], source[start:end], a, b, c)


@jit
def normalised_backward(
    like: Any,
    x: int,
    m: int,
    channels: int,
    of_line: int,
    rectify: int,
    y: int,
    takers: int,
    count: int,
    height: int,
    width: int,
    of_masked: int,
    g: int,
    of_g_weight: int,
    of_g_bias: int,
    of_sums: int,
    team: Any,
) -> None:
    """Undo `normalised`: `g` [M, C] is the gradient of x, the others [C] those of gain and bias.

    Where something stood beside x, y is what the ReLU gave, else 0. masked [M, C], which may be g,
    is on return the gradient of what stood there.
    """
    size = (m, channels)
    source, masked, target = (
        array(x, size, like),
        array(of_masked, size, like),
        array(g, size, like),
    )
    line = carray(pointer(of_line), (4, channels), np.float32)
    g_gain, g_bias = line_of(of_g_weight, channels), line_of(of_g_bias, channels)
    each, sent = sums_of(of_sums, team, channels), takers_of(takers, count)
    scale, shift, mean = line[0], line[1], line[2]
    _gathered(source, scale, shift, mean, rectify, y, sent, height, width, masked, each, team)
    meet(team)
    sums = whole_of(each)
    of_x, constant = np.empty(channels), np.empty(channels)
    for c in range(channels):
        inverse = np.float64(line[3, c])
        if team[0] == 0:
            g_gain[c], g_bias[c] = sums[1, c] * inverse, sums[0, c]
        of_x[c] = -np.float64(scale[c]) * inverse * inverse * sums[1, c] / m
        constant[c] = -np.float64(scale[c]) * sums[0, c] / m - of_x[c] * mean[c]
    _undone(source, masked, scale, of_x, constant, target, team)
