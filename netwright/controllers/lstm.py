"""An LSTM over a whole batch, forward and backward by hand: the policy's, whose steps are tiny.

torch's own records a dozen operations a step for autograd, at several times their arithmetic. Here
arrays are [T, .., n], sequences last, so that each gate is one run of memory; the backward pass has
one product and a few calls a step, the rest is made for all steps at once. `nn.LSTM` is what it is
tested against. Products are torch's, which keep to the caller's one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]


@dataclass(frozen=True)
class Gates:
    """One layer's weights by gate: output, input, forget, cell; the first three are halved.

    inputs, hidden: [4 * units, inputs or units]. bias: [4 * units, 1]. sigmoid(x) is
    tanh(x / 2) / 2 + 1 / 2, so that one call serves all gates.
    """

    inputs: Tensor
    hidden: Tensor
    bias: Tensor

    @classmethod
    def of(cls, lstm: nn.LSTM, layer: int) -> Gates:
        """Return those of a layer of `lstm`."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return cls.from_weights(*(getattr(lstm, f"{n}_l{layer}").detach() for n in names))

    @classmethod
    def from_weights(cls, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Gates:
        """Return those of the parameters of `nn.LSTM`."""
        bias = (b_ih + b_hh)[:, None]
        return cls(*(_halved(_ordered(weight)) for weight in (w_ih, w_hh, bias)))


def _ordered(rows: Tensor) -> Tensor:
    """Return torch's rows (input, forget, cell, output) as output, input, forget, cell."""
    return rows.roll(len(rows) // 4, 0)


def _in_torch_order(rows: Tensor) -> Tensor:
    return rows.roll(-(len(rows) // 4), 0)


def _halved(rows: Tensor) -> Tensor:
    rows[: 3 * (len(rows) // 4)] *= 0.5
    return rows


def activate(gates: Array) -> None:
    """Take the sums of `Gates` [4, units, n] to the gates, in place."""
    np.tanh(gates, out=gates)
    gates[:3] *= 0.5
    gates[:3] += 0.5


def run(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Return the top hidden states [n, T, units] for x [n, T, inputs], from a state of zeros.

    lstm: with biases, one direction, no dropout between layers.
    """
    h = x.permute(1, 2, 0)
    for weights in lstm.all_weights:
        h = _Layer.apply(h, *weights)  # type: ignore[no-untyped-call]
    out: Tensor = h.permute(2, 0, 1)
    return out


class _Layer(torch.autograd.Function):
    """x [T, inputs, n] and the four parameters of a layer -> h [T, units, n]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> Tensor:
        by = Gates.from_weights(w_ih, w_hh, b_ih, b_hh)
        (steps, _, n), units = x.shape, w_hh.shape[1]
        x = x.contiguous()
        sums = torch.matmul(by.inputs, x).add_(by.bias)  # [T, 4 * units, n]
        h, c = (torch.zeros(steps + 1, units, n, dtype=x.dtype) for _ in range(2))
        bent = torch.empty(steps, units, n, dtype=x.dtype)  # tanh(c)
        gates = sums.numpy().reshape(steps, 4, units, n)
        h_, c_, bent_ = h.numpy(), c.numpy(), bent.numpy()
        for t in range(steps):
            if t:
                sums[t].addmm_(by.hidden, h[t])
            activate(gates[t])
            o, i, f, g = gates[t]
            np.multiply(f, c_[t], out=c_[t + 1])
            c_[t + 1] += i * g
            np.tanh(c_[t + 1], out=bent_[t])
            np.multiply(o, bent_[t], out=h_[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, sums, h, c, bent)
        return h[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_h: Tensor) -> Any:
        x, w_ih, w_hh, sums, h, c, bent = ctx.saved_tensors
        (steps, units, n), g_h = bent.shape, g_h.contiguous()
        o, i, f, g = sums.view(steps, 4, units, n).unbind(1)
        # What each gate's sum changes: h_t through o, c_t through the other three.
        by = torch.empty_like(sums).view(steps, 4, units, n)
        torch.mul(bent * o, 1 - o, out=by[:, 0])
        torch.mul(g * i, 1 - i, out=by[:, 1])
        torch.mul(c[:-1] * f, 1 - f, out=by[:, 2])
        torch.mul(i, 1 - g * g, out=by[:, 3])
        through = (o * (1 - bent * bent)).numpy()  # of h_t by c_t
        kept, d, d_h = f.numpy(), by.numpy(), g_h.numpy()
        across = _ordered(w_hh).t().contiguous()
        flat = by.view(steps, 4 * units, n)
        back = torch.empty(units, n, dtype=x.dtype)
        back_ = back.numpy()
        d_c = np.zeros((units, n), dtype=d.dtype)
        for t in range(steps - 1, -1, -1):
            if t < steps - 1:
                torch.addmm(g_h[t], across, flat[t + 1], out=back)
                d_ht = back_
            else:
                d_ht = d_h[t]
            d_c += d_ht * through[t]
            d[t, 0] *= d_ht
            d[t, 1:] *= d_c
            d_c *= kept[t]
        wide = flat.transpose(0, 1).reshape(4 * units, -1)  # [4 * units, T * n]
        g_ih = wide @ x.transpose(1, 2).reshape(-1, x.shape[1])
        g_hh = wide @ h[:-1].transpose(1, 2).reshape(-1, units)
        g_bias = _in_torch_order(wide.sum(1))
        g_x = torch.matmul(_ordered(w_ih).t(), flat) if ctx.needs_input_grad[0] else None
        return g_x, _in_torch_order(g_ih), _in_torch_order(g_hh), g_bias, g_bias.clone()
