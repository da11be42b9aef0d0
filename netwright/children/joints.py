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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from netwright.children import openmp

Size = tuple[int, int]
Where = tuple[Size, Size]  # stride, padding
State = tuple[Tensor, Tensor, float, float]
Gradients = Sequence[Tensor | None]

_LAST = torch.channels_last


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


def fast(x: Tensor) -> bool:
    """Return whether the fast versions take images like `x` here.

    They want float32 or bfloat16, channels last in memory, and one thread or an OpenMP library
    that is known (`netwright.children.openmp`).
    """
    return (
        not _plain
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and openmp.ready()
        and x.is_contiguous(memory_format=_LAST)
        and not torch.compiler.is_compiling()
    )


# --- arrays -------------------------------------------------------------------------------------


_ARRAYS = {
    torch.float32: np.empty(0, np.float32),
    torch.bfloat16: np.empty(0, np.uint16),
}


def _sizes(x: Tensor) -> tuple[Any, int, int, int]:
    """Return what `passes` wants to know of dense `x`: type, address, pixels, channels."""
    channels = x.shape[1]
    return _ARRAYS[x.dtype], x.data_ptr(), x.numel() // channels, channels


def _images(x: Tensor) -> tuple[Any, int, int, int, int, int]:
    """Return `_sizes`, height and width."""
    return (*_sizes(x), x.shape[2], x.shape[3])


def _sums(channels: int) -> Tensor:
    """Return memory for two sums of each thread."""
    return torch.empty(torch.get_num_threads() * 2 * channels, dtype=torch.float64)


@functools.cache
def _bits(number: float) -> int:
    bits: int = struct.unpack("=q", struct.pack("=d", number))[0]
    return bits


def _any(gradients: Gradients) -> Tensor | None:
    """Return one that arrived, None where none did."""
    return next((g for g in gradients if g is not None), None)


def _takers(gradients: Gradients, like: Tensor) -> tuple[tuple[int, int], list[Any]]:
    """Return the gradients as `passes` takes them, and what to hold on to meanwhile."""
    held: list[Any] = []
    for g in gradients:
        if g is not None:
            g = g.to(like.dtype)
            apart = g.shape[1] > 1 and g.stride(1) != 1
            held.append(g.contiguous(memory_format=_LAST) if apart else g)
    steps = [(g.data_ptr(), g.stride(0), g.stride(2), g.stride(3)) for g in held]
    table = np.array(steps, np.int64)
    return (table.ctypes.data, len(steps)), [*held, table]


