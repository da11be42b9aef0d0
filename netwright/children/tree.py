"""The element-wise tree of a recurrent cell and its gradient, written out in vectors.

`netwright.children.steps.plain_step` is the readable version, against which this one is tested.
tanh, and sigmoid(x) = (1 + tanh(x / 2)) / 2, are in float32 a rational function fitted to a
relative error of 2e-8 (4e-7 after rounding), in float64 the library's. Where products are of
bfloat16, which has 4e-3, it may be a coarser one of 2e-4. NaN stays NaN everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from netwright.children.lanes import Lanes
from netwright.children.native import FLOAT, Writer
from netwright.spaces.recurrent import Cell

_OVER: tuple[float, ...] = (1.3354352021263056e-08, 2.060885239584257e-05, 0.003495574040048693)
_OVER += (0.13381013805226194, 0.9999999794871548)
_UNDER: tuple[float, ...] = (7.776429441277211e-07, 0.0003285611822567876, 0.02587692864959304)
_UNDER += (0.46714329407877625, 1.0)
_COARSE_OVER = (0.0515581694, 8.0620681042, 79.2132712864)  # never above one with what is under it
_COARSE_UNDER = (1.0, 34.4397023783, 79.2233507547)
_COARSE_END = 5.2
_FROM_VALUE = ("identity", "tanh", "sigmoid", "relu")  # whose derivative the value tells


def joined(cell: Cell, leaf: int) -> bool:
    """Say whether a leaf's gradient needs no more than one number of it, see `Tree.forward`."""
    return cell.nodes[leaf][0] == "add"


