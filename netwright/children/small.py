"""Layers of a recurrent cell whose weights stay in a core's cache, with all their products.

The products with the inputs, and the gradients of the weights, are made step by step too: what
there is of them for all steps at once would not stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from netwright.children.aligned import aligned, whole
from netwright.children.compiled import graphed, has_tiles
from netwright.children.small_pairs import paired_layer
from netwright.children.steps import Runner, arrived, constant, laid, numbers_of
from netwright.children.tiled.amx import ROWS as TILE_ROWS
from netwright.children.tiles import fit, laid_tiles
from netwright.spaces.recurrent import Cell

WEIGHTS = 1 << 18  # of W and U, up to which it pays
ROWS = 8  # sequences a step, on average, from which on it pays


def suits(x: Tensor, w: Tensor, u: Tensor, batch_sizes: Sequence[int]) -> bool:
    """Say whether `small_layer` can make a layer, and faster than `netwright.children.steps`."""
    if graphed() or not x.is_cpu:  # before a size is looked at, which would fix it
        return False
    cast, narrow = torch.is_autocast_enabled("cpu"), _narrow(x)
    kind = torch.float32 if cast else x.dtype
    if (cast and not narrow) or not kind == w.dtype == u.dtype:
        return False
    if w.numel() + u.numel() > WEIGHTS or len(x) < ROWS * len(batch_sizes):
        return False
    return fit(batch_sizes) if narrow else kind in (torch.float32, torch.float64)


def _narrow(x: Tensor) -> bool:
    """Say whether products are to be in bfloat16."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype != torch.float64
    return x.dtype == torch.bfloat16


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

    x: [N, inputs], w: [B * H, inputs], the rest as there. In bfloat16 every step must have 16
    sequences or more, see `suits`.
    """
    if _narrow(x) and not has_tiles():
        return paired_layer(cell, x, w, u, h0, c0, tuple(batch_sizes), mask)
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
        from netwright.children.cell_code import code_of
        from netwright.children.cell_steps import FORWARD

        (count, inputs), units, most = x.shape, h0.shape[1], batch_sizes[0]
        ctx.kinds, tiled = (x.dtype, w.dtype, h0.dtype, c0.dtype), _narrow(x)
        held = torch.bfloat16 if tiled else x.dtype
        kind = torch.float32 if tiled else held
        code = code_of(cell, units, "tiles" if tiled else str(kind).removeprefix("torch."), inputs)
        x = aligned(x, held).contiguous()
        w, u, first = w.contiguous(), u.contiguous(), c0.to(kind).contiguous()
        masks = constant(1.0, most, units, kind) if mask is None else mask.to(kind).contiguous()
        out, c = x.new_empty(count, units), first.new_empty(count, units)
        onward, kept = x.new_empty(count, code.onward_row), first.new_empty(count, code.kept)
        onward[:, units:] = 0
        onward[:most, :units] = h0 if mask is None else h0 * mask
        scratch = first.new_empty(2, most, cell.base * code.across)
        if tiled:
            ahead = laid_tiles(code, "weight_ahead", u), laid_tiles(code, "weight_in_ahead", w)
        else:
            ahead = (
                laid(code, "weight_ahead", u, code.across),
                laid(code, "weight_in_ahead", w, code.across),
            )
        sizes = numbers_of((*batch_sizes, 0))
        arrays = {
            "x": x, "weight": ahead[0], "scratch": scratch[0],
            "weight_in": ahead[1], "scratch_in": scratch[1],
            "bias": constant(0.0, 1, len(u), kind), "mask": masks, "onward": onward, "c_0": first,
            "c": c, "out": out, "kept": kept, "sizes": sizes,
        }  # fmt: skip
        Runner(code, "forward", FORWARD, arrays)(first=0, end=len(batch_sizes), start=0)
        ctx.code, ctx.batch_sizes, ctx.masked = code, batch_sizes, mask is not None
        ctx.tiled = tiled
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, u, first, c, onward, kept, masks, sizes)
        return out, c.to(ctx.kinds[3]) if tiled else c

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        from netwright.children.cell_steps import BACKWARD

        x, w, u, first, c, onward, kept, masks, sizes = ctx.saved_tensors
        code, units, inputs, tiled = ctx.code, u.shape[1], w.shape[1], ctx.tiled
        g_out, g_last, row = arrived(grads, len(x), units, x.dtype, c.dtype)
        g_c, g_step = torch.empty_like(first), x.new_empty(2, code.group * len(first), code.g_row)
        g_step[:, :, len(u) :] = 0
        g_onward = first.new_empty(len(first), code.across)
        wants_x = ctx.needs_input_grad[1]
        g_x = first.new_empty(len(x) if wants_x else 0, code.across_in)
        arrays = {
            "g_onward": g_onward, "x": x, "g_x": g_x,
            "kept": kept, "mask": masks, "c_0": first, "c": c, "g_out": g_out, "g_last": g_last,
            "g_c": g_c, "g_z": g_step[0], "g_v": g_step[1], "sizes": sizes, "onward": onward,
        }  # fmt: skip
        arrays |= _of_tiles(code, w, u, g_step) if tiled else _of_vectors(code, w, u)
        run = Runner(code, "backward", BACKWARD, arrays)
        run(g_last_row=row, wants_x=int(wants_x), first=0, end=len(ctx.batch_sizes), start=len(x))
        g_h0 = g_onward[:, :units]
        g_h0 = g_h0 * masks if ctx.masked else g_h0
        of_x, of_w, of_h, of_c = ctx.kinds
        g_w, g_u = arrays["g_weight_in"], arrays["g_weight"]
        if tiled:
            g_w, g_u = (g[:n, : len(u)].t().contiguous() for g, n in ((g_w, inputs), (g_u, units)))
        else:
            g_w, g_u = (
                _cut(code, "weight_in_cut", g_w, inputs),
                _cut(code, "weight_cut", g_u, units),
            )
        return (
            None, _cut(code, "weight_in_cut", g_x, inputs).to(of_x) if wants_x else None,
            g_w.to(of_w), g_u.to(of_w), g_h0.to(of_h), g_c.to(of_c), None, None,
        )  # fmt: skip


def _of_vectors(code: Any, w: Tensor, u: Tensor) -> dict[str, Tensor]:
    """Return the weights, and room for their gradients, where products are made in vectors."""
    return {
        "weight": laid(code, "weight_back", u, code.across),
        "weight_in": laid(code, "weight_in_back", w, code.across_in),
        "g_weight": u.new_empty(len(u), code.across),
        "g_weight_in": w.new_empty(len(w), code.across_in),
    }


def _of_tiles(code: Any, w: Tensor, u: Tensor, g_step: Tensor) -> dict[str, Tensor]:
    """Return the same where they are made in tiles, and room for those.

    g_step: [2, rows, columns] of bfloat16, the leaves' gradients of as many steps as are taken in
    one go.
    """
    rows, columns = whole(g_step.shape[1]), code.g_row
    found = {
        "weight": laid_tiles(code, "weight_back", u),
        "weight_in": laid_tiles(code, "weight_in_back", w),
    }
    for name, of, across in (("x", "weight_in", code.across_in), ("onward", "weight", code.across)):
        found[f"{name}_tiles"] = g_step.new_empty(rows, across)
        found[f"g_{of}"] = g_step.new_empty(across, whole(len(u), TILE_ROWS), dtype=torch.float32)
    return found | {f"{name}_tiles": g_step.new_empty(rows, columns) for name in ("g_z", "g_v")}


def _cut(code: Any, name: str, found: Tensor, columns: int) -> Tensor:
    """Return the first columns of rows of whole vectors."""
    from netwright.children.native import call

    dense = found.new_empty(len(found), columns)
    call(code.functions[name], (found.data_ptr(), dense.data_ptr(), len(found)))
    return dense
