"""The machine code of a layer of a recurrent cell: all steps, forward and backward.

One function each way goes through the steps, a vector of units at a time: the leaves' products with
h_(t-1), then the tree while they are in the cache. Threads share the units and meet after a step.
Arrays are those of `netwright.children.steps`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from netwright.children.lanes import Lanes
from netwright.children.native import BYTES, DOUBLE, FLOAT, HALF, WORD, Native, Writer, size_of
from netwright.children.tree import Tree, joined
from netwright.spaces.recurrent import Cell

TEAM = ("number", "threads", "meet")  # what `OpenMP.run` puts first; 0 for none
FORWARD = ("z", "weight", "given", "bias", "mask", "onward", "c_0", "c", "out", "kept")
FORWARD += ("sizes", "scratch", "first", "end", "start")
BACKWARD = ("z", "weight", "g_onward", "kept", "mask", "c_0", "c", "g_out", "g_last", "g_last_row")
BACKWARD += ("g_c", "g_z", "g_v", "sizes", "first", "end", "start")


class Code:
    """A cell of one width, compiled: functions for `native.call` and `OpenMP.run`.

    kind: "float32" or "float64"; or "bfloat16", whose products with h_(t-1) the caller makes, so
    that it takes one step a call.
    """

    def __init__(self, cell: Cell, units: int, kind: str) -> None:
        module = ir.Module()
        module.triple = binding.get_default_triple()
        for writer in (_Forward, _Backward):
            writer(module, cell, units, kind).write()
        lay_ahead(module, cell.base, units, DOUBLE if kind == "float64" else FLOAT)
        lay_back(module, cell.base * units, units, DOUBLE if kind == "float64" else FLOAT)
        self._native = Native(module)
        self.forward = self._native.function(_Forward.name)
        self.backward = self._native.function(_Backward.name)
        self.lay_ahead = self._native.function("lay_ahead")
        self.lay_back = self._native.function("lay_back")


@functools.lru_cache(maxsize=32)
def code_of(cell: Cell, units: int, kind: str) -> Code:
    """Return the code, compiled at its first use."""
    return Code(cell, units, kind)


def lanes_of(kind: str) -> int:
    """Return the units that a vector has."""
    return BYTES // (8 if kind == "float64" else 4)


class _Steps:
    """What both ways have in common."""

    name: str
    takes: tuple[str, ...]

    def __init__(self, module: Any, cell: Cell, units: int, kind: str) -> None:
        self.cell, self.units, self.module = cell, units, module
        self.row = cell.base * units
        held = {"float32": FLOAT, "float64": DOUBLE, "bfloat16": HALF}[kind]
        self.held, self.inner = held, DOUBLE if held == DOUBLE else FLOAT
        self.own = held != HALF
        takes = ir.FunctionType(ir.VoidType(), [WORD])
        self.w = w = Writer(ir.Function(module, takes, self.name), self.inner)
        self.tree = Tree(w, cell)
        self.blocks = -(-units // w.lanes)
        self.across = self.blocks * w.lanes
        numbers = w.function.args[0]
        given = {name: w.number(numbers, k) for k, name in enumerate((*TEAM, *self.takes))}
        self.at: dict[str, Any] = given

    def _team(self) -> tuple[Any, Any]:
        """Return this thread's range of vectors."""
        w, kind = self.w, ir.FunctionType(ir.IntType(32), [])
        alone = w.builder.icmp_signed("==", self.at["threads"], WORD(0))
        start = w.builder.block
        with w.builder.if_then(w.builder.not_(alone)):
            number, count = (
                w.builder.sext(
                    w.builder.call(w.builder.inttoptr(self.at[k], kind.as_pointer()), []), WORD
                )
                for k in ("number", "threads")
            )
            inside = w.builder.block
        found = []
        for value, otherwise in ((number, 0), (count, 1)):
            phi = w.builder.phi(WORD)
            phi.add_incoming(value, inside)
            phi.add_incoming(WORD(otherwise), start)
            found.append(phi)
        number, count = found
        self.met = w.builder.icmp_signed(">", count, WORD(1))
        return tuple(
            w.builder.sdiv(w.times(n, self.blocks), count) for n in (number, w.add(number, 1))
        )

    def _meet(self) -> None:
        """Wait for the other threads."""
        w, kind = self.w, ir.FunctionType(ir.VoidType(), [])
        with w.builder.if_then(self.met):
            w.builder.call(w.builder.inttoptr(self.at["meet"], kind.as_pointer()), [])

    def _before(self, t: Any, start: Any) -> Any:
        """Return the address of c_(t-1) for a step whose rows begin at `start`."""
        w = self.w
        initial = w.builder.icmp_signed("==", t, WORD(0))
        earlier = w.number(self.at["sizes"], w.builder.select(initial, t, w.add(t, -1)))
        row = w.builder.sub(start, earlier)
        return w.builder.select(
            initial, self.at["c_0"], self._rows("c", self.inner, row, self.units, 0)
        )

    def _in(self, name: str, kind: Any, place: Any) -> Any:
        """Return the address of a place in an array of numbers of a kind."""
        return self.w.add(self.at[name], self.w.times(place, size_of(kind)))

    def _rows(self, name: str, kind: Any, row: Any, width: int, unit: Any) -> Any:
        """Return the address of a unit in a row of an array [.., width]."""
        return self._in(name, kind, self.w.add(self.w.times(row, width), unit))

    def write(self) -> None:
        raise NotImplementedError


