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

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

TILE = 2048  # numbers, which stay in the nearest cache

_F = TypeVar("_F", bound=Callable[..., Any])
_carray: Any = getattr(numba, "carray")  # noqa: B009, numba does not say that it exports it
_OPTIONS: Any = {"fastmath": {"contract"}, "error_model": "numpy"}


def _jit(function: _F) -> _F:
    """Compile at the first call and keep it on disk."""
    compiled: _F = numba.njit(cache=True, nogil=True, **_OPTIONS)(function)
    return compiled


def _part(function: _F) -> _F:
    """Compile with its callers."""
    compiled: _F = numba.njit(**_OPTIONS)(function)
    return compiled


def _get(a: Any, i: Any) -> Any:
    raise NotImplementedError


def _put(a: Any, i: Any, value: Any) -> Any:
    raise NotImplementedError


def _make_widened(typing: Any, bits: Any) -> Any:
    """bfloat16, as uint16 -> float32"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, _word(16)), ir.FloatType())

    return types.float32(types.uint16), generate


_widened: Any = intrinsic(_make_widened)


def _make_narrowed(typing: Any, value: Any) -> Any:
    """float32 -> bfloat16, as uint16, the nearest and of two the even one"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.bitcast(arguments[0], ir.IntType(32))
        odd = builder.and_(builder.lshr(word, _word(16)), _word(1))
        word = builder.add(builder.add(word, odd), _word(0x7FFF))
        return builder.trunc(builder.lshr(word, _word(16)), ir.IntType(16))

    return types.uint16(types.float32), generate


_narrowed: Any = intrinsic(_make_narrowed)


def _word(value: int) -> Any:
    return ir.Constant(ir.IntType(32), value)


@overload(_get)
def _get_by_type(a: Any, i: Any) -> Any:
    if a.dtype is not types.uint16:

        def whole(a: Any, i: Any) -> Any:
            return a[i]

        return whole

    def wide(a: Any, i: Any) -> Any:
        return _widened(a[i])

    return wide


@overload(_put)
def _put_by_type(a: Any, i: Any, value: Any) -> Any:
    if a.dtype is not types.uint16:

        def whole(a: Any, i: Any, value: Any) -> None:
            a[i] = value

        return whole

    def narrow(a: Any, i: Any, value: Any) -> None:
        a[i] = _narrowed(np.float32(value))

    return narrow


def _make_pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer, for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


_pointer: Any = intrinsic(_make_pointer)


@_part
def _array(address: int, shape: Any, like: Any) -> Any:
    return _carray(_pointer(address), shape, like.dtype)


@_part
def _line(address: int, channels: int) -> Any:
    return _carray(_pointer(address), (channels,), np.float32)


