"""Layers of a recurrent cell over packed sequences: the plain version and the fast one.

Both take the products of the inputs with W, made for all steps at once, and run the steps. Rows of
all arrays are those of a packed sequence: first all sequences' first steps, then the second ones.
`batch_sizes` says how many sequences each step has, never rising.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from netwright.spaces.recurrent import Cell

PACKED = 1 << 19  # weights from which on oneDNN's layout of them pays

_COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "elem_mult": torch.mul,
    "max": torch.maximum,
}
_ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "sin": torch.sin,
}


def plain_step(cell: Cell, z: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return (h_t, c_t) of one step, as the paper's 3.4 reads.

    z, v: [N, B * H], the leaves' products W_i x_t and U_i h_(t-1) side by side. c: [N, H].
    """
    inputs, hidden = z.chunk(cell.base, 1), v.chunk(cell.base, 1)
    values: list[Tensor] = []
    c_next = c
    for i, (combine, activation) in enumerate(cell.nodes):
        below = cell.children(i)
        left, right = (values[below[0]], values[below[1]]) if below else (inputs[i], hidden[i])
        before = _COMBINE[combine](left, right)
        if i == cell.c_from:
            c_next = before
        value = _ACTIVATE[activation](before)
        if i == cell.c_into:
            value = _ACTIVATE[cell.inject[1]](_COMBINE[cell.inject[0]](value, c))
        values.append(value)
    return values[-1], c_next