class _Forward(_Steps):
    name, takes = "forward", FORWARD

    def write(self) -> None:
        """Write the function."""
        w, at = self.w, self.at
        if self.own:
            self.product = product(
                self.module, "ahead", self.inner, self.units, self.cell.base * self.across
            )
        first, last = self._team()

        def step(t: Any, start: Any) -> list[Any]:
            rows, following = w.number(at["sizes"], t), w.number(at["sizes"], w.add(t, 1))
            before = self._before(t, start)
            if self.own:
                w.loop(first, last, lambda k: self._products(k, rows, start))

            def row(r: Any) -> None:
                goes_on = w.less(r, following)
                w.loop(first, last, lambda k: self._vector(k, r, rows, goes_on, start, before))

            w.loop(0, rows, row)
            if self.own:
                self._meet()
            return [w.add(start, rows)]

        w.loop(at["first"], at["end"], step, [at["start"]])
        w.builder.ret_void()

    def _products(self, block: Any, rows: Any, start: Any) -> None:
        """Multiply h_(t-1) with the weights of a vector of units, leaf after leaf."""
        w = self.w
        onward = self._rows("onward", self.held, start, self.units, 0)
        ahead = w.add(self.at["weight"], w.times(block, self.row * BYTES))

        def leaf(i: Any) -> None:
            weight = w.add(ahead, w.times(i, self.units * BYTES))
            place = w.add(w.times(i, self.across), w.times(block, w.lanes))
            out = self._in("scratch", self.inner, place)
            w.builder.call(self.product, [onward, weight, out, rows])

        w.loop(0, self.cell.base, leaf)

    def _vector(
        self, block: Any, r: Any, rows: Any, goes_on: Any, start: Any, before: Any
    ) -> None:
        """Write the tree for one vector of units of row `r` of a step."""
        w, units, held, inner = self.w, self.units, self.held, self.inner
        unit = w.times(block, w.lanes)
        mask = w.below(w.builder.sub(WORD(units), unit))
        at = w.add(start, r)
        z, v = [], []
        for i in range(self.cell.base):
            place = w.add(unit, i * units)
            z.append(w.read(self._rows("z", held, at, self.row, place), held, mask))
            if self.own:
                of = w.add(unit, i * self.across)
                made = w.read(
                    self._rows("scratch", inner, r, self.cell.base * self.across, of), inner
                )
            else:
                made = w.read(self._rows("given", held, r, self.row, place), held, mask)
            v.append(made + w.read(self._in("bias", inner, place), inner, mask))
        c_place = w.times(w.add(w.times(r, units), unit), size_of(inner))
        c = w.read(w.add(before, c_place), inner, mask)
        h, c_next, kept = self.tree.forward(z, v, c)
        for i, value in enumerate(kept):
            place = self._rows("kept", inner, at, self.row, w.add(unit, i * units))
            w.write(value, place, inner, mask)
        w.write(h, self._rows("out", held, at, units, unit), held, mask)
        w.write(c_next, self._rows("c", inner, at, units, unit), inner, mask)
        passed = h * w.read(self._rows("mask", inner, r, units, unit), inner, mask)
        place = self._rows("onward", held, w.add(at, rows), units, unit)
        w.write(passed, place, held, w.where(goes_on, mask))


