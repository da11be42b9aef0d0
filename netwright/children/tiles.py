"""Products of bfloat16 in the processor's tiles (AMX) or vectors, in machine code of one size.

A tile is 16 rows of 64 bytes: 16 x 32 numbers of bfloat16, or sums of 16 x 16 in float32. Weights
are laid out in tiles whose rows hold two of theirs, number by number by turns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from llvmlite import ir  # type: ignore[import-untyped]
from torch import Tensor

from netwright.children.aligned import TILE, whole
from netwright.children.compiled import has_tiles, has_vectors
from netwright.children.native import BYTES, FLOAT, HALF, WORD, Writer, call, size_of
from netwright.children.tiled.amx import ROWS, SIZE, tile
from netwright.children.tiled.vectors import multiplied

TALL, PAIRS = 8, 4  # rows of sums in vectors, and pairs of numbers, that are written out at once
_BYTE = ir.IntType(8)


def fit(batch_sizes: Sequence[int]) -> bool:
    """Say whether the products of a layer of bfloat16 can be made in tiles, or as they would be."""
    return min(batch_sizes) >= ROWS and (has_tiles() or has_vectors())


class Places(NamedTuple):
    """How many bytes a tile's rows, and one tile and the next of a sum, are apart."""

    row: int
    step: int = 0


class Tiles:
    """Writes the instructions; tiles are numbered from 0 to 7."""

    def __init__(self, w: Writer) -> None:
        self._w = w

    def _call(self, name: str, takes: Sequence[Any]) -> None:
        tile(self._w.builder, name, *takes)

    def _place(self, address: Any) -> Any:
        return self._w.builder.inttoptr(address, _BYTE.as_pointer())

    def begin(self) -> None:
        """Make eight tiles of this thread's, where it has them; `end` must follow."""
        if not has_tiles():
            return
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
        if has_tiles():
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


def _sums(
    w: Writer, deep: Any, a: Places, b: Places, out: Places, start: Any, more: Any = None
) -> None:
    """Write, or add with `more`, the sums of two tiles of `a`'s rows and one or two of `b`'s.

    start: of each, its first tiles' addresses; a's and b's go on for `deep` tiles of the sum.
    """
    tiles = Tiles(w)
    of_a, of_b, of_out = start
    high, wide = len(of_a), len(of_b)
    places = [(i * wide + j, of_out[i][j]) for i in range(high) for j in range(wide)]
    if more is None:
        for tile, _ in places:
            tiles.clear(tile)
    else:
        with w.builder.if_else(more) as (yes, no):
            with yes:
                for tile, place in places:
                    tiles.read(tile, place, out.row)
            with no:
                for tile, _ in places:
                    tiles.clear(tile)

    def term(k: Any) -> None:
        for j, place in enumerate(of_b):
            tiles.read(6 + j, w.add(place, w.times(k, b.step)), b.row)
        for i, place in enumerate(of_a):
            tiles.read(4 + i, w.add(place, w.times(k, a.step)), a.row)
            for j in range(wide):
                tiles.multiply(i * wide + j, 4 + i, 6 + j)

    w.loop(0, deep, term)
    for tile, place in places:
        tiles.write(tile, place, out.row)


