"""Products of bfloat16 in the processor's tiles (AMX) or vectors, for compiled functions.

A tile is up to 16 rows of 64 bytes: of 32 numbers of bfloat16, or of 16 sums in float32. Tiles of
sums come first, then one of the left, rows of numbers, and one of the right, rows of pairs. All
numbers are int64, memory is an address, and steps are in bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from netwright.children.aligned import TILE
from netwright.children.compiled import generated, has_tiles, part
from netwright.children.tiled import vectors
from netwright.children.tiled.vectors import added_up, pointer_to

ROWS, DEEP = 16, TILE  # of a tile, and numbers of bfloat16 in a row
SIZE = 1024  # bytes
SUMS, LEFT, RIGHT = 6, 6, 7  # how many tiles of sums there are, and the others' numbers
TILES = has_tiles()  # otherwise vectors stand in for them
LATENCY = 12  # sums in vectors at once, at least, that keep the processor busy
HIGH, WIDE = 4, 3  # tiles of the left and of the right at once, at most
_BYTE, _HALF, _INT, _WORD = (ir.IntType(n) for n in (8, 16, 32, 64))
_FLOATS = ir.VectorType(ir.FloatType(), ROWS)
_HALVES, _PAIRS = ir.VectorType(_HALF, ROWS), ir.VectorType(_HALF, DEEP)
_declared: Any = cgutils.get_or_insert_function
_copy: Any = cgutils.raw_memcpy


def _written(emit: Callable[..., None]) -> Any:
    """Make a function of whole numbers, for compiled code, of what writes its instructions."""
    names = list(inspect.signature(emit).parameters)[1:]

    def typed(context: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(builder, *args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * len(names)), generate

    return generated(typed, emit.__name__, names)


def _call(builder: Any, name: str, result: Any, *takes: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in takes])
    return builder.call(_declared(builder.module, kind, name), takes)


def tile(builder: Any, name: str, *takes: Any) -> None:
    """Write one of the processor's instructions for tiles."""
    _call(builder, f"llvm.x86.{name}", ir.VoidType(), *takes)


# --- tiles ----------------------------------------------------------------------------------------


@_written
def _configure(builder: Any, address: Any) -> None:
    if TILES:
        tile(builder, "ldtilecfg", pointer_to(builder, address, _BYTE))


@_written
def release(builder: Any) -> None:
    """Leave no tiles."""
    if TILES:
        tile(builder, "tilerelease")


@part
def configure(rows: int) -> None:
    """Make this thread's tiles: so many rows of sums and of the left; `release` must follow."""
    shape = np.zeros(64, np.uint8)
    shape[0] = 1
    for k in range(8):
        shape[16 + 2 * k] = 64
        shape[48 + k] = ROWS if k == RIGHT else rows
    _configure(shape.ctypes.data)


def _block(builder: Any, high: int, wide: int, takes: Sequence[Any]) -> None:
    """Write `sums` for so many tiles of the left and of the right."""
    left, row, down, over, right, along, outer, inner, to, below, beside, more = takes
    places = []
    for i in range(high):
        for j in range(wide):
            place = added_up(builder, to, *[below] * i, *[beside] * j)
            places.append((_BYTE(i * wide + j), pointer_to(builder, place, _BYTE)))
    with builder.if_else(builder.icmp_signed("!=", more, _WORD(0))) as (yes, no):
        with yes:
            for number, place in places:
                tile(builder, "tileloadd64", number, place, _WORD(64))
        with no:
            for number, _ in places:
                tile(builder, "tilezero", number)
    with cgutils.for_range(builder, outer, intp=_WORD) as first:
        start = added_up(builder, left, builder.mul(first.index, over))
        tiles = builder.mul(first.index, inner)
        with cgutils.for_range(builder, inner, intp=_WORD) as second:
            k = builder.add(tiles, second.index)
            b = builder.add(right, builder.mul(k, _WORD(SIZE)))
            a = builder.add(start, builder.mul(second.index, _WORD(64)))
            _products(builder, high, wide, (a, row, down), (b, along))
    for number, place in places:
        tile(builder, "tilestored64", number, place, _WORD(64))


