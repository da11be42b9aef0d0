"""Convolves images that end where memory ends that a process may touch; see test_convolutions."""

from __future__ import annotations

import ctypes
import mmap
from random import choice, choices, randint, seed

import numpy as np
import torch
from torch import Tensor

from netwright.children import convolution
from netwright.children.convolution import Inputs, backward, convolved

LAST = torch.channels_last
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_kept: list[mmap.mmap] = []


def guarded(shape: tuple[int, ...], dtype: torch.dtype, at_the_end: bool) -> Tensor:
    """Return zeros, channels last, between two pages that nobody may touch, at one of them."""
    n, c, h, w = shape
    size = n * c * h * w * torch.empty(0, dtype=dtype).element_size()
    page = mmap.PAGESIZE
    whole = -(-size // page) * page
    room = mmap.mmap(-1, whole + 2 * page)
    _kept.append(room)
    base = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for forbidden in (base, base + page + whole):
        assert _libc.mprotect(forbidden, page, 0) == 0
    start = page + (whole - size if at_the_end else 0)
    memory = np.frombuffer(room, np.uint8, size, start)
    return torch.from_numpy(memory).view(dtype).view(n, h, w, c).permute(0, 3, 1, 2)


def filled(shape: tuple[int, ...], at_the_end: bool) -> Tensor:
    return guarded(shape, torch.bfloat16, at_the_end).normal_()


def main() -> None:
    torch.set_num_threads(1)
    seed(0)
    at_the_end = True

    def new(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return guarded(shape, dtype, at_the_end)

    convolution._new = new
    for turn in range(80):
        at_the_end = bool(turn % 2)
        n, h, w = (randint(1, most) for most in (12, 12, 36))
        kh, kw = choices([1, 3, 5, 7], k=2)
        sh, sw = choices([1, 1, 2, 3], k=2)
        filters, smaller = choice([1, 6, 16, 24, 36]), (randint(1, h), randint(1, w))
        channels = choices([1, 3, 16, 36], k=randint(1, 3))
        sizes = [(h, w), *[smaller] * (len(channels) - 1)]
        images = [filled((n, c, *s), at_the_end) for c, s in zip(channels, sizes, strict=True)]
        weight = filled((filters, sum(channels), kh, kw), at_the_end)
        where, inputs = ((sh, sw), (kh // 2, kw // 2)), Inputs(tuple(images), (h, w))
        y = convolved(inputs, weight, where)
        g = filled(tuple(y.shape), at_the_end)
        backward(g, inputs, weight, where, (True, True))
    print("nothing touched")


if __name__ == "__main__":
    main()
