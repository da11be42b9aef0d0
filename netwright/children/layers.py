"""A layer of a convolutional child: convolution, batch normalisation, ReLU; plain, and fast.

The fast version stands on `netwright.children.joints` and runs where `joints.fast` says; it hands
its output out once for each who takes it. What a shortcut brings is added before the ReLU, in the
same pass (He et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from netwright.children.convolution import Inputs, Where, alone, backward, convolved, in_tiles, met
from netwright.children.joints import (
    LAST,
    Gradients,
    bits_of,
    casts_to,
    fast,
    handed,
    hooked,
    sizes_of,
    sums_of,
    takers_of,
)
from netwright.children.recording import do, hold

Learnt = tuple[Tensor, Tensor, Tensor]
State = tuple[Tensor, Tensor, Tensor | None, float, float]
Parts = tuple[Learnt, State]

WIDE = torch.float32


class Convolution(nn.Conv2d):
    """A convolution; one of 1x1 with a stride takes the pixels that count first, which is the same.

    In channels_last, torch's weight gradient of a strided 1x1 convolution of 3 or 4 channels writes
    outside its memory on an AVX2 processor (torch 2.13, oneDNN 3.12; docs/results/speed.md). Where
    the stride is as long as the images, see `netwright.children.convolution.met`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N, C, H, W] -> [N, channels, H', W']."""
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            rows, columns = self.stride
            return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)
        some = met(x, self.weight, where_of(self))
        if some is not None:
            return F.conv2d(x[some.pixels], self.weight[some.taps], self.bias, *some.where)
        return super().forward(x)


def _single(x: Tensor, convolution: nn.Conv2d) -> bool:
    """Say whether one pixel comes out, which cannot be normalised; torch says so."""
    if len(x) > 1:
        return False
    sizes = zip(x.shape[2:], convolution.kernel_size, *where_of(convolution), strict=True)
    return all((n + 2 * padding - k) // stride == 0 for n, k, stride, padding in sizes)


class ConvNormRelu(nn.Sequential):
    """A convolution without bias, batch normalisation, and a ReLU where `rectify`."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, rectify: bool = True) -> None:
        super().__init__(convolution, norm, *([nn.ReLU(inplace=True)] if rectify else []))
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N, C, H, W] -> [N, channels, H', W']."""
        return self.handed(x, 1)[0]

    def handed(self, x: Tensor, takers: int, shortcut: Tensor | None = None) -> list[Tensor]:
        """Return the output so many times, see `handed`; ReLU(normalised + shortcut) where given.

        shortcut: [N, channels, H', W'], else `ValueError`.
        """
        x = x.to(casts_to(x) or x.dtype)
        training = self.training
        may = fast(x) and (training or not torch.is_grad_enabled())
        parts = self.parts() if may else None
        if parts is None or (training and _single(x, self.first_two()[0])):
            return handed(self._plain(x, shortcut), takers)
        x, where = pixels_of(self.first_two()[0], x)
        if shortcut is not None:
            shortcut = shortcut.to(x.dtype).contiguous(memory_format=LAST)
        learnt, state = parts
        if not training:
            return [_used(x, learnt, where, state, self.rectify, shortcut)] * takers
        found: tuple[Tensor, ...] = _ConvNormRelu.apply(  # type: ignore[no-untyped-call]
            x, *learnt, shortcut, where, state, self.rectify, takers
        )
        return list(found)

    def _plain(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        if shortcut is None:
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        y = self[1](self[0](x))
        _check(shortcut, y)
        y = shortcut + y
        return F.relu(y) if self.rectify else y

    def parts(self) -> Parts | None:
        """Return what the fast versions take of the layer; None where torch's own must run.

        That is where its modules have hooks, are not as they were built, or normalise otherwise
        than it trains. Compiled code goes by addresses: what is learnt, and moments, must be dense
        float32. Gain and bias are made so: torch's way back through a normalisation in
        channels_last does not look at the steps of its gain (torch 2.13).
        """
        modules = self._modules
        convolution, norm, relu = modules.get("0"), modules.get("1"), modules.get("2")
        if not isinstance(convolution, nn.Conv2d) or not _usual(convolution):
            return None
        if len(modules) != 2 + self.rectify or (self.rectify and type(relu) is not nn.ReLU):
            return None
        if type(norm) is not nn.BatchNorm2d or norm.training != self.training:
            return None
        if norm.momentum is None or not norm.track_running_stats:
            return None
        if hooked(convolution) or hooked(norm) or (relu is not None and hooked(relu)):
            return None
        # not by attributes, which cost more than all the rest; None is a weight that is worked out
        weight: Tensor = convolution._parameters.get("weight")  # type: ignore[assignment]
        weight = convolution.weight if weight is None else weight
        gain: Tensor | None = norm._parameters["weight"]
        bias: Tensor | None = norm._parameters["bias"]
        mean, var = norm._buffers["running_mean"], norm._buffers["running_var"]
        if gain is None or bias is None or mean is None or var is None:
            return None
        if weight.dtype is not WIDE or not weight.is_cpu:
            return None
        channels, gain, bias = weight.shape[0], gain.contiguous(), bias.contiguous()
        for x in (gain, bias, mean, var):
            if x.dtype is not WIDE or not x.is_cpu or x.numel() != channels:
                return None
        if not mean.is_contiguous() or not var.is_contiguous():
            return None
        count = norm._buffers["num_batches_tracked"]
        return (weight, gain, bias), (mean, var, count, norm.momentum, norm.eps)

    def first_two(self) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """Return the convolution and the normalisation."""
        convolution, norm = self._modules["0"], self._modules["1"]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        return convolution, norm


def _usual(convolution: nn.Conv2d) -> bool:
    """Return whether it is no more than stride, padding and weight say."""
    return (
        type(convolution).forward in (Convolution.forward, nn.Conv2d.forward)
        and convolution._parameters["bias"] is None
        and convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
        and type(convolution.padding) is tuple
    )


def _used(
    x: Tensor, learnt: Learnt, where: Where, state: State, rectify: bool, shortcut: Tensor | None
) -> Tensor:
    """Return a layer's output by the running moments, without gradients."""
    from netwright.children import passes

    (weight, gain, bias), (mean, var, _, _, epsilon) = learnt, state
    y = convolved(alone(x), weight.to(x.dtype), where)
    scale = gain / (var + epsilon).sqrt()
    shift = bias - mean * scale
    line = (scale.data_ptr(), shift.data_ptr())
    beside = _beside(shortcut, y)
    passes.run(passes.scaled, *sizes_of(y), *line, int(rectify), beside, y.data_ptr())
    return y


