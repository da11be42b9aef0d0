"""Convolutions of bfloat16 in the processor's tiles, forward and both ways back, compiled.

Images are an address and steps in bytes from image to image, row to row and pixel to pixel;
channels are adjacent. Weights are dense [O, kh, kw, C], of bfloat16.

Forward, a row of the left tile is what an output sees of one image row, kw * C numbers that lie
side by side; so no window is copied, images are only padded. For gradients of weights the sum runs
over pixels: outputs' gradients are turned to rows of pixels, inputs are paired, pixel with pixel,
and a tap of the filter is a shift of one against the other.
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

from netwright.children import amx
from netwright.children.amx import DEEP, ROWS, SIZE, SUMS
from netwright.children.compiled import carray, jit, part, pointer
from netwright.children.openmp import openmp
from netwright.children.team import ALONE, meet, received, share

RUN = 512  # pixels that gradients of weights are summed over at a time, at least


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
def _aligned(array: Any) -> int:
    """The first address in it that a line of the cache begins at."""
    return (array.ctypes.data + 63) // 64 * 64


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


# --- images -------------------------------------------------------------------------------------


@part
def _table(address: int, count: int, numbers: int) -> Any:
    return carray(pointer(address), (count, numbers), np.int64)


@part
def _gather(
    inputs: Any, image: int, to: int, pixel: int, top: int, left: int, tall: int, across: int
) -> None:
    """Write an image's inputs side by side where (top, left) is theirs, what lies outside left out."""
    for k in range(inputs.shape[0]):
        x, channels = inputs[k, 0] + image * inputs[k, 1], inputs[k, 4]
        down, right = top + inputs[k, 5], left + inputs[k, 6]
        before, behind = max(0, -right), min(inputs[k, 8], across - right)
        dense = pixel == channels and inputs[k, 3] == channels * 2
        for y in range(max(0, -down), min(inputs[k, 7], tall - down)):
            source = x + y * inputs[k, 2] + before * inputs[k, 3]
            place = to + ((y + down) * across + right + before) * pixel * 2
            if dense:
                amx.copied(source, place, (behind - before) * channels * 2)
            else:
                amx.spread(source, behind - before, inputs[k, 3], channels, place, pixel * 2)
        to += channels * 2


@part
def _scatter(source: int, channels: int, width: int, image: int, outputs: Any) -> None:
    """Write what lies side by side in dense [H, W, C] apart."""
    for k in range(outputs.shape[0]):
        here = source + (outputs[k, 5] * width + outputs[k, 6]) * channels * 2
        for y in range(outputs[k, 7]):
            place = outputs[k, 0] + image * outputs[k, 1] + y * outputs[k, 2]
            row = here + y * width * channels * 2
            amx.spread(row, outputs[k, 8], channels * 2, outputs[k, 4], place, outputs[k, 3])
        source += outputs[k, 4] * 2


@part
def _in_place(images: Any, height: int, width: int) -> bool:
    """Whether they are one, and as large as what they are part of."""
    return images.shape[0] == 1 and images[0, 7] == height and images[0, 8] == width


# --- forward, and gradients of inputs -----------------------------------------------------------


