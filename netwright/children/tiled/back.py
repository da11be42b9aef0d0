"""Gradients of weights in tiles.

The sum runs over pixels: outputs' gradients are turned to rows of pixels, inputs are paired, pixel
with pixel, and a tap of the filter is a shift of one against the other. Both lie as if images had
zeros below and to the right, as far as the filter reaches, so that a shift is the same everywhere.
Pairs begin at even pixels; for odd shifts the rows stand there once more, one pixel further.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.compiled import carray, jit, part, pointer
from netwright.children.team import meet, share
from netwright.children.tiled import amx
from netwright.children.tiled.amx import DEEP, HIGH, ROWS, SUMS, WIDE
from netwright.children.tiled.memory import (
    IMAGE,
    aligned,
    each_of,
    gather,
    half,
    in_place,
    keep,
    parts,
    table,
)

RUN = 512  # pixels that are summed over at a time, at least


@part
def _turn(images: Any, many: int, size: Any, apart: Any, to: int) -> None:
    """Write [many, rows, columns, O] as [O, line], rows `across` and images `tall` rows apart.

    images: address and steps. size: rows, columns, O. apart: tall, across, line, and how many
    bytes further they stand once more.
    """
    g, g_image, g_row, g_pixel = images
    rows, columns, filters = size
    tall, across, line, again = apart
    for k in range(many):
        for y in range(rows):
            place = to + (k * tall + y) * across * 2
            source = g + k * g_image + y * g_row
            for x in range(0, columns, DEEP):
                some = min(DEEP, columns - x)
                for o in range(0, filters, ROWS):
                    start, wide = source + x * g_pixel + o * 2, min(ROWS, filters - o)
                    there = place + (o * line + x) * 2
                    amx.turned(start, some, g_pixel, wide, there, line * 2, again)


@part
def _pair(images: Any, many: int, size: Any, apart: Any, to: int) -> None:
    """Write pixels in pairs, 16 channels after 16, `block` bytes apart."""
    x, x_image, x_row, x_pixel = images
    rows, columns, channels = size
    tall, across, block = apart
    for k in range(many):
        for y in range(rows):
            place = to + (k * tall + y) * across * 32
            source = x + k * x_image + y * x_row
            for c in range(0, channels, ROWS):
                amx.paired(source + c * 2, columns, x_pixel, min(ROWS, channels - c), place)
                place += block


@part
def _add_up(
    counts: Any, steps: Any, lands: Any, channels: int, outputs: Any, left: int, right: int, to: int
) -> None:
    """Add to the sums of all taps of a kind, for all blocks of inputs and outputs.

    counts: blocks of inputs, taps down and across; steps and lands: how far apart they are on the
    right, and their sums. outputs: blocks, of how many, and numbers a row of the left; lines of
    pixels, how many pixels lie between two, and how many of each count; and of images and the
    lines between two of those.
    """
    (high, each, line), (lines, across, some), (images, tall) = outputs
    best = 0
    for k in range(1, 3):
        if counts[k] > counts[best]:
            best = k
    down = each_of(high, 3 if counts[best] > 1 else HIGH)
    wide = each_of(counts[best], min(WIDE, SUMS // down))
    for c in range(0, counts[0], wide if best == 0 else 1):
        for i in range(0, counts[1], wide if best == 1 else 1):
            for j in range(0, counts[2], wide if best == 2 else 1):
                at = (c, i, j)
                many = min(wide, counts[best] - at[best])
                beside = many if best == 0 else 1
                halves = half(channels) if c + beside == counts[0] else 0
                halves *= 1 if best == 0 else many
                for o in range(0, high, down):
                    amx.sums(
                        min(down, high - o),
                        many,
                        halves,
                        each,
                        left + o * each * line * 2,
                        line * 2,
                        each * line * 2,
                        across * 2,
                        tall * across * 2,
                        right + c * steps[0] + i * steps[1] + j * steps[2],
                        steps[best],
                        across * 32,
                        tall * across * 32,
                        images,
                        lines,
                        parts(some, 2),
                        to + c * lands[0] + i * lands[1] + j * lands[2] + o * each * 64,
                        each * 64,
                        lands[best],
                        1,
                    )


@part
def _phase(
    first_i: int, first_j: int, low: int, kernel: Any, channels: int, outputs: Any, at: Any
) -> None:
    """Add up for the taps from (first_i, first_j) on that are whole strides apart.

    low: the first one's shift. at: rows of pixels, how far away they stand once more, pairs, their
    blocks' size, pixels a row, and the sums.
    """
    kh, kw, sh, sw = kernel
    of_g, again, of_x, block, across, sums = at
    tap = outputs[0][0] * outputs[0][1] * ROWS * 4
    many_j = parts(kw - first_j, sw)
    for odd in range(min(2, many_j)):
        shift = low + odd
        counts = (parts(channels), parts(kh - first_i, sh), parts(many_j - odd, 2))
        steps, lands = (block, across * 32, 64), (kh * kw * tap, sh * kw * tap, 2 * sw * tap)
        right = of_x + (shift - shift % 2) * 32
        left = of_g + shift % 2 * (again - 2)
        to = sums + (first_i * kw + first_j + odd * sw) * tap
        lines, apart, columns = outputs[1]
        some = outputs[0], (lines, apart, columns + shift % 2), outputs[2]
        _add_up(counts, steps, lands, channels, some, left, right, to)


@part
def _phases(
    images: Any,
    many: int,
    size: Any,
    kernel: Any,
    padding: Any,
    tall: int,
    outputs: Any,
    at: Any,
    pairs: Any,
) -> None:
    """Pair the pixels of each of a stride's places, and add up for the taps that meet them."""
    x, x_image, x_row, x_pixel = images
    height, width, channels = size
    kh, kw, sh, sw = kernel
    top, left = padding
    across, block = at[4], at[3]
    for a in range(min(sh, height)):
        for b in range(min(sw, width)):
            i, j = (a + top) % sh, (b + left) % sw
            if i < kh and j < kw:
                if height % sh or width % sw:  # more pixels may have stood there
                    pairs[:] = 0
                taken = (x + a * x_row + b * x_pixel, x_image, x_row * sh, x_pixel * sw)
                some = (parts(height - a, sh), parts(width - b, sw), channels)
                _pair(taken, many, some, (tall, across, block), at[2])
                low = (i - top - a) // sh * across + (j - left - b) // sw
                _phase(i, j, low, kernel, channels, outputs, at)


