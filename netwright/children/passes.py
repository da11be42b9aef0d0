"""What stands around convolutions, in few passes over memory: compiled once for every child.

Images come as the address of dense memory [N, H, W, C] of the type of `like`: float32, or uint16
for bfloat16, which numpy has not; an address costs a call less than an array does. Other addresses
are of float32. Sums are float32 over a tile of rows and float64 over tiles. A gradient that arrives
from several takers is added up where it is needed, a tile at a time: `takers` is int64 [K, 4], of
each the address of its first number and its steps from image to image, row to row and column to
column, in numbers; channels are adjacent. NaN stays NaN everywhere. `netwright.children.joints`
calls these, and its plain versions are what they are tested against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.compiled import carray, held_as, jit, part, pointer, wide
from netwright.children.lanes import counted, mixed, moved, passed, period, picked, summed

TILE = 4096  # numbers, which stay in the nearest cache


@part
def _array(address: int, shape: Any, like: Any) -> Any:
    return carray(pointer(address), shape, like.dtype)


@part
def _line(address: int, channels: int) -> Any:
    return carray(pointer(address), (channels,), np.float32)


@part
def _added(takers: Any, like: Any, first: int, rows: int, height: int, width: int, to: Any) -> None:
    """to[:rows * C] = the sum of what the takers send to pixels first .. first + rows."""
    many, channels, size = takers.shape[0], like.shape[1], like.itemsize
    places, steps = np.empty(many, np.int64), np.empty(many, np.int64)
    through = True
    for k in range(many):
        steps[k] = takers[k, 3] * size
        through &= takers[k, 2] == width * takers[k, 3] and takers[k, 1] == height * takers[k, 2]
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
def _moments(x: Any, mean: Any, variance: Any) -> None:
    """Write each channel's mean and (biased) variance over `x` [M, C], float64 [C]."""
    m, channels = x.shape
    rows = _rows(channels)
    flat = x.reshape(-1)
    shift = np.empty(channels, np.float32)
    for c in range(channels):
        shift[c] = wide(flat[c])
    shifts = _tiled(shift)
    one, two = np.zeros_like(shifts), np.zeros_like(shifts)
    for first in range(0, m, rows):
        piece = flat[first * channels : min(first + rows, m) * channels]
        counted(piece, shifts, one, two)
    _folded(one, channels, mean)
    _folded(two, channels, variance)
    for c in range(channels):
        d = mean[c] / m
        variance[c] = (
            max(0.0, variance[c] / m - d * d) if variance[c] == variance[c] else variance[c]
        )
        mean[c] = shift[c] + d


@part
def _scaled(x: Any, scale: Any, shift: Any, rectify: bool, y: Any) -> None:
    """y = x * scale + shift by channel, and 0 where that is negative; [M, C], y may be x."""
    m, channels = x.shape
    rows = _rows(channels)
    a, b = _tiled(scale), _tiled(shift)
    source, target = x.reshape(-1), y.reshape(-1)
    low = np.float32(0) if rectify else np.float32(-np.inf)
    for first in range(0, m, rows):
        start, end = first * channels, min(first + rows, m) * channels
        moved(source[start:end], a, b, low, target[start:end])


@jit
def scaled(
    like: Any, x: int, m: int, channels: int, scale: int, shift: int, rectify: bool, y: int
) -> None:
    """y = x * scale + shift by channel, and 0 where that is negative; [M, C], y may be x."""
    size = (m, channels)
    before, after = _array(x, size, like), _array(y, size, like)
    _scaled(before, _line(scale, channels), _line(shift, channels), rectify, after)


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
    momentum: float,
    epsilon: float,
    rectify: bool,
    y: int,
    of_line: int,
) -> None:
    """Batch normalisation of `x` [M, C] and its ReLU, into `y`; the running moments move on.

    line: float32 [4, C], on return the scale and shift of x, its mean, 1 / its deviation.
    """
    source = _array(x, (m, channels), like)
    gain, bias = _line(of_weight, channels), _line(of_bias, channels)
    running_mean, running_variance = _line(of_mean, channels), _line(of_variance, channels)
    line = carray(pointer(of_line), (4, channels), np.float32)
    mean, variance = np.empty(channels), np.empty(channels)
    _moments(source, mean, variance)
    for c in range(channels):
        inverse = 1 / np.sqrt(variance[c] + epsilon)
        scale = gain[c] * inverse
        line[0, c], line[1, c] = scale, bias[c] - mean[c] * scale
        line[2, c], line[3, c] = mean[c], inverse
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_variance[c] += momentum * (variance[c] * m / (m - 1) - running_variance[c])
    _scaled(source, line[0], line[1], rectify, _array(y, (m, channels), like))


