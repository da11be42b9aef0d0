"""What convolutions in tiles share: sizes, memory to work in, and images that lie side by side.

Inputs, or their gradients, are int64 [K, 9]: of each its address, the bytes from image to image,
row to row and pixel to pixel, its channels, its first row and column in what it is part of, and its
height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.compiled import carray, part, pointer
from netwright.children.tiled import amx
from netwright.children.tiled.amx import ROWS

IMAGE = 9  # numbers that tell of one input


@part
def parts(n: int, most: int = ROWS) -> int:
    """Return how many that hold `most` at most hold n."""
    return -(-n // most)


@part
def each_of(n: int, most: int = ROWS) -> int:
    """Return how many of n are in each of so many, as even as can be."""
    return parts(n, parts(n, most))


@part
def half(n: int) -> int:
    """Return 1 where 8 columns of the last block of 16 hold what is left of n, else 0."""
    return 1 if 0 < n % ROWS <= ROWS // 2 else 0


@part
def aligned(array: Any) -> int:
    """Return the first address in it that a line of the cache begins at."""
    return int(array.ctypes.data + 63) // 64 * 64


@part
def keep(array: Any) -> None:
    """Hold memory that is only known by its address until here."""


@part
def table(address: int, count: int, numbers: int) -> Any:
    """Return int64 [count, numbers] at an address."""
    return carray(pointer(address), (count, numbers), np.int64)


@part
def in_place(inputs: Any, height: int, width: int) -> bool:
    """Return whether they are one, as large as what it is part of."""
    return bool(inputs.shape[0] == 1 and inputs[0, 7] == height and inputs[0, 8] == width)


@part
def gather(
    inputs: Any, image: int, to: int, pixel: int, top: int, left: int, tall: int, across: int
) -> None:
    """Write an image's inputs side by side into [tall, across, pixel], from row `top` on.

    And from column `left` on; what is not inside is left out.
    """
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
def scatter(source: int, channels: int, width: int, image: int, outputs: Any) -> None:
    """Write what lies side by side in dense [H, W, C] into an image of each."""
    for k in range(outputs.shape[0]):
        here = source + (outputs[k, 5] * width + outputs[k, 6]) * channels * 2
        for y in range(outputs[k, 7]):
            place = outputs[k, 0] + image * outputs[k, 1] + y * outputs[k, 2]
            row = here + y * width * channels * 2
            amx.spread(row, outputs[k, 8], channels * 2, outputs[k, 4], place, outputs[k, 3])
        source += outputs[k, 4] * 2