def _products(builder: Any, high: int, wide: int, of_a: Sequence[Any], of_b: Sequence[Any]) -> None:
    """Write one tile of the sum for each."""
    a, row, down = of_a
    b, along = of_b
    for i in range(high):
        left = pointer_to(builder, added_up(builder, a, *[down] * i), _BYTE)
        tile(builder, "tileloadd64", _BYTE(LEFT), left, row)
        for j in range(wide):
            if i == 0 or wide > 1:
                place = pointer_to(builder, added_up(builder, b, *[along] * j), _BYTE)
                tile(builder, "tileloadd64", _BYTE(RIGHT), place, _WORD(64))
            tile(builder, "tdpbf16ps", _BYTE(i * wide + j), _BYTE(LEFT), _BYTE(RIGHT))


@_written
def sums(
    builder: Any,
    high: Any,
    wide: Any,
    halves: Any,
    rows: Any,
    left: Any,
    row: Any,
    down: Any,
    over: Any,
    leap: Any,
    right: Any,
    along: Any,
    behind: Any,
    jump: Any,
    groups: Any,
    outer: Any,
    pairs: Any,
    to: Any,
    below: Any,
    beside: Any,
    more: Any,
) -> None:
    """Work out `high` x `wide` tiles of sums, six at most, `HIGH` by `WIDE` at most.

    Of the last `halves` of the `wide` only 8 columns count. The left's tiles have `rows` rows, as
    many as were configured. Each is of `groups` times `outer` times so many tiles as hold `pairs`
    of numbers: the left's rows are `row` apart, its tiles 64 bytes, `over` where the next of
    `outer` begins, and `leap` the next of `groups`; the right's are dense, `behind` and `jump`
    where those begin (in tiles there is one group, and all of the right is dense). The left's are
    `down` apart, the right's `along`, the sums', dense, `below` and `beside`, and with `more` they
    are added to what is there.
    """
    if not TILES:
        own = (left, row, over, leap, right, along, behind, jump)
        both = (*own, to, beside, groups, outer, pairs, more)
        given = dict(zip(vectors.TAKES, both, strict=True)) | {"down": down, "below": below}
        vectors.sums(builder, high, wide, halves, rows, given)
        return
    inner = builder.sdiv(builder.add(pairs, _WORD(ROWS - 1)), _WORD(ROWS))
    takes = (left, row, down, over, right, along, outer, inner, to, below, beside, more)
    after = builder.append_basic_block()
    which = builder.add(builder.mul(high, _WORD(8)), wide)
    choice = builder.switch(which, after)
    for w in range(1, WIDE + 1):
        for h in range(1, min(HIGH, SUMS // w) + 1):
            block = builder.append_basic_block()
            choice.add_case(_WORD(8 * h + w), block)
            builder.position_at_end(block)
            _block(builder, h, w, takes)
            builder.branch(after)
    builder.position_at_end(after)


# --- between memory and tiles ---------------------------------------------------------------------


def _below(builder: Any, count: Any, lanes: int) -> Any:
    """Return a mask of the first `count` lanes."""
    narrow = builder.trunc(count, _HALF)
    one = builder.insert_element(
        ir.Constant(ir.VectorType(_HALF, lanes), ir.Undefined), narrow, _INT(0)
    )
    many = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))
    places = ir.Constant(ir.VectorType(_HALF, lanes), list(range(lanes)))
    return builder.icmp_signed("<", places, many)


def _read(builder: Any, address: Any, mask: Any, kind: Any = _HALVES) -> Any:
    """Return numbers of bfloat16 as they are, zeros outside the mask."""
    place, letter = pointer_to(builder, address, kind), f"v{kind.count}i16"
    name = f"llvm.masked.load.{letter}." + ("p0" if str(place.type) == "ptr" else f"p0{letter}")
    return _call(builder, name, kind, place, _INT(2), mask, ir.Constant(kind, None))