@_part
def _added(takers: Any, like: Any, first: int, rows: int, height: int, width: int, to: Any) -> None:
    """to[:rows * C] = the sum of what the takers send to pixels first .. first + rows."""
    channels = like.shape[1]
    if takers.shape[0] == 0:
        to[: rows * channels] = 0
    for k in range(takers.shape[0]):
        image, row, column = takers[k, 1], takers[k, 2], takers[k, 3]
        dense = column == channels and row == width * column and image == height * row
        done = 0
        while done < rows:  # up to the end of a row of the image, where there is more behind it
            pixel = first + done
            y, x = pixel // width, pixel % width
            n = rows if dense else min(rows - done, width - x)
            start = (y // height) * image + (y % height) * row + x * column
            pointer = _pointer(takers[k, 0] + start * like.itemsize)
            target = to[done * channels : (done + n) * channels].reshape(n, channels)
            if column == channels:
                g = _carray(pointer, (n * channels,), like.dtype)
                flat = to[done * channels : (done + n) * channels]
                if k == 0:
                    for i in range(n * channels):
                        flat[i] = _get(g, i)
                else:
                    for i in range(n * channels):
                        flat[i] += _get(g, i)
            else:
                pixels = _carray(pointer, (n, max(column, channels)), like.dtype)
                for p in range(n):
                    q = p if column else 0
                    if k == 0:
                        for i in range(channels):
                            target[p, i] = _get(pixels, (q, i))
                    else:
                        for i in range(channels):
                            target[p, i] += _get(pixels, (q, i))
            done += n


@_part
def _tiled(values: Any, rows: int) -> Any:
    """[C] -> [rows * C], float32"""
    n = values.shape[0]
    found = np.empty(rows * n, np.float32)
    for row in range(rows):
        part = found[row * n : (row + 1) * n]
        for i in range(n):
            part[i] = values[i]
    return found


@_part
def _folded(tile: Any, channels: int, to: Any) -> None:
    """to[C] = the sum over a tile's rows, float64"""
    to[:] = 0
    for start in range(0, tile.shape[0], channels):
        part = tile[start : start + channels]
        for c in range(channels):
            to[c] += part[c]


@_part
def _rows(m: int, channels: int) -> int:
    return max(1, min(m, TILE // channels))


@_part
def _moments(x: Any, mean: Any, variance: Any) -> None:
    """Write each channel's mean and (biased) variance over `x` [M, C], float64 [C]."""
    m, channels = x.shape
    rows = _rows(m, channels)
    flat = x.reshape(-1)
    shift = np.empty(channels, np.float32)
    for c in range(channels):
        shift[c] = _get(flat, c)
    shifts = _tiled(shift, rows)
    one, two = np.zeros(rows * channels, np.float32), np.zeros(rows * channels, np.float32)
    for first in range(0, m, rows):
        part = flat[first * channels : min(first + rows, m) * channels]
        for i in range(part.shape[0]):
            d = _get(part, i) - shifts[i]
            one[i] += d
            two[i] += d * d
    _folded(one, channels, mean)
    _folded(two, channels, variance)
    for c in range(channels):
        d = mean[c] / m
        variance[c] = (
            max(0.0, variance[c] / m - d * d) if variance[c] == variance[c] else variance[c]
        )
        mean[c] = shift[c] + d


@_part
def _scaled(x: Any, scale: Any, shift: Any, rectify: bool, y: Any) -> None:
    """y = x * scale + shift by channel, and 0 where that is negative; [M, C], y may be x."""
    m, channels = x.shape
    rows = _rows(m, channels)
    a, b = _tiled(scale, rows), _tiled(shift, rows)
    source, target = x.reshape(-1), y.reshape(-1)
    low = np.float32(0) if rectify else np.float32(-np.inf)
    for first in range(0, m, rows):
        start, end = first * channels, min(first + rows, m) * channels
        before, after = source[start:end], target[start:end]
        for i in range(end - start):
            z = _get(before, i) * a[i] + b[i]
            z = low if z <= low else z
            _put(after, i, z)


@_jit
def scaled(
    like: Any, x: int, m: int, channels: int, scale: int, shift: int, rectify: bool, y: int
) -> None:
    """y = x * scale + shift by channel, and 0 where that is negative; [M, C], y may be x."""
    size = (m, channels)
    before, after = _array(x, size, like), _array(y, size, like)
    _scaled(before, _line(scale, channels), _line(shift, channels), rectify, after)


@_jit
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
    line = _carray(_pointer(of_line), (4, channels), np.float32)
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


@_part
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
    rows = _rows(m, channels)
    a, b, centre = _tiled(scale, rows), _tiled(shift, rows), _tiled(mean, rows)
    source, target = x.reshape(-1), g.reshape(-1)
    low = np.float32(0) if rectify else np.float32(-np.inf)
    d = np.empty(rows * channels, np.float32)
    one, two = np.zeros(rows * channels, np.float32), np.zeros(rows * channels, np.float32)
    for first in range(0, m, rows):
        some = min(rows, m - first)
        start, end = first * channels, (first + some) * channels
        before, after = source[start:end], target[start:end]
        _added(takers, x, first, some, height, width, d)
        for i in range(end - start):
            v = _get(before, i)
            z = v * a[i] + b[i]
            e = np.float32(0) if z <= low else d[i]
            one[i] += e
            two[i] += e * (v - centre[i])
            _put(after, i, e)
    _folded(one, channels, sums[0])
    _folded(two, channels, sums[1])


@_part
def _undone(x: Any, g: Any, of_g: Any, of_x: Any, constant: Any) -> None:
    """g = g * of_g + x * of_x + constant by channel; [M, C]."""
    m, channels = x.shape
    rows = _rows(m, channels)
    a, b, c = _tiled(of_g, rows), _tiled(of_x, rows), _tiled(constant, rows)
    source, target = x.reshape(-1), g.reshape(-1)
    for first in range(0, m, rows):
        start, end = first * channels, min(first + rows, m) * channels
        before, after = source[start:end], target[start:end]
        for i in range(end - start):
            _put(after, i, _get(after, i) * a[i] + _get(before, i) * b[i] + c[i])


@_jit
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
    line = _carray(_pointer(of_line), (4, channels), np.float32)
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


@_jit
def added(like: Any, takers: Any, m: int, channels: int, height: int, width: int, g: int) -> None:
    """g = the sum of what the takers send; [M, C]."""
    rows = _rows(m, channels)
    whole = _array(g, (m, channels), like)
    target = whole.reshape(-1)
    d = np.empty(rows * channels, np.float32)
    for first in range(0, m, rows):
        some = min(rows, m - first)
        _added(takers, whole, first, some, height, width, d)
        after = target[first * channels : (first + some) * channels]
        for i in range(after.shape[0]):
            _put(after, i, d[i])


@_jit
def pooled(
    like: Any, x: int, images: int, height: int, width: int, channels: int, y: int, place: int
) -> None:
    """y = the largest of each 2x2 of x, the first of equals; place: which of the four, uint8.

    [N, H, W, C] -> [N, H / 2, W / 2, C], rounded up.
    """
    rows, columns = (height + 1) // 2, (width + 1) // 2
    source = _array(x, (images, height, width, channels), like)
    targets = _array(y, (images, rows, columns, channels), like)
    all_places = _carray(_pointer(place), (images, rows, columns, channels), np.uint8)
    for n in range(images):
        for i in range(rows):
            top, below = source[n, 2 * i], source[n, min(2 * i + 1, height - 1)]
            target, places = targets[n, i], all_places[n, i]
            for j in range(columns):
                left, right = 2 * j, min(2 * j + 1, width - 1)
                for c in range(channels):
                    best, at = _get(top, (left, c)), np.uint8(0)
                    v = _get(top, (right, c))
                    at, best = (np.uint8(1), v) if v > best or v != v else (at, best)
                    v = _get(below, (left, c))
                    at, best = (np.uint8(2), v) if v > best or v != v else (at, best)
                    v = _get(below, (right, c))
                    at, best = (np.uint8(3), v) if v > best or v != v else (at, best)
                    _put(target, (j, c), best)
                    places[j, c] = at


@_jit
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
    all_places = _carray(_pointer(place), (images, rows, columns, channels), np.uint8)
    sent = np.empty(columns * channels, np.float32)
    d = sent.reshape(columns, channels)
    flat = whole.reshape(-1, channels)
    zero = np.float32(0)
    for n in range(images):
        for i in range(rows):
            _added(takers, flat, (n * rows + i) * columns, columns, rows, columns, sent)
            for k in range(min(2, height - 2 * i)):
                target, places = whole[n, 2 * i + k], all_places[n, i]
                here, beside = np.uint8(2 * k), np.uint8(2 * k + 1)
                for j in range(columns):
                    for c in range(channels):
                        v = d[j, c] if places[j, c] == here else zero
                        _put(target, (2 * j, c), v)
                    if 2 * j + 1 < width:
                        for c in range(channels):
                            v = d[j, c] if places[j, c] == beside else zero
                            _put(target, (2 * j + 1, c), v)