def _in_vectors(w: Writer, many: int, places: tuple[Places, ...], start: Any) -> None:
    """Write what `_sums` does for `TALL` rows of the left and `many` pairs of numbers.

    start: addresses of the left, of one or two vectors of the right, and of their sums.
    """
    (a, b, out), (left, right, to) = places, start
    each = [(r, j) for r in range(TALL) for j in range(len(right))]
    words = ir.VectorType(ir.IntType(32), ROWS)

    def pairs(p: Any, *totals: Any) -> list[Any]:
        sums = list(totals)
        for q in range(PAIRS):
            pair = w.add(w.times(p, PAIRS), q)
            lines = [w.add(place, w.times(pair, b.row)) for place in right]
            vectors = [
                w.builder.load(w.builder.inttoptr(line, words.as_pointer()), align=4)
                for line in lines
            ]
            for r in range(TALL):
                place = w.add(left, r * a.row, w.times(pair, 4))
                place = w.builder.inttoptr(place, words.element.as_pointer())
                factor = w.spread(w.builder.load(place))
                for j, vector in enumerate(vectors):
                    i = r * len(vectors) + j
                    sums[i] = multiplied(w.builder, sums[i], vector, factor)
        return sums

    held = [w.constant(0.0).value] * len(each)
    for (r, j), total in zip(each, w.loop(0, -(-many // PAIRS), pairs, held), strict=True):
        w.write(w.lanes_of(total), w.add(to[j], r * out.row), FLOAT)


def _by_two(w: Writer, first: Any, last: Any, body: Callable[[Any, int], None]) -> None:
    """Write `body(k, how many)` for all from `first` below `last`, two at a time."""
    twos = w.builder.sdiv(w.builder.sub(w.word(last), w.word(first)), WORD(2))
    w.loop(0, twos, lambda k: body(w.add(first, w.times(k, 2)), 2))
    w.loop(w.add(first, w.times(twos, 2)), last, lambda k: body(k, 1))


def tile_product(module: Any, name: str, length: int, across: int, apart: int) -> None:
    """Write a function (a, weight, out, rows, count): out = a @ weight, a [rows, whole(length)].

    a: bfloat16, dense. weight: `count` times [whole(length), 16] as `laid_ahead` and `laid_back`
    lay them out. out: float32, rows of `across` numbers, each 16 columns `apart` numbers after the
    last. `rows` must be `ROWS` or more; where they do not come out even, some are worked out twice.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 5), name)
    w = Writer(function, FLOAT)
    deep = whole(length) // TILE
    a, weight, out, rows, count = function.args
    tall, high = (ROWS, 2) if has_tiles() else (TALL, 1)
    latest = w.builder.sub(rows, WORD(tall))
    of_a, of_b = Places(deep * BYTES, BYTES), Places(BYTES, SIZE)
    of_out = Places(across * 4)

    def some(k: Any) -> None:
        starts = []
        for i in range(high):
            start = w.add(w.times(k, high * tall), i * tall)
            starts.append(w.builder.select(w.less(latest, start), latest, start))

        def columns(first: Any, wide: int) -> None:
            left = [w.add(a, w.times(start, of_a.row)) for start in starts]
            blocks = [w.add(first, j) for j in range(wide)]
            right = [w.add(weight, w.times(block, deep * SIZE)) for block in blocks]
            to = [
                [
                    w.add(out, w.times(start, of_out.row), w.times(block, apart * 4))
                    for block in blocks
                ]
                for start in starts
            ]
            if has_tiles():
                _sums(w, deep, of_a, of_b, of_out, (left, right, to))
            else:  # tiles lie one behind the other
                pairs = -(-length // 2)
                _in_vectors(w, pairs, (of_a, of_b, of_out), (left[0], right, to[0]))

        _by_two(w, 0, count, columns)

    w.loop(0, w.builder.sdiv(w.add(rows, high * tall - 1), WORD(high * tall)), some)
    w.builder.ret_void()


def lay_pairs(module: Any, name: str, columns: int, turned: bool, kind: Any = HALF) -> Any:
    """Write a function (from, to, count, first, last): some pairs of rows of `count` in tiles.

    from: bfloat16 [count, whole(columns)], or float32 [count, columns]. to: for 16 columns at a
    time, tiles of 32 rows, the last filled up with zeros; pairs are a tile's rows or, where they
    are `turned`, its columns. There are 16 pairs a tile.
    """
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 5), name), FLOAT)
    source, to, count, first, last = w.function.args
    deep, wide = _deep(w, count), whole(columns) if kind == HALF else columns
    turns = [k // 2 + k % 2 * ROWS for k in range(2 * ROWS)]

    def pair(p: Any) -> None:
        tile, row = w.builder.sdiv(p, WORD(ROWS)), w.builder.srem(p, WORD(ROWS))
        given = [w.less(w.add(w.times(p, 2), i), count) for i in range(2)]

        def block(k: Any) -> None:
            left = w.below(w.builder.sub(WORD(wide), w.times(k, ROWS)))
            rows = []
            for i, yes in enumerate(given):
                at = w.add(w.times(p, 2 * wide), i * wide, w.times(k, ROWS))
                rows.append(
                    w.halves(w.add(source, w.times(at, size_of(kind))), kind, w.where(yes, left))
                )
            both = w.builder.shuffle_vector(*rows, _picks(turns))
            at = w.add(to, w.times(w.add(w.builder.mul(k, deep), tile), SIZE))
            _store(w, both, at, row, turned)

        w.loop(0, -(-columns // ROWS), block)

    w.loop(first, last, pair)
    w.builder.ret_void()
    return w.function


def tiles_back(module: Any, name: str, rows: int, units: int) -> None:
    """Write a function of float32 [K, H] and room for tiles for a @ weight, 16 units at a time."""
    pairs = lay_pairs(module, f"{name}_pairs", units, turned=False, kind=FLOAT)
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), name), FLOAT)
    weight, to = (w.number(w.function.args[0], k) for k in range(2))
    w.builder.call(pairs, [weight, to, WORD(rows), WORD(0), WORD(whole(rows) // 2)])
    w.builder.ret_void()


def _picks(places: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))


def _store(w: Writer, pairs: Any, tile: Any, place: Any, turned: bool) -> None:
    """Write 16 pairs as a row of a tile, or `turned` as a column."""
    if not turned:
        at = w.builder.inttoptr(w.add(tile, w.times(place, BYTES)), pairs.type.as_pointer())
        w.builder.store(pairs, at).align = 4
        return
    pairs = w.builder.bitcast(pairs, ir.VectorType(ir.IntType(32), ROWS))
    for lane in range(ROWS):
        one = w.builder.extract_element(pairs, ir.IntType(32)(lane))
        at = w.add(tile, w.times(place, 4), lane * BYTES)
        w.builder.store(one, w.builder.inttoptr(at, one.type.as_pointer()))


def tiles_ahead(module: Any, name: str, base: int, units: int, length: int) -> None:
    """Write a function of float32 [B * H, K] and room for tiles for a @ weight.t().

    They are for 16 units of H at a time, leaf after leaf. Of the last units' no more is written
    than there are.
    """
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), name), FLOAT)
    weight, to = (w.number(w.function.args[0], k) for k in range(2))
    deep = whole(length) // TILE

    def unit(i: Any, k: Any) -> None:
        source = w.add(weight, w.times(w.add(w.times(i, units), k), length * 4))
        block, column = w.builder.sdiv(k, WORD(ROWS)), w.builder.srem(k, WORD(ROWS))
        tile = w.add(to, w.times(w.add(w.times(block, base), i), deep * SIZE))
        for j in range(deep):
            halves = []
            for part in (2 * j, 2 * j + 1):
                left = min(ROWS, max(0, length - part * ROWS))
                halves.append(w.halves(w.add(source, part * BYTES), FLOAT, w.below(WORD(left))))
            both = w.builder.shuffle_vector(*halves, _picks(range(2 * ROWS)))
            _store(w, both, w.add(tile, j * SIZE), column, turned=True)

    w.loop(0, base, lambda i: w.loop(0, units, lambda k: unit(i, k)) and None)
    w.builder.ret_void()


def _deep(w: Writer, rows: Any) -> Any:
    """Return the tiles of 32 that so many rows are."""
    return w.builder.sdiv(w.add(rows, TILE - 1), WORD(TILE))


def tile_sums(module: Any, name: str, rows: int, length: int) -> None:
    """Write a function (g, x, out, steps, first, last, more): out = x.t() @ g for some columns.

    g: [steps, rows], x: [steps, length], turned, both laid out by `lay_pairs`. out: float32
    [length, rows], filled up to whole tiles. first, last: which 16 columns; with `more` the sums
    are added to it.
    """
    takes = ir.FunctionType(ir.VoidType(), [WORD] * 6 + [ir.IntType(1)])
    w = Writer(ir.Function(module, takes, name), FLOAT)
    g, x, out, steps, first, last, more = w.function.args
    deep, high = _deep(w, steps), -(-length // ROWS)
    dense = Places(BYTES, SIZE)
    of_out = Places(-(-rows // ROWS) * BYTES)

    def columns(column: Any, wide: int) -> None:
        blocks = [w.add(column, j) for j in range(wide)]
        right = [w.add(g, w.builder.mul(block, w.times(deep, SIZE))) for block in blocks]
        for row in range(0, high, 2):
            some = range(row, min(row + 2, high))
            left = [w.add(x, w.times(deep, i * SIZE)) for i in some]
            to = [
                [w.add(out, i * ROWS * of_out.row, w.times(block, BYTES)) for block in blocks]
                for i in some
            ]
            _sums(w, deep, dense, dense, of_out, (left, right, to), more)

    _by_two(w, first, last, columns)
    w.builder.ret_void()


def laid_tiles(code: Any, name: str, weight: Tensor) -> Tensor:
    """Return weights as `tiles_ahead` or `tiles_back` lays them out."""
    weight = weight.to(torch.float32).contiguous()
    rows, columns = weight.shape
    if name.endswith("back"):
        held = whole(columns, ROWS), whole(rows)
    else:
        held = rows // code.units * code.across, whole(columns)
    found = weight.new_zeros(held, dtype=torch.bfloat16)
    call(code.functions[name], (weight.data_ptr(), found.data_ptr()))
    return found
