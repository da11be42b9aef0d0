"""Loops over arrays in compiled code, as vectors whatever the compiler can prove about memory.

A compiler that cannot tell arrays from one another takes a loop over many of them a number at a
time. What is made here is written in vectors of 16 numbers. Arrays hold float32, or bfloat16 as
uint16, which is widened where it is read and rounded to the nearest where it is written.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from netwright.children.compiled import part

LANES = 16
_WORD, _HALF, _FLOAT = ir.IntType(32), ir.IntType(16), ir.FloatType()
_FUSED = ("contract",)  # a * b + c may be fused


class Lanes:
    """Some float32 numbers side by side, while code for them is made."""

    def __init__(self, builder: Any, value: Any, lanes: int) -> None:
        self.builder, self.value, self.lanes = builder, value, lanes

    def _made(self, name: str, other: Lanes) -> Lanes:
        made = getattr(self.builder, name)(self.value, other.value, flags=_FUSED)
        return Lanes(self.builder, made, self.lanes)

    def __add__(self, other: Lanes) -> Lanes:
        return self._made("fadd", other)

    def __sub__(self, other: Lanes) -> Lanes:
        return self._made("fsub", other)

    def __mul__(self, other: Lanes) -> Lanes:
        return self._made("fmul", other)

    def above(self, low: Lanes, yes: Lanes, no: Lanes) -> Lanes:
        """Return `no` where this is `low` or less, `yes` elsewhere and where this is NaN."""
        below = self.builder.fcmp_ordered("<=", self.value, low.value)
        return Lanes(self.builder, self.builder.select(below, no.value, yes.value), self.lanes)


@part
def period(channels: int) -> int:
    """Return after how many numbers of [M, C] the channels of a vector are the same again."""
    return channels * (LANES // math.gcd(channels, LANES))


def _of(kind: Any, lanes: int) -> Any:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def _same(number: int, lanes: int) -> Any:
    return ir.Constant(_of(_WORD, lanes), number if lanes == 1 else [number] * lanes)


def _read(builder: Any, kind: Any, place: Any, lanes: int) -> Lanes:
    value = builder.load(place)
    value.align = kind.bitwidth // 8
    if kind == types.uint16:
        word = builder.shl(builder.zext(value, _of(_WORD, lanes)), _same(16, lanes))
        value = builder.bitcast(word, _of(_FLOAT, lanes))
    return Lanes(builder, value, lanes)


def _write(builder: Any, kind: Any, place: Any, found: Lanes) -> None:
    value, lanes = found.value, found.lanes
    if kind == types.uint16:
        bits = builder.bitcast(value, _of(_WORD, lanes))
        even = builder.and_(builder.lshr(bits, _same(16, lanes)), _same(1, lanes))
        bits = builder.add(bits, builder.add(even, _same(0x7FFF, lanes)))
        value = builder.trunc(builder.lshr(bits, _same(16, lanes)), _of(_HALF, lanes))
    builder.store(value, place).align = kind.bitwidth // 8


def _everywhere(builder: Any, number: Any, lanes: int) -> Lanes:
    if lanes > 1:
        kind = _of(_FLOAT, lanes)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, _WORD(0))
        picks = ir.Constant(_of(_WORD, lanes), [0] * lanes)
        number = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), picks)
    return Lanes(builder, number, lanes)


def over(written: tuple[int, ...], turning: tuple[int, ...]) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that compiled code calls, of what is done to numbers at the same place.

    The body takes `Lanes` of its arguments: arrays [n] (as long as the first, dense), those that
    are `turning` of [P], P a multiple of `LANES`, whose place is that of the others modulo P, and
    float32 numbers. It returns those of the arguments whose places are `written`, a tuple of them.
    What turns is read and written once for all n / P.
    """

    def make(body: Callable[..., Any]) -> Any:
        names = list(inspect.signature(body).parameters)

        def typed(context: Any, *kinds: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                loop = _Loop(context, builder, kinds, args, written, turning, body)
                loop.write()
                return context.get_dummy_value()

            return types.void(*kinds), generate

        typed.__name__ = typed.__qualname__ = body.__name__
        kind = inspect.Parameter.POSITIONAL_ONLY
        shown = [inspect.Parameter(name, kind) for name in ("context", *names)]
        typed.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        return intrinsic(typed)

    return make


class _Loop:
    """The code of a function of `over`."""

    def __init__(
        self,
        context: Any,
        builder: Any,
        kinds: Any,
        args: Any,
        written: tuple[int, ...],
        turning: tuple[int, ...],
        body: Callable[..., Any],
    ) -> None:
        self.builder, self.kinds, self.args, self.body = builder, kinds, args, body
        self.written, self.turning = written, turning
        self.arrays = {
            k: context.make_array(kind)(context, builder, arg)
            for k, (kind, arg) in enumerate(zip(kinds, args, strict=True))
            if isinstance(kind, types.Array)
        }
        self.size = self._size(0)
        self.turn = self._size(turning[0])

    def _size(self, k: int) -> Any:
        return self.builder.extract_value(self.arrays[k].shape, 0)

    def _place(self, k: int, at: Any, lanes: int) -> Any:
        of = _of(_HALF if self.kinds[k].dtype == types.uint16 else _FLOAT, lanes)
        place = self.builder.gep(self.arrays[k].data, [at])
        return self.builder.bitcast(place, of.as_pointer())

    def _each(self, turns: dict[int, Any], start: Any, lanes: int) -> None:
        """Write the body for numbers from `start`; turns: where those that turn are kept."""
        builder, values, places = self.builder, [], {}
        for k, (kind, arg) in enumerate(zip(self.kinds, self.args, strict=True)):
            if k not in self.arrays:
                values.append(_everywhere(builder, arg, lanes))
                continue
            places[k] = turns[k] if k in turns else self._place(k, start, lanes)
            values.append(_read(builder, kind.dtype, places[k], lanes))
        for k, found in zip(self.written, self.body(*values), strict=True):
            _write(builder, self.kinds[k].dtype, places[k], found)

    def write(self) -> None:
        """Write all of it where the builder stands."""
        builder, word = self.builder, self.size.type
        whole = builder.and_(self.size, word(-LANES))
        kept = {k: cgutils.alloca_once(builder, _of(_FLOAT, LANES)) for k in self.turning}
        first = builder.select(builder.icmp_signed("<", self.turn, whole), self.turn, whole)
        with cgutils.for_range_slice(builder, word(0), first, word(LANES), word) as (j, _):
            for k, place in kept.items():
                found = _read(builder, types.float32, self._place(k, j, LANES), LANES)
                builder.store(found.value, place)
            with cgutils.for_range_slice(builder, j, whole, self.turn, word) as (start, _):
                self._each(kept, start, LANES)
            for k in kept.keys() & set(self.written):
                found = Lanes(builder, builder.load(kept[k]), LANES)
                _write(builder, types.float32, self._place(k, j, LANES), found)
        with cgutils.for_range_slice(builder, whole, self.size, word(1), word) as (start, _):
            at = builder.srem(start, self.turn)
            self._each({k: self._place(k, at, 1) for k in self.turning}, start, 1)


@over(written=(2, 3), turning=(1, 2, 3))
def counted(x: Any, shift: Any, one: Any, two: Any) -> Any:
    """one += x - shift, two += (x - shift)^2"""
    d = x - shift
    return one + d, two + d * d


@over(written=(4,), turning=(1, 2))
def moved(x: Any, scale: Any, shift: Any, low: Any, y: Any) -> Any:
    """y = x * scale + shift, at least low"""
    z = x * scale + shift
    return (z.above(low, z, low),)


@over(written=(0, 3, 4), turning=(3, 4, 5, 6, 7))
def passed(
    g: Any,
    x: Any,
    d: Any,
    one: Any,
    two: Any,
    scale: Any,
    shift: Any,
    mean: Any,
    low: Any,
    zero: Any,
) -> Any:
    """g = d where x * scale + shift is above low, else 0; one += g, two += g * (x - mean)"""
    e = (x * scale + shift).above(low, d, zero)
    return e, one + e, two + e * (x - mean)


@over(written=(0,), turning=(2, 3, 4))
def mixed(g: Any, x: Any, of_g: Any, of_x: Any, constant: Any) -> Any:
    """g = g * of_g + x * of_x + constant"""
    return (g * of_g + x * of_x + constant,)


# --- sums of what lies apart ----------------------------------------------------------------------


@intrinsic
def summed(context: Any, places: Any, steps: Any, like: Any, pixels: Any, to: Any) -> Any:
    """to[p, c] = the sum over k of what lies at places[k] + p * steps[k], for pixels p; [M, C].

    places, steps: int64 [K], of `like`'s type, in bytes. to: of float32 or that type.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = [context.make_array(kinds[k])(context, builder, args[k]) for k in (0, 1, 4)]
        where, by, target = (array.data for array in arrays)
        many = builder.extract_value(arrays[0].shape, 0)
        channels = builder.extract_value(arrays[2].shape, 1)
        word, count = channels.type, args[3]
        of, size = (_HALF, 2) if like.dtype == types.uint16 else (_FLOAT, 4)
        at = cgutils.alloca_once(builder, word)

        def some(pixel: Any, lanes: int) -> None:
            start = builder.load(at)
            kind = _of(_FLOAT, lanes)
            total = cgutils.alloca_once(builder, kind)
            builder.store(ir.Constant(kind, None if lanes > 1 else 0.0), total)
            with cgutils.for_range(builder, many, intp=word) as loop:
                k = loop.index
                place = builder.load(builder.gep(where, [k]))
                step = builder.load(builder.gep(by, [k]))
                place = builder.add(place, builder.mul(pixel, step))
                place = builder.add(place, builder.mul(start, word(size)))
                place = builder.inttoptr(place, _of(of, lanes).as_pointer())
                one = _read(builder, like.dtype, place, lanes)
                builder.store((Lanes(builder, builder.load(total), lanes) + one).value, total)
            place = builder.gep(target, [builder.add(builder.mul(pixel, channels), start)])
            found = Lanes(builder, builder.load(total), lanes)
            wanted = _of(_HALF if to.dtype == types.uint16 else _FLOAT, lanes).as_pointer()
            _write(builder, to.dtype, builder.bitcast(place, wanted), found)

        with cgutils.for_range(builder, count, intp=word) as loop:
            builder.store(word(0), at)
            for lanes in (LANES, 8, 4, 2, 1):
                test, inside, after = (builder.append_basic_block() for _ in range(3))
                builder.branch(test)
                builder.position_at_end(test)
                end = builder.add(builder.load(at), word(lanes))
                builder.cbranch(builder.icmp_signed("<=", end, channels), inside, after)
                builder.position_at_end(inside)
                some(loop.index, lanes)
                builder.store(end, at)
                builder.branch(test)
                builder.position_at_end(after)
        return context.get_dummy_value()

    kinds = (places, steps, like, pixels, to)
    return types.void(*kinds), generate
