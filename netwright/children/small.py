"""Layers of a recurrent cell whose weights stay in a core's cache, with all their products.

The products with the inputs, and the gradients of the weights, are made step by step too: what
there is of them for all steps at once would not stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from netwright.children.steps import Runner, constant, laid, numbers_of
from netwright.spaces.recurrent import Cell

WEIGHTS = 1 << 18  # of W and U, up to which it pays
ROWS = 8  # sequences a step, on average, from which on it pays


def suits(x: Tensor, w: Tensor, u: Tensor, batch_sizes: Sequence[int]) -> bool:
    """Say whether `small_layer` can make a layer, and faster than `netwright.children.steps`."""
    if torch.compiler.is_compiling():  # before a size is looked at, which would fix it
        return False
    return (
        x.device.type == "cpu"
        and x.dtype == w.dtype == u.dtype
        and x.dtype in (torch.float32, torch.float64)
        and w.numel() + u.numel() <= WEIGHTS
        and len(x) >= ROWS * len(batch_sizes)
        and not torch.is_autocast_enabled("cpu")
    )


def small_layer(
    cell: Cell,
    x: Tensor,
    w: Tensor,
    u: Tensor,
    h0: Tensor,
    c0: Tensor,
    batch_sizes: Sequence[int],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `netwright.children.steps.plain_layer` returns of z = x @ w.t(), without biases.

    x: [N, inputs], w: [B * H, inputs], the rest as there.
    """
    h, c = _Small.apply(cell, x, w, u, h0, c0, tuple(batch_sizes), mask)  # type: ignore[no-untyped-call]
    return h, c


class _Small(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        x: Tensor,
        w: Tensor,
        u: Tensor,
        h0: Tensor,
        c0: Tensor,
        batch_sizes: tuple[int, ...],
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        from netwright.children.cell_code import FORWARD, code_of

        kind, (count, inputs), units, most = x.dtype, x.shape, h0.shape[1], batch_sizes[0]
        code = code_of(cell, units, str(kind).removeprefix("torch."), inputs)
        x, w, u, first = x.contiguous(), w.contiguous(), u.contiguous(), c0.to(kind).contiguous()
        masks = constant(1.0, most, units, kind) if mask is None else mask.to(kind).contiguous()
        out, onward, c = (x.new_empty(count, units) for _ in range(3))
        kept = x.new_empty(count, code.kept)
        onward[:most] = h0 if mask is None else h0 * mask
        scratch = x.new_empty(2, most, cell.base * code.across)
        sizes = numbers_of((*batch_sizes, 0))
        arrays = {
            "x": x, "weight": laid(code, "weight_ahead", u, code.across), "scratch": scratch[0],
            "weight_in": laid(code, "weight_in_ahead", w, code.across), "scratch_in": scratch[1],
            "bias": constant(0.0, 1, len(u), kind), "mask": masks, "onward": onward, "c_0": first,
            "c": c, "out": out, "kept": kept, "sizes": sizes,
        }  # fmt: skip
        Runner(code, "forward", FORWARD, arrays)(first=0, end=len(batch_sizes), start=0)
        ctx.code, ctx.batch_sizes, ctx.masked = code, batch_sizes, mask is not None
        ctx.kinds = h0.dtype, c0.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, u, first, c, onward, kept, masks, sizes)
        return out, c

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        from netwright.children.cell_code import BACKWARD, GROUP

        x, w, u, first, c, onward, kept, masks, sizes = ctx.saved_tensors
        code, units, inputs = ctx.code, u.shape[1], w.shape[1]
        kind = x.dtype
        g_out = torch.zeros_like(onward) if grads[0] is None else grads[0].contiguous()
        g_last = constant(0.0, 1, units, kind) if grads[1] is None else grads[1].contiguous()
        g_c, g_step = torch.empty_like(first), x.new_empty(2, GROUP * len(first), len(u))
        g_onward = x.new_empty(len(first), code.across)
        wants_x = ctx.needs_input_grad[1]
        g_x = x.new_empty(len(x) if wants_x else 0, code.across_in)
        g_u, g_w = x.new_empty(len(u), code.across), x.new_empty(len(w), code.across_in)
        arrays = {
            "weight": laid(code, "weight_back", u, code.across), "g_onward": g_onward,
            "weight_in": laid(code, "weight_in_back", w, code.across_in), "x": x, "g_x": g_x,
            "kept": kept, "mask": masks, "c_0": first, "c": c, "g_out": g_out, "g_last": g_last,
            "g_c": g_c, "g_z": g_step[0], "g_v": g_step[1], "sizes": sizes, "onward": onward,
            "g_weight_in": g_w, "g_weight": g_u,
        }  # fmt: skip
        row = 0 if grads[1] is None else units
        run = Runner(code, "backward", BACKWARD, arrays)
        run(g_last_row=row, wants_x=int(wants_x), first=0, end=len(ctx.batch_sizes), start=len(x))
        g_h0 = g_onward[:, :units]
        g_h0 = g_h0 * masks if ctx.masked else g_h0
        of_h, of_c = ctx.kinds
        return (
            None, _cut(code, "weight_in_cut", g_x, inputs) if wants_x else None,
            _cut(code, "weight_in_cut", g_w, inputs), _cut(code, "weight_cut", g_u, units),
            g_h0.to(of_h), g_c.to(of_c), None, None,
        )  # fmt: skip


def _cut(code: Any, name: str, found: Tensor, columns: int) -> Tensor:
    """Return the first columns of rows of whole vectors."""
    from netwright.children.native import call

    dense = found.new_empty(len(found), columns)
    call(code.functions[name], (found.data_ptr(), dense.data_ptr(), len(found)))
    return dense