@part
def _outputs(
    base: int,
    pixel: int,
    across: int,
    weight: int,
    kernel: Any,
    filters: int,
    out: int,
    out_row: int,
    out_pixel: int,
    rows: int,
    columns: int,
    sums: int,
) -> None:
    """Convolve an image, padded, rows of `across` pixels; `sums` is memory for six tiles."""
    kh, kw, sh, sw = kernel
    whole = sh == 1 and sw == 1 and columns % ROWS != 0
    length = (rows - 1) * across + columns if whole else columns
    each, tiles = _each(length), _parts(length)
    deep, blocks = _parts(kw * pixel, DEEP), _parts(filters)
    row, along = sw * pixel * 2, kh * deep * SIZE
    beside = _each(blocks, 3)
    many = tiles if whole else rows * tiles
    down = _each(many, SUMS // beside)
    if not whole and tiles > 1 and tiles % down != 0:
        down = 1 if tiles % 2 else 2
    step = (each * sw if tiles > 1 else sh * across) * pixel * 2
    amx.configure(each)
    for block in range(0, blocks, beside):
        wide = min(beside, blocks - block)
        right = weight + block * along
        for u in range(0, many, down):
            high = min(down, many - u)
            here = base + (u // tiles * sh * across + u % tiles * each * sw) * pixel * 2
            amx.sums(
                high,
                wide,
                here,
                row,
                step,
                across * pixel * 2,
                right,
                along,
                kh,
                deep,
                sums,
                64,
                wide * SIZE,
                SIZE,
                0,
            )
            for a in range(high):
                line, done = (u + a) // tiles, (u + a) % tiles * each
                end = min(done + each, length)
                source = sums + a * wide * SIZE
                while done < end:
                    y, column = (done // across, done % across) if whole else (line, done)
                    some = min(columns - column, end - done)
                    if some > 0:
                        place = out + y * out_row + column * out_pixel
                        for b in range(0, wide, 2):
                            first = (block + b) * ROWS
                            last = min(filters, first + ROWS * min(2, wide - b))
                            place_b = place + first * 2
                            amx.sent(
                                source + b * SIZE, SIZE, some, place_b, out_pixel, last - first
                            )
                    else:
                        some = across - column
                    source += some * 64
                    done += some


@jit
def convolved(
    inputs: int,
    count: int,
    n: int,
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
    """Convolve `count` inputs side by side; weights are as `lay_ahead` lays them out."""
    tall, across = (rows - 1) * sh + kh, (columns - 1) * sw + kw
    room = np.zeros((tall * across + ROWS * sw) * pixel + 3 * DEEP, np.uint16)
    sums = np.empty(SUMS * ROWS * ROWS + 16, np.float32)
    base, of_sums = _aligned(room), _aligned(sums)
    given = _table(inputs, count, 9)
    first, last = share(team, n)
    for image in range(first, last):
        _gather(given, image, base, pixel, top, left, tall, across)
        place, kernel = out + image * out_image, (kh, kw, sh, sw)
        _outputs(
            base,
            pixel,
            across,
            weight,
            kernel,
            filters,
            place,
            out_row,
            out_pixel,
            rows,
            columns,
            of_sums,
        )
    if last > first:
        amx.release()
    _keep(room)
    _keep(sums)


@jit
def inputs_back(
    of_g: int,
    found: int,
    count: int,
    n: int,
    height: int,
    width: int,
    channels: int,
    filters: int,
    sh: int,
    sw: int,
    of_phases: int,
    many: int,
    team: Any,
) -> None:
    """Write the gradients of `count` inputs side by side, of outputs' gradients.

    Each pixel of every so many rows and columns has its own taps: phases, int64 [many, 8], hold
    for each its first row and column, how many taps there are down and across, its padding at the
    top and the left, the weights as `lay_back` lays them out, and numbers a pixel.
    """
    g, outputs, phases = _table(of_g, 1, 9), _table(found, count, 9), _table(of_phases, many, 8)
    direct = _in_place(outputs, height, width)
    largest = 0
    for k in range(many):
        tall = _parts(height - phases[k, 0], sh) - 1 + phases[k, 2]
        across = _parts(width - phases[k, 1], sw) - 1 + phases[k, 3]
        largest = max(largest, (tall * across + ROWS) * phases[k, 7])
    room = np.zeros(largest + 3 * DEEP, np.uint16)
    sums = np.empty(SUMS * ROWS * ROWS + 16, np.float32)
    whole = np.zeros(0 if direct else height * width * channels + DEEP, np.uint16)
    base, of_sums, of_whole = _aligned(room), _aligned(sums), _aligned(whole)
    row, pixel = width * channels * 2, channels * 2
    if direct:
        row, pixel = outputs[0, 2], outputs[0, 3]
    first, last = share(team, n)
    for image in range(first, last):
        to = outputs[0, 0] + image * outputs[0, 1] if direct else of_whole
        for k in range(many):
            a, b, kh, kw = phases[k, 0], phases[k, 1], phases[k, 2], phases[k, 3]
            top, left, weight, held_by = phases[k, 4], phases[k, 5], phases[k, 6], phases[k, 7]
            rows, columns = _parts(height - a, sh), _parts(width - b, sw)
            if many > 1:
                room[:] = 0
            across = columns - 1 + kw
            _gather(g, image, base, held_by, top, left, rows - 1 + kh, across)
            _outputs(
                base,
                held_by,
                across,
                weight,
                (kh, kw, 1, 1),
                channels,
                to + a * row + b * pixel,
                row * sh,
                pixel * sw,
                rows,
                columns,
                of_sums,
            )
        if not direct:
            _scatter(of_whole, channels, width, image, outputs)
    if last > first:
        amx.release()
    _keep(room)
    _keep(sums)
    _keep(whole)


# --- gradients of weights -----------------------------------------------------------------------


@part
def _turn(
    g: int,
    g_image: int,
    g_row: int,
    g_pixel: int,
    many: int,
    sizes: Any,
    filters: int,
    to: int,
    again: int,
) -> None:
    """Write gradients [n, rows, columns, O] as [O, line], rows `across` and images `tall` apart.

    And once more, `again` bytes behind, where that is not 0.
    """
    rows, columns, tall, across, line = sizes
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
                        place + (o * line + start) * 2,
                        line * 2,
                        again,
                    )


@part
def _pair(images: Any, many: int, sizes: Any, channels: int, to: int, block: int) -> None:
    """Write pixels in pairs, 16 channels after 16, `block` bytes apart."""
    x, x_image, x_row, x_pixel = images
    rows, columns, tall, across = sizes
    for k in range(many):
        for y in range(rows):
            place = to + (k * tall + y) * across * 32
            source = x + k * x_image + y * x_row
            for c in range(0, channels, ROWS):
                amx.paired(source + c * 2, columns, x_pixel, min(ROWS, channels - c), place)
                place += block


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
    reach_i = max(top, kh - 1 - top) // sh + 1 if kh > 1 else 0
    reach_j = max(left, kw - 1 - left) // sw + 1 if kw > 1 else 0
    tall = max(rows, _parts(height, sh)) + reach_i
    across = _parts(max(columns, _parts(width, sw)) + reach_j, 2) * 2
    group = min(n, _parts(RUN, tall * across))
    long = _parts(group * tall * across, DEEP) * DEEP
    margin = _parts(reach_i * across + reach_j + 2, 2) * 2
    each, high, wide = _each(filters), _parts(filters), _parts(channels)
    block = (long + 2 * margin) * 32
    given = _table(inputs, count, 9)
    direct = _in_place(given, height, width)
    line = long + DEEP
    again = high * each * line * 2 + 2 if kw > 1 else 0
    pixels = np.zeros(2 * high * each * line + 2 * DEEP, np.uint16)
    pairs = np.zeros(wide * block + DEEP, np.uint16)
    whole = np.zeros(0 if direct else group * height * width * channels + DEEP, np.uint16)
    tap = high * each * ROWS * 4
    found = np.zeros(high * each * kh * kw * wide * ROWS + ROWS, np.float32)
    of_g, of_x, of_found = _aligned(pixels) + DEEP * 2, _aligned(pairs) + margin * 32, _aligned(found)
    _table(shared, 1, team[1])[0, team[0]] = of_found
    first_group, last_group = share(team, _parts(n, group))
    amx.configure(each)
    for first in range(first_group * group, min(n, last_group * group), group):
        many = min(group, n - first)
        if many < group:
            pixels[:] = 0
            pairs[:] = 0
        sizes = (rows, columns, tall, across, line)
        _turn(g + first * g_image, g_image, g_row, g_pixel, many, sizes, filters, of_g, again)
        x = given[0, 0] + first * given[0, 1]
        x_image, x_row, x_pixel = given[0, 1], given[0, 2], given[0, 3]
        if not direct:
            x, x_pixel = _aligned(whole), channels * 2
            x_row = width * x_pixel
            x_image = height * x_row
            for k in range(many):
                _gather(given, first + k, x + k * x_image, channels, 0, 0, height, width)
        for a in range(min(sh, height)):
            for b in range(min(sw, width)):
                first_i, first_j = (a + top) % sh, (b + left) % sw
                if first_i >= kh or first_j >= kw:
                    continue
                if sh * sw > 1:
                    pairs[:] = 0
                some = (_parts(height - a, sh), _parts(width - b, sw), tall, across)
                source = (x + a * x_row + b * x_pixel, x_image, x_row * sh, x_pixel * sw)
                many_i, many_j = _parts(kh - first_i, sh), _parts(kw - first_j, sw)
                low_i, low_j = (first_i - top - a) // sh, (first_j - left - b) // sw
                _pair(source, many, some, channels, of_x, block)
                for parity in range(min(2, many_j)):
                    some_j = _parts(many_j - parity, 2)
                    shift = low_i * across + low_j + parity
                    right = of_x + (shift - shift % 2) * 32
                    tiles = of_g + shift % 2 * (again - 2)
                    place = of_found + (first_i * kw + first_j + parity * sw) * tap
                    counts = (wide, many_i, some_j)
                    steps = (block, across * 32, 64)
                    lands = (kh * kw * tap, sh * kw * tap, 2 * sw * tap)
                    _summed(counts, steps, lands, (high, each, long, line), tiles, right, place)
    amx.release()
    meet(team)
    if team[0] == 0:
        sums = carray(pointer(of_found), (found.size - ROWS,), np.float32)
        for k in range(1, team[1]):
            more = carray(pointer(_table(shared, 1, team[1])[0, k]), sums.shape, np.float32)
            for i in range(sums.size):
                sums[i] += more[i]
        for k in range(filters * kh * kw):
            for c in range(0, channels, ROWS):
                source = of_found + (c // ROWS * kh * kw + k % (kh * kw)) * tap + k // (kh * kw) * 64
                size = min(ROWS, channels - c) * 4
                amx.copied(source, to + (k * channels + c) * 4, size)
    meet(team)
    _keep(pixels)
    _keep(pairs)
    _keep(whole)
    _keep(found)


@part
def _summed(
    counts: Any,
    steps: Any,
    lands: Any,
    outputs: Any,
    left: int,
    right: int,
    place: int,
) -> None:
    """Add up, tap by tap, for all blocks of inputs and outputs (how many, of how many, pixels)."""
    high, each, long, line = outputs
    best = 0
    for k in range(1, 3):
        if counts[k] > counts[best]:
            best = k
    down = _each(high, 3 if counts[best] > 1 else SUMS)
    beside = _each(counts[best], SUMS // down)
    by_c, by_i, by_j = (beside if best == 0 else 1), (beside if best == 1 else 1), (beside if best == 2 else 1)
    for c in range(0, counts[0], by_c):
        for i in range(0, counts[1], by_i):
            for j in range(0, counts[2], by_j):
                at = c if best == 0 else (i if best == 1 else j)
                wide = min(beside, counts[best] - at)
                from_right = right + c * steps[0] + i * steps[1] + j * steps[2]
                to = place + c * lands[0] + i * lands[1] + j * lands[2]
                for o in range(0, high, down):
                    amx.sums(
                        min(down, high - o),
                        wide,
                        left + o * each * line * 2,
                        line * 2,
                        each * line * 2,
                        0,
                        from_right,
                        steps[best],
                        1,
                        long // DEEP,
                        to + o * each * 64,
                        64,
                        each * 64,
                        lands[best],
                        1,
                    )


# --- in threads ---------------------------------------------------------------------------------

_MOST = 21  # numbers that one takes
_first: Any = to_fixed_tuple


def run(what: Callable[..., None], *numbers: int) -> None:
    """Run one of them, in all of torch's threads."""
    threads = torch.get_num_threads()
    library = openmp() if threads > 1 else None
    if library is None:
        what(*numbers, ALONE)
    else:
        which = (convolved, inputs_back, weights_back).index(what)
        library.run(_any_of_them().address, (which, *numbers), threads)


@functools.cache
def _any_of_them() -> Any:
    """A C function that runs the one whose number it is given."""

    def body(data: Any) -> None:
        team, given = received(data, 1 + _MOST)
        which, numbers = given[0], given[1:]
        if which == 0:
            convolved(*_first(numbers, 19), team)  # type: ignore[call-arg]
        elif which == 1:
            inputs_back(*_first(numbers, 12), team)  # type: ignore[call-arg]
        else:
            weights_back(*_first(numbers, 21), team)  # type: ignore[call-arg]

    return numba.cfunc(types.void(types.voidptr), cache=True)(body)
