"""Products of bfloat16 in the processor's tiles (AMX), in machine code of one size.

A tile is 16 rows of 64 bytes: 16 x 32 numbers of bfloat16, or sums of 16 x 16 in float32. Weights
are laid out in tiles whose rows hold two of theirs, number by number by turns.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct
import sys
from collections.abc import Sequence
from typing import Any

import torch
from llvmlite import binding, ir  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import pad

from netwright.children.aligned import TILE
from netwright.children.native import BYTES, FLOAT, WORD, Writer

ROWS = 16  # of a tile, and the least that a product has
_SIZE = ROWS * BYTES
_BYTE = ir.IntType(8)
_ARCH_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18  # Linux's, for x86-64


@functools.cache
def has_tiles() -> bool:
    """Say whether the processor multiplies bfloat16 in tiles, and Linux lets this process."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    features = binding.get_host_cpu_features()
    if not all(features.get(name) for name in ("amx-tile", "amx-bf16", "avx512f")):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK, _TILE_DATA) == 0)


def whole(columns: int) -> int:
    """Return the columns of as many whole tiles as hold these."""
    return -(-columns // TILE) * TILE


class Tiles:
    """Writes the instructions; tiles are numbered from 0 to 7."""

    def __init__(self, w: Writer) -> None:
        self._w = w

    def _call(self, name: str, takes: Sequence[Any]) -> None:
        name = f"llvm.x86.{name}"
        function = self._w.function.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in takes])
            function = ir.Function(self._w.function.module, kind, name)
        self._w.builder.call(function, takes)

    def _place(self, address: Any) -> Any:
        return self._w.builder.inttoptr(address, _BYTE.as_pointer())

    def begin(self) -> None:
        """Make eight tiles of this thread's; `end` must follow."""
        module, name = self._w.function.module, "tiles"
        held = module.globals.get(name)
        if held is None:
            shape = struct.pack("=2B14x8H16x8B8x", 1, 0, *[BYTES] * 8, *[ROWS] * 8)
            kind = ir.ArrayType(_BYTE, len(shape))
            held = ir.GlobalVariable(module, kind, name)
            held.global_constant, held.align = True, BYTES
            held.initializer = ir.Constant(kind, bytearray(shape))
        self._call("ldtilecfg", [self._w.builder.bitcast(held, _BYTE.as_pointer())])

    def end(self) -> None:
        """Leave no tiles."""
        self._call("tilerelease", [])

    def clear(self, tile: int) -> None:
        """Fill a tile with zeros."""
        self._call("tilezero", [_BYTE(tile)])

    def read(self, tile: int, address: Any, row: int) -> None:
        """Read a tile whose rows are so many bytes apart."""
        self._call("tileloadd64", [_BYTE(tile), self._place(address), WORD(row)])

    def write(self, tile: int, address: Any, row: int) -> None:
        """Write a tile."""
        self._call("tilestored64", [_BYTE(tile), self._place(address), WORD(row)])

    def multiply(self, to: int, a: int, b: int) -> None:
        """Add a @ b to a tile of sums."""
        self._call("tdpbf16ps", [_BYTE(to), _BYTE(a), _BYTE(b)])


def tile_product(module: Any, name: str, length: int, across: int, apart: int) -> None:
    """Write a function (a, weight, out, rows, count): out = a @ weight, a [rows, whole(length)].

    a: bfloat16, dense. weight: `count` times [whole(length), 16] as `laid_tiles` lays it out. out:
    float32, rows of `across` numbers, each 16 columns `apart` numbers after the last. `rows` must
    be `ROWS` or more; where they do not come out even, some are worked out twice.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 5), name)
    w = Writer(function, FLOAT)
    tiles, deep = Tiles(w), whole(length) // TILE
    row = deep * BYTES
    a, weight, out, rows, count = function.args
    latest = w.builder.sub(rows, WORD(ROWS))

    def pair(k: Any) -> None:
        starts = []
        for i in range(2):
            start = w.add(w.times(k, 2 * ROWS), i * ROWS)
            starts.append(w.builder.select(w.less(latest, start), latest, start))

        def columns(first: Any, wide: int) -> None:
            for i in range(2 * wide):
                tiles.clear(i)

            def term(_: Any, x: Any, y: Any) -> list[Any]:
                for j in range(wide):
                    tiles.read(6 + j, w.add(y, j * deep * _SIZE), BYTES)
                for i, start in enumerate(starts):
                    tiles.read(4 + i, w.add(x, w.times(start, row)), row)
                    for j in range(wide):
                        tiles.multiply(i * wide + j, 4 + i, 6 + j)
                return [w.add(x, BYTES), w.add(y, _SIZE)]

            w.loop(0, deep, term, [a, w.add(weight, w.times(first, deep * _SIZE))])
            for i, start in enumerate(starts):
                for j in range(wide):
                    place = w.add(w.times(start, across), w.times(w.add(first, j), apart))
                    tiles.write(i * wide + j, w.add(out, w.times(place, 4)), across * 4)

        twos = w.builder.sdiv(count, WORD(2))
        w.loop(0, twos, lambda j: columns(w.times(j, 2), 2))
        w.loop(w.times(twos, 2), count, lambda j: columns(j, 1))

    w.loop(0, w.builder.sdiv(w.add(rows, 2 * ROWS - 1), WORD(2 * ROWS)), pair)
    w.builder.ret_void()


def laid_ahead(weight: Tensor, base: int) -> Tensor:
    """Return weights [B * H, K] in tiles for a @ weight.t(): for 16 units of H at a time, by leaf."""
    units, length = len(weight) // base, weight.shape[1]
    held = pad(
        weight.to(torch.bfloat16).view(base, units, length),
        (0, -length % TILE, 0, -units % ROWS),
    )
    pairs = held.view(torch.int32).view(base, -1, ROWS, whole(length) // 2)
    return pairs.permute(1, 0, 3, 2).contiguous()


def laid_back(weight: Tensor) -> Tensor:
    """Return weights [K, H] in tiles for a @ weight, for 16 units at a time."""
    rows, units = weight.shape
    held = pad(weight.to(torch.bfloat16), (0, -units % ROWS, 0, -rows % TILE))
    return held.view(len(held) // 2, 2, -1, ROWS).permute(2, 0, 3, 1).contiguous()
