"""Convolutions of bfloat16 in the processor's tiles, forward and both ways back, compiled.

Images are an address and steps in bytes from image to image, row to row and pixel to pixel;
channels are adjacent. Weights are dense [O, kh, kw, C], of bfloat16.

Forward, a row of the left tile is what an output sees of one image row, kw * C numbers that lie
side by side; so no window is copied, images are only padded. For gradients of weights the sum runs
over pixels: outputs' gradients are turned to rows of pixels, inputs are paired, pixel with pixel,
and a tap of the filter is a shift of one against the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children import amx
from netwright.children.amx import DEEP, ROWS, SIZE, SUMS
from netwright.children.compiled import jit, part
from netwright.children.team import share

RUN = 1024  # pixels that gradients of weights are summed over at a time, at least


@part
def _parts(n: int, most: int = ROWS) -> int:
    """How many that hold `most` at most hold n."""
    return -(-n // most)


@part
def _each(n: int, most: int = ROWS) -> int:
    """How many of n are in each of so many, as even as can be."""
    return _parts(n, _parts(n, most))


@jit
def held(channels: int, kw: int, filters: int) -> int:
    """How many numbers a pixel takes, so that reading tiles of the left is fast enough.

    Rows of a tile that lie across two lines of the cache are read slowly; whole lines a pixel are
    more to multiply. What is multiplied takes 16 cycles a tile.
    """
    whole = _parts(channels, DEEP) * DEEP
    wide = 16 * min(3, _parts(filters))
    step = channels * 2 % 64
    within = 64
    while step % within:
        within //= 2
    split = 1 - within / 64  # share of the rows
    apart = _parts(kw * channels, DEEP) * max(wide, 8 + 32 * split)
    return channels if apart <= _parts(kw * whole, DEEP) * wide else whole


@part
def _keep(array: Any) -> None:
    """Hold memory that is only known by its address until here."""


# --- weights ------------------------------------------------------------------------------------


@jit
def lay_ahead(weight: int, filters: int, kh: int, kw: int, channels: int, pixel: int, to: int) -> None:
    """Lay [O, kh, kw, C] out in tiles: for 16 filters, for each of kh, (kw, pixel) / 32 of them."""
    tall = filters * kh
    deep = kw * channels if pixel == channels else channels
    many = 1 if pixel == channels else kw
    tiles = _parts(deep, DEEP)
    apart = kh * kw * channels * 2
    for block in range(_parts(filters)):
        rows = min(ROWS, filters - block * ROWS)
        source = weight + block * ROWS * apart
        for k in range(kh * many):
            for q in range(tiles):
                place = source + (k * deep + q * DEEP) * 2
                amx.turned_pairs(place, rows, apart, min(DEEP, deep - q * DEEP), to)
                to += SIZE


@jit
def lay_back(
    weight: int,
    filters: int,
    kh: int,
    kw: int,
    channels: int,
    pixel: int,
    first_i: int,
    step_i: int,
    many_i: int,
    first_j: int,
    step_j: int,
    many_j: int,
    to: int,
) -> None:
    """Lay some taps of [O, kh, kw, C] out for gradients of inputs: 16 of C, sums over (j, O)."""
    deep = many_j * filters if pixel == filters else filters
    many = 1 if pixel == filters else many_j
    size = _parts(deep, DEEP) * DEEP
    apart = kh * kw * channels * 2
    for block in range(_parts(channels)):
        wide = min(ROWS, channels - block * ROWS)
        for m in range(many_i):
            row = weight + (first_i + m * step_i) * kw * channels * 2 + block * ROWS * 2
            for t in range(many):
                for k in range(0, size, 2):
                    one, two = 0, 0
                    if k < deep:
                        j = first_j + (t + k // filters) * step_j
                        one = row + k % filters * apart + j * channels * 2
                    if k + 1 < deep:
                        j = first_j + (t + (k + 1) // filters) * step_j
                        two = row + (k + 1) % filters * apart + j * channels * 2
                    amx.pair(one, two, wide, to)
                    to += 64


# --- forward, and gradients of inputs -----------------------------------------------------------


@jit
def convolved(
    x: int,
    x_image: int,
    x_row: int,
    x_pixel: int,
    n: int,
    height: int,
    width: int,
    channels: int,
    pixel: int,
    top: int,
    left: int,
    weight: int,
    kh: int,
    kw: int,
    sh: int,
    sw: int,
    filters: int,
    out: int,
    out_image: int,
    out_row: int,
    out_pixel: int,
    rows: int,
    columns: int,
    team: Any,
) -> None:
    """Convolve: weights as `lay_ahead` and `lay_back` lay them out; `top` and `left` are padding."""
    tall, across = (rows - 1) * sh + kh, (columns - 1) * sw + kw
    whole = sh == 1 and sw == 1 and columns % ROWS != 0
    length = (rows - 1) * across + columns if whole else columns
    lines = 1 if whole else rows
    each, tiles = _each(length), _parts(length)
    deep, blocks = _parts(kw * pixel, DEEP), _parts(filters)
    row, along = sw * pixel * 2, kh * deep * SIZE
    room = np.zeros(tall * across * pixel + ROWS * sw * pixel + 3 * DEEP, np.uint16)
    base = (room.ctypes.data + 63) // 64 * 64
    sums = np.empty(SUMS * ROWS * ROWS + 16, np.float32)
    to = (sums.ctypes.data + 63) // 64 * 64
    amx.configure(each)
    first, last = share(team, n)
    above, below = max(0, -top), min(height, tall - top)
    before, behind = max(0, -left), min(width, across - left)
    dense = x_pixel == channels * 2 and pixel == channels
    beside = _each(blocks, 3)
    many = lines * tiles
    down = _each(many, SUMS // beside)
    one_line = whole or tiles % down == 0
    if not one_line and (tiles > 1):
        down = min(down, 1) if tiles % 2 else 2
    for image in range(first, last):
        for y in range(above, below):
            place = base + ((y + top) * across + left + before) * pixel * 2
            source = x + image * x_image + y * x_row + before * x_pixel
            if dense:
                amx.copied(source, place, (behind - before) * channels * 2)
            else:
                amx.spread(source, behind - before, x_pixel, channels, place, pixel * 2)
        u = 0
        while u < many:
            high = min(down, many - u)
            here = base + (u // tiles * sh * across + u % tiles * each * sw) * pixel * 2
            step = each * sw * pixel * 2 if tiles > 1 else sh * across * pixel * 2
            for block in range(0, blocks, beside):
                wide = min(beside, blocks - block)
                amx.sums(
                    high,
                    wide,
                    here,
                    row,
                    step,
                    across * pixel * 2,
                    weight + block * along,
                    along,
                    kh,
                    deep,
                    to,
                    64,
                    wide * SIZE,
                    SIZE,
                    0,
                )
                for a in range(high):
                    line, start = (u + a) // tiles, (u + a) % tiles * each
                    end = min(start + each, length)
                    done = start
                    while done < end:
                        y, column = (done // across, done % across) if whole else (line, done)
                        some = min(columns - column, end - done)
                        if some > 0:
                            place = out + image * out_image + y * out_row + column * out_pixel
                            source = to + a * wide * SIZE + (done - start) * 64
                            for b in range(0, wide, 2):
                                left_over = filters - (block + b) * ROWS
                                some_columns = min(left_over, ROWS * min(2, wide - b))
                                amx.sent(
                                    source + b * SIZE,
                                    SIZE,
                                    some,
                                    place + (block + b) * 32,
                                    out_pixel,
                                    some_columns,
                                )
                            done += some
                        else:
                            done += across - column
            u += high
    amx.release()
    _keep(room)
    _keep(sums)


# --- gradients of weights -----------------------------------------------------------------------


@part
def _turn(
    g: int, g_image: int, g_row: int, g_pixel: int, many: int, sizes: Any, filters: int, to: int
) -> None:
    """Write gradients [n, rows, columns, O] as [O, long], rows `across` and images `tall` apart."""
    rows, columns, tall, across, long = sizes
    for k in range(many):
        for y in range(rows):
            place = to + (k * tall + y) * across * 2
            source = g + k * g_image + y * g_row
            for start in range(0, columns, DEEP):
                some = min(DEEP, columns - start)
                for o in range(0, filters, ROWS):
                    amx.turned(
                        source + start * g_pixel + o * 2,
                        some,
                        g_pixel,
                        min(ROWS, filters - o),
                        place + (o * long + start) * 2,
                        long * 2,
                    )


@part
def _pair(
    x: int,
    x_image: int,
    x_row: int,
    x_pixel: int,
    many: int,
    sizes: Any,
    channels: int,
    odd: int,
    to: int,
    block: int,
) -> None:
    """Write pixels in pairs, the first of each at an even place, or at an odd one."""
    rows, columns, tall, across = sizes
    for k in range(many):
        for y in range(rows):
            place = to + (k * tall + y) * across * 32
            source = x + k * x_image + y * x_row
            for c in range(0, channels, ROWS):
                wide = min(ROWS, channels - c)
                if odd:
                    amx.pair(0, source + c * 2, wide, place - 64)
                    amx.paired(source + x_pixel + c * 2, columns - 1, x_pixel, wide, place)
                else:
                    amx.paired(source + c * 2, columns, x_pixel, wide, place)
                place += block


@jit
def weights_back(
    g: int,
    g_image: int,
    g_row: int,
    g_pixel: int,
    x: int,
    x_image: int,
    x_row: int,
    x_pixel: int,
    n: int,
    height: int,
    width: int,
    channels: int,
    rows: int,
    columns: int,
    filters: int,
    kh: int,
    kw: int,
    sh: int,
    sw: int,
    top: int,
    left: int,
    to: int,
    team: Any,
) -> None:
    """Write the gradient of a weight, float32 [O, kh, kw, C], of outputs' gradients and inputs."""
    reach_i, reach_j = max(top, kh - 1 - top) // sh + 1, max(left, kw - 1 - left) // sw + 1
    if kw == 1:
        reach_j = 0
    if kh == 1:
        reach_i = 0
    tall, across = max(rows, _parts(height, sh)) + reach_i, max(columns, _parts(width, sw)) + reach_j
    across += across % 2
    group = min(n, _parts(RUN, tall * across))
    long = _parts(group * tall * across, DEEP) * DEEP
    margin = (reach_i * across + reach_j + 3) // 2 * 2
    each, high, wide = _each(filters), _parts(filters), _parts(channels)
    block = (long + 2 * margin) * 32
    pixels = np.zeros(high * each * long + DEEP, np.uint16)
    pairs = np.zeros((2 * wide * block + 64) // 2, np.uint16)
    of_g = (pixels.ctypes.data + 63) // 64 * 64
    of_x = (pairs.ctypes.data + 63) // 64 * 64 + margin * 32
    room = wide * ROWS * 4
    found = np.zeros(high * each * kh * kw * wide * ROWS, np.float32)
    to_row = kh * kw * room
    amx.configure(each)
    for first in range(0, n, group):
        many = min(group, n - first)
        if many < group:
            pixels[:] = 0
            pairs[:] = 0
        turned = (rows, columns, tall, across, long)
        _turn(g + first * g_image, g_image, g_row, g_pixel, many, turned, filters, of_g)
        for a in range(sh):
            for b in range(sw):
                first_i, first_j = (a + top) % sh, (b + left) % sw
                if first_i >= kh or first_j >= kw or a >= height or b >= width:
                    continue
                if sh * sw > 1:
                    pairs[:] = 0
                some = (_parts(height - a, sh), _parts(width - b, sw), tall, across)
                source = x + first * x_image + a * x_row + b * x_pixel
                many_i, many_j = _parts(kh - first_i, sh), _parts(kw - first_j, sw)
                low_i, low_j = (first_i - top - a) // sh, (first_j - left - b) // sw
                for odd in range(2):
                    if many_j > 1 or odd == low_j % 2:
                        _pair(source, x_image, x_row * sh, x_pixel * sw, many, some, channels, odd, of_x + odd * wide * block, block)
                for parity in range(min(2, many_j)):
                    some_j = _parts(many_j - parity, 2)
                    shift = low_i * across + low_j + parity
                    right = of_x + shift % 2 * wide * block + shift // 2 * 64
                    place = found.ctypes.data + (first_i * kw + first_j + parity * sw) * room
                    counts = (wide, many_i, some_j)
                    steps = (block, across * 32, 64)
                    lands = (64, sh * kw * room, 2 * sw * room)
                    _summed(counts, steps, lands, high, each, long, of_g, right, place, to_row)
    amx.release()
    for k in range(filters * kh * kw):
        amx.copied(found.ctypes.data + k * room, to + k * channels * 4, channels * 4)
    _keep(pixels)
    _keep(pairs)
    _keep(found)


@part
def _summed(
    counts: Any,
    steps: Any,
    lands: Any,
    high: int,
    each: int,
    long: int,
    left: int,
    right: int,
    place: int,
    to_row: int,
) -> None:
    best = 0
    for k in range(1, 3):
        if counts[k] > counts[best]:
            best = k
    down = _each(high, 3 if counts[best] > 1 else SUMS)
    beside = _each(counts[best], SUMS // down)
    one, two = (best + 1) % 3, (best + 2) % 3
    for i in range(counts[one]):
        for j in range(counts[two]):
            for k in range(0, counts[best], beside):
                from_right = right + i * steps[one] + j * steps[two] + k * steps[best]
                to = place + i * lands[one] + j * lands[two] + k * lands[best]
                for o in range(0, high, down):
                    amx.sums(
                        min(down, high - o),
                        min(beside, counts[best] - k),
                        left + o * each * long * 2,
                        long * 2,
                        each * long * 2,
                        0,
                        from_right,
                        steps[best],
                        1,
                        long // DEEP,
                        to + o * each * to_row,
                        to_row,
                        each * to_row,
                        lands[best],
                        1,
                    )