class _Backward(_Steps):
    name, takes = "backward", BACKWARD

    def write(self) -> None:
        """Write the function; it goes from step end - 1, which ends at row `start`, to `first`."""
        w, at = self.w, self.at
        if self.own:
            self.product = product(self.module, "back", self.inner, self.row, self.across)
        first, last = self._team()

        def step(k: Any, end: Any) -> list[Any]:
            t = w.builder.sub(w.add(at["end"], at["first"], -1), k)
            rows, following = w.number(at["sizes"], t), w.number(at["sizes"], w.add(t, 1))
            start = w.builder.sub(end, rows)
            before = self._before(t, start)

            def row(r: Any) -> None:
                goes_on = w.less(r, following)
                w.loop(first, last, lambda k: self._vector(k, r, goes_on, start, before))

            w.loop(0, rows, row)
            if self.own:
                self._meet()
                w.loop(first, last, lambda b: self._product(b, rows, start))
            return [start]

        w.loop(at["first"], at["end"], step, [at["start"]])
        w.builder.ret_void()

    def _product(self, block: Any, rows: Any, start: Any) -> None:
        w = self.w
        g_v = self._rows("g_v", self.held, start, self.row, 0)
        weight = w.add(self.at["weight"], w.times(block, self.row * BYTES))
        out = w.add(self.at["g_onward"], w.times(block, BYTES))
        w.builder.call(self.product, [g_v, weight, out, rows])

    def _vector(self, block: Any, r: Any, goes_on: Any, start: Any, before: Any) -> None:
        """Write the tree's gradient for one vector of units of row `r` of a step."""
        w, units, held, inner = self.w, self.units, self.held, self.inner
        unit = w.times(block, w.lanes)
        mask = w.below(w.builder.sub(WORD(units), unit))
        going = w.where(goes_on, mask)
        at = w.add(start, r)
        kept: list[Lanes] = []
        z: dict[int, Lanes] = {}
        for i in range(self.cell.base):
            place = w.add(unit, i * units)
            kept.append(w.read(self._rows("kept", inner, at, self.row, place), inner, mask))
            if not joined(self.cell, i):
                z[i] = w.read(self._rows("z", held, at, self.row, place), held, mask)
        c_place = w.times(w.add(w.times(r, units), unit), size_of(inner))
        c = w.read(w.add(before, c_place), inner, mask)
        across = self.across if self.own else units
        onward = w.read(self._rows("g_onward", held, r, across, unit), held, going)
        passed = onward * w.read(self._rows("mask", inner, r, units, unit), inner, mask)
        g_h = w.read(self._rows("g_out", held, at, units, unit), held, mask) + passed
        g_c = w.read(self._rows("g_c", inner, r, units, unit), inner, going)
        last = w.add(w.builder.mul(at, self.at["g_last_row"]), unit)
        g_c = g_c + w.read(self._in("g_last", inner, last), inner, mask)
        found, g_before = self.tree.backward(kept, z, c, g_h, g_c)
        for i, pair in enumerate(found):
            place = w.add(unit, i * units)
            for name, value in zip(("g_z", "g_v"), pair, strict=True):
                w.write(value, self._rows(name, held, at, self.row, place), held, mask)
        w.write(g_before, self._rows("g_c", inner, r, units, unit), inner, mask)


def product(module: Any, name: str, kind: Any, length: int, across: int) -> Any:
    """Write a function (a, weight, out, rows): out = a @ weight, a [rows, length].

    weight: [length, 16] of float32 (8 of float64), dense. out: rows of as many numbers, each
    `across` numbers after the last. As many rows at a time are worked out as the processor has
    registers for; where they do not come out even, some are worked out twice.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 4), name)
    function.linkage = "internal"
    w = Writer(function, kind)
    a, weight, out, rows = function.args
    many = bool(binding.get_host_cpu_features().get("avx512f"))
    sizes = (24, 20, 16, 12, 10, 8, 6, 4, 2, 1) if many else (6, 4, 2, 1)
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


def lay_ahead(module: Any, base: int, units: int, kind: Any) -> None:
    """Write a function of U [B * H, H] and room for [vectors of units, B, H, units of a vector]."""
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), "lay_ahead"), kind)
    weight, laid = (w.number(w.function.args[0], k) for k in range(2))
    one, (whole, left) = size_of(kind), divmod(units, w.lanes)

    def place(address: Any) -> Any:
        return w.builder.inttoptr(address, kind.as_pointer())

    def vector(block: Any, leaf: Any, lanes: int) -> None:
        unit = w.add(w.times(leaf, units), w.times(block, w.lanes))
        source = w.add(weight, w.times(unit, units * one))
        target = w.add(w.times(block, base * units), w.times(leaf, units))
        target = w.add(laid, w.times(target, BYTES))

        def column(k: Any) -> None:
            taken, given = w.add(source, w.times(k, one)), w.add(target, w.times(k, BYTES))
            if lanes < w.lanes:
                w.write(w.constant(0.0), given, kind)
            for lane in range(lanes):
                x = w.builder.load(place(w.add(taken, lane * units * one)))
                w.builder.store(x, place(w.add(given, lane * one)))

        w.loop(0, units, column)

    def leaf(i: Any) -> None:
        w.loop(0, whole, lambda block: vector(block, i, w.lanes))
        if left:
            vector(w.word(whole), i, left)

    w.loop(0, base, leaf)
    w.builder.ret_void()


def lay_back(module: Any, rows: int, units: int, kind: Any) -> None:
    """Write a function of U [B * H, H] and room for [vectors of units, B * H, units of one]."""
    w = Writer(ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD]), "lay_back"), kind)
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