def _write(builder: Any, value: Any, address: Any, mask: Any) -> None:
    kind = value.type
    place = pointer_to(builder, address, kind)
    letter = f"v{kind.count}i16"
    name = f"llvm.masked.store.{letter}." + ("p0" if str(place.type) == "ptr" else f"p0{letter}")
    _call(builder, name, ir.VoidType(), value, place, _INT(2), mask)


@_written
def copied(builder: Any, source: Any, to: Any, size: Any) -> None:
    """Copy so many bytes."""
    _copy(builder, pointer_to(builder, to, _BYTE), pointer_to(builder, source, _BYTE), size, 1)


@_written
def spread(
    builder: Any, source: Any, rows: Any, row: Any, columns: Any, to: Any, to_row: Any
) -> None:
    """Copy rows, `columns` of each, `row` and `to_row` apart."""
    with cgutils.for_range(builder, rows, intp=_WORD) as loop:
        here = builder.add(source, builder.mul(loop.index, row))
        there = builder.add(to, builder.mul(loop.index, to_row))
        blocks = builder.sdiv(builder.add(columns, _WORD(DEEP - 1)), _WORD(DEEP))
        with cgutils.for_range(builder, blocks, intp=_WORD) as part:
            done = builder.mul(part.index, _WORD(DEEP))
            left = builder.sub(columns, done)
            left = builder.select(builder.icmp_signed("<", left, _WORD(DEEP)), left, _WORD(DEEP))
            mask = _below(builder, left, DEEP)
            step = builder.mul(part.index, _WORD(64))
            found = _read(builder, builder.add(here, step), mask, _PAIRS)
            _write(builder, found, builder.add(there, step), mask)


@_written
def sent(
    builder: Any, source: Any, beside: Any, rows: Any, to: Any, row: Any, columns: Any
) -> None:
    """Write some rows of a tile of sums, dense, and the next as bfloat16, `row` apart.

    columns: of each row, 32 at most; those behind 16 are the next tile's, `beside` after this one.
    """

    def write(both: bool) -> None:
        mask = _below(builder, columns, DEEP if both else ROWS)
        with cgutils.for_range(builder, rows, intp=_WORD) as loop:
            place = builder.add(source, builder.mul(loop.index, _WORD(64)))
            numbers = [
                builder.load(pointer_to(builder, at, _FLOATS))
                for at in ([builder.add(place, beside), place] if both else [place])
            ]
            for each in numbers:
                each.align = 4
            kind, name = (_PAIRS, "cvtne2ps2bf16") if both else (_HALVES, "cvtneps2bf16")
            found = _call(builder, f"llvm.x86.avx512bf16.{name}.512", kind, *numbers)
            _write(builder, found, builder.add(to, builder.mul(loop.index, row)), mask)

    with builder.if_else(builder.icmp_signed(">", columns, _WORD(ROWS))) as (yes, no):
        with yes:
            write(both=True)
        with no:
            write(both=False)


def _by_turns(builder: Any, even: Any, odd: Any) -> Any:
    """Return two rows' numbers by turns."""
    picks = [k // 2 + k % 2 * ROWS for k in range(DEEP)]
    return builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(_INT, DEEP), picks))


def _where(builder: Any, yes: Any, mask: Any) -> Any:
    """Return the mask, or one of no lanes unless `yes`."""
    return builder.select(yes, mask, ir.Constant(mask.type, None))


def _interleaved(builder: Any, address: Any, row: Any, yes: Any, mask: Any) -> Any:
    """Return two rows' numbers by turns; the second is zeros unless `yes`."""
    even = _read(builder, address, mask)
    return _by_turns(
        builder, even, _read(builder, builder.add(address, row), _where(builder, yes, mask))
    )