class Tree:
    """Writes the tree of a cell with a `Writer`, for one vector of units.

    coarse: whether tanh and sigmoid are; float32 on processors with AVX-512 only.
    """

    def __init__(self, writer: Writer, cell: Cell, coarse: bool = False) -> None:
        self._w, self._cell, self._coarse = writer, cell, coarse

    def forward(
        self, z: Sequence[Lanes], v: Sequence[Lanes | None], c: Lanes
    ) -> tuple[Lanes, Lanes, list[Lanes]]:
        """Return (h_t, c_t) and what `backward` wants of each leaf.

        z, v: the leaves' products W_i x_t and U_i h_(t-1), or their sum and None. c: c_(t-1). A
        leaf that adds wants its value, with sin what that is of; any other one v, and z from its
        caller.
        """
        cell, wanted, c_next = self._cell, [], c
        values: list[Lanes] = []
        for i, (combine, activation) in enumerate(cell.nodes):
            below = cell.children(i)
            left, right = (values[below[0]], values[below[1]]) if below else (z[i], v[i])
            operand = left if right is None else self._combine(combine, left, right)
            c_next = operand if i == cell.c_from else c_next
            value = self._activate(activation, operand)
            if not below:
                told = value if activation in _FROM_VALUE else operand
                wanted.append(told if joined(cell, i) or right is None else right)
            values.append(self._injected(value, c)[1] if i == cell.c_into else value)
        return values[-1], c_next, wanted

    def _injected(self, value: Lanes, c: Lanes) -> tuple[Lanes, Lanes]:
        combine, activation = self._cell.inject
        operand = self._combine(combine, value, c)
        return operand, self._activate(activation, operand)

    def backward(
        self, wanted: Sequence[Lanes], z: dict[int, Lanes], c: Lanes, g_h: Lanes, g_c: Lanes
    ) -> tuple[list[tuple[Lanes, Lanes]], Lanes]:
        """Return the gradients of each leaf's products, by z and by v, and of c_(t-1).

        wanted: as `forward` returned it. z: of the leaves that do not add. g_h, g_c: the gradients
        of h_t and c_t.
        """
        cell = self._cell
        operands: list[Lanes] = []
        values: list[Lanes] = []  # before the inject
        ends: list[Lanes] = []
        inject = None
        for i, (combine, activation) in enumerate(cell.nodes):
            if below := cell.children(i):
                operands.append(self._combine(combine, ends[below[0]], ends[below[1]]))
            else:
                operand = wanted[i]
                operands.append(operand if i not in z else self._combine(combine, z[i], operand))
            told = not below and i not in z and activation in _FROM_VALUE
            values.append(operands[i] if told else self._activate(activation, operands[i]))
            ends.append(values[i])
            if i == cell.c_into:
                inject = self._injected(values[i], c)
                ends[i] = inject[1]
        g: dict[int, Lanes] = {len(cell.nodes) - 1: g_h}
        before = self._w.constant(0.0)
        found: list[tuple[Lanes, Lanes]] = []
        for i in reversed(range(len(cell.nodes))):
            combine, activation = cell.nodes[i]
            d = g[i]
            if i == cell.c_into:
                assert inject is not None
                d = self._through(cell.inject[1], *inject, d)
                d, before = self._apart(cell.inject[0], values[i], c, d)
            d = self._through(activation, operands[i], values[i], d)
            d = d + g_c if i == cell.c_from else d
            if below := cell.children(i):
                left, right = below
                g[left], g[right] = self._apart(combine, ends[left], ends[right], d)
            else:
                found.append(self._apart(combine, z[i], wanted[i], d) if i in z else (d, d))
        return found[::-1], before

    # --- one node ---

    def _combine(self, kind: str, a: Lanes, b: Lanes) -> Lanes:
        if kind == "add":
            return a + b
        if kind == "elem_mult":
            return a * b
        unordered = a.builder.fcmp_unordered("uno", a.value, a.value)
        higher = a.builder.or_(a.builder.fcmp_ordered(">", a.value, b.value), unordered)
        return self._w.lanes_of(a.builder.select(higher, a.value, b.value))

    def _activate(self, kind: str, x: Lanes) -> Lanes:
        if self._coarse and kind in ("tanh", "sigmoid"):
            return self._coarsely(kind, x)
        if kind == "tanh":
            return self._tanh(x)
        if kind == "sigmoid":
            half = self._w.constant(0.5)
            return half + half * self._tanh(half * x)
        if kind == "relu":
            zero = self._w.constant(0.0)
            return x.above(zero, x, zero)
        return self._w.each("sin", x) if kind == "sin" else x

    def _within(self, x: Lanes, end: float) -> Lanes:
        w, high, low = self._w, self._w.constant(end), self._w.constant(-end)
        y = w.above(x, high, high, x)
        return w.above(low, y, low, y)

    def _coarsely(self, kind: str, x: Lanes) -> Lanes:
        """Return tanh, or sigmoid as half of tanh(x / 2) and a half."""
        w, half = self._w, kind == "sigmoid"
        scale = 4.0 if half else 1.0  # of x * x
        y = self._within(x, _COARSE_END * (2 if half else 1))
        s = y * y
        a, b, c = (w.constant(k * scale**i / scale) for i, k in enumerate(_COARSE_OVER))
        _, e, f = (w.constant(k * scale**i) for i, k in enumerate(_COARSE_UNDER))
        found = y * ((a * s + b) * s + c) * w.about_one_over((s + e) * s + f)
        return found + w.constant(0.5) if half else found

    def _tanh(self, x: Lanes) -> Lanes:
        w = self._w
        if w.kind != FLOAT:
            return w.each("tanh", x)
        y = self._within(x, 9.0)
        s = y * y
        over, under = w.constant(_OVER[0]), w.constant(_UNDER[0])
        for a, b in zip(_OVER[1:], _UNDER[1:], strict=True):
            over, under = over * s + w.constant(a), under * s + w.constant(b)
        return y * over / under

    def _through(self, kind: str, operand: Lanes, value: Lanes, g: Lanes) -> Lanes:
        """Return the gradient of what an activation was of."""
        one, zero = self._w.constant(1.0), self._w.constant(0.0)
        if kind == "tanh":
            return g * (one - value * value)
        if kind == "sigmoid":
            return g * (value * (one - value))
        if kind == "relu":
            return value.above(zero, g, zero)
        return g * self._w.each("cos", operand) if kind == "sin" else g

    def _apart(self, kind: str, a: Lanes, b: Lanes, g: Lanes) -> tuple[Lanes, Lanes]:
        """Return the gradients of what a combination was of; of two equal ones max halves it."""
        if kind == "add":
            return g, g
        if kind == "elem_mult":
            return g * b, g * a
        zero = self._w.constant(0.0)
        half = self._w.constant(0.5) * g
        equal = self._w.lanes_of(
            a.builder.select(a.builder.fcmp_ordered("==", a.value, b.value), half.value, zero.value)
        )
        return self._w.above(a, b, g, equal), self._w.above(b, a, g, equal)
