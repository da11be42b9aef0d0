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

from netwright.children.compiled import generated, made_for, part

LANES = 16
_WORD, _HALF, _FLOAT = ir.IntType(32), ir.IntType(16), ir.FloatType()
_declared: Any = cgutils.get_or_insert_function
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

    def __truediv__(self, other: Lanes) -> Lanes:
        """Return the quotient of finite numbers, by the processor's estimate of 1 / other, mended.

        NaN stays NaN.
        """
        made = self.builder.fdiv(self.value, other.value, flags=(*_FUSED, "arcp", "ninf"))
        return Lanes(self.builder, made, self.lanes)

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


def widened(builder: Any, value: Any, lanes: int) -> Any:
    """Return float32 numbers of the bits of bfloat16."""
    word = builder.shl(builder.zext(value, _of(_WORD, lanes)), _same(16, lanes))
    return builder.bitcast(word, _of(_FLOAT, lanes))


def narrowed(builder: Any, value: Any, lanes: int) -> Any:
    """Return the bits of the nearest bfloat16 of float32 numbers."""
    if lanes == LANES and made_for("avx512f", "avx512bf16"):
        kind = ir.FunctionType(_of(_HALF, lanes), [value.type])
        name = "llvm.x86.avx512bf16.cvtneps2bf16.512"
        return builder.call(_declared(builder.module, kind, name), [value])
    bits = builder.bitcast(value, _of(_WORD, lanes))
    even = builder.and_(builder.lshr(bits, _same(16, lanes)), _same(1, lanes))
    bits = builder.add(bits, builder.add(even, _same(0x7FFF, lanes)))
    return builder.trunc(builder.lshr(bits, _same(16, lanes)), _of(_HALF, lanes))


def _read(builder: Any, kind: Any, place: Any, lanes: int) -> Lanes:
    value = builder.load(place)
    value.align = kind.bitwidth // 8
    if kind == types.uint16:
        value = widened(builder, value, lanes)
    return Lanes(builder, value, lanes)


def _write(builder: Any, kind: Any, place: Any, found: Lanes) -> None:
    value, lanes = found.value, found.lanes
    if kind == types.uint16:
        value = narrowed(builder, value, lanes)
    builder.store(value, place).align = kind.bitwidth // 8


_room: Any = cgutils.alloca_once


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

        return generated(typed, body.__name__, names)

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
        kept = {k: _room(builder, _of(_FLOAT, LANES)) for k in self.turning}
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


@over(written=(5,), turning=(1, 2))
def moved_beside(x: Any, scale: Any, shift: Any, low: Any, other: Any, y: Any) -> Any:
    """y = x * scale + shift + other, at least low"""
    z = x * scale + shift + other
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


@over(written=(0, 5, 6), turning=(5, 6, 7))
def passed_by(
    g: Any,
    x: Any,
    d: Any,
    more: Any,
    y: Any,
    one: Any,
    two: Any,
    mean: Any,
    low: Any,
    zero: Any,
) -> Any:
    """g = d + more where y is above low, else 0; one += g, two += g * (x - mean)"""
    e = y.above(low, d + more, zero)
    return e, one + e, two + e * (x - mean)


@over(written=(0,), turning=(3, 4, 5))
def mixed(to: Any, g: Any, x: Any, of_g: Any, of_x: Any, constant: Any) -> Any:
    """to = g * of_g + x * of_x + constant"""
    return (g * of_g + x * of_x + constant,)


# --- pixel by pixel -------------------------------------------------------------------------------


def _pixels(builder: Any, pixels: Any, channels: Any, some: Callable[..., None]) -> None:
    """Write `some(pixel, first channel, lanes)` for all channels of all pixels."""
    word = channels.type
    at = _room(builder, word)
    with cgutils.for_range(builder, pixels, intp=word) as loop:
        builder.store(word(0), at)
        for lanes in (LANES, 8, 4, 2, 1):
            test, inside, after = (builder.append_basic_block() for _ in range(3))
            builder.branch(test)
            builder.position_at_end(test)
            end = builder.add(builder.load(at), word(lanes))
            builder.cbranch(builder.icmp_signed("<=", end, channels), inside, after)
            builder.position_at_end(inside)
            some(loop.index, builder.load(at), lanes)
            builder.store(end, at)
            builder.branch(test)
            builder.position_at_end(after)