@part
def _gathered(
    x: Any,
    scale: Any,
    shift: Any,
    mean: Any,
    rectify: bool,
    takers: Any,
    height: int,
    width: int,
    g: Any,
    sums: Any,
) -> None:
    """Add the takers' gradients up and take them back through the ReLU, into `g` [M, C].

    sums: float64 [2, C], of g and of g * (x - mean).
    """
    m, channels = x.shape
    rows = _rows(channels)
    a, b, centre = _tiled(scale), _tiled(shift), _tiled(mean)
    source, target = x.reshape(-1), g.reshape(-1)
    low = np.float32(0) if rectify else np.float32(-np.inf)
    d = np.empty(rows * channels, np.float32)
    one, two = np.zeros_like(a), np.zeros_like(a)
    alone = _dense(takers, channels, height, width)
    for first in range(0, m, rows):
        some = min(rows, m - first)
        start, end = first * channels, (first + some) * channels
        before, after = source[start:end], target[start:end]
        if alone:
            place = pointer(takers[0, 0] + start * x.itemsize)
            g_y = carray(place, (end - start,), x.dtype)
            passed(after, before, g_y, one, two, a, b, centre, low, np.float32(0))
        else:
            _added(takers, x, first, some, height, width, d)
            passed(after, before, d, one, two, a, b, centre, low, np.float32(0))
    _folded(one, channels, sums[0])
    _folded(two, channels, sums[1])


@part
def _undone(x: Any, g: Any, of_g: Any, of_x: Any, constant: Any) -> None:
    """g = g * of_g + x * of_x + constant by channel; [M, C]."""
    m, channels = x.shape
    rows = _rows(channels)
    a, b, c = _tiled(of_g), _tiled(of_x), _tiled(constant)
    source, target = x.reshape(-1), g.reshape(-1)
    for first in range(0, m, rows):
        start, end = first * channels, min(first + rows, m) * channels
        mixed(target[start:end], source[start:end], a, b, c)


@jit
def normalised_backward(
    like: Any,
    x: int,
    m: int,
    channels: int,
    of_line: int,
    rectify: bool,
    takers: Any,
    height: int,
    width: int,
    g: int,
    of_g_weight: int,
    of_g_bias: int,
) -> None:
    """Undo `normalised`: `g` [M, C] is the gradient of x, the others [C] those of gain and bias."""
    source, target = _array(x, (m, channels), like), _array(g, (m, channels), like)
    line = carray(pointer(of_line), (4, channels), np.float32)
    g_gain, g_bias = _line(of_g_weight, channels), _line(of_g_bias, channels)
    sums = np.empty((2, channels))
    _gathered(source, line[0], line[1], line[2], rectify, takers, height, width, target, sums)
    of_x, constant = np.empty(channels), np.empty(channels)
    for c in range(channels):
        inverse = np.float64(line[3, c])
        g_gain[c], g_bias[c] = sums[1, c] * inverse, sums[0, c]
        scale = np.float64(line[0, c])
        of_x[c] = -scale * inverse * inverse * sums[1, c] / m
        constant[c] = -scale * sums[0, c] / m - of_x[c] * line[2, c]
    _undone(source, target, line[0], of_x, constant)


@jit
def added(like: Any, takers: Any, m: int, channels: int, height: int, width: int, g: int) -> None:
    """g = the sum of what the takers send; [M, C]."""
    whole = _array(g, (m, channels), like)
    _added(takers, whole, 0, m, height, width, whole.reshape(-1))


@jit
def pooled(
    like: Any, x: int, images: int, height: int, width: int, channels: int, y: int, place: int
) -> None:
    """y = the largest of each 2x2 of x, the first of equals; place: which of the four, uint8.

    [N, H, W, C] -> [N, H / 2, W / 2, C], rounded up.
    """
    rows, columns = (height + 1) // 2, (width + 1) // 2
    source = _array(x, (images, height, width, channels), like)
    targets = _array(y, (images, rows, columns, channels), like)
    all_places = carray(pointer(place), (images, rows, columns, channels), np.uint8)
    for n in range(images):
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
    place: int,
    takers: Any,
    images: int,
    height: int,
    width: int,
    channels: int,
    g: int,
) -> None:
    """Undo `pooled`: g [N, H, W, C] has what the takers send where `place` says, 0 elsewhere."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    whole = _array(g, (images, height, width, channels), like)
    all_places = carray(pointer(place), (images, rows, columns, channels), np.uint8)
    sent = np.empty(columns * channels, np.float32)
    d = sent.reshape(columns, channels)
    flat = whole.reshape(-1, channels)
    for n in range(images):
        for i in range(rows):
            _added(takers, flat, (n * rows + i) * columns, columns, rows, columns, sent)
            for k in range(min(2, height - 2 * i)):
                target, places = whole[n, 2 * i + k].reshape(-1), all_places[n, i]
                picked(d, places, 2 * k, target, 2 * channels)
                beside = width // 2
                picked(d[:beside], places, 2 * k + 1, target[channels:], 2 * channels)