@_written
def paired(builder: Any, source: Any, rows: Any, row: Any, columns: Any, to: Any) -> None:
    """Write rows, `columns` (16 at most) of each, two at a time by turns, 64 bytes for two.

    An odd last one stands beside zeros.
    """
    mask = _below(builder, columns, ROWS)
    pairs = builder.sdiv(builder.add(rows, _WORD(1)), _WORD(2))
    with cgutils.for_range(builder, pairs, intp=_WORD) as loop:
        first = builder.mul(loop.index, _WORD(2))
        yes = builder.icmp_signed("<", builder.add(first, _WORD(1)), rows)
        place = builder.add(source, builder.mul(first, row))
        found = _interleaved(builder, place, row, yes, mask)
        to_place = builder.add(to, builder.mul(loop.index, _WORD(64)))
        builder.store(found, pointer_to(builder, to_place, _PAIRS)).align = 64


@_written
def pair(builder: Any, one: Any, two: Any, columns: Any, to: Any) -> None:
    """Write two rows' numbers by turns, 64 bytes; a row at 0 is zeros."""
    mask = _below(builder, columns, ROWS)
    rows = []
    for place in (one, two):
        there = builder.icmp_signed("!=", place, _WORD(0))
        rows.append(_read(builder, place, _where(builder, there, mask)))
    builder.store(_by_turns(builder, *rows), pointer_to(builder, to, _PAIRS)).align = 64


def _transposed(builder: Any, lines: list[Any]) -> list[Any]:
    """Return the columns of 16 vectors of 16 words."""
    kind = ir.VectorType(_INT, ROWS)
    for step in (8, 4, 2, 1):
        low = ir.Constant(kind, [k if not k & step else k - step + ROWS for k in range(ROWS)])
        high = ir.Constant(kind, [k + step if not k & step else k + ROWS for k in range(ROWS)])
        for first in range(ROWS):
            if not first & step:
                a, b = lines[first], lines[first + step]
                lines[first] = builder.shuffle_vector(a, b, low)
                lines[first + step] = builder.shuffle_vector(a, b, high)
    return lines


@_written
def turned_pairs(builder: Any, source: Any, rows: Any, row: Any, columns: Any, to: Any) -> None:
    """Write 16 rows of 32 numbers at most as a tile of the right: pairs of columns, row by row."""
    mask = _below(builder, columns, DEEP)
    lines = []
    for k in range(ROWS):
        there = builder.icmp_signed("<", _WORD(k), rows)
        place = builder.add(source, builder.mul(row, _WORD(k)))
        found = _read(builder, place, _where(builder, there, mask), _PAIRS)
        lines.append(builder.bitcast(found, ir.VectorType(_INT, ROWS)))
    for k, line in enumerate(_transposed(builder, lines)):
        place = builder.add(to, _WORD(64 * k))
        builder.store(builder.bitcast(line, _PAIRS), pointer_to(builder, place, _PAIRS)).align = 64


@_written
def turned(
    builder: Any, source: Any, rows: Any, row: Any, columns: Any, to: Any, to_row: Any, again: Any
) -> None:
    """Write the columns, 16 at most, of 32 rows at most as rows, `to_row` apart.

    And once more `again` bytes behind, unless that is 0.
    """
    mask = _below(builder, columns, ROWS)
    lines = []
    for q in range(ROWS):
        some = builder.icmp_signed("<", _WORD(2 * q), rows)
        both = builder.icmp_signed("<", _WORD(2 * q + 1), rows)
        place = builder.add(source, builder.mul(row, _WORD(2 * q)))
        found = _interleaved(builder, place, row, both, _where(builder, some, mask))
        lines.append(builder.bitcast(found, ir.VectorType(_INT, ROWS)))
    kept = _below(builder, rows, DEEP)
    for k, line in enumerate(_transposed(builder, lines)):
        with builder.if_then(builder.icmp_signed("<", _WORD(k), columns)):
            place = builder.add(to, builder.mul(to_row, _WORD(k)))
            found = builder.bitcast(line, _PAIRS)
            _write(builder, found, place, kept)
            with builder.if_then(builder.icmp_signed("!=", again, _WORD(0))):
                _write(builder, found, builder.add(place, again), kept)
