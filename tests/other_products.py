"""Convolves, and runs cells, by products that this processor would not choose: test_convolutions.

vectors: also where it has tiles. tiles: also where it has none, their instructions done here.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]

from netwright.children import compiled

NAMES = ["ldtilecfg", "tilerelease", "tilezero", "tileloadd64", "tilestored64", "tdpbf16ps"]
CASES = [  # size, channels of inputs side by side, filters, kernel, stride
    ((9, 7), (3, 17), 24, (3, 5), (1, 1)),
    ((6, 16), (40,), 36, (1, 3), (1, 1)),
    ((8, 12), (16, 5), 33, (3, 3), (2, 1)),
    ((3, 35), (36,), 4, (7, 1), (2, 3)),
    ((4, 4), (8,), 8, (3, 3), (1, 1)),
]
_WORD = ir.IntType(64)
_rows = [0] * 8
_tiles = np.zeros((8, 16, 64), np.uint8)


def _line(address: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * 64).from_address(address))


def _wide(numbers: Any) -> Any:
    """Return pairs of bfloat16 of a tile as float32, [rows, 16, 2]."""
    halves = numbers.view(np.uint16).astype(np.uint32) << 16
    return halves.view(np.float32).reshape(-1, 16, 2)


def _done(what: int, one: int, two: int, three: int) -> None:
    """Do what the instruction of that name does."""
    name = NAMES[what]
    if name == "ldtilecfg":
        _rows[:] = _line(one)[48:56].tolist()
    elif name == "tilezero":
        _tiles[one] = 0
    elif name == "tileloadd64":
        for r in range(_rows[one]):
            _tiles[one, r] = _line(two + r * three)
    elif name == "tilestored64":
        for r in range(_rows[one]):
            _line(two + r * three)[:] = _tiles[one, r]
    elif name == "tdpbf16ps":
        rows = _rows[one]
        products = np.einsum("mkp,knp->mn", _wide(_tiles[two, :rows]), _wide(_tiles[three]))
        _tiles[one].view(np.float32)[:rows] += products


_CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(_done)


def _called(builder: Any, name: str, *takes: Any) -> None:
    """Write a call of what does the instruction here."""
    words = [_WORD(NAMES.index(name))]
    for value in takes:
        pointer = isinstance(value.type, ir.PointerType)
        words.append((builder.ptrtoint if pointer else builder.zext)(value, _WORD))
    words += [_WORD(0)] * (4 - len(words))
    kind = ir.FunctionType(ir.VoidType(), [_WORD] * 4)
    address = ctypes.cast(_CALL, ctypes.c_void_p).value
    builder.call(builder.inttoptr(_WORD(address), kind.as_pointer()), words)


def _cells() -> None:
    """Compare layers of cells whose products are made so with plain ones."""
    from netwright.children.tiles import fit
    from tests import test_recurrent as tests

    for sizes in ((20, 20), (35, 17)):
        assert fit(sizes)
        exact, found = (
            tests._small_gradients(tests.SMOOTH, kind, sizes, True, 3, fast, 40, 33)
            for kind, fast in ((torch.float64, False), (torch.bfloat16, True))
        )
        for a, b in zip(exact, found, strict=True):
            assert float((b.double() - a).norm()) <= 0.01 * float(a.norm())


def main(which: str) -> None:
    compiled.has_tiles = lambda: which == "tiles"  # type: ignore[assignment]
    compiled._sources.cache_clear()
    from netwright.children.tiled import amx

    if which == "tiles":
        amx.tile = _called
    from netwright.children.convolution import Inputs, in_tiles
    from tests import test_convolutions as tests

    torch.set_num_threads(1)
    _cells()
    torch.manual_seed(0)
    for size, channels, filters, kernel, stride in CASES:
        inputs = Inputs(tuple(tests._images(3, c, *size) for c in channels), size)
        weight = (torch.randn(filters, sum(channels), *kernel) / 8).bfloat16()
        where = stride, (kernel[0] // 2, kernel[1] // 2)
        g = tests._gradient(inputs, weight, where)
        assert in_tiles(g)
        wanted = tests._by_torch(inputs, weight, where, g)
        for one, other in zip(tests._ours(inputs, weight, where, g), wanted, strict=True):
            most = float(other.abs().max())
            assert float((one.float() - other).abs().max()) <= tests.BOUND * most, (size, channels)
    print(f"{len(CASES)} cases in {which}, TILES {amx.TILES}, rows of tiles {_rows}")


if __name__ == "__main__":
    main(sys.argv[1])
