"""How functions are compiled here, and bfloat16 for compiled functions, which know no such type."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
import torch
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import config
from numba.extending import intrinsic, overload
from torch import Tensor

_F = TypeVar("_F", bound=Callable[..., Any])
carray: Any = getattr(numba, "carray")  # noqa: B009, numba does not say that it exports it

_OPTIONS: Any = {"fastmath": {"contract"}, "error_model": "numpy"}  # a * b + c may be fused
_SUMS: Any = {"fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}


_ARCH_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18  # Linux's, for x86-64


@functools.cache
def has_tiles() -> bool:
    """Say whether the processor multiplies bfloat16 in tiles, and Linux lets this process."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    features = binding.get_host_cpu_features()
    if not all(features.get(name) for name in ("amx-tile", "amx-bf16", "avx512f")):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK, _TILE_DATA) == 0)


@functools.cache
def has_vectors() -> bool:
    """Say whether the processor multiplies vectors of bfloat16."""
    return bool(binding.get_host_cpu_features().get("avx512bf16"))


@functools.cache
def _sources() -> str:
    """Return what changes where the code of any function that is compiled here does."""
    found = hashlib.sha256(bytes([has_tiles()]))
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def named(function: _F) -> _F:
    """Give a function a name of its own for its code and that of all it may call.

    numba keeps what it has compiled by name, and looks no further than the function's own file.
    """
    function.__qualname__ += f"_{_sources()}"
    return function


def graphed() -> bool:
    """Say whether a graph is being made of what is called, which compiled code is no part of."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def compiles() -> bool:
    """Say whether functions are compiled at all: numba may have been told not to."""
    return not config.DISABLE_JIT  # type: ignore[attr-defined]


@functools.cache
def made_for(*features: str) -> bool:
    """Say whether the processor has all of these, and compiled code may use them."""
    held = config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX  # type: ignore[attr-defined]
    if held:
        return False
    found = binding.get_host_cpu_features()
    return all(found.get(name) for name in features)


def jit(function: _F) -> _F:
    """Compile at the first call and keep it on disk, where there is a place that can be written."""
    compiled: _F = kept_on_disk(numba.njit, nogil=True, **_OPTIONS)(named(function))
    return compiled


def kept_on_disk(compile_as: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Return a decorator of numba's that keeps what it compiles, or cannot and does not."""

    def decorate(function: Any) -> Any:
        try:
            made = compile_as(*given, cache=True, **options)(function)
        except Exception:  # no place, a full disk, a damaged file; what is wrong fails again
            return compile_as(*given, **options)(function)
        _careful(made._cache)
        return made

    return decorate


def _careful(cache: Any) -> None:
    """Make numba take what it cannot read from the disk, or write there, for what is not there."""
    load, save = cache.load_overload, cache.save_overload

    def loaded(*given: Any) -> Any:
        try:
            return load(*given)
        except Exception:  # whatever reading damaged bytes comes to
            with suppress(OSError):
                cache.flush()
            return None

    def saved(*given: Any) -> None:
        with suppress(OSError):
            save(*given)

    cache.load_overload, cache.save_overload = loaded, saved


def part(function: _F) -> _F:
    """Compile with its callers."""
    compiled: _F = numba.njit(**_OPTIONS)(function)
    return compiled


def summing(function: _F) -> _F:
    """Compile with its callers; sums may be taken in any order."""
    compiled: _F = numba.njit(**_SUMS)(function)
    return compiled


def generated(typed: Callable[..., Any], name: str, takes: Sequence[str]) -> Any:
    """Make a function for compiled code of what gives its types and writes its instructions."""
    typed.__name__ = typed.__qualname__ = name
    kind = inspect.Parameter.POSITIONAL_ONLY
    shown = [inspect.Parameter(each, kind) for each in ("context", *takes)]
    typed.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return intrinsic(typed)


def array_of(tensor: Tensor) -> Any:
    """Return the tensor's memory for compiled code; bfloat16 as uint16, the bits of it."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def wide(x: Any) -> Any:
    """Return a number of an array of `array_of`, bfloat16 as float32; in compiled code only."""
    raise NotImplementedError


def held_as(array: Any, x: Any) -> Any:
    """Return x as such an array holds it, rounded to the nearest; in compiled code only."""
    raise NotImplementedError


@intrinsic
def _widened(context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrowed(context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        even = builder.and_(builder.lshr(bits, word(16)), word(1))
        bits = builder.add(bits, builder.add(even, word(0x7FFF)))
        return builder.trunc(builder.lshr(bits, word(16)), ir.IntType(16))

    return types.uint16(types.float32), generate


@overload(wide)
def _wide_by_type(x: Any) -> Any:
    if x is types.uint16:

        def widen(x: Any) -> Any:
            return _widened(x)  # type: ignore[call-arg]

        return widen

    def plain(x: Any) -> Any:
        return x

    return plain


@overload(held_as)
def _held_by_type(array: Any, x: Any) -> Any:
    if array.dtype is types.uint16:

        def narrow(array: Any, x: Any) -> Any:
            return _narrowed(x)  # type: ignore[call-arg]

        return narrow

    def plain(array: Any, x: Any) -> Any:
        return x

    return plain


def _make_pointer(context: Any, address: Any) -> Any:
    """An address as a pointer, for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


pointer: Any = intrinsic(_make_pointer)


def _make_call(context: Any, address: Any) -> Any:
    """Call what lies at an address and takes nothing; its int means nothing where it has none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])

    return types.int32(types.int64), generate


called: Any = intrinsic(_make_call)