def _beside(shortcut: Tensor | None, y: Tensor) -> int:
    """Return the address of what is added to what is like y, 0 for nothing."""
    if shortcut is None:
        return 0
    _check(shortcut, y)
    return shortcut.data_ptr()


def _check(shortcut: Tensor, y: Tensor) -> None:
    if shortcut.shape != y.shape:
        given, wanted = tuple(shortcut.shape), tuple(y.shape)
        raise ValueError(f"a shortcut must be of its layer's output's shape {wanted}, got {given}")


HERE: Where = ((1, 1), (0, 0))


def where_of(convolution: nn.Conv2d) -> Where:
    """Return its stride and padding."""
    (rows, columns), padding = convolution.stride, convolution.padding
    assert not isinstance(padding, str)
    return (rows, columns), (padding[0], padding[1])


def pixels_of(convolution: nn.Conv2d, x: Tensor) -> tuple[Tensor, Where]:
    """Return the pixels of `x` to convolve, and stride and padding to do it with.

    Of one of 1x1 by torch they are those that count, see `netwright.children.conv`.
    """
    where = where_of(convolution)
    rows, columns = where[0]
    if convolution.kernel_size == (1, 1) and where[0] != (1, 1) and not in_tiles(x):
        return x[:, :, ::rows, ::columns], HERE
    return x, where


