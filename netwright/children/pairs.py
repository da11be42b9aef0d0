"""Products of bfloat16 in vectors (AVX512-BF16), and layouts for them, in machine code of one size.

For processors without tiles. Of a pair of numbers of the left in all lanes, and 16 pairs of the
right, one instruction adds both products to 16 sums. So the right is laid out in lines of 16 pairs:
of 16 columns, two rows number by number by turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from netwright.children.aligned import whole
from netwright.children.native import BYTES, FLOAT, HALF, WORD, Native, Writer
from netwright.children.tiled.vectors import multiplied

LANES, PAIR = 16, 4  # columns of a line, bytes of a pair
ONCE = 4  # pairs that a sum is made of at least, and rows of a leaf's gradient at once
WRITTEN = 2  # pairs that are written out one behind the other
WIDE = 8  # of what numbers of a row the left holds a multiple
TALL = {1: (24, 20, 16), 2: (12, 10, 8)}  # rows at once, by lines of the right side by side
BEHIND = 8  # rows that there must be room for behind the last
_INT = ir.IntType(32)


class Shape:
    """What the arrays of a layer's products measure; bytes unless said.

    A row of `both` is x_t and h_(t-1); one of `g` the gradients of up to twice the base's leaves;
    one of `sums` as many lines, and one more, lest rows lie a power of two apart.
    """

    def __init__(self, base: int, units: int, inputs: int) -> None:
        self.base, self.units, self.inputs = base, units, inputs
        self.wide, self.wide_in = whole(units, WIDE), whole(inputs, WIDE)  # numbers
        self.lines, self.lines_in = -(-units // LANES), -(-inputs // LANES)
        self.both = (self.wide_in + self.wide) * 2
        self.g = 2 * base * self.wide * 2
        self.sums = (2 * base + 1) * BYTES
        self.onward, self.onward_in = self.lines * BYTES, self.lines_in * BYTES
        self.leaf = (self.wide_in + self.wide) // 2 * BYTES  # of weights on the way ahead
        self.back = base * self.wide // 2 * BYTES  # of weights for a line on the way back


class Pairs:
    """The functions for a base number and width, see below."""

    def __init__(self, base: int, units: int, inputs: int) -> None:
        self.shape = shape = Shape(base, units, inputs)
        module = ir.Module()
        module.triple = binding.get_default_triple()
        for lines in TALL:
            product(module, f"ahead_{lines}", lines, shape.both, shape.sums)
            product(module, f"back_{lines}", lines, shape.g, shape.onward)
        leaf_sums(module, "sums", units, units)
        lay_ahead(module, "lay_ahead", units, units)
        lay_back(module, "lay_back", shape, units)
        lay_pairs(module, "lay_g", shape.g)
        lay_pairs(module, "lay_both", shape.both)
        if inputs != units:
            for lines in TALL:
                product(module, f"back_in_{lines}", lines, shape.g, shape.onward_in)
            leaf_sums(module, "sums_in", units, inputs)
            lay_ahead(module, "lay_ahead_in", units, inputs)
            lay_back(module, "lay_back_in", shape, inputs)
        names = [name for name, made in module.globals.items() if not made.is_declaration]
        self._native = Native(module)
        self.functions = {name: self._native.function(name) for name in names}
        self.takes = {name: len(module.globals[name].args) for name in names}

    def named(self, name: str) -> str:
        """Return the name of the function that does what one of that name would."""
        return name if name in self.functions else name.replace("_in", "")


@functools.lru_cache(maxsize=16)
def pairs_of(base: int, units: int, inputs: int) -> Pairs:
    """Return the code, compiled at its first use."""
    return Pairs(base, units, inputs)


def _begin(module: Any, name: str, takes: int) -> tuple[Writer, Any]:
    kind = ir.FunctionType(ir.VoidType(), [WORD] * takes)
    w = Writer(ir.Function(module, kind, name), FLOAT)
    return w, w.function.args


def _words(lanes: int) -> Any:
    return ir.VectorType(_INT, lanes)


def _load(w: Writer, address: Any, kind: Any) -> Any:
    found = w.builder.load(w.builder.inttoptr(address, kind.as_pointer()))
    found.align = 4
    return found


def _fours(
    w: Writer, fours: Any, left: Callable[[Any, int], Any], right: Any, held: Sequence[Any]
) -> list[Any]:
    """Write the loop over `fours` times `ONCE` pairs; return the sums, row after row.

    left: gives a row's address of a pair, of how many times `WRITTEN` went before and which it is.
    right: (address, bytes to the next pair, offsets of the lines side by side).
    """
    address, step, beside = right
    tall = len(held) // len(beside)

    def term(_: Any, gone: Any, line: Any, *totals: Any) -> list[Any]:
        sums = list(totals)
        for q in range(WRITTEN):
            lines = [_load(w, w.add(line, q * step, b), _words(LANES)) for b in beside]
            for r in range(tall):
                factor = w.spread(_load(w, left(gone, q * tall + r), _INT))
                for j, column in enumerate(lines):
                    i = r * len(lines) + j
                    sums[i] = multiplied(w.builder, sums[i], column, factor)
        return [w.add(gone, 1), w.add(line, WRITTEN * step), *sums]

    count = w.times(fours, ONCE // WRITTEN)
    return w.loop(0, count, term, [w.word(0), address, *held])[2:]


def product(module: Any, name: str, lines: int, row: int, across: int) -> None:
    """Write a function (left, right, beside, out, rows, fours): out = left @ right.

    left: rows `row` bytes apart. right: `fours` times four pairs for a line of 16 columns, those of
    the next one `beside` bytes further. out: float32, rows `across` bytes apart. `rows` must be 16
    or more; where they do not come out even, some are worked out twice or `BEHIND` the last.
    """
    w, (left, right, beside, out, rows, fours) = _begin(module, name, 6)
    sizes = TALL[lines]
    parts = w.builder.sdiv(w.add(rows, sizes[0] - 1), WORD(sizes[0]))
    even = w.builder.sdiv(w.builder.sub(w.add(rows, parts), WORD(1)), parts)

    def some(k: Any, size: int) -> None:
        start, latest = w.times(k, size), w.builder.sub(rows, WORD(size))
        start = w.builder.select(w.less(latest, start), latest, start)
        start = w.builder.select(w.less(start, 0), WORD(0), start)
        source = w.add(left, w.times(start, row))

        def pair(gone: Any, which: int) -> Any:
            q, r = divmod(which, size)
            return w.add(source, w.times(gone, WRITTEN * PAIR), r * row + q * PAIR)

        held = [w.constant(0.0).value] * (size * lines)
        of_right = right, BYTES, [WORD(0), beside][:lines]
        for i, total in enumerate(_fours(w, fours, pair, of_right, held)):
            r, j = divmod(i, lines)
            place = w.add(out, w.times(start, across), r * across + j * BYTES)
            w.write(w.lanes_of(total), place, FLOAT)

    for size, less in zip(sizes, (*sizes[1:], 0), strict=True):
        with w.builder.if_then(w.less(less, even)):
            count = w.builder.sdiv(w.add(rows, size - 1), WORD(size))
            w.loop(0, count, lambda k, size=size: some(k, size))
            w.builder.ret_void()
    w.builder.ret_void()


def leaf_sums(module: Any, name: str, units: int, length: int) -> None:
    """Write a function (g, column, apart, right, out, fours, first, last, more): a leaf's gradient.

    out: float32 [units, length] = g.t() @ right, of `fours` times eight rows; added to where `more`
    is not 0. g: as `lay_pairs` makes it, lines `apart` bytes apart, from `column` on. right: pairs
    side by side. first, last: which four units.
    """
    w, (g, column, apart, right, out, fours, first, last, more) = _begin(module, name, 9)
    lines = -(-length // LANES)
    parts = -(-lines // 5)
    wide = -(-lines // parts)
    added = w.builder.icmp_signed("!=", more, WORD(0))

    def tile(chunk: Any, start: int, tall: int) -> None:
        some = range(start, min(lines, start + wide))
        unit = w.times(chunk, ONCE)
        at = w.add(column, unit)
        place = w.add(g, w.builder.mul(w.builder.lshr(at, WORD(4)), apart))
        place = w.add(place, w.times(w.builder.and_(at, WORD(LANES - 1)), PAIR))

        def pair(gone: Any, which: int) -> Any:
            q, r = divmod(which, tall)
            return w.add(place, w.times(gone, WRITTEN * BYTES), q * BYTES + r * PAIR)

        each = []
        for r in range(tall):
            for k in some:
                left = length - k * LANES
                mask = w.below(w.word(min(left, LANES)))
                to = w.add(out, w.times(w.add(unit, r), length * 4), k * BYTES)
                each.append((to, mask, left < LANES))
        held = [w.read(to, FLOAT, w.where(added, mask)).value for to, mask, _ in each]
        of_right = right, lines * BYTES, [WORD(k * BYTES) for k in some]
        found = _fours(w, fours, pair, of_right, held)
        for (to, mask, cut), total in zip(each, found, strict=True):
            w.write(w.lanes_of(total), to, FLOAT, mask if cut else None)

    def chunk(k: Any, tall: int) -> None:
        for start in range(0, lines, wide):
            tile(k, start, tall)

    even, left = divmod(units, ONCE)
    end = w.builder.select(w.less(even, last), WORD(even), last)
    w.loop(first, end, lambda k: chunk(k, ONCE))
    if left:
        with w.builder.if_then(w.less(even, last)):
            chunk(w.word(even), left)
    w.builder.ret_void()


def _interleaved(w: Writer, one: Any, other: Any) -> Any:
    """Return two rows' 16 numbers as bits of bfloat16 by turns."""
    turns = [k // 2 + k % 2 * LANES for k in range(2 * LANES)]
    return w.builder.shuffle_vector(one, other, ir.Constant(_words(2 * LANES), turns))


def _put(w: Writer, value: Any, address: Any) -> None:
    place = w.builder.inttoptr(address, value.type.as_pointer())
    w.builder.store(value, place).align = 4


def lay_pairs(module: Any, name: str, row: int) -> None:
    """Write a function (source, to, rows, first, last, lines, apart, step): some pairs of rows.

    source: bfloat16, rows `row` bytes apart, of which `lines` times 16 columns are taken. to: lines
    of pairs, for the next columns `apart` bytes further, for the next pair `step`. first, last:
    which pairs; behind `rows` there are zeros.
    """
    w, (source, to, rows, first, last, lines, apart, step) = _begin(module, name, 8)

    def pair(p: Any) -> None:
        at, place = w.add(source, w.times(p, 2 * row)), w.add(to, w.builder.mul(p, step))
        everywhere = w.below(w.word(LANES))
        masks = [w.where(w.less(w.add(w.times(p, 2), i), rows), everywhere) for i in range(2)]

        def line(k: Any) -> None:
            halves = [
                w.halves(w.add(at, i * row, w.times(k, 2 * LANES)), HALF, mask)
                for i, mask in enumerate(masks)
            ]
            _put(w, _interleaved(w, *halves), w.add(place, w.builder.mul(k, apart)))

        w.loop(0, lines, line)

    w.loop(first, last, pair)
    w.builder.ret_void()


def lay_back(module: Any, name: str, shape: Shape, length: int) -> None:
    """Write a function (source, to, first, last): a leaf's weights [units, length], pair by pair.

    source: float32. to: bfloat16, 16 columns' lines `shape.back` bytes apart; behind the last row
    there are zeros.
    """
    w, (source, to, first, last) = _begin(module, name, 4)

    def pair(p: Any) -> None:
        given = [w.less(w.add(w.times(p, 2), i), shape.units) for i in range(2)]
        for k in range(-(-length // LANES)):
            halves = []
            for i, yes in enumerate(given):
                mask = w.where(yes, w.below(w.word(min(LANES, length - k * LANES))))
                at = w.add(w.times(p, 2 * length * 4), i * length * 4, k * BYTES)
                halves.append(w.halves(w.add(source, at), FLOAT, mask))
            place = w.add(to, w.times(p, BYTES), k * shape.back)
            _put(w, _interleaved(w, *halves), place)

    w.loop(first, last, pair)
    w.builder.ret_void()


def lay_ahead(module: Any, name: str, units: int, length: int) -> None:
    """Write a function (source, to, first): 16 of a leaf's units, weights [units, length].

    source: float32. to: bfloat16, a line of the 16 units' pairs after the other. first: which unit.
    """
    w, (source, to, first) = _begin(module, name, 3)
    for start in range(0, length, 2 * LANES):
        rows = []
        for r in range(LANES):
            unit = w.add(first, r)
            halves = []
            for part in (start, start + LANES):
                mask = w.below(w.word(max(0, min(LANES, length - part))))
                at = w.add(source, w.times(unit, length * 4), part * 4)
                halves.append(w.halves(at, FLOAT, w.where(w.less(unit, units), mask)))
            both = ir.Constant(_words(2 * LANES), list(range(2 * LANES)))
            line = w.builder.shuffle_vector(*halves, both)
            rows.append(w.builder.bitcast(line, _words(LANES)))
        pairs = (min(whole(length, WIDE), start + 2 * LANES) - start) // 2
        for k, line in enumerate(_turned(w, rows)[:pairs]):
            _put(w, line, w.add(to, (start // 2 + k) * BYTES))
    w.builder.ret_void()


def _turned(w: Writer, rows: Sequence[Any]) -> list[Any]:
    """Return the columns of 16 rows: what is off the diagonal changes places, block by block."""
    found = list(rows)
    for half in (8, 4, 2, 1):
        for i in range(LANES):
            if i & half:
                continue
            one, other = found[i], found[i + half]
            upper = [k if not k & half else k - half + LANES for k in range(LANES)]
            lower = [k + half if not k & half else k + LANES for k in range(LANES)]
            found[i], found[i + half] = (
                w.builder.shuffle_vector(one, other, ir.Constant(_words(LANES), picks))
                for picks in (upper, lower)
            )
    return found