@part
def _spaced(size: Any, kernel: Any, padding: Any) -> Any:
    """Return how many rows images are apart, how many pixels rows are, and the most a tap shifts.

    size: height and width of inputs, then of outputs. The last two are even.
    """
    height, width, rows, columns = size
    kh, kw, sh, sw = kernel
    top, left = padding
    reach_i = max(top, kh - 1 - top) // sh + 1 if kh > 1 else 0
    reach_j = max(left, kw - 1 - left) // sw + 1 if kw > 1 else 0
    tall = max(rows, parts(height, sh)) + reach_i
    across = parts(max(columns, parts(width, sw)) + reach_j, 2) * 2
    return tall, across, parts(reach_i * across + reach_j + 2, 2) * 2


@part
def _written(
    shared: int, size: int, filters: int, taps: int, channels: int, tap: int, to: int, team: Any
) -> None:
    """Add all threads' sums, [C / 16, taps, O, 16], and write them as [O, taps, C]."""
    meet(team)
    if team[0] == 0:
        places = table(shared, 1, team[1])[0]
        sums = carray(pointer(places[0]), (size,), np.float32)
        for k in range(1, team[1]):
            more = carray(pointer(places[k]), (size,), np.float32)
            for i in range(size):
                sums[i] += more[i]
        for o in range(filters):
            for k in range(taps):
                for c in range(0, channels, ROWS):
                    source = places[0] + (c // ROWS * taps + k) * tap + o * 64
                    size_c = min(ROWS, channels - c) * 4
                    amx.copied(source, to + ((o * taps + k) * channels + c) * 4, size_c)
    meet(team)


@jit
def weights_back(
    g: int,
    g_image: int,
    g_row: int,
    g_pixel: int,
    inputs: int,
    count: int,
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
    shared: int,
    team: Any,
) -> None:
    """Write the gradient of a weight, float32 [O, kh, kw, C], of outputs' gradients and inputs.

    shared: int64 [threads], for where each thread's sums are.
    """
    kernel, padding = (kh, kw, sh, sw), (top, left)
    tall, across, margin = _spaced((height, width, rows, columns), kernel, padding)
    group = min(n, parts(RUN, tall * across))
    long = parts(group * tall * across, DEEP) * DEEP
    each, high = each_of(filters), parts(filters)
    if not amx.TILES:
        each = parts(each, 2) * 2
    line, block, tap = long + DEEP, (long + 2 * margin) * 32, high * each * ROWS * 4
    again = high * each * line * 2 + 2 if kw > 1 else 0
    given = table(inputs, count, IMAGE)
    direct = in_place(given, height, width)
    pixels = np.zeros(2 * high * each * line + 2 * DEEP, np.uint16)
    pairs = np.zeros(parts(channels) * block // 2 + DEEP, np.uint16)
    whole = np.zeros(0 if direct else group * height * width * channels + DEEP, np.uint16)
    found = np.zeros(parts(channels) * kh * kw * tap // 4 + ROWS, np.float32)
    of_g, of_x, sums = aligned(pixels) + DEEP * 2, aligned(pairs) + margin * 32, aligned(found)
    table(shared, 1, team[1])[0, team[0]] = sums
    outputs = (high, each, line), (1, long, long - 1), (1, 0)
    if not amx.TILES:  # what stands beside and below images is left out
        outputs = (high, each, line), (rows, across, columns), (group, tall)
    begin, end = share(team, parts(n, group))
    amx.configure(each)
    for first in range(begin * group, min(n, end * group), group):
        many = min(group, n - first)
        if many < group:
            pixels[:] = 0
            pairs[:] = 0
        source = (g + first * g_image, g_image, g_row, g_pixel)
        _turn(source, many, (rows, columns, filters), (tall, across, line, again), of_g)
        taken = (given[0, 0] + first * given[0, 1], given[0, 1], given[0, 2], given[0, 3])
        if not direct:
            row = width * channels * 2
            taken = (aligned(whole), height * row, row, channels * 2)
            for k in range(many):
                to_k = taken[0] + k * height * row
                gather(given, first + k, to_k, channels, 0, 0, height, width)
        at = (of_g, again, of_x, block, across, sums)
        size = (height, width, channels)
        _phases(taken, many, size, kernel, padding, tall, outputs, at, pairs)
    amx.release()
    _written(shared, found.size - ROWS, filters, kh * kw, channels, tap, to, team)
    keep(pixels)
    keep(pairs)
    keep(whole)
    keep(found)
