"""Products of matrices, and layouts of weights for them, in machine code of one size.

They are what the code of a cell calls, and the same for all cells of a width and base number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from netwright.children.aligned import whole
from netwright.children.native import BYTES, DOUBLE, FLOAT, WORD, Native, Writer, size_of
from netwright.children.tiled.amx import ROWS
from netwright.children.tiles import (
    lay_pairs,
    tile_product,
    tile_sums,
    tiles_ahead,
    tiles_back,
)


def vectors(units: int, kind: str) -> int:
    """Return the units of as many whole vectors as hold these."""
    lanes = BYTES // (8 if kind == "float64" else 4)
    return whole(units, lanes)


class Products:
    """What the layers of a base number and width need, see the functions below.

    inputs: 0 where the products with them are made elsewhere, see `cell_code.Code`.
    """

    def __init__(self, base: int, units: int, kind: str, inputs: int) -> None:
        module = ir.Module()
        module.triple = binding.get_default_triple()
        inner, rows = DOUBLE if kind == "float64" else FLOAT, base * units
        across = vectors(units, kind)
        if kind == "tiles":
            names = _of_tiles(module, base, units, inputs)
            self._native = Native(module)
            self.functions = {name: self._native.function(name) for name in names}
            return
        names = ["ahead", "back", "weight_ahead", "weight_back"]
        product(module, "ahead", inner, units, base * across)
        product(module, "back", inner, rows, across)
        lay_ahead(module, "weight_ahead", base, units, units, inner)
        lay_back(module, "weight_back", rows, units, inner)
        if inputs:
            product(module, "ahead_in", inner, inputs, base * across)
            product(module, "back_in", inner, rows, vectors(inputs, kind))
            lay_ahead(module, "weight_in_ahead", base, units, inputs, inner)
            lay_back(module, "weight_in_back", rows, inputs, inner)
            for name, length in (("", units), ("_in", inputs)):
                sums(module, f"sums{name}", inner, rows, length)
                cut_out(module, f"weight{name}_cut", length, inner)
                names += [f"sums{name}", f"weight{name}_cut"]
            names += ["ahead_in", "back_in", "weight_in_ahead", "weight_in_back"]
        self._native = Native(module)
        self.functions = {name: self._native.function(name) for name in names}


def _of_tiles(module: Any, base: int, units: int, inputs: int) -> list[str]:
    """Write the functions for bfloat16 in tiles; return their names."""
    rows, across = base * units, vectors(units, "tiles")
    tile_product(module, "ahead", units, base * across, across)
    tile_product(module, "back", rows, across, ROWS)
    tiles_ahead(module, "weight_ahead", base, units, units)
    tiles_back(module, "weight_back", rows, units)
    found = ["ahead", "back", "weight_ahead", "weight_back"]
    if not inputs:
        return found
    tiles_ahead(module, "weight_in_ahead", base, units, inputs)
    tiles_back(module, "weight_in_back", rows, inputs)
    tile_product(module, "ahead_in", inputs, base * across, across)
    tile_product(module, "back_in", rows, vectors(inputs, "tiles"), ROWS)
    lay_pairs(module, "pairs", rows, turned=False)
    found += ["ahead_in", "back_in", "weight_in_ahead", "weight_in_back", "pairs"]
    for suffix, length in (("", units), ("_in", inputs)):
        lay_pairs(module, f"pairs_turned{suffix}", length, turned=True)
        tile_sums(module, f"sums{suffix}", rows, length)
        found += [f"pairs_turned{suffix}", f"sums{suffix}"]
    cut_out(module, "weight_in_cut", inputs, FLOAT)
    return [*found, "weight_in_cut"]


@functools.lru_cache(maxsize=16)
def products_of(base: int, units: int, kind: str, inputs: int) -> Products:
    """Return the code, compiled at its first use."""
    return Products(base, units, kind, inputs)


def product(module: Any, name: str, kind: Any, length: int, across: int) -> Any:
    """Write a function (a, weight, out, rows): out = a @ weight, a [rows, length].

    weight: [length, 16] of float32 (8 of float64), dense. out: rows of as many numbers, each
    `across` numbers after the last. As many rows at a time are worked out as the processor has
    registers for; where they do not come out even, some are worked out twice.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 4), name)
    w = Writer(function, kind)
    a, weight, out, rows = function.args
    many = bool(binding.get_host_cpu_features().get("avx512f"))
    sizes = (24, 20, 16, 10, 5, 2, 1) if many else (6, 4, 2, 1)
    one = size_of(kind)

    def parts(n: Any, of: Any) -> Any:
        return w.builder.sdiv(w.builder.sub(w.add(n, of), WORD(1)), w.word(of))

    even = parts(rows, parts(rows, WORD(sizes[0])))

    def block(size: int) -> Callable[[Any], None]:
        def body(k: Any) -> None:
            start, latest = w.times(k, size), w.builder.sub(rows, WORD(size))
            start = w.builder.select(w.less(latest, start), latest, start)
            source = w.add(a, w.times(start, length * one))

            def term(_: Any, x: Any, y: Any, *sums: Any) -> list[Any]:
                column = w.read(y, kind)
                found = []
                for r, total in enumerate(sums):
                    place = w.builder.inttoptr(w.add(x, r * length * one), kind.as_pointer())
                    factor = w.lanes_of(w.spread(w.builder.load(place)))
                    found.append((w.lanes_of(total) + factor * column).value)
                return [w.add(x, one), w.add(y, BYTES), *found]

            nothing = [w.constant(0.0).value] * size
            _, _, *sums = w.loop(0, length, term, [source, weight, *nothing])
            for r, total in enumerate(sums):
                place = w.add(out, w.times(w.add(start, r), across * one))
                w.write(w.lanes_of(total), place, kind)

        return body

    for size in sizes:
        with w.builder.if_then(w.builder.icmp_signed(">=", even, WORD(size))):
            w.loop(0, parts(rows, WORD(size)), block(size))
            w.builder.ret_void()
    w.builder.ret_void()
    return function