@dataclass(slots=True)
class Done:
    """What a layer's way back needs: its inputs, its weight in that type, and more of its own.

    y: its output, where a shortcut was added.
    """

    inputs: Inputs
    weight: Tensor
    z: Tensor
    line: Tensor
    where: Where
    rectify: bool
    y: Tensor | None = None


def convolve(
    inputs: Inputs,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    where: Where,
    state: State,
    rectify: bool,
    shortcut: Tensor | None = None,
) -> tuple[Tensor, Done]:
    """Return a layer's output, outside of autograd, and what `back` needs."""
    from netwright.children import passes

    narrow = _narrow(weight, inputs.images[0].dtype)
    z = convolved(inputs, narrow, where)
    y = hold(torch.empty_like(z))
    running_mean, running_var, count, momentum, epsilon = state
    line = hold(torch.empty(4, z.shape[1], dtype=WIDE, device="cpu"))
    sums, summed = sums_of(z.shape[1])
    passes.run(
        passes.normalised,
        *sizes_of(z),
        gain.data_ptr(),
        bias.data_ptr(),
        running_mean.data_ptr(),
        running_var.data_ptr(),
        0 if count is None else count.data_ptr(),
        bits_of(momentum),
        bits_of(epsilon),
        int(rectify),
        _beside(shortcut, y),
        y.data_ptr(),
        line.data_ptr(),
        sums,
    )
    del summed
    return y, Done(inputs, narrow, z, line, where, rectify, None if shortcut is None else y)


def _narrow(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight in a type, itself if it has it."""
    if weight.dtype == dtype:
        return weight
    found = hold(torch.empty_like(weight, dtype=dtype, memory_format=LAST))
    do(found.copy_, weight)
    return found


def back(
    done: Done,
    gain: Tensor,
    gradients: Gradients,
    want: tuple[bool, bool],
    masked: Tensor | None = None,
) -> tuple[Sequence[Tensor] | None, Tensor | None, Tensor, Tensor]:
    """Return the gradients of a layer's inputs and weight, where wanted, its gain and its bias.

    masked: memory for the gradient of its shortcut.
    """
    from netwright.children import passes

    z = done.z
    takers, held = takers_of(gradients, z)
    g, g_gain, g_bias = (hold(torch.empty_like(like)) for like in (z, gain, gain))
    sums, summed = sums_of(z.shape[1])
    passes.run(
        passes.normalised_backward,
        *sizes_of(z),
        done.line.data_ptr(),
        int(done.rectify),
        0 if done.y is None else done.y.data_ptr(),
        *takers,
        z.shape[2],
        z.shape[3],
        (g if masked is None else masked).data_ptr(),
        g.data_ptr(),
        g_gain.data_ptr(),
        g_bias.data_ptr(),
        sums,
    )
    del held, summed, gradients
    sent, g_weight = backward(g, done.inputs, done.weight, done.where, want)
    if g_weight is not None:
        g_weight = g_weight.to(gain.dtype)
    return sent, g_weight, g_gain, g_bias


class _ConvNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        gain: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        where: Where,
        state: State,
        rectify: bool,
        takers: int,
    ) -> tuple[Tensor, ...]:
        y, done = convolve(alone(x), weight, gain, bias, where, state, rectify, shortcut)
        ctx.save_for_backward(x, done.weight, done.z, done.line, gain, done.y)
        ctx.where, ctx.rectify = where, rectify
        ctx.set_materialize_grads(False)
        return (y, *(y.detach() for _ in range(takers - 1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, narrow, z, line, gain, y = ctx.saved_tensors
        done = Done(alone(x), narrow, z, line, ctx.where, ctx.rectify, y)
        masked = torch.empty_like(z) if ctx.needs_input_grad[4] else None
        sent, *rest = back(done, gain, gradients, ctx.needs_input_grad[:2], masked)
        return (sent[0] if sent else None, *rest, masked, None, None, None, None)