def plain_layer(
    cell: Cell,
    z: Tensor,
    u: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    batch_sizes: Sequence[int],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (h, c) of all steps, [N, H] each; the reference for `fast_layer`.

    z: [N, B * H], N the sum of `batch_sizes`. u: [B * H, H], bias: [B * H] of the hidden side.
    h0, c0: [batch_sizes[0], H]. mask: [batch_sizes[0], H], times h_(t-1) at every step (variational
    dropout, Gal and Ghahramani 2016).
    """
    hs: list[Tensor] = []
    cs: list[Tensor] = []
    h, c, start = h0, c0, 0
    for rows in batch_sizes:
        h, c = h[:rows], c[:rows]
        masked = h if mask is None else h * mask[:rows]
        v = torch.nn.functional.linear(masked, u, bias)
        h, c = plain_step(cell, z[start : start + rows], v, c)
        hs.append(h)
        cs.append(c)
        start += rows
    return torch.cat(hs), torch.cat(cs)


def fast_layer(
    cell: Cell,
    z: Tensor,
    u: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    batch_sizes: Sequence[int],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `plain_layer` returns, by compiled steps; on the processor only."""
    h, c = _Layer.apply(  # type: ignore[no-untyped-call]
        cell,
        z,
        u.to(z.dtype),
        None if bias is None else bias.to(z.dtype),
        h0,
        c0,
        tuple(batch_sizes),
        mask,
    )
    return h, c


def run_layer(cell: Cell, z: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Return `fast_layer` where it can run, else `plain_layer`."""
    known = z.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    fast = z.device.type == "cpu" and known and not torch.compiler.is_compiling()
    return (fast_layer if fast else plain_layer)(cell, z, *rest)


class _Layer(torch.autograd.Function):
    """All steps of a layer; products in z's type, the tree in float32 or float64."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        z: Tensor,
        u: Tensor,
        bias: Tensor | None,
        h0: Tensor,
        c0: Tensor,
        batch_sizes: tuple[int, ...],
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        from netwright.children import kernel
        from netwright.children.compiled import array_of

        kind = torch.float64 if z.dtype == torch.float64 else torch.float32
        units = h0.shape[1]
        held = (z if z.dtype in (kind, torch.bfloat16) else z.to(kind)).contiguous()
        first = c0.to(kind).contiguous()
        masks = torch.empty(0, units, dtype=kind) if mask is None else mask.to(kind).contiguous()
        v = torch.empty_like(held)
        out, c, onward = (torch.empty(len(z), units, dtype=kind) for _ in range(3))
        onward[: batch_sizes[0]] = h0 if mask is None else h0 * mask
        by, multiply = kernel.program(cell), _multiplier(u, bias, batch_sizes[0], kind)
        z_, v_, out_, c_, onward_, masks_ = (array_of(t) for t in (held, v, out, c, onward, masks))
        before, before_start, start = first.numpy(), 0, 0
        for t, rows in enumerate(batch_sizes):
            end = start + rows
            multiply(onward[start:end], v[start:end])
            following = batch_sizes[t + 1] if t + 1 < len(batch_sizes) else 0
            kernel.forward_step(
                *by, cell.c_from, cell.c_into, z_, v_, start, rows, before, before_start,
                out_, c_, masks_, onward_, following,
            )  # fmt: skip
            before, before_start, start = c_, start, end
        ctx.cell, ctx.batch_sizes, ctx.masked = cell, batch_sizes, mask is not None
        ctx.biased = bias is not None
        ctx.kinds = (z.dtype, h0.dtype, c0.dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(held, v, u, first, c, onward, masks)
        return out.to(z.dtype), c.to(c0.dtype if z.dtype != kind else kind)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        from netwright.children import kernel
        from netwright.children.compiled import array_of

        held, v, u, first, c, onward, masks = ctx.saved_tensors
        cell: Cell = ctx.cell
        kind, sizes, units = c.dtype, ctx.batch_sizes, c.shape[1]
        g_out = torch.zeros_like(c) if grads[0] is None else grads[0].to(kind).contiguous()
        g_last = torch.empty(0, units, dtype=kind)
        if grads[1] is not None:
            g_last = grads[1].to(kind).contiguous()
        g_z, g_v = torch.empty_like(held), torch.empty_like(held)
        g_c, g_onward = (torch.zeros(sizes[0], units, dtype=kind) for _ in range(2))
        by, multiply = kernel.program(cell), _multiplier(u.t(), None, sizes[0], kind)
        arrays = (held, v, c, first, g_out, g_last, masks, g_onward, g_c, g_z, g_v)
        z_, v_, c_, first_, g_out_, g_last_, masks_, on_, g_c_, g_z_, g_v_ = (
            array_of(t) for t in arrays
        )
        end, following = len(c), 0
        for t in range(len(sizes) - 1, -1, -1):
            rows = sizes[t]
            start = end - rows
            before, before_start = (c_, start - sizes[t - 1]) if t else (first_, 0)
            kernel.backward_step(
                *by, cell.c_from, cell.c_into, z_, v_, start, rows, before, before_start,
                g_out_, g_last_, masks_, on_, g_c_, following, g_z_, g_v_,
            )  # fmt: skip
            multiply(g_v[start:end], g_onward[:rows])
            end, following = start, rows
        g_h0 = g_onward * masks if ctx.masked else g_onward
        g_u = g_v.to(u.dtype).t() @ onward.to(u.dtype) if ctx.needs_input_grad[2] else None
        g_bias = g_v.sum(0, dtype=kind).to(u.dtype) if ctx.biased else None
        return (
            None, g_z.to(ctx.kinds[0]), g_u, g_bias, g_h0.to(ctx.kinds[1]), g_c.to(ctx.kinds[2]),
            None, None,
        )  # fmt: skip


def _multiplier(
    weight: Tensor, bias: Tensor | None, rows: int, kind: torch.dtype
) -> Callable[[Tensor, Tensor], object]:
    """Return what sets its second argument to a @ weight.t() (+ bias), for a of up to `rows` rows.

    The products are in `kind`, whatever a and its result are, but for large weights of bfloat16:
    they are laid out once by oneDNN, which would do it again for each product. Small ones gain less
    by bfloat16 than the call costs.
    """
    if weight.dtype == torch.bfloat16 and weight.numel() >= PACKED and _packs():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        linear = torch.ops.mkldnn._linear_pointwise
        return lambda a, out: out.copy_(linear(a.to(torch.bfloat16), packed, bias, "none", [], ""))
    across = weight.to(kind).t().contiguous()
    added = None if bias is None else bias.to(kind)

    def product(a: Tensor, out: Tensor) -> None:
        a, direct = a.to(kind), out.dtype == kind
        if added is not None:
            made = torch.addmm(added, a, across, out=out if direct else None)
        else:
            made = torch.mm(a, across, out=out if direct else None)
        if not direct:
            out.copy_(made)

    return product


@functools.cache
def _packs() -> bool:
    """Say whether this torch can lay out weights of bfloat16 ahead, and the processor use them."""
    operators = torch.ops.mkldnn
    if not hasattr(operators, "_linear_pointwise") or not hasattr(
        operators, "_reorder_linear_weight"
    ):
        return False
    return bool(operators._is_mkldnn_bf16_supported())
