"""The machine code of a layer of a recurrent cell: all steps, forward and backward.

One function each way goes through the steps, a vector of units at a time: the leaves' products with
h_(t-1), then the tree while they are in the cache. Threads share the units and meet after a step.
Arrays are those of `netwright.children.steps`.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from netwright.children.aligned import TILE
from netwright.children.cell_steps import BACKWARD, FORWARD, Steps, group_of, kept_leaves, rows_of
from netwright.children.lanes import Lanes
from netwright.children.native import BYTES, WORD, Native, size_of
from netwright.children.products import products_of, vectors
from netwright.spaces.recurrent import Cell


class Code:
    """A cell of one width, compiled: functions for `native.call` and `OpenMP.run`.

    kind: "float32", "float64" or "tiles" (bfloat16, multiplied in tiles); or "bfloat16", whose
    products with h_(t-1) the caller makes, so that it takes one step a call. inputs: units of x
    where its products are made step by step too, and the gradients of the weights with them; 0
    where z is given and g_z and g_v are wanted.
    """

    def __init__(self, cell: Cell, units: int, kind: str, inputs: int = 0) -> None:
        self._products = None
        if kind != "bfloat16":
            self._products = products_of(cell.base, units, kind, inputs)
        made = self._products.functions if self._products else {}
        module = ir.Module()
        module.triple = binding.get_default_triple()
        for writer in (_Forward, _Backward):
            writer(module, made, cell, units, kind, inputs).write()
        self._native = Native(module)
        names = ("forward", "backward")
        self.functions = made | {name: self._native.function(name) for name in names}
        self.units, self.across = units, vectors(units, kind)
        self.across_in = vectors(inputs, kind)
        self.kept = kept_leaves(cell, inputs) * units
        self.onward_row, self.g_row = rows_of(cell, units, kind)
        self.group = group_of(kind)


@functools.lru_cache(maxsize=32)
def code_of(cell: Cell, units: int, kind: str, inputs: int = 0) -> Code:
    """Return the code, compiled at its first use."""
    return Code(cell, units, kind, inputs)


class _Forward(Steps):
    name, takes = "forward", FORWARD

    def write(self) -> None:
        """Write the function."""
        w, at = self.w, self.at
        if self.own:
            self.product = self._made("ahead")
        if self.inputs:
            self.product_in = self._made("ahead_in")
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
        self._end()

    def _products(self, block: Any, rows: Any, start: Any) -> None:
        """Multiply h_(t-1) with the weights of a vector of units, leaf after leaf."""
        w = self.w
        onward = self._rows("onward", self.held, start, self.onward_row, 0)
        if self.tiled:
            weight = w.times(block, self.cell.base * self.onward_row * BYTES // 2)
            out = self._in("scratch", self.inner, w.times(block, w.lanes))
            takes = [onward, w.add(self.at["weight"], weight), out, rows, WORD(self.cell.base)]
            w.builder.call(self.product, takes)
            if self.inputs:
                weight = w.times(block, self.cell.base * self.x_row * BYTES // 2)
                weight = w.add(self.at["weight_in"], weight)
                out = self._in("scratch_in", self.inner, w.times(block, w.lanes))
                x = self._rows("x", self.held, start, self.x_row, 0)
                w.builder.call(self.product_in, [x, weight, out, rows, WORD(self.cell.base)])
            return
        ahead = w.add(self.at["weight"], w.times(block, self.row * BYTES))

        def leaf(i: Any) -> None:
            weight = w.add(ahead, w.times(i, self.units * BYTES))
            place = w.add(w.times(i, self.across), w.times(block, w.lanes))
            out = self._in("scratch", self.inner, place)
            w.builder.call(self.product, [onward, weight, out, rows])
            if self.inputs:
                weight = w.add(w.times(block, self.cell.base), i)
                weight = w.add(self.at["weight_in"], w.times(weight, self.inputs * BYTES))
                out = self._in("scratch_in", self.inner, place)
                x = self._rows("x", self.held, start, self.inputs, 0)
                w.builder.call(self.product_in, [x, weight, out, rows])

        w.loop(0, self.cell.base, leaf)

    def _vector(self, block: Any, r: Any, rows: Any, goes_on: Any, start: Any, before: Any) -> None:
        """Write the tree for one vector of units of row `r` of a step."""
        w, units, held, inner = self.w, self.units, self.held, self.inner
        unit = w.times(block, w.lanes)
        mask = w.below(w.builder.sub(WORD(units), unit))
        at = w.add(start, r)
        z, v = [], []
        for i in range(self.cell.base):
            place = w.add(unit, i * units)
            of, tile = w.add(unit, i * self.across), self.cell.base * self.across
            if self.inputs:
                z.append(w.read(self._rows("scratch_in", inner, r, tile, of), inner))
            else:
                z.append(w.read(self._rows("z", held, at, self.row, place), held, mask))
            if self.own:
                made = w.read(self._rows("scratch", inner, r, tile, of), inner)
            else:
                made = w.read(self._rows("given", held, r, self.row, place), held, mask)
            v.append(made + w.read(self._in("bias", inner, place), inner, mask))
        c_place = w.times(w.add(w.times(r, units), unit), size_of(inner))
        c = w.read(w.add(before, c_place), inner, mask)
        h, c_next, kept = self.tree.forward(z, v, c)
        kept += [z[i] for i in self.apart] if self.inputs else []
        for i, value in enumerate(kept):
            place = self._rows("kept", inner, at, self.kept_row, w.add(unit, i * units))
            w.write(value, place, inner, mask)
        w.write(h, self._rows("out", held, at, units, unit), held, mask)
        w.write(c_next, self._rows("c", inner, at, units, unit), inner, mask)
        passed = h * w.read(self._rows("mask", inner, r, units, unit), inner, mask)
        place = self._rows("onward", held, w.add(at, rows), self.onward_row, unit)
        w.write(passed, place, held, w.where(goes_on, mask))


class _Backward(Steps):
    name, takes = "backward", BACKWARD

    def write(self) -> None:
        """Write the function; it goes from step end - 1, which ends at row `start`, to `first`."""
        w, at = self.w, self.at
        if self.own:
            self.product = self._made("back")
        if self.inputs:
            self.blocks_in = -(-self.inputs // w.lanes)
            self.product_in = self._made("back_in")
            self.sums, self.sums_in = self._made("sums"), self._made("sums_in")
        first, last = self._team()

        room = w.times(w.number(at["sizes"]), self.group if self.inputs else 0)

        def step(k: Any, end: Any, above: Any) -> list[Any]:
            t = w.builder.sub(w.add(at["end"], at["first"], -1), k)
            rows, following = w.number(at["sizes"], t), w.number(at["sizes"], w.add(t, 1))
            start = w.builder.sub(end, rows)
            g_start = w.builder.sub(above, rows) if self.inputs else start
            before = self._before(t, start)

            def row(r: Any) -> None:
                goes_on, g_row = w.less(r, following), w.add(g_start, r)
                w.loop(first, last, lambda k: self._vector(k, r, g_row, goes_on, start, before))

            w.loop(0, rows, row)
            if self.own:
                self._meet()
                if self.tiled:
                    self._tile_product(first, last, rows, g_start)
                else:
                    w.loop(first, last, lambda b: self._product(b, rows, g_start))
            if not self.inputs:
                return [start, above]
            self._of_x(rows, start, g_start)
            fresh = w.less(t, w.add(at["end"], -self.group))  # negated
            full = w.builder.or_(
                w.builder.icmp_signed("==", w.builder.srem(w.add(k, 1), WORD(self.group)), WORD(0)),
                w.builder.icmp_signed("==", t, at["first"]),
            )
            with w.builder.if_then(full):
                self._of_weights(w.builder.sub(room, g_start), start, g_start, fresh)
                self._meet()  # g_z and g_v are written over then
            return [start, w.builder.select(full, room, g_start)]

        w.loop(at["first"], at["end"], step, [at["start"], room])
        self._end()

    def _of_x(self, rows: Any, start: Any, g_start: Any) -> None:
        """Make a step's gradients of x."""
        w, inner = self.w, self.inner
        first, last = self._share(self.blocks_in)
        wanted = w.builder.icmp_signed("!=", self.at["wants_x"], WORD(0))
        last = w.builder.select(wanted, last, first)
        g_z = self._rows("g_z", self.held, g_start, self.g_row, 0)
        if self.tiled:
            weight = w.add(self.at["weight_in"], w.times(first, self.g_row * BYTES // 2))
            out = self._rows("g_x", inner, start, self.blocks_in * w.lanes, w.times(first, w.lanes))
            w.builder.call(self.product_in, [g_z, weight, out, rows, w.builder.sub(last, first)])
            return

        def block(k: Any) -> None:
            weight = w.add(self.at["weight_in"], w.times(k, self.row * BYTES))
            out = self._rows("g_x", inner, start, self.blocks_in * w.lanes, w.times(k, w.lanes))
            w.builder.call(self.product_in, [g_z, weight, out, rows])

        w.loop(first, last, block)

    def _of_weights(self, rows: Any, start: Any, g_start: Any, going_on: Any) -> None:
        """Add the gradients of some steps' rows to those of the weights, or begin with them."""
        if self.tiled:
            self._of_weights_in_tiles(rows, start, g_start, going_on)
            return
        w, inner = self.w, self.inner
        first, last = self._share(self.row)
        for function, of, length, g, to in (
            (self.sums_in, "x", self.inputs, "g_z", "g_weight_in"),
            (self.sums, "onward", self.units, "g_v", "g_weight"),
        ):
            taken = self._rows(of, inner, start, length, 0)
            given = self._rows(g, inner, g_start, self.row, 0)
            takes = [given, taken, self.at[to], rows, first, last, going_on]
            w.builder.call(function, takes)

    def _of_weights_in_tiles(self, rows: Any, start: Any, g_start: Any, going_on: Any) -> None:
        w, at, held = self.w, self.at, self.held
        of = (
            ("g_z", g_start, self.g_row, "pairs"),
            ("g_v", g_start, self.g_row, "pairs"),
            ("x", start, self.x_row, "pairs_turned_in"),
            ("onward", start, self.onward_row, "pairs_turned"),
        )
        pairs = w.times(w.builder.sdiv(w.add(rows, TILE - 1), WORD(TILE)), TILE // 2)
        first, last = self._share(pairs)
        for name, row, width, function in of:
            source = self._rows(name, held, row, width, 0)
            takes = [source, at[f"{name}_tiles"], rows, first, last]
            w.builder.call(self._made(function), takes)
        self._meet()
        first, last = self._share(-(-self.row // w.lanes))
        for function, g, x, to in (
            (self.sums_in, "g_z_tiles", "x_tiles", "g_weight_in"),
            (self.sums, "g_v_tiles", "onward_tiles", "g_weight"),
        ):
            w.builder.call(function, [at[g], at[x], at[to], rows, first, last, going_on])

    def _tile_product(self, first: Any, last: Any, rows: Any, start: Any) -> None:
        w = self.w
        g_v = self._rows("g_v", self.held, start, self.g_row, 0)
        weight = w.add(self.at["weight"], w.times(first, self.g_row * BYTES // 2))
        out = w.add(self.at["g_onward"], w.times(first, BYTES))
        w.builder.call(self.product, [g_v, weight, out, rows, w.builder.sub(last, first)])

    def _product(self, block: Any, rows: Any, start: Any) -> None:
        w = self.w
        g_v = self._rows("g_v", self.held, start, self.row, 0)
        weight = w.add(self.at["weight"], w.times(block, self.row * BYTES))
        out = w.add(self.at["g_onward"], w.times(block, BYTES))
        w.builder.call(self.product, [g_v, weight, out, rows])

    def _vector(
        self, block: Any, r: Any, g_row: Any, goes_on: Any, start: Any, before: Any
    ) -> None:
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
            kept.append(w.read(self._rows("kept", inner, at, self.kept_row, place), inner, mask))
        for k, i in enumerate(self.apart):
            if self.inputs:
                place = w.add(unit, (self.cell.base + k) * units)
                z[i] = w.read(self._rows("kept", inner, at, self.kept_row, place), inner, mask)
            else:
                place = w.add(unit, i * units)
                z[i] = w.read(self._rows("z", held, at, self.row, place), held, mask)
        c_place = w.times(w.add(w.times(r, units), unit), size_of(inner))
        c = w.read(w.add(before, c_place), inner, mask)
        across = self.across if self.own else units
        found_in = inner if self.own else held
        onward = w.read(self._rows("g_onward", found_in, r, across, unit), found_in, going)
        passed = onward * w.read(self._rows("mask", inner, r, units, unit), inner, mask)
        g_h = w.read(self._rows("g_out", held, at, units, unit), held, mask) + passed
        g_c = w.read(self._rows("g_c", inner, r, units, unit), inner, going)
        last = w.add(w.builder.mul(at, self.at["g_last_row"]), unit)
        g_c = g_c + w.read(self._in("g_last", inner, last), inner, mask)
        found, g_before = self.tree.backward(kept, z, c, g_h, g_c)
        for i, pair in enumerate(found):
            place = w.add(unit, i * units)
            for name, value in zip(("g_z", "g_v"), pair, strict=True):
                w.write(value, self._rows(name, held, g_row, self.g_row, place), held, mask)
        w.write(g_before, self._rows("g_c", inner, r, units, unit), inner, mask)
