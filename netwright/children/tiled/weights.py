"""A convolution's weights in tiles of the right: pairs of rows of the product's sum."""

from __future__ import annotations

from netwright.children.compiled import jit
from netwright.children.tiled import amx
from netwright.children.tiled.amx import DEEP, ROWS, SIZE
from netwright.children.tiled.memory import parts


@jit
def held(channels: int, kw: int, filters: int) -> int:
    """Return how many numbers a padded pixel takes: its channels, or lines of the cache.

    Rows of a tile that lie across two lines are read slowly, some 40 cycles a tile (measured);
    whole lines for a pixel are more to multiply, 16 cycles a tile.
    """
    if not amx.TILES:
        return channels
    whole = parts(channels, DEEP) * DEEP
    products = 16 * min(3, parts(filters))
    within = 64
    while channels * 2 % within:
        within //= 2
    read = 8 + 32 * (1 - within / 64)  # 1 - within / 64 of the rows lie across
    dense = parts(kw * channels, DEEP) * max(products, read)
    return channels if dense <= parts(kw * whole, DEEP) * products else whole


@jit
def lay_ahead(
    weight: int, filters: int, kh: int, kw: int, channels: int, pixel: int, to: int
) -> None:
    """Lay [O, kh, kw, C] out: for 16 filters, for each of kh, tiles of kw pixels' numbers."""
    deep = kw * channels if pixel == channels else channels
    rows = kh if pixel == channels else kh * kw
    apart = kh * kw * channels * 2
    for block in range(0, filters, ROWS):
        source = weight + block * apart
        for k in range(rows):
            for q in range(0, deep, DEEP):
                many, wide = min(ROWS, filters - block), min(DEEP, deep - q)
                amx.turned_pairs(source + (k * deep + q) * 2, many, apart, wide, to)
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
    """Lay some taps of [O, kh, kw, C] out for gradients of inputs: C are filters, O channels."""
    deep = many_j * filters if pixel == filters else filters
    rows = 1 if pixel == filters else many_j
    apart = kh * kw * channels * 2
    for block in range(0, channels, ROWS):
        wide = min(ROWS, channels - block)
        for m in range(many_i):
            row = weight + ((first_i + m * step_i) * kw * channels + block) * 2
            for t in range(rows):
                for k in range(0, parts(deep, DEEP) * DEEP, 2):
                    one, two = 0, 0
                    if k < deep:
                        j = first_j + (t + k // filters) * step_j
                        one = row + k % filters * apart + j * channels * 2
                    if k + 1 < deep:
                        j = first_j + (t + (k + 1) // filters) * step_j
                        two = row + (k + 1) % filters * apart + j * channels * 2
                    amx.pair(one, two, wide, to)
                    to += 64
