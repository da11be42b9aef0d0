"""Convolutions in tiles, and the gradients of what they take, which are convolutions too.

A row of the left tile is what an output sees of one image row, kw * C numbers that lie side by
side; so no window is copied, images are only padded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.compiled import jit, part
from netwright.children.team import share
from netwright.children.tiled import amx
from netwright.children.tiled.amx import DEEP, HIGH, ROWS, SIZE, SUMS, WIDE
from netwright.children.tiled.memory import (
    IMAGE,
    aligned,
    each_of,
    gather,
    half,
    in_place,
    keep,
    parts,
    scatter,
    table,
)

PHASE = 8  # numbers of a phase, see `inputs_back`


@part
def _sent(sums: int, many: int, wide: int, lines: Any, filters: int, out: Any) -> None:
    """Write `many` x `wide` tiles of sums, from the tile `lines` tells of on.

    lines: how many tiles a line has, outputs a tile, outputs a line, what a line's rows of outputs
    are apart (0 where they are lines), the first tile, and the first filter. out: address, and
    bytes from row to row and pixel to pixel, and pixels a row.
    """
    tiles, each, length, across, first, block = lines
    to, row, pixel, columns = out
    for a in range(many):
        line, done = (first + a) // tiles, (first + a) % tiles * each
        end = min(done + each, length)
        source = sums + a * wide * SIZE
        while done < end:
            y, x = (done // across, done % across) if across else (line, done)
            some = min(columns - x, end - done)
            if some > 0:
                for b in range(0, wide, 2):
                    start = block + b * ROWS
                    last = min(filters, start + ROWS * min(2, wide - b))
                    place = to + y * row + x * pixel + start * 2
                    amx.sent(source + b * SIZE, SIZE, some, place, pixel, last - start)
            else:
                some = across - x
            source += some * 64
            done += some


@part
def _apart(columns: int, blocks: int) -> bool:
    """Say whether rows of outputs had better follow on one another as one line."""
    if amx.TILES:
        return columns % ROWS != 0
    return each_of(columns) * each_of(blocks, WIDE) < amx.LATENCY


@part
def _outputs(
    base: int, pixel: int, across: int, weight: int, kernel: Any, filters: int, out: Any, sums: int
) -> None:
    """Convolve an image, padded, of `across` pixels a row.

    kernel: its height and width, and strides. out: address, bytes from row to row and pixel to
    pixel, rows and columns. sums: memory for six tiles.
    """
    kh, kw, sh, sw = kernel
    to, out_row, out_pixel, rows, columns = out
    whole = sh == 1 and sw == 1 and _apart(columns, parts(filters))
    length = (rows - 1) * across + columns if whole else columns
    each, tiles = each_of(length), parts(length)
    deep, blocks = parts(kw * pixel, DEEP), parts(filters)
    along = kh * deep * SIZE
    wide = each_of(blocks, WIDE)
    many = tiles if whole else rows * tiles
    high = each_of(many, min(HIGH, SUMS // wide))
    if not whole and tiles > 1 and tiles % high:
        high = 1 if tiles % 2 else 2
    down = (each * sw if tiles > 1 else sh * across) * pixel * 2
    amx.configure(each)
    for block in range(0, blocks, wide):
        for u in range(0, many, high):
            some, beside = min(high, many - u), min(wide, blocks - block)
            amx.sums(
                some,
                beside,
                half(filters) if block + beside == blocks else 0,
                each,
                base + (u // tiles * sh * across + u % tiles * each * sw) * pixel * 2,
                sw * pixel * 2,
                down,
                across * pixel * 2,
                0,
                weight + block * along,
                along,
                deep * SIZE,
                0,
                1,
                kh,
                parts(kw * pixel, 2),
                sums,
                beside * SIZE,
                SIZE,
                0,
            )
            lines = (tiles, each, length, across if whole else 0, u, block * ROWS)
            _sent(sums, some, beside, lines, filters, (to, out_row, out_pixel, columns))


@part
def _room(tall: int, across: int, pixel: int, step: int) -> int:
    """Return how many numbers a padded image takes, with what is read behind its end."""
    return (tall * across + ROWS * step) * pixel + 3 * DEEP


@jit
def convolved(
    inputs: int,
    count: int,
    n: int,
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
    room = np.zeros(_room(tall, across, pixel, sw), np.uint16)
    sums = np.empty(SUMS * ROWS * ROWS + ROWS, np.float32)
    base, kernel = aligned(room), (kh, kw, sh, sw)
    given = table(inputs, count, IMAGE)
    first, last = share(team, n)
    for image in range(first, last):
        gather(given, image, base, pixel, top, left, tall, across)
        place = (out + image * out_image, out_row, out_pixel, rows, columns)
        _outputs(base, pixel, across, weight, kernel, filters, place, aligned(sums))
    if last > first:
        amx.release()
    keep(room)
    keep(sums)


@jit
def inputs_back(
    of_g: int,
    found: int,
    count: int,
    n: int,
    height: int,
    width: int,
    channels: int,
    sh: int,
    sw: int,
    of_phases: int,
    many: int,
    team: Any,
) -> None:
    """Write the gradients of `count` inputs side by side, of outputs' gradients.

    Each pixel of every so many rows and columns has its own taps: phases, int64 [many, 8], hold
    for each its first row and column, how many taps there are down and across, its padding at the
    top and the left, the address of its weights as `lay_back` lays them out, and numbers a pixel.
    """
    g, outputs = table(of_g, 1, IMAGE), table(found, count, IMAGE)
    phases = table(of_phases, many, PHASE)
    most = 0
    for k in range(many):
        tall = parts(height - phases[k, 0], sh) - 1 + phases[k, 2]
        across = parts(width - phases[k, 1], sw) - 1 + phases[k, 3]
        most = max(most, _room(tall, across, phases[k, 7], 1))
    direct = in_place(outputs, height, width)
    room, sums = np.zeros(most, np.uint16), np.empty(SUMS * ROWS * ROWS + ROWS, np.float32)
    whole = np.zeros(0 if direct else height * width * channels + DEEP, np.uint16)
    base, row, pixel = aligned(room), width * channels * 2, channels * 2
    if direct:
        row, pixel = outputs[0, 2], outputs[0, 3]
    first, last = share(team, n)
    for image in range(first, last):
        to = outputs[0, 0] + image * outputs[0, 1] if direct else aligned(whole)
        for k in range(many):
            a, b, kernel = phases[k, 0], phases[k, 1], (phases[k, 2], phases[k, 3], 1, 1)
            rows, columns = parts(height - a, sh), parts(width - b, sw)
            tall, across = rows - 1 + kernel[0], columns - 1 + kernel[1]
            if many > 1:
                room[:] = 0
            gather(g, image, base, phases[k, 7], phases[k, 4], phases[k, 5], tall, across)
            place = (to + a * row + b * pixel, row * sh, pixel * sw, rows, columns)
            weight = phases[k, 6]
            _outputs(base, phases[k, 7], across, weight, kernel, channels, place, aligned(sums))
        if not direct:
            scatter(aligned(whole), channels, width, image, outputs)
    if last > first:
        amx.release()
    keep(room)
    keep(sums)
    keep(whole)
