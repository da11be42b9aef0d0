"""What compiled code for children is made with: numba's options, and bfloat16 by address.

numpy has no bfloat16: its numbers are seen as uint16, and `get` and `put` turn them into float32
and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

_F = TypeVar("_F", bound=Callable[..., Any])
carray: Any = getattr(numba, "carray")  # noqa: B009, numba does not say that it exports it
_OPTIONS: Any = {"fastmath": {"contract"}, "error_model": "numpy"}


def jit(function: _F) -> _F:
    """Compile at the first call and keep it on disk."""
    compiled: _F = numba.njit(cache=True, nogil=True, **_OPTIONS)(function)
    return compiled


def part(function: _F) -> _F:
    """Compile with its callers."""
    compiled: _F = numba.njit(**_OPTIONS)(function)
    return compiled


def get(a: Any, i: Any) -> Any:
    """Return a[i], of bfloat16 as float32; in compiled code only."""
    raise NotImplementedError


def put(a: Any, i: Any, value: Any) -> Any:
    """a[i] = value, rounded to the nearest bfloat16 of an array of those; in compiled code only."""
    raise NotImplementedError


def _make_widened(typing: Any, bits: Any) -> Any:
    """bfloat16, as uint16 -> float32"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, _word(16)), ir.FloatType())

    return types.float32(types.uint16), generate


_widened: Any = intrinsic(_make_widened)


def _make_narrowed(typing: Any, value: Any) -> Any:
    """float32 -> bfloat16, as uint16, the nearest and of two the even one"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.bitcast(arguments[0], ir.IntType(32))
        odd = builder.and_(builder.lshr(word, _word(16)), _word(1))
        word = builder.add(builder.add(word, odd), _word(0x7FFF))
        return builder.trunc(builder.lshr(word, _word(16)), ir.IntType(16))

    return types.uint16(types.float32), generate


_narrowed: Any = intrinsic(_make_narrowed)


def _word(value: int) -> Any:
    return ir.Constant(ir.IntType(32), value)


@overload(get)
def _get_by_type(a: Any, i: Any) -> Any:
    if a.dtype is not types.uint16:

        def whole(a: Any, i: Any) -> Any:
            return a[i]

        return whole

    def wide(a: Any, i: Any) -> Any:
        return _widened(a[i])

    return wide


@overload(put)
def _put_by_type(a: Any, i: Any, value: Any) -> Any:
    if a.dtype is not types.uint16:

        def whole(a: Any, i: Any, value: Any) -> None:
            a[i] = value

        return whole

    def narrow(a: Any, i: Any, value: Any) -> None:
        a[i] = _narrowed(np.float32(value))

    return narrow


def _make_pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer, for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


pointer: Any = intrinsic(_make_pointer)
