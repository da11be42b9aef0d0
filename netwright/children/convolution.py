"""A convolution and its gradients: in the processor's tiles where it has them, else torch's own."""

from __future__ import annotations

import functools

import numba
import torch
from torch import Tensor

from netwright.children.amx import DEEP, ROWS
from netwright.children.tiles import has_tiles

Size = tuple[int, int]
Where = tuple[Size, Size]  # stride, padding

LAST = torch.channels_last
_BACKWARD = torch.ops.aten.convolution_backward.default
_ALONE = (0, 1, 0)


@functools.cache
def _able() -> bool:
    """Say whether compiled functions may use the tiles here."""
    free = not (numba.config.CPU_NAME or numba.config.CPU_FEATURES)  # type: ignore[attr-defined]
    return free and has_tiles()


def _in_tiles(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and torch.get_num_threads() == 1 and _able()


def convolved(x: Tensor, weight: Tensor, where: Where) -> Tensor:
    """Return `x` [N, C, H, W] convolved with `weight` [O, C, h, w] of its type, channels last."""
    if not _in_tiles(x):
        y: Tensor = torch.convolution(x, weight, None, *where, (1, 1), False, (0, 0), 1)
        return y.contiguous(memory_format=LAST)
    from netwright.children import tiled

    (sh, sw), (top, left) = where
    n, channels, height, width = x.shape
    filters, _, kh, kw = weight.shape
    rows, columns = (height + 2 * top - kh) // sh + 1, (width + 2 * left - kw) // sw + 1
    y = _new(x, (n, filters, rows, columns))
    pixel = tiled.held(channels, kw, filters)
    laid, at = _room(filters, kh, kw * pixel)
    tiled.lay_ahead(_dense(weight).data_ptr(), filters, kh, kw, channels, pixel, at)
    tiled.convolved(
        *_image(x), n, height, width, channels, pixel, top, left,
        at, kh, kw, sh, sw, filters,
        *_image(y), rows, columns, _ALONE,
    )
    del laid
    return y


def backward(
    g: Tensor, x: Tensor, weight: Tensor, where: Where, want: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `x` and, in float32 or wider, of `weight`, those that are wanted."""
    if not _in_tiles(x):
        geometry = (*where, [1, 1], False, [0, 0], 1)
        g_x, g_weight, _ = _BACKWARD(g, x, weight, None, *geometry, [*want, False])
        return g_x, g_weight
    return (
        _of_input(g, x, weight, where) if want[0] else None,
        _of_weight(g, x, weight, where) if want[1] else None,
    )


def _of_input(g: Tensor, x: Tensor, weight: Tensor, where: Where) -> Tensor:
    from netwright.children import tiled

    (sh, sw), (top, left) = where
    n, channels, height, width = x.shape
    filters, _, kh, kw = weight.shape
    g_x = _new(x, x.shape)
    if (kh < sh) or (kw < sw):
        g_x.zero_()
    weight = _dense(weight)
    address, image, row, column = _image(g_x)
    for a in range(min(sh, height)):
        for b in range(min(sw, width)):
            i, j = (a + top) % sh, (b + left) % sw
            if i >= kh or j >= kw:
                continue
            tall, wide = -(-(kh - i) // sh), -(-(kw - j) // sw)
            pixel = tiled.held(filters, wide, channels)
            laid, at = _room(channels, tall, wide * pixel)
            last_i, last_j = i + sh * (tall - 1), j + sw * (wide - 1)
            taps = last_i, -sh, tall, last_j, -sw, wide
            tiled.lay_back(weight.data_ptr(), filters, kh, kw, channels, pixel, *taps, at)
            tiled.convolved(
                *_image(g), n, g.shape[2], g.shape[3], filters, pixel,
                tall - 1 - (a + top - i) // sh, wide - 1 - (b + left - j) // sw,
                at, tall, wide, 1, 1, channels,
                address + a * row + b * column, image, row * sh, column * sw,
                -(-(height - a) // sh), -(-(width - b) // sw), _ALONE,
            )
            del laid
    return g_x


def _of_weight(g: Tensor, x: Tensor, weight: Tensor, where: Where) -> Tensor:
    from netwright.children import tiled

    n, channels, height, width = x.shape
    filters, _, kh, kw = weight.shape
    found = torch.empty(weight.shape, memory_format=LAST)
    tiled.weights_back(
        *_image(g), *_image(x), n, height, width, channels, g.shape[2], g.shape[3],
        filters, kh, kw, *where[0], *where[1], found.data_ptr(), _ALONE,
    )
    return found


def _new(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, memory_format=LAST)


def _dense(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=LAST)


def _image(x: Tensor) -> tuple[int, int, int, int]:
    """Return the address of images, and the bytes from one to the next, of rows and of pixels."""
    size = x.element_size()
    return x.data_ptr(), x.stride(0) * size, x.stride(2) * size, x.stride(3) * size


def _room(filters: int, kh: int, deep: int) -> tuple[Tensor, int]:
    """Return memory for weights laid out in tiles, and where in it they begin."""
    tiles = -(-filters // ROWS) * kh * -(-deep // DEEP)
    room = torch.empty((tiles + 1) * ROWS * DEEP, dtype=torch.bfloat16)
    return room, -(-room.data_ptr() // 64) * 64
