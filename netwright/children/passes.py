"""What stands around convolutions, in few passes over memory: compiled once for every child.

Images come as the address of dense memory [N, H, W, C] of the type of `like`: float32, or uint16
for bfloat16, which numpy has not; an address costs a call less than an array does. Other addresses
are of float32. Sums are float32 over a tile of rows and float64 over tiles. A gradient that arrives
from several takers is added up where it is needed, a tile at a time: takers is int64 [K, 4], of
each the address of its first number and its steps from image to image, row to row and column to
column, in numbers; channels are adjacent; `takers, count` are its address and K. NaN stays NaN
everywhere. `run` runs them in all of torch's threads (`netwright.children.team`) for
`netwright.children.joints`, whose plain versions are what they are tested against.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.np.unsafe.ndarray import to_fixed_tuple

from netwright.children.compiled import carray, held_as, jit, named, part, pointer, wide
from netwright.children.lanes import (
    counted,
    mixed,
    moved,
    moved_beside,
    passed,
    passed_by,
    period,
    picked,
    summed,
)
from netwright.children.openmp import openmp
from netwright.children.team import (
    ALONE,
    array,
    line_of,
    meet,
    number,
    received,
    share,
    sums_of,
    takers_of,
    whole_of,
)

TILE = 4096  # numbers, which stay in the nearest cache
WORTH = 1 << 15  # numbers of a pass from which several threads take it


@part
def _added(takers: Any, like: Any, first: int, rows: int, height: int, width: int, to: Any) -> None:
    """to[:rows * C] = the sum of what the takers send to pixels first .. first + rows."""
    many, channels, size = takers.shape[0], like.shape[1], like.itemsize
    places, steps = np.empty(many, np.int64), np.empty(many, np.int64)
    through = True
    adjacent = True
    for k in range(many):
        steps[k] = takers[k, 3] * size
        through &= takers[k, 2] == width * takers[k, 3] and takers[k, 1] == height * takers[k, 2]
        adjacent &= takers[k, 3] == channels
    if through and adjacent:  # all pixels are as one
        for k in range(many):
            places[k] = takers[k, 0] + first * channels * size
        summed(places, steps, like, 1, to[: rows * channels].reshape(1, rows * channels))
        return
    done = 0
    while done < rows:  # up to the end of a row of the image, where there is more behind it
        y, x = (first + done) // width, (first + done) % width
        n = rows if through else min(rows - done, width - x)
        for k in range(many):
            start = (y // height) * takers[k, 1] + (y % height) * takers[k, 2] + x * takers[k, 3]
            places[k] = takers[k, 0] + start * size
        target = to[done * channels : (done + n) * channels].reshape(n, channels)
        summed(places, steps, like, n, target)
        done += n


@part
def _dense(takers: Any, channels: int, height: int, width: int) -> Any:
    """Whether there is one taker, all of whose numbers are adjacent."""
    if takers.shape[0] != 1:
        return False
    row = width * channels
    return takers[0, 3] == channels and takers[0, 2] == row and takers[0, 1] == height * row


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
    momentum_bits, epsilon_bits: float64, its bits. sums: float64 [threads, 2, C], to work with.
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
    low = np.float32(0) if rectify else np.float32(-np.inf)
    d = np.empty(rows * channels, np.float32)
    one, two = np.zeros_like(a), np.zeros_like(a)
    alone = y == 0 and _dense(takers, channels, height, width)
    begin, last = share(team, m, rows)
    for first in range(begin, last, rows):
        some = min(rows, m - first)
        start, end = first * channels, (first + some) * channels
        before, after = source[start:end], target[start:end]
        if alone:
            g_y = _piece(takers[0, 0], start, end, x)
            passed(after, before, g_y, one, two, a, b, centre, low, np.float32(0))
            continue
        _added(takers, x, first, some, height, width, d)
        if y:
            seen = _piece(y, start, end, x)
            passed_by(after, before, d, seen, one, two, centre, low, np.float32(0))
        else:
            passed(after, before, d, one, two, a, b, centre, low, np.float32(0))
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


@jit
def added(
    like: Any,
    g: int,
    m: int,
    channels: int,
    takers: int,
    count: int,
    height: int,
    width: int,
    team: Any,
) -> None:
    """g = the sum of what the takers send; [M, C]."""
    whole = array(g, (m, channels), like)
    first, last = share(team, m)
    target = whole.reshape(-1)[first * channels : last * channels]
    _added(takers_of(takers, count), whole, first, last - first, height, width, target)


@jit
def pooled(
    like: Any,
    x: int,
    pixels: int,
    channels: int,
    height: int,
    width: int,
    y: int,
    place: int,
    team: Any,
) -> None:
    """y = the largest of each 2x2 of x, the first of equals; place: which of the four, uint8.

    [N, H, W, C] -> [N, H / 2, W / 2, C], rounded up.
    """
    rows, columns = (height + 1) // 2, (width + 1) // 2
    images = pixels // (height * width)
    source = array(x, (images, height, width, channels), like)
    targets = array(y, (images, rows, columns, channels), like)
    all_places = carray(pointer(place), (images, rows, columns, channels), np.uint8)
    begin, end = share(team, images)
    for n in range(begin, end):
        for i in range(rows):
            top, below = source[n, 2 * i], source[n, min(2 * i + 1, height - 1)]
            target, places = targets[n, i], all_places[n, i]
            for j in range(columns):
                left, right = 2 * j, min(2 * j + 1, width - 1)
                for c in range(channels):
                    best, at = wide(top[left, c]), np.uint8(0)
                    v = wide(top[right, c])
                    at, best = (np.uint8(1), v) if v > best or v != v else (at, best)
                    v = wide(below[left, c])
                    at, best = (np.uint8(2), v) if v > best or v != v else (at, best)
                    v = wide(below[right, c])
                    at, best = (np.uint8(3), v) if v > best or v != v else (at, best)
                    target[j, c] = held_as(target, best)
                    places[j, c] = at


@jit
def unpooled(
    like: Any,
    g: int,
    pixels: int,
    channels: int,
    height: int,
    width: int,
    place: int,
    takers: int,
    count: int,
    team: Any,
) -> None:
    """Undo `pooled`: g [N, H, W, C] has what the takers send where `place` says, 0 elsewhere."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    images = pixels // (height * width)
    given = takers_of(takers, count)
    whole = array(g, (images, height, width, channels), like)
    all_places = carray(pointer(place), (images, rows, columns, channels), np.uint8)
    sent = np.empty(columns * channels, np.float32)
    d = sent.reshape(columns, channels)
    flat = whole.reshape(-1, channels)
    begin, end = share(team, images)
    for n in range(begin, end):
        for i in range(rows):
            _added(given, flat, (n * rows + i) * columns, columns, rows, columns, sent)
            for k in range(min(2, height - 2 * i)):
                target, places = whole[n, 2 * i + k].reshape(-1), all_places[n, i]
                picked(d, places, 2 * k, target, 2 * channels)
                beside = width // 2
                picked(d[:beside], places, 2 * k + 1, target[channels:], 2 * channels)