def _vector_at(builder: Any, array: Any, at: Any, kind: Any, lanes: int) -> Any:
    of = {types.uint16: _HALF, types.uint8: ir.IntType(8)}.get(kind, _FLOAT)
    return builder.bitcast(builder.gep(array.data, [at]), _of(of, lanes).as_pointer())


def _summed(context: Any, places: Any, steps: Any, like: Any, pixels: Any, to: Any) -> Any:
    """to[p, c] = the sum over k of what lies at places[k] + p * steps[k], for pixels p; [M, C].

    places, steps: int64 [K], of `like`'s type, in bytes. to: of float32 or that type.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where, by = (context.make_array(kinds[k])(context, builder, args[k]) for k in (0, 1))
        target = context.make_array(to)(context, builder, args[4])
        many = builder.extract_value(where.shape, 0)
        channels = builder.extract_value(target.shape, 1)
        word = channels.type
        of, size = (_HALF, 2) if like.dtype == types.uint16 else (_FLOAT, 4)

        def some(pixel: Any, start: Any, lanes: int) -> None:
            kind = _of(_FLOAT, lanes)
            total = _room(builder, kind)
            builder.store(ir.Constant(kind, None if lanes > 1 else 0.0), total)
            with cgutils.for_range(builder, many, intp=word) as loop:
                place = builder.load(builder.gep(where.data, [loop.index]))
                step = builder.load(builder.gep(by.data, [loop.index]))
                place = builder.add(place, builder.mul(pixel, step))
                place = builder.add(place, builder.mul(start, word(size)))
                place = builder.inttoptr(place, _of(of, lanes).as_pointer())
                one = _read(builder, like.dtype, place, lanes)
                builder.store((Lanes(builder, builder.load(total), lanes) + one).value, total)
            at = builder.add(builder.mul(pixel, channels), start)
            found = Lanes(builder, builder.load(total), lanes)
            _write(builder, to.dtype, _vector_at(builder, target, at, to.dtype, lanes), found)

        _pixels(builder, args[3], channels, some)
        return context.get_dummy_value()

    kinds = (places, steps, like, pixels, to)
    return types.void(*kinds), generate


def _picked(context: Any, sent: Any, places: Any, place: Any, to: Any, step: Any) -> Any:
    """to[p * step + c] = sent[p, c] where places[p, c] is `place`, else 0; [M, C], uint8 places."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, which, target = (
            context.make_array(kinds[k])(context, builder, args[k]) for k in (0, 1, 3)
        )
        pixels, channels = (builder.extract_value(source.shape, k) for k in (0, 1))

        def some(pixel: Any, start: Any, lanes: int) -> None:
            at = builder.add(builder.mul(pixel, channels), start)
            d = _read(
                builder, sent.dtype, _vector_at(builder, source, at, sent.dtype, lanes), lanes
            )
            byte = builder.load(_vector_at(builder, which, at, types.uint8, lanes))
            byte.align = 1
            wanted = [builder.trunc(args[2], ir.IntType(8))] * lanes
            here = wanted[0]
            if lanes > 1:
                here = ir.Constant(_of(ir.IntType(8), lanes), ir.Undefined)
                for k, one in enumerate(wanted):
                    here = builder.insert_element(here, one, _WORD(k))
            kind = _of(_FLOAT, lanes)
            zero = ir.Constant(kind, None if lanes > 1 else 0.0)
            kept = builder.select(builder.icmp_unsigned("==", byte, here), d.value, zero)
            at = builder.add(builder.mul(pixel, args[4]), start)
            place = _vector_at(builder, target, at, to.dtype, lanes)
            _write(builder, to.dtype, place, Lanes(builder, kept, lanes))

        _pixels(builder, pixels, channels, some)
        return context.get_dummy_value()

    kinds = (sent, places, place, to, step)
    return types.void(*kinds), generate


summed: Any = intrinsic(_summed)
picked: Any = intrinsic(_picked)
