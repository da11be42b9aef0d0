"""What tiles do, by vectors of bfloat16 (AVX512-BF16), for processors that have only these.

Sums, the left and the right lie as in `netwright.children.tiled.amx`: of a pair of numbers of the
left in all lanes, and 16 pairs of the right, one instruction adds both products to 16 sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils

LANES, PAIR, LINE = 16, 4, 64  # sums of a vector, and bytes of a pair of numbers and of a vector
TALL = {1: 16, 2: 12, 3: 8}  # rows at once, by how many vectors of the right there are
TAKES = (
    *("left", "row", "over", "leap", "right", "along", "behind", "jump"),
    *("to", "beside", "groups", "outer", "pairs", "more"),
)
_INT, _WORD = ir.IntType(32), ir.IntType(64)
_declared: Any = cgutils.get_or_insert_function
_room: Any = cgutils.alloca_once


def pointer_to(builder: Any, address: Any, kind: Any) -> Any:
    """Return an address as a pointer."""
    return builder.inttoptr(address, kind.as_pointer())


def added_up(builder: Any, *terms: Any) -> Any:
    """Return the sum of whole numbers."""
    found = terms[0]
    for term in terms[1:]:
        found = builder.add(found, term)
    return found


def _kind(of: Any, lanes: int) -> Any:
    return ir.VectorType(of, lanes)


def _vector(builder: Any, address: Any, kind: Any) -> Any:
    found = builder.load(pointer_to(builder, address, kind))
    found.align = 4
    return found


def _everywhere(builder: Any, pair: Any, lanes: int) -> Any:
    """Return a pair of numbers in all lanes."""
    kind = _kind(_INT, lanes)
    held = builder.insert_element(ir.Constant(kind, ir.Undefined), pair, _INT(0))
    return builder.shuffle_vector(held, held, ir.Constant(kind, [0] * lanes))


def multiplied(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return sums in vectors with the products of pairs of bfloat16, int32 vectors, added."""
    kind = ir.FunctionType(total.type, [total.type, a.type, b.type])
    name = f"llvm.x86.avx512bf16.dpbf16ps.{total.type.count * 32}"
    return builder.call(_declared(builder.module, kind, name), [total, a, b])


def _kernel(module: Any, tall: int, lanes: tuple[int, ...]) -> Any:
    """Return a function that works out `tall` rows of sums of vectors of so many lanes.

    It takes what `sums` does for one tile but the counts of rows and vectors, see `TAKES`.
    """
    name = f"sums_{tall}_{'_'.join(map(str, lanes))}"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(ir.VoidType(), [_WORD] * len(TAKES))
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("optsize")
    builder = ir.IRBuilder(function.append_basic_block())
    given = dict(zip(TAKES, function.args, strict=True))
    kinds = [_kind(ir.FloatType(), n) for n in lanes]
    totals = [[_room(builder, kind) for kind in kinds] for _ in range(tall)]
    each = [(r, j) for r in range(tall) for j in range(len(lanes))]

    def place(r: int, j: int) -> Any:
        return added_up(builder, given["to"], _WORD(r * LINE), *[given["beside"]] * j)

    with builder.if_else(builder.icmp_signed("!=", given["more"], _WORD(0))) as (yes, no):
        with yes:
            for r, j in each:
                builder.store(_vector(builder, place(r, j), kinds[j]), totals[r][j])
        with no:
            for r, j in each:
                builder.store(ir.Constant(kinds[j], None), totals[r][j])
    _products(builder, lanes, given, totals)
    for r, j in each:
        found = builder.load(totals[r][j])
        builder.store(found, pointer_to(builder, place(r, j), kinds[j])).align = 4
    builder.ret_void()
    return function


def _products(
    builder: Any, lanes: tuple[int, ...], given: dict[str, Any], totals: Sequence[Sequence[Any]]
) -> None:
    """Write the loops of a kernel."""
    downs = [builder.mul(given["row"], _WORD(r)) for r in range(len(totals))]
    with (
        cgutils.for_range(builder, given["groups"], intp=_WORD) as group,
        cgutils.for_range(builder, given["outer"], intp=_WORD) as part,
    ):

        def begin(address: Any, step: Any, leap: Any) -> Any:
            along = builder.mul(part.index, step)
            return added_up(builder, address, along, builder.mul(group.index, leap))

        start = begin(given["left"], given["over"], given["leap"])
        right = begin(given["right"], given["behind"], given["jump"])
        begins = [added_up(builder, right, *[given["along"]] * j) for j in range(len(lanes))]
        with cgutils.for_range(builder, given["pairs"], intp=_WORD) as loop:
            along = builder.mul(loop.index, _WORD(LINE))
            columns = [
                _vector(builder, builder.add(b, along), _kind(_INT, n))
                for b, n in zip(begins, lanes, strict=True)
            ]
            here = builder.add(start, builder.mul(loop.index, _WORD(PAIR)))
            for row, down in zip(totals, downs, strict=True):
                pair = builder.load(pointer_to(builder, builder.add(here, down), _INT))
                pair.align = 2
                for total, column in zip(row, columns, strict=True):
                    factor = _everywhere(builder, pair, column.type.count)
                    found = multiplied(builder, builder.load(total), column, factor)
                    builder.store(found, total)


def _kinds() -> dict[int, tuple[int, ...]]:
    """Return lanes of vectors beside one another, by 8 times how many there are and halves."""
    return {
        8 * (full + half) + half: (LANES,) * full + (LANES // 2,) * half
        for full in range(len(TALL) + 1)
        for half in range(len(TALL) + 1 - full)
        if full + half and (half < 2 or not full)
    }


def sums(builder: Any, high: Any, wide: Any, halves: Any, rows: Any, given: dict[str, Any]) -> None:
    """Write `amx.sums` where the builder stands; given: what else it takes.

    Rows are worked out two by two, so one behind an odd number of them must be there, too.
    """
    most = _WORD(0)
    for many, tall in TALL.items():
        most = builder.select(builder.icmp_signed("==", wide, _WORD(many)), _WORD(tall), most)
    blocks = builder.sdiv(added_up(builder, rows, most, _WORD(-1)), most)
    twos = builder.sdiv(builder.add(rows, _WORD(1)), _WORD(2))
    even = builder.sdiv(added_up(builder, twos, blocks, _WORD(-1)), blocks)
    which = builder.mul(builder.add(builder.mul(wide, _WORD(8)), halves), _WORD(32))
    with (
        cgutils.for_range(builder, high, intp=_WORD) as tile,
        cgutils.for_range(builder, blocks, intp=_WORD) as loop,
    ):
        still = builder.sub(twos, builder.mul(loop.index, even))
        still = builder.select(builder.icmp_signed("<", still, even), still, even)
        done = builder.mul(loop.index, builder.mul(even, _WORD(2)))
        left = builder.add(builder.mul(tile.index, given["down"]), builder.mul(done, given["row"]))
        to = builder.add(builder.mul(tile.index, given["below"]), builder.mul(done, _WORD(LINE)))
        own = {
            "left": builder.add(given["left"], left),
            "to": builder.add(given["to"], to),
        }
        takes = [{**given, **own}[name] for name in TAKES]
        after = builder.append_basic_block()
        choice = builder.switch(builder.add(which, still), after)
        for kind, lanes in _kinds().items():
            for tall in range(2, TALL[len(lanes)] + 1, 2):
                block = builder.append_basic_block()
                choice.add_case(_WORD(32 * kind + tall // 2), block)
                builder.position_at_end(block)
                builder.call(_kernel(builder.module, tall, lanes), takes)
                builder.branch(after)
        builder.position_at_end(after)
