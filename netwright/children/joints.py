"""What stands around a child's convolutions: plain, and fast on a processor.

The fast versions make few passes over memory (`netwright.children.passes`). An output that several
layers take is handed out once for each, so that its gradients arrive apart and are added up in one
pass, where autograd would make a pass for each. Gradients of joined inputs are views and are not
copied. All are tested against their plain versions.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Module
from torch.nn.modules.module import _has_any_global_hook

from netwright.children import openmp
from netwright.children.compiled import compiles, graphed
from netwright.children.recording import hold

Size = tuple[int, int]
Gradients = Sequence[Tensor | None]

LAST = torch.channels_last


_plain = 0


@contextmanager
def plain() -> Iterator[None]:
    """A block in which the plain versions run."""
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def fast(x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Return whether the fast versions take images like `x` here, of `dtype` if that is given.

    They want float32 or bfloat16, one image or more, channels last in memory, and one thread or an
    OpenMP library that is known (`netwright.children.openmp`). Where a graph is made of what is
    called, or all modules have hooks, they do not run.
    """
    return (
        not graphed()
        and not _plain
        and x.is_cpu
        and (dtype or x.dtype) in (torch.float32, torch.bfloat16)
        and x.is_contiguous(memory_format=LAST)
        and x.numel() > 0
        and compiles()
        and openmp.ready()
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def casts_to(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast gives what is convolved, None outside of it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def hooked(module: Module) -> bool:
    """Return whether torch would call more than the module's forward: hooks of any kind."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


# --- arrays -------------------------------------------------------------------------------------


_ARRAYS = {
    torch.float32: np.empty(0, np.float32),
    torch.bfloat16: np.empty(0, np.uint16),
}


def sizes_of(x: Tensor) -> tuple[Any, int, int, int]:
    """Return what `passes` wants to know of dense `x`: type, address, pixels, channels."""
    channels = x.shape[1]
    return _ARRAYS[x.dtype], x.data_ptr(), x.numel() // channels, channels


def _images(x: Tensor) -> tuple[Any, int, int, int, int, int]:
    """Return `sizes_of`, height and width."""
    return (*sizes_of(x), x.shape[2], x.shape[3])


def sums_of(channels: int) -> tuple[int, Tensor | None]:
    """Return the address of memory for two sums of each thread, and what to hold on to meanwhile.

    One thread has its own: 0.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return 0, None
    held = hold(torch.empty(threads * 2 * channels, dtype=torch.float64, device="cpu"))
    return held.data_ptr(), held


@functools.cache
def bits_of(number: float) -> int:
    """Return the bits of a number, as `passes` takes it among addresses."""
    bits: int = struct.unpack("=q", struct.pack("=d", number))[0]
    return bits


def _any(gradients: Gradients) -> Tensor | None:
    """Return one that arrived, None where none did."""
    return next((g for g in gradients if g is not None), None)


def takers_of(gradients: Gradients, like: Tensor) -> tuple[tuple[int, int], list[Any]]:
    """Return the gradients as `passes` takes them, and what to hold on to meanwhile."""
    held: list[Any] = []
    for g in gradients:
        if g is not None:
            g = g.to(like.dtype)
            apart = g.shape[1] > 1 and g.stride(1) != 1
            held.append(g.contiguous(memory_format=LAST) if apart else g)
    steps = [(g.data_ptr(), g.stride(0), g.stride(2), g.stride(3)) for g in held]
    table = np.array(steps, np.int64)
    return (table.ctypes.data, len(steps)), hold([*held, table])


def _like(x: Tensor, size: Size | None = None, channels: int | None = None) -> Tensor:
    shape = (len(x), channels or x.shape[1], *(size or x.shape[2:]))
    return hold(torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST))


# --- the same output for several takers -----------------------------------------------------------


def handed(x: Tensor, takers: int) -> list[Tensor]:
    """Return `x` [N, C, H, W] so many times; the gradients are added up in one pass."""
    if takers < 2 or not x.requires_grad or not fast(x):
        return [x] * takers
    return list(_Handed.apply(x, takers))  # type: ignore[no-untyped-call]


class _Handed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, takers: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(x.detach() for _ in range(takers))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        from netwright.children import passes

        first = _any(gradients)
        if first is None:
            return None, None
        takers, held = takers_of(gradients, first)
        g = _like(first)
        passes.run(passes.added, *sizes_of(g), *takers, g.shape[2], g.shape[3])
        del held
        return g, None


# --- pooling and joining --------------------------------------------------------------------------


def halved(x: Tensor, takers: int) -> list[Tensor]:
    """Return the largest of each 2x2 of `x` [N, C, H, W], H and W halved, up, so many times."""
    if not fast(x):
        return handed(F.max_pool2d(x, 2, ceil_mode=True), takers)
    return list(_Halved.apply(x, takers))  # type: ignore[no-untyped-call]


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, takers: int) -> tuple[Tensor, ...]:
        y, ctx.place = pool(x)
        ctx.size = x.shape[2:]
        ctx.set_materialize_grads(False)
        return (y, *(y.detach() for _ in range(takers - 1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        first = _any(gradients)
        return (None if first is None else unpool(first, gradients, ctx.place, ctx.size)), None


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each 2x2 of `x`, and which of the four it is: uint8."""
    from netwright.children import passes

    y = _like(x, (-(-x.shape[2] // 2), -(-x.shape[3] // 2)))
    place = hold(torch.empty(y.numel(), dtype=torch.uint8, device="cpu"))
    passes.run(passes.pooled, *_images(x), y.data_ptr(), place.data_ptr())
    return y, place


def unpool(like: Tensor, gradients: Gradients, place: Tensor, size: Size) -> Tensor:
    """Return the gradient of what was pooled, of `size`; those of its result are like `like`."""
    from netwright.children import passes

    takers, held = takers_of(gradients, like)
    g = _like(like, size)
    passes.run(passes.unpooled, *_images(g), place.data_ptr(), *takers)
    del held
    return g


def joined(inputs: Sequence[Tensor], size: Size) -> Tensor:
    """Zero-pad the inputs [N, c, h, w] to `size`, centred, and join them, [N, C, H, W].

    An odd row goes below, an odd column to the right.
    """
    if all(x.shape[2:] == size for x in inputs):
        return _side_by_side(inputs)
    if all(fast(x) and x.dtype == inputs[0].dtype for x in inputs):
        found: Tensor = _Joined.apply(size, *inputs)  # type: ignore[no-untyped-call]
        return found
    return _side_by_side([pad_to(x, size) for x in inputs])


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), 1)


def pad_to(x: Tensor, size: Size) -> Tensor:
    """Zero-pad `x` [N, C, H, W] to `size`, centred; an odd row goes below, a column right."""
    rows, columns = size[0] - x.shape[2], size[1] - x.shape[3]
    if rows == 0 and columns == 0:
        return x
    return F.pad(x, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)))


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: Size, *inputs: Tensor) -> Tensor:
        ctx.shapes = [x.shape for x in inputs]
        return join(inputs, size)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        parts = parts_of(g, ctx.shapes)
        return (
            None,
            *(p if n else None for p, n in zip(parts, ctx.needs_input_grad[1:], strict=True)),
        )


def join(inputs: Sequence[Tensor], size: Size) -> Tensor:
    """Return the inputs padded to `size` and joined, outside of autograd."""
    if all(x.shape[2:] == size for x in inputs):
        return _side_by_side(inputs)
    shape = (len(inputs[0]), sum(x.shape[1] for x in inputs), *size)
    like = inputs[0]
    whole = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=LAST).zero_()
    for x, part in zip(inputs, parts_of(whole, [x.shape for x in inputs]), strict=True):
        part.copy_(x)
    return whole


def parts_of(whole: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return where inputs of `shapes` lie in their join."""
    found, start = [], 0
    for _, channels, height, width in shapes:
        top, left = (whole.shape[2] - height) // 2, (whole.shape[3] - width) // 2
        part = whole[:, start : start + channels, top : top + height, left : left + width]
        found.append(part)
        start += channels
    return found


def thinned(x: Tensor, stride: int, channels: int) -> Tensor:
    """Return every so many rows and columns of `x` [N, C, H, W], zeros behind its channels.

    The shortcut of He et al. (2016), option A: [N, channels, H', W'].
    """
    if not fast(x):
        return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels - x.shape[1]))
    found: Tensor = _Thinned.apply(x, stride, channels)  # type: ignore[no-untyped-call]
    return found


class _Thinned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, channels: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        some = x[:, :, ::stride, ::stride]
        y = _like(x, (some.shape[2], some.shape[3]), channels).zero_()
        y[:, : x.shape[1]].copy_(some)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        _, channels, height, width = ctx.shape
        return apart(g[:, :channels], (height, width), (ctx.stride, ctx.stride)), None, None


def apart(g: Tensor, size: Size, stride: Size) -> Tensor:
    """Return `g`, or where some rows and columns were taken zeros [N, C, *size] with it there."""
    if g.shape[2:] == size:
        return g
    found = _like(g, size).zero_()
    found[:, :, :: stride[0], :: stride[1]] = g
    return found


def averages(leaves: Sequence[Tensor]) -> bool:
    """Return whether `averaged` takes the leaves: a classifier in bfloat16 wants bfloat16."""
    full = torch.is_autocast_enabled("cpu")
    return all(fast(x) and (full or x.dtype == torch.float32) for x in leaves)


def averaged(leaves: Sequence[Tensor], size: Size) -> Tensor:
    """Return the mean of each channel, the leaves padded with zeros to `size`: float32 [N, C]."""
    area = size[0] * size[1]
    return torch.cat([_Averaged.apply(x, area) for x in leaves], 1)  # type: ignore[no-untyped-call]


class _Averaged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, area: int) -> Tensor:
        ctx.shape, ctx.dtype, ctx.area = x.shape, x.dtype, area
        return x.sum((2, 3), dtype=torch.float32) / area

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return spread(g / ctx.area, ctx.dtype, ctx.shape), None


def spread(g: Tensor, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    """Return `g` [N, C] for every pixel of `shape`, without memory of its own."""
    return g.to(dtype)[:, :, None, None].expand(shape)


def classified(classifier: Module, features: Tensor) -> Tensor:
    """Classify in float32 at least: logits of 8 bits would tie."""
    if not torch.is_autocast_enabled(features.device.type):
        logits: Tensor = classifier(features)
        return logits
    with torch.autocast(features.device.type, enabled=False):
        return classified(classifier, features)
