"""The machine code of a small layer of a recurrent cell by vectors of bfloat16, without tiles.

As `netwright.children.cell_code`, but for what such processors gain by: W and U are laid out here,
x_t and h_(t-1) lie in one row, so that a leaf that adds takes one product of both, and the tree
follows a vector of units' products while they are in the cache.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from netwright.children.cell_steps import Steps
from netwright.children.lanes import Lanes
from netwright.children.native import BYTES, FLOAT, HALF, WORD, Native
from netwright.children.pairs import LANES, ONCE, pairs_of
from netwright.children.tree import Tree
from netwright.spaces.recurrent import Cell

GROUP = 8  # steps whose gradients of the weights are made in one go
FORWARD: tuple[str, ...] = ("x", "x_narrow", "h_0", "h_narrow", "c_0", "mask", "w", "u", "both")
FORWARD += ("weight", "scratch", "scratch_size", "c", "out", "kept", "sizes", "end", "total")
BACKWARD: tuple[str, ...] = ("g_out", "g_last", "g_last_row", "mask", "c_0", "c", "kept", "w", "u")
BACKWARD += ("both", "weight", "weight_in", "g", "g_onward", "g_c", "g_pairs", "h_pairs", "x_pairs")
BACKWARD += ("apart",)
BACKWARD += ("x_sums", "g_x", "x_narrow", "wants_x", "g_w", "g_u", "sizes", "end", "total")


class PairCode:
    """A cell of one width, compiled: functions for `native.call` and `OpenMP.run`."""

    def __init__(self, cell: Cell, units: int, inputs: int) -> None:
        self._pairs = pairs_of(cell.base, units, inputs)
        self.shape = self._pairs.shape
        module = ir.Module()
        module.triple = binding.get_default_triple()
        for writer in (_Forward, _Backward):
            writer(module, self._pairs, cell).write()
        self._native = Native(module)
        names = ("forward", "backward")
        self.functions = {name: self._native.function(name) for name in names}
        self.kept = _slots(cell) * self.shape.lines * BYTES  # bytes of a row
        self.g = _slots(cell) * self.shape.wide  # numbers of a row


@functools.lru_cache(maxsize=32)
def pair_code_of(cell: Cell, units: int, inputs: int) -> PairCode:
    """Return the code, compiled at its first use."""
    return PairCode(cell, units, inputs)


def _slots(cell: Cell) -> int:
    """Return how many sums a unit has: of a leaf that does not add there are two."""
    return cell.base + sum(combine != "add" for combine, _ in cell.nodes[: cell.base])


class _Pass(Steps):
    """What both ways have in common.

    order: the leaves as they lie side by side: those that do not add, and then the others.
    """

    def __init__(self, module: Any, pairs: Any, cell: Cell) -> None:
        self.shape, self._pairs = pairs.shape, pairs
        super().__init__(
            module, pairs.functions, cell, self.shape.units, "pairs", pairs.shape.inputs
        )
        self.tree = Tree(self.w, cell, coarse=True)
        self.added = [i for i in range(cell.base) if i not in self.apart]
        self.order = self.apart + self.added

    def _do(self, name: str, *takes: Any) -> None:
        """Call a function of `Pairs`."""
        name = self._pairs.named(name)
        kind = ir.FunctionType(ir.VoidType(), [WORD] * self._pairs.takes[name])
        function = self.w.builder.inttoptr(WORD(self.made[name]), kind.as_pointer())
        self.w.builder.call(function, [self.w.word(x) for x in takes])

    def _of_weight(self, name: str, leaf: int, length: int) -> Any:
        """Return the address of a leaf in W, U or their gradients."""
        return self.w.add(self.at[name], leaf * self.units * length * 4)

    def _read_as(self, name: str, place: Any, mask: Any) -> Lanes:
        """Read numbers of what is bfloat16 where `.._narrow` is not 0, else float32."""
        w = self.w
        narrow = w.builder.icmp_signed("!=", self.at[f"{name[0]}_narrow"], WORD(0))
        with w.builder.if_else(narrow) as (yes, no):
            with yes:
                one = w.read(self._in(name, HALF, place), HALF, mask).value
                left = w.builder.block
            with no:
                other = w.read(self._in(name, FLOAT, place), FLOAT, mask).value
                right = w.builder.block
        found = w.builder.phi(one.type)
        found.add_incoming(one, left)
        found.add_incoming(other, right)
        return w.lanes_of(found)

    def _kept(self, block: Any, r: Any, rows: Any, start: Any) -> Any:
        """Return the address of what is kept of a row's vector: one behind the other, as made."""
        w = self.w
        place = w.add(w.times(start, self.shape.lines), w.builder.mul(block, rows), r)
        return w.add(self.at["kept"], w.times(place, _slots(self.cell) * BYTES))

    def _mask(self, unit: Any, length: int) -> Any:
        return self.w.below(self.w.builder.sub(WORD(length), self.w.word(unit)))


