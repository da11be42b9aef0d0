"""Convolutions of inputs side by side, and their gradients, outside of autograd.

In the processor's tiles where it has them (`netwright.children.tiled`), and there inputs are not
joined; else torch's own.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from netwright.children.compiled import made_for
from netwright.children.joints import LAST, Size
from netwright.children.openmp import ready
from netwright.children.recording import do, hold
from netwright.children.tiled.amx import DEEP, ROWS
from netwright.children.tiled.memory import IMAGE
from netwright.children.tiles import has_tiles

Where = tuple[Size, Size]  # stride, padding

_BACKWARD = torch.ops.aten.convolution_backward.default


@functools.cache
def _able() -> bool:
    """Say whether compiled functions may use the tiles here."""
    return made_for("avx512bw", "avx512vl", "avx512bf16") and has_tiles()


def in_tiles(x: Tensor) -> bool:
    """Return whether images like `x` are convolved in the processor's tiles here."""
    return x.dtype == torch.bfloat16 and _able() and ready()


class Inputs(NamedTuple):
    """What a convolution takes: images [N, c, h, w], padded with zeros to `size`, side by side.

    They are centred; an odd row goes below, an odd column to the right. Where `in_tiles` says no,
    it is one.
    """

    images: tuple[Tensor, ...]
    size: Size


def alone(x: Tensor) -> Inputs:
    """Return the inputs that one of the whole size is."""
    return Inputs((x,), (x.shape[2], x.shape[3]))


def convolved(inputs: Inputs, weight: Tensor, where: Where) -> Tensor:
    """Return them convolved with `weight` [O, C, h, w] of their type, channels last."""
    x = inputs.images[0]
    if not in_tiles(x):
        y: Tensor = torch.convolution(x, weight, None, *where, (1, 1), False, (0, 0), 1)
        return y.contiguous(memory_format=LAST)
    from netwright.children.tiled import ahead, threads, weights

    (sh, sw), (top, left) = where
    filters, channels, kh, kw = weight.shape
    (height, width), n = inputs.size, len(x)
    rows, columns = (height + 2 * top - kh) // sh + 1, (width + 2 * left - kw) // sw + 1
    y = _new((n, filters, rows, columns), x.dtype)
    pixel = weights.held(channels, kw, filters)
    laid, at = _room([(filters, kh, kw * pixel)])
    dense = weight.contiguous(memory_format=LAST)
    do(weights.lay_ahead, dense.data_ptr(), filters, kh, kw, channels, pixel, at[0])
    given = _table(*inputs)
    threads.run(
        ahead.convolved,
        *(*_place(given), n, pixel, top, left, at[0], kh, kw, sh, sw, filters),
        *(*_image(y), rows, columns),
    )
    del laid, given
    return y


def backward(
    g: Tensor, inputs: Inputs, weight: Tensor, where: Where, want: tuple[bool, bool]
) -> tuple[Sequence[Tensor] | None, Tensor | None]:
    """Return the gradients of the inputs and, in their type or wider, of `weight`, where wanted."""
    x = inputs.images[0]
    if not in_tiles(x):
        geometry = (*where, [1, 1], False, [0, 0], 1)
        g_x, g_weight, _ = _BACKWARD(g, x, weight, None, *geometry, [*want, False])
        return None if g_x is None else [g_x], g_weight
    weight = weight.contiguous(memory_format=LAST)
    return (
        _of_inputs(g, inputs, weight, where) if want[0] else None,
        _of_weight(g, inputs, weight, where) if want[1] else None,
    )


def _of_inputs(g: Tensor, inputs: Inputs, weight: Tensor, where: Where) -> list[Tensor]:
    from netwright.children.tiled import ahead, threads, weights

    (sh, sw), (top, left) = where
    (height, width), n = inputs.size, len(g)
    filters, channels, kh, kw = weight.shape
    phases, rooms = [], []
    for a in range(min(sh, height)):
        for b in range(min(sw, width)):
            i, j = (a + top) % sh, (b + left) % sw
            if i < kh and j < kw:
                tall, wide = -(-(kh - i) // sh), -(-(kw - j) // sw)
                pixel = weights.held(filters, wide, channels)
                rooms.append((channels, tall, wide * pixel))
                phases.append((a, b, i, j, tall, wide, pixel))
    laid, places = _room(rooms)
    rows: list[int] = []
    for (a, b, i, j, tall, wide, pixel), place in zip(phases, places, strict=True):
        taps = i + sh * (tall - 1), -sh, tall, j + sw * (wide - 1), -sw, wide
        do(weights.lay_back, weight.data_ptr(), filters, kh, kw, channels, pixel, *taps, place)
        above, before = tall - 1 - (a + top - i) // sh, wide - 1 - (b + left - j) // sw
        rows += (a, b, tall, wide, above, before, place, pixel)
    found = [_new(x.shape, x.dtype) for x in inputs.images]
    if len(phases) < min(sh, height) * min(sw, width):
        for g_x in found:
            do(g_x.zero_)
    of_phases, given = hold(array("q", rows)), _table([g], (g.shape[2], g.shape[3]))
    wanted = _table(found, inputs.size)
    threads.run(
        ahead.inputs_back,
        *(given.buffer_info()[0], *_place(wanted), n, height, width, channels, sh, sw),
        *(of_phases.buffer_info()[0], len(phases)),
    )
    del laid, given, wanted
    return found


def _of_weight(g: Tensor, inputs: Inputs, weight: Tensor, where: Where) -> Tensor:
    from netwright.children.tiled import back, threads

    filters, channels, kh, kw = weight.shape
    found = _new(weight.shape, torch.float32)
    given, shared = _table(*inputs), hold(array("q", [0] * torch.get_num_threads()))
    threads.run(
        back.weights_back,
        *(*_image(g), *_place(given), len(g), *inputs.size, channels),
        *(g.shape[2], g.shape[3], filters, kh, kw, *where[0], *where[1]),
        *(found.data_ptr(), shared.buffer_info()[0]),
    )
    del given
    return found


def _new(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return hold(torch.empty(shape, dtype=dtype, device="cpu", memory_format=LAST))


def _image(x: Tensor) -> tuple[int, int, int, int]:
    """Return the address of images, and the bytes from one to the next, of rows and of pixels."""
    size = x.element_size()
    return x.data_ptr(), x.stride(0) * size, x.stride(2) * size, x.stride(3) * size


def _table(images: Sequence[Tensor], size: Size) -> array[int]:
    """Return what compiled functions take of images that lie side by side in `size`."""
    rows: list[int] = []
    for x in images:
        _, channels, height, width = x.shape
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        rows += (*_image(x), channels, top, left, height, width)
    return hold(array("q", rows))


def _place(table: array[int]) -> tuple[int, int]:
    """Return a table's address and how many it tells of."""
    return table.buffer_info()[0], len(table) // IMAGE


def _room(sizes: Sequence[tuple[int, int, int]]) -> tuple[Tensor, list[int]]:
    """Return memory for tiles of weights (filters, rows, numbers a row), and where each is."""
    starts = [0]
    for filters, rows, deep in sizes:
        starts.append(starts[-1] + -(-filters // ROWS) * rows * -(-deep // DEEP) * ROWS * DEEP * 2)
    room = _new((1, 1, 1, starts[-1] // 2 + DEEP), torch.bfloat16)
    first = -(-room.data_ptr() // 64) * 64
    return room, [first + start for start in starts[:-1]]
