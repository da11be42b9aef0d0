"""Convolutions of inputs side by side, and their gradients, outside of autograd.

In the processor's tiles or vectors of bfloat16 where it has them (`netwright.children.tiled`), and
there inputs are not joined; else torch's own.
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

Where = tuple[Size, Size]  # stride, padding

_BACKWARD = torch.ops.aten.convolution_backward.default


@functools.cache
def _able() -> bool:
    """Say whether compiled functions may multiply bfloat16 here."""
    return made_for("avx512bw", "avx512vl", "avx512bf16")


def in_tiles(x: Tensor) -> bool:
    """Return whether images like `x` are convolved in tiles here, the processor's or of vectors."""
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


class Met(NamedTuple):
    """Indices of the pixels and taps that meet, and stride and padding to convolve those with."""

    pixels: tuple[slice, ...]
    taps: tuple[slice, ...]
    where: Where


def met(x: Tensor, weight: Tensor, where: Where) -> Met | None:
    """Return what of `x` meets what of `weight` where a stride goes no further than one window.

    Where a row has one window, torch's convolution of bfloat16 in tiles takes numbers that are not
    the image's with a stride, and so does its weight's gradient (torch 2.13, oneDNN 3.12). None
    where no stride is as long as the images.
    """
    (strides, paddings), pixels, taps = where, [slice(None)] * 2, [slice(None)] * 2
    stride, padding = list(strides), list(paddings)
    for k in (0, 1):
        size, wide, before = x.shape[2 + k], weight.shape[2 + k], padding[k]
        if size <= stride[k] > 1 and before == wide // 2:
            many = min(size, wide - before)
            pixels[k], taps[k] = slice(many), slice(before, before + many)
            stride[k], padding[k] = 1, 0
    if stride == list(strides):
        return None
    every = slice(None), slice(None)
    found = (stride[0], stride[1]), (padding[0], padding[1])
    return Met((*every, *pixels), (*every, *taps), found)


def convolved(inputs: Inputs, weight: Tensor, where: Where) -> Tensor:
    """Return them convolved with `weight` [O, C, h, w] of their type, channels last."""
    x = inputs.images[0]
    if not in_tiles(x):
        some = met(x, weight, where)
        if some is not None:
            x, weight, where = x[some.pixels], weight[some.taps], some.where
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
        g_x, g_weight = _by_torch(g, x, weight, where, want)
        return None if g_x is None else [g_x], g_weight
    weight = weight.contiguous(memory_format=LAST)
    return (
        _of_inputs(g, inputs, weight, where) if want[0] else None,
        _of_weight(g, inputs, weight, where) if want[1] else None,
    )


def _by_torch(
    g: Tensor, x: Tensor, weight: Tensor, where: Where, want: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    some = met(x, weight, where)
    if some is not None:
        parts = _by_torch(g, x[some.pixels], weight[some.taps], some.where, want)
        return _among_zeros(parts[0], x, some.pixels), _among_zeros(parts[1], weight, some.taps)
    g_x, g_weight, _ = _BACKWARD(
        g, x, weight, None, *where, [1, 1], False, [0, 0], 1, [*want, False]
    )
    return g_x, g_weight


def _among_zeros(part: Tensor | None, like: Tensor, at: tuple[slice, ...]) -> Tensor | None:
    if part is None:
        return None
    found = torch.zeros_like(like)
    found[at] = part
    return found


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