class _Forward(_Pass):
    name, takes = "forward", FORWARD

    def write(self) -> None:
        """Write the function."""
        w, at = self.w, self.at
        first, last = self._team()
        at["scratch"] = w.add(at["scratch"], w.builder.mul(at["thread"], at["scratch_size"]))
        self._lay(first, last)
        self._meet()

        def step(t: Any, start: Any) -> list[Any]:
            rows, following = w.number(at["sizes"], t), w.number(at["sizes"], w.add(t, 1))
            before = self._before(t, start)

            def block(k: Any) -> None:
                self._products(k, rows, start)

                def row(r: Any) -> None:
                    self._vector(k, r, (rows, w.less(r, following)), start, before)

                w.loop(0, rows, row)

            w.loop(first, last, block)
            self._meet()
            return [w.add(start, rows)]

        w.loop(0, at["end"], step, [w.word(0)])
        w.builder.ret_void()

    def _lay(self, first: Any, last: Any) -> None:
        """Lay the weights out, and x and h_0 in the rows."""
        w, at, shape = self.w, self.at, self.shape

        def block(k: Any) -> None:
            for slot, i in enumerate(self.order):
                to = w.times(w.add(w.times(k, self.cell.base), slot), shape.leaf)
                to, unit = w.add(at["weight"], to), w.times(k, LANES)
                self._do("lay_ahead_in", self._of_weight("w", i, self.inputs), to, unit)
                behind = w.add(to, shape.wide_in // 2 * BYTES)
                self._do("lay_ahead", self._of_weight("u", i, self.units), behind, unit)

        w.loop(first, last, block)

        def of_x(r: Any) -> None:
            for start in range(0, shape.wide_in, LANES):
                place = w.add(w.times(r, self.inputs), start)
                found = self._read_as("x", place, self._mask(start, self.inputs))
                to = w.add(at["both"], w.times(r, shape.both), start * 2)
                w.write(found, to, HALF, self._mask(start, shape.wide_in))

        w.loop(*self._share(at["total"]), of_x)

        def of_h(r: Any) -> None:
            for start in range(0, shape.wide, LANES):
                place, mask = w.add(w.times(r, self.units), start), self._mask(start, self.units)
                found = self._read_as("h_0", place, mask)
                found = found * w.read(self._in("mask", FLOAT, place), FLOAT, mask)
                self._onward(found, r, w.word(start))

        w.loop(*self._share(w.number(at["sizes"])), of_h)

    def _onward(self, h: Lanes, row: Any, unit: Any, goes_on: Any = None) -> None:
        """Write h_(t-1) of a row, zeros behind the last unit."""
        w, shape = self.w, self.shape
        place = w.add(self.at["both"], w.times(row, shape.both), shape.wide_in * 2)
        mask = self._mask(unit, shape.wide)
        mask = mask if goes_on is None else w.where(goes_on, mask)
        w.write(h, w.add(place, w.times(unit, 2)), HALF, mask)

    def _products(self, block: Any, rows: Any, start: Any) -> None:
        """Make a vector of units' sums: leaf after leaf, then those of h of leaves with two."""
        w, at, shape = self.w, self.at, self.shape
        left = w.add(at["both"], w.times(start, shape.both))
        weight = w.add(at["weight"], w.times(block, self.cell.base * shape.leaf))
        of_x, of_h = shape.wide_in // 2, shape.wide // 2
        split, base = len(self.apart), self.cell.base
        for begin, end, slot, gone, pairs in (
            (0, split, 0, 0, of_x),
            (0, split, base, of_x, of_h),
            (split, base, split, 0, of_x + of_h),
        ):
            for i in range(begin, end, 2):
                lines = min(2, end - i)
                self._do(
                    f"ahead_{lines}", w.add(left, gone * 4),
                    w.add(weight, i * shape.leaf + gone * BYTES), shape.leaf,
                    w.add(at["scratch"], (slot + i - begin) * BYTES), rows, pairs // ONCE,
                )  # fmt: skip

    def _vector(self, block: Any, r: Any, of: tuple[Any, Any], start: Any, before: Any) -> None:
        """Write the tree for one vector of units of row `r` of a step.

        of: its rows, and whether this one goes on.
        """
        w, units, shape = self.w, self.units, self.shape
        (rows, goes_on), unit = of, w.times(block, LANES)
        mask, at = self._mask(unit, units), w.add(start, r)
        sums = w.add(self.at["scratch"], w.times(r, shape.sums))

        def sum_of(slot: int) -> Lanes:
            return w.read(w.add(sums, slot * BYTES), FLOAT)

        z = [sum_of(self.order.index(i)) for i in range(self.cell.base)]
        v = {i: sum_of(self.cell.base + k) for k, i in enumerate(self.apart)}
        c = w.read(w.add(before, w.times(w.add(w.times(r, units), unit), 4)), FLOAT, mask)
        h, c_next, kept = self.tree.forward(z, [v.get(i) for i in range(self.cell.base)], c)
        place = self._kept(block, r, rows, start)
        for i, value in enumerate([*kept, *(z[i] for i in self.apart)]):
            w.write(value, w.add(place, i * BYTES), FLOAT)
        w.write(h, self._rows("out", HALF, at, units, unit), HALF, mask)
        w.write(c_next, self._rows("c", FLOAT, at, units, unit), FLOAT, mask)
        passed = h * w.read(self._rows("mask", FLOAT, r, units, unit), FLOAT, mask)
        self._onward(passed, w.add(at, rows), unit, goes_on)


class _Backward(_Pass):
    name, takes = "backward", BACKWARD

    def write(self) -> None:
        """Write the function; it goes from step end - 1 to the first."""
        w, at = self.w, self.at
        first, last = self._team()
        self._lay()
        self._meet()

        def step(k: Any, end: Any, done: Any) -> list[Any]:
            t = w.builder.sub(w.add(at["end"], -1), k)
            rows, following = w.number(at["sizes"], t), w.number(at["sizes"], w.add(t, 1))
            start = w.builder.sub(end, rows)
            before = self._before(t, start)

            def block(k: Any) -> None:
                def row(r: Any) -> None:
                    self._vector(k, r, (rows, w.less(r, following)), start, before)

                w.loop(0, rows, row)

            w.loop(first, last, block)
            self._meet()
            self._back("back", at["g"], "weight", at["g_onward"], rows, (first, last))
            self._of_x(rows, start)
            pairs = w.add(done, self._lay_pairs(rows, start, done))
            self._meet()  # g is written over then
            full = w.builder.or_(
                w.builder.icmp_signed("==", w.builder.srem(w.add(k, 1), WORD(GROUP)), WORD(0)),
                w.builder.icmp_signed("==", t, WORD(0)),
            )
            with w.builder.if_then(full):
                self._lay_pairs(w.word(0), start, pairs, 2 * ONCE - 2)  # zeros behind
                self._meet()
                self._of_weights(pairs, w.less(t, w.add(at["end"], -GROUP)))
                self._meet()
            return [start, w.builder.select(full, WORD(0), pairs)]

        w.loop(0, at["end"], step, [at["total"], w.word(0)])
        w.builder.ret_void()

    def _lay(self) -> None:
        """Lay out U as its products with the gradients of (apart, added) take it, and W."""
        w, at, shape = self.w, self.at, self.shape
        half = shape.wide // 2
        share = self._share(half)
        for slot, i in enumerate(self.order):
            to = w.add(at["weight"], slot * half * BYTES)
            self._do("lay_back", self._of_weight("u", i, self.units), to, *share)
        wanted = w.builder.icmp_signed("!=", at["wants_x"], WORD(0))
        with w.builder.if_then(wanted):
            for slot, i in enumerate(self.added + self.apart):
                to = w.add(at["weight_in"], slot * half * BYTES)
                self._do("lay_back_in", self._of_weight("w", i, self.inputs), to, *share)

    def _back(
        self, name: str, g: Any, weight: str, out: Any, rows: Any, share: tuple[Any, Any]
    ) -> None:
        """Multiply some rows of gradients with the weights, two lines of columns at a time."""
        w, back = self.w, self.shape.back
        first, last = share
        fours = self.cell.base * self.shape.wide // 2 // ONCE

        def some(line: Any, lines: int) -> None:
            right = w.add(self.at[weight], w.times(line, back))
            takes = g, right, back, w.add(out, w.times(line, BYTES)), rows, fours
            self._do(f"{name}_{lines}", *takes)

        twos = w.builder.sdiv(w.builder.sub(last, first), WORD(2))
        w.loop(0, twos, lambda k: some(w.add(first, w.times(k, 2)), 2))
        w.loop(w.add(first, w.times(twos, 2)), last, lambda k: some(k, 1))

    def _of_x(self, rows: Any, start: Any) -> None:
        """Make a step's gradients of x."""
        w, at, shape = self.w, self.at, self.shape
        first, last = self._share(shape.lines_in)
        last = w.builder.select(w.builder.icmp_signed("!=", at["wants_x"], WORD(0)), last, first)
        of_w = w.add(at["g"], len(self.apart) * shape.wide * 2)
        self._back("back_in", of_w, "weight_in", at["x_sums"], rows, (first, last))
        narrow = w.builder.icmp_signed("!=", at["x_narrow"], WORD(0))

        def row(r: Any) -> None:
            def line(k: Any) -> None:
                unit = w.times(k, LANES)
                mask = self._mask(unit, self.inputs)
                of = w.add(w.times(r, shape.onward_in), w.times(k, BYTES))
                found = w.read(w.add(at["x_sums"], of), FLOAT)
                place = w.add(start, r), self.inputs, unit
                with w.builder.if_else(narrow) as (yes, no):
                    with yes:
                        w.write(found, self._rows("g_x", HALF, *place), HALF, mask)
                    with no:
                        w.write(found, self._rows("g_x", FLOAT, *place), FLOAT, mask)

            w.loop(first, last, line)

        w.loop(0, rows, row)

    def _lay_pairs(self, rows: Any, start: Any, done: Any, more: int = 0) -> Any:
        """Lay out a step's rows, and `more` of zeros, behind `done` pairs; return how many."""
        w, at, shape = self.w, self.at, self.shape
        pairs = w.builder.sdiv(w.add(rows, more, 1), WORD(2))
        share = self._share(pairs)
        lines = -(-_slots(self.cell) * shape.wide // LANES)
        to = w.add(at["g_pairs"], w.times(done, BYTES))
        self._do("lay_g", at["g"], to, rows, *share, lines, at["apart"], BYTES)
        both = w.add(at["both"], w.times(start, shape.both))
        for name, gone, count in (
            ("x_pairs", 0, shape.lines_in),
            ("h_pairs", shape.wide_in * 2, shape.lines),
        ):
            to = w.add(at[name], w.times(done, count * BYTES))
            takes = rows, *share, count, BYTES, count * BYTES
            self._do("lay_both", w.add(both, gone), to, *takes)
        return pairs

    def _of_weights(self, pairs: Any, more: Any) -> None:
        """Add the gradients of some steps to those of the weights, or begin with them."""
        w, at, shape = self.w, self.at, self.shape
        first, last = self._share(-(-self.units // ONCE))
        more, fours = w.builder.zext(more, WORD), w.builder.sdiv(w.add(pairs, ONCE - 1), WORD(ONCE))
        lag = len(self.apart)
        for name, leaves, begin, of, to, length in (
            ("sums", self.order, 0, "h_pairs", "g_u", self.units),
            ("sums_in", self.added + self.apart, lag, "x_pairs", "g_w", self.inputs),
        ):
            for slot, i in enumerate(leaves):
                column, out = (begin + slot) * shape.wide, self._of_weight(to, i, length)
                takes = column, at["apart"], at[of], out, fours, first, last, more
                self._do(name, at["g_pairs"], *takes)

    def _vector(self, block: Any, r: Any, of: tuple[Any, Any], start: Any, before: Any) -> None:
        """Write the tree's gradient for one vector of units, as `_Forward._vector` takes it."""
        w, units, shape = self.w, self.units, self.shape
        (rows, goes_on), unit = of, w.times(block, LANES)
        mask, at = self._mask(unit, units), w.add(start, r)
        going = w.where(goes_on, mask)
        place = self._kept(block, r, rows, start)
        kept = [w.read(w.add(place, i * BYTES), FLOAT) for i in range(_slots(self.cell))]
        z = {i: kept[self.cell.base + k] for k, i in enumerate(self.apart)}
        c = w.read(w.add(before, w.times(w.add(w.times(r, units), unit), 4)), FLOAT, mask)
        onward = self._rows("g_onward", FLOAT, r, shape.lines * LANES, unit)
        passed = w.read(onward, FLOAT, going)
        passed = passed * w.read(self._rows("mask", FLOAT, r, units, unit), FLOAT, mask)
        g_h = w.read(self._rows("g_out", HALF, at, units, unit), HALF, mask) + passed
        g_c = w.read(self._rows("g_c", FLOAT, r, units, unit), FLOAT, going)
        last = w.add(w.builder.mul(at, self.at["g_last_row"]), unit)
        g_c = g_c + w.read(self._in("g_last", FLOAT, last), FLOAT, mask)
        found, g_before = self.tree.backward(kept[: self.cell.base], z, c, g_h, g_c)
        slots = [(found[i][1], slot) for slot, i in enumerate(self.order)]
        slots += [(found[i][0], self.cell.base + k) for k, i in enumerate(self.apart)]
        cut = None if shape.wide % LANES == 0 else self._mask(unit, shape.wide)
        for value, slot in slots:
            place = w.add(w.times(r, shape.g), slot * shape.wide * 2, w.times(unit, 2))
            w.write(value, w.add(self.at["g"], place), HALF, cut)
        w.write(g_before, self._rows("g_c", FLOAT, r, units, unit), FLOAT, mask)