def sums(module: Any, name: str, kind: Any, rows: int, length: int) -> Any:
    """Write a function (g, x, out, steps, first, last, more): out = g.t() @ x for some of its rows.

    g: [steps, rows], x: [steps, length], dense. out: [rows, length], each row of whole vectors;
    with `more` the sums are added to it.
    """
    takes = ir.FunctionType(ir.VoidType(), [WORD] * 6 + [ir.IntType(1)])
    function = ir.Function(module, takes, name)
    w = Writer(function, kind)
    g, x, out, steps, first, last, more = function.args
    added = w.where(more, w.below(w.word(w.lanes)))
    one, vectors = size_of(kind), -(-length // w.lanes)
    many = bool(binding.get_host_cpu_features().get("avx512f"))
    wide = min(vectors, 6 if many else 3)
    tall = (24 if many else 6) // wide

    def tile(row: Any, left: int, high: int) -> None:
        """Write the sums of `high` rows and the vectors from `left` on."""
        some = range(left, min(vectors, left + wide))
        places = [
            w.add(out, w.times(w.add(w.times(w.add(row, i), vectors), k), BYTES))
            for i in range(high)
            for k in some
        ]

        def term(_: Any, a: Any, b: Any, *totals: Any) -> list[Any]:
            columns = []
            for k in some:
                filled = min(w.lanes, length - k * w.lanes)
                mask = w.below(w.word(filled)) if filled < w.lanes else None
                columns.append(w.read(w.add(b, k * BYTES), kind, mask))
            found = []
            for i in range(high):
                place = w.builder.inttoptr(w.add(a, i * one), kind.as_pointer())
                factor = w.lanes_of(w.spread(w.builder.load(place)))
                for k, column in enumerate(columns):
                    total = w.lanes_of(totals[i * len(columns) + k])
                    found.append((total + factor * column).value)
            return [w.add(a, rows * one), w.add(b, length * one), *found]

        held = [w.read(place, kind, added).value for place in places]
        start = w.add(g, w.times(row, one))
        _, _, *totals = w.loop(0, steps, term, [start, x, *held])
        for place, total in zip(places, totals, strict=True):
            w.write(w.lanes_of(total), place, kind)

    def all_of(row: Any, high: int) -> None:
        for left in range(0, vectors, wide):
            tile(row, left, high)

    whole = w.builder.sdiv(w.builder.sub(last, first), WORD(tall))
    w.loop(0, whole, lambda k: all_of(w.add(first, w.times(k, tall)), tall))
    w.loop(w.add(first, w.times(whole, tall)), last, lambda k: all_of(k, 1))
    w.builder.ret_void()
    return function


def lay_ahead(module: Any, name: str, base: int, units: int, length: int, kind: Any) -> None:
    """Write a function of [B * H, length] and room for [vectors of H, B, length, vector]."""
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), name), kind)
    weight, laid = (w.number(w.function.args[0], k) for k in range(2))
    one, (whole, left) = size_of(kind), divmod(units, w.lanes)

    def place(address: Any) -> Any:
        return w.builder.inttoptr(address, kind.as_pointer())

    def vector(block: Any, leaf: Any, lanes: int) -> None:
        unit = w.add(w.times(leaf, units), w.times(block, w.lanes))
        source = w.add(weight, w.times(unit, length * one))
        target = w.add(w.times(block, base * length), w.times(leaf, length))
        target = w.add(laid, w.times(target, BYTES))

        def column(k: Any) -> None:
            taken, given = w.add(source, w.times(k, one)), w.add(target, w.times(k, BYTES))
            if lanes < w.lanes:
                w.write(w.constant(0.0), given, kind)
            for lane in range(lanes):
                x = w.builder.load(place(w.add(taken, lane * length * one)))
                w.builder.store(x, place(w.add(given, lane * one)))

        w.loop(0, length, column)

    def leaf(i: Any) -> None:
        w.loop(0, whole, lambda block: vector(block, i, w.lanes))
        if left:
            vector(w.word(whole), i, left)

    w.loop(0, base, leaf)
    w.builder.ret_void()


