"""What the functions of `netwright.children.cell_code` take, and what both ways have in common."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from netwright.children.aligned import whole
from netwright.children.native import DOUBLE, FLOAT, HALF, WORD, Writer, size_of
from netwright.children.tiles import Tiles
from netwright.children.tree import Tree, joined
from netwright.spaces.recurrent import Cell

TEAM = ("number", "threads", "meet")  # what `OpenMP.run` puts first; 0 for none
FORWARD: tuple[str, ...] = (
    "z",
    "weight",
    "given",
    "bias",
    "mask",
    "onward",
    "c_0",
    "c",
    "out",
    "kept",
)
FORWARD += ("sizes", "scratch", "first", "end", "start", "x", "weight_in", "scratch_in")
BACKWARD: tuple[str, ...] = (
    "z",
    "weight",
    "g_onward",
    "kept",
    "mask",
    "c_0",
    "c",
    "g_out",
    "g_last",
    "g_last_row",
)
BACKWARD += ("g_c", "g_z", "g_v", "sizes", "first", "end", "start")
BACKWARD += ("x", "onward", "weight_in", "g_x", "g_weight_in", "g_weight", "wants_x")
BACKWARD += ("x_tiles", "onward_tiles", "g_z_tiles", "g_v_tiles")


def group_of(kind: str) -> int:
    """Return of how many steps the gradients of small weights are made in one go."""
    return 8 if kind == "tiles" else 4


def kept_leaves(cell: Cell, inputs: int) -> int:
    """Return how many numbers of the leaves of a unit are kept, see `Tree.forward`."""
    given = sum(not joined(cell, i) for i in range(cell.base))
    return cell.base + (given if inputs else 0)


def rows_of(cell: Cell, units: int, kind: str) -> tuple[int, int]:
    """Return the numbers of a row of what products are of: h_(t-1), and the gradients of leaves."""
    found = units, cell.base * units
    return (whole(found[0]), whole(found[1])) if kind == "tiles" else found


class Steps:
    """What both ways have in common."""

    name: str
    takes: tuple[str, ...]

    def __init__(
        self, module: Any, made: dict[str, int], cell: Cell, units: int, kind: str, inputs: int
    ) -> None:
        self.made = made
        self.cell, self.units, self.module, self.inputs = cell, units, module, inputs
        self.row = cell.base * units
        self.kept_row = kept_leaves(cell, inputs) * units
        self.apart = [i for i in range(cell.base) if not joined(cell, i)]
        held = {"float32": FLOAT, "float64": DOUBLE}.get(kind, HALF)
        self.held, self.inner = held, DOUBLE if held == DOUBLE else FLOAT
        self.own, self.tiled = kind != "bfloat16", kind == "tiles"
        self.onward_row, self.g_row = rows_of(cell, units, kind)
        self.x_row = whole(inputs) if self.tiled else inputs
        self.group = group_of(kind)
        takes = ir.FunctionType(ir.VoidType(), [WORD])
        self.w = w = Writer(ir.Function(module, takes, self.name), self.inner)
        self.tree = Tree(w, cell)
        self.blocks = -(-units // w.lanes)
        self.across = self.blocks * w.lanes
        numbers = w.function.args[0]
        given = {name: w.number(numbers, k) for k, name in enumerate((*TEAM, *self.takes))}
        self.at: dict[str, Any] = given
        if self.tiled:
            Tiles(w).begin()

    def _end(self) -> None:
        if self.tiled:
            Tiles(self.w).end()
        self.w.builder.ret_void()

    def _made(self, name: str) -> Any:
        """Return a function of `Products`."""
        takes = [WORD] * (5 if self.tiled else 4)
        if name.startswith("sums"):
            takes = [WORD] * 6 + [ir.IntType(1)]
        kind = ir.FunctionType(ir.VoidType(), takes)
        return self.w.builder.inttoptr(WORD(self.made[name]), kind.as_pointer())

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
        self.at["thread"], self.at["count"] = number, count
        return self._share(self.blocks)

    def _share(self, parts: Any) -> tuple[Any, Any]:
        """Return this thread's range of so many parts."""
        w, number = self.w, self.at["thread"]
        first, last = (
            w.builder.sdiv(w.builder.mul(n, w.word(parts)), self.at["count"])
            for n in (number, w.add(number, 1))
        )
        return first, last

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
        """Write the function."""
        raise NotImplementedError