def _like(x: Tensor, size: Size | None = None) -> Tensor:
    shape = (*x.shape[:2], *(size or x.shape[2:]))
    return torch.empty(shape, dtype=x.dtype, memory_format=_LAST)


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
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        from netwright.children import passes

        first = _any(gradients)
        if first is None:
            return None, None
        takers, held = _takers(gradients, first)
        g = _like(first)
        passes.run(passes.added, *_sizes(g), *takers, g.shape[2], g.shape[3])
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
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        first = _any(gradients)
        return (None if first is None else unpool(first, gradients, ctx.place, ctx.size)), None


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each 2x2 of `x`, and which of the four it is: uint8."""
    from netwright.children import passes

    y = _like(x, (-(-x.shape[2] // 2), -(-x.shape[3] // 2)))
    place = torch.empty(y.numel(), dtype=torch.uint8)
    passes.run(passes.pooled, *_images(x), y.data_ptr(), place.data_ptr())
    return y, place


def unpool(like: Tensor, gradients: Gradients, place: Tensor, size: Size) -> Tensor:
    """Return the gradient of what was pooled, of `size`; those of its result are like `like`."""
    from netwright.children import passes

    takers, held = _takers(gradients, like)
    g = _like(like, size)
    passes.run(passes.unpooled, *_images(g), place.data_ptr(), *takers)
    del held
    return g


def joined(inputs: Sequence[Tensor], size: Size) -> Tensor:
    """Zero-pad the inputs [N, c, h, w] to `size`, centred, and join them, [N, C, H, W].

    An odd row goes below, an odd column to the right.
    """
    if all(x.shape[2:] == size for x in inputs):
        return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), 1)
    if all(fast(x) and x.dtype == inputs[0].dtype for x in inputs):
        found: Tensor = _Joined.apply(size, *inputs)  # type: ignore[no-untyped-call]
        return found
    padded = [pad_to(x, size) for x in inputs]
    return padded[0] if len(padded) == 1 else torch.cat(padded, 1)


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
        return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), 1)
    shape = (len(inputs[0]), sum(x.shape[1] for x in inputs), *size)
    whole = torch.empty(shape, dtype=inputs[0].dtype, memory_format=_LAST).zero_()
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


# --- convolution, normalisation, ReLU -------------------------------------------------------------


class ConvNormRelu(nn.Sequential):
    """A convolution without bias, batch normalisation, and a ReLU where `rectify`."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, rectify: bool = True) -> None:
        super().__init__(convolution, norm, *([nn.ReLU(inplace=True)] if rectify else []))
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N, C, H, W] -> [N, channels, H', W']."""
        return self.handed(x, 1)[0]

    def handed(self, x: Tensor, takers: int) -> list[Tensor]:
        """Return the output so many times, see `handed`."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        convolution, _ = self.first_two()
        training, grad = self.training, torch.is_grad_enabled()
        one = x.numel() == x.shape[1]  # a pixel, which cannot be normalised: torch says so
        if not fast(x) or one or (grad and not training):
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return handed(y, takers)
        where = where_of(convolution)
        if convolution.kernel_size == (1, 1) and where[0] != (1, 1):
            x, where = x[:, :, :: where[0][0], :: where[0][1]], HERE
        if not training:
            return [self._used(x, where)] * takers
        found: tuple[Tensor, ...] = _ConvNormRelu.apply(  # type: ignore[no-untyped-call]
            x, *self.learnt(), where, self.state(), self.rectify, takers
        )
        return list(found)

    def learnt(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the convolution's weight, and the normalisation's and bias."""
        convolution, norm = self.first_two()
        return convolution.weight, norm.weight, norm.bias

    def state(self) -> State:
        """Count a step; return the running moments, their momentum and the epsilon."""
        norm = self.first_two()[1]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return norm.running_mean, norm.running_var, norm.momentum, norm.eps

    def first_two(self) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """Return the convolution and the normalisation."""
        convolution, norm = self._modules["0"], self._modules["1"]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        return convolution, norm

    def _used(self, x: Tensor, where: Where) -> Tensor:
        """Normalise by the running moments, without gradients."""
        from netwright.children import passes

        convolution, norm = self.first_two()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        y = _convolved(x, convolution.weight.to(x.dtype), where)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        line = (scale.data_ptr(), shift.data_ptr())
        passes.run(passes.scaled, *_sizes(y), *line, int(self.rectify), y.data_ptr())
        return y


def where_of(convolution: nn.Conv2d) -> Where:
    """Return stride and padding."""
    stride, padding = convolution.stride, convolution.padding
    assert not isinstance(padding, str)
    return (stride[0], stride[1]), (padding[0], padding[1])


HERE: Where = ((1, 1), (0, 0))
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


def _convolved(x: Tensor, weight: Tensor, where: Where) -> Tensor:
    y: Tensor = torch.convolution(x, weight, None, *where, (1, 1), False, (0, 0), 1)
    return y.contiguous(memory_format=_LAST)


@dataclass(slots=True)
class Done:
    """What a layer's way back needs: its input, its weight in that type, and more of its own."""

    x: Tensor
    weight: Tensor
    z: Tensor
    line: Tensor
    where: Where
    rectify: bool


def convolve(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    where: Where,
    state: State,
    rectify: bool,
) -> tuple[Tensor, Done]:
    """Return a layer's output, outside of autograd, and what `back` needs."""
    from netwright.children import passes

    narrow = weight.to(x.dtype)
    z = _convolved(x, narrow, where)
    y = torch.empty_like(z)
    running_mean, running_var, momentum, epsilon = state
    line, sums = torch.empty(4, z.shape[1]), _sums(z.shape[1])
    passes.run(
        passes.normalised,
        *_sizes(z),
        gain.data_ptr(),
        bias.data_ptr(),
        running_mean.data_ptr(),
        running_var.data_ptr(),
        _bits(momentum),
        _bits(epsilon),
        int(rectify),
        y.data_ptr(),
        line.data_ptr(),
        sums.data_ptr(),
    )
    return y, Done(x, narrow, z, line, where, rectify)


def back(
    done: Done, gain: Tensor, gradients: Gradients, want: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Return the gradients of a layer's input and weight, where wanted, its gain and its bias."""
    from netwright.children import passes

    z = done.z
    takers, held = _takers(gradients, z)
    g, g_gain, g_bias = torch.empty_like(z), torch.empty_like(gain), torch.empty_like(gain)
    sums = _sums(z.shape[1])
    passes.run(
        passes.normalised_backward,
        *_sizes(z),
        done.line.data_ptr(),
        int(done.rectify),
        *takers,
        z.shape[2],
        z.shape[3],
        g.data_ptr(),
        g_gain.data_ptr(),
        g_bias.data_ptr(),
        sums.data_ptr(),
    )
    del held, gradients
    geometry = (*done.where, [1, 1], False, [0, 0], 1)
    g_x, g_weight, _ = _CONVOLUTION_BACKWARD(
        g, done.x, done.weight, None, *geometry, [*want, False]
    )
    if g_weight is not None:
        g_weight = g_weight.to(gain.dtype)
    return g_x, g_weight, g_gain, g_bias


class _ConvNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        gain: Tensor,
        bias: Tensor,
        where: Where,
        state: State,
        rectify: bool,
        takers: int,
    ) -> tuple[Tensor, ...]:
        y, done = convolve(x, weight, gain, bias, where, state, rectify)
        ctx.save_for_backward(x, done.weight, done.z, done.line, gain)
        ctx.where, ctx.rectify = where, rectify
        ctx.set_materialize_grads(False)
        return (y, *(y.detach() for _ in range(takers - 1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, narrow, z, line, gain = ctx.saved_tensors
        done = Done(x, narrow, z, line, ctx.where, ctx.rectify)
        want = ctx.needs_input_grad[:2]
        return (*back(done, gain, gradients, want), None, None, None, None)