def lay_back(module: Any, name: str, rows: int, units: int, kind: Any) -> None:
    """Write a function of [rows, units] and room for [vectors of units, rows, vector]."""
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), name), kind)
    weight, laid = (w.number(w.function.args[0], k) for k in range(2))

    def row(k: Any) -> None:
        for block in range(-(-units // w.lanes)):
            left = units - block * w.lanes
            mask = w.below(w.word(left)) if left < w.lanes else None
            place = w.add(w.times(k, units), block * w.lanes)
            found = w.read(w.add(weight, w.times(place, size_of(kind))), kind, mask)
            w.write(found, w.add(laid, w.times(w.add(k, block * rows), BYTES)), kind)

    w.loop(0, rows, row)
    w.builder.ret_void()


def cut_out(module: Any, name: str, length: int, kind: Any) -> None:
    """Write a function (from, to, rows): rows of whole vectors to dense ones [rows, length]."""
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), name), kind)
    taken, given, rows = (w.number(w.function.args[0], k) for k in range(3))
    vectors = -(-length // w.lanes)

    def row(r: Any) -> None:
        for k in range(vectors):
            filled = min(w.lanes, length - k * w.lanes)
            mask = w.below(w.word(filled)) if filled < w.lanes else None
            place = w.add(w.times(r, length), k * w.lanes)
            found = w.read(w.add(taken, w.times(w.add(w.times(r, vectors), k), BYTES)), kind)
            w.write(found, w.add(given, w.times(place, size_of(kind))), kind, mask)

    w.loop(0, rows, row)
    w.builder.ret_void()