_PASSES: tuple[Callable[..., None], ...] = (
    scaled,
    normalised,
    normalised_backward,
    added,
    pooled,
    unpooled,
)
_MOST = 15  # numbers that one takes
_first: Any = to_fixed_tuple


def run(what: Callable[..., None], like: Any, *numbers: int) -> None:
    """Run a pass, `numbers` what it takes between `like` and its team.

    The first three are address, pixels and channels of images; where these are large, all threads
    of torch run it.
    """
    threads = torch.get_num_threads()
    library = openmp() if threads > 1 and numbers[1] * numbers[2] >= WORTH else None
    if library is None:
        what(like, *numbers, ALONE)
    else:
        library.run(_any_pass(like.dtype).address, (_PASSES.index(what), *numbers), threads)


@functools.cache
def _any_pass(dtype: Any) -> Any:
    """A C function that runs the pass whose place in `_PASSES` it is given, on images of a type."""

    def body(data: Any) -> None:
        team, given = received(data, 1 + _MOST)
        like, which, numbers = np.empty(0, dtype), given[0], given[1:]
        if which == 0:
            scaled(like, *_first(numbers, 8), team)  # type: ignore[call-arg]
        elif which == 1:
            normalised(like, *_first(numbers, 15), team)  # type: ignore[call-arg]
        elif which == 2:
            normalised_backward(like, *_first(numbers, 15), team)  # type: ignore[call-arg]
        elif which == 3:
            added(like, *_first(numbers, 7), team)  # type: ignore[call-arg]
        elif which == 4:
            pooled(like, *_first(numbers, 7), team)  # type: ignore[call-arg]
        else:
            unpooled(like, *_first(numbers, 8), team)  # type: ignore[call-arg]

    return numba.cfunc(types.void(types.voidptr), cache=True)(named(body))
