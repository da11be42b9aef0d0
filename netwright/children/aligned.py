"""Products in bfloat16 over whole tiles.

Processors with tiles multiply bfloat16 in some of 32 numbers; matrices whose rows are no whole
number of them are laid out again for every product. Here they are filled up with zeros once, where
they are cast. On others that would only be more to multiply.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from netwright.children.compiled import has_tiles

TILE = 32


def whole(count: int, of: int = TILE) -> int:
    """Return the least multiple of `of` that is `count` or more."""
    return -(-count // of) * of


def aligned(x: Tensor, kind: torch.dtype) -> Tensor:
    """Return x [N, K] cast to `kind`; for tiles with zeros up to a multiple of `TILE` columns."""
    count, columns = x.shape
    across = whole(columns)
    if kind != torch.bfloat16 or across == columns or not has_tiles():
        return x.to(kind)
    filled = x.new_empty(count, across, dtype=kind)
    filled[:, :columns].copy_(x)
    filled[:, columns:].zero_()
    return filled


def linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """Return `torch.nn.functional.linear` of x [N, K], in tiles as above."""
    plain, narrow = torch.nn.functional.linear, torch.bfloat16
    if torch.compiler.is_compiling() or not has_tiles():
        return plain(x, w, bias)
    if x.is_cpu and torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
    else:
        kind = x.dtype
    even = w.shape[1] % TILE == 0
    if kind != narrow or even or not x.is_cpu:
        return plain(x, w, bias)
    made: Tensor = _Product.apply(x, w)  # type: ignore[no-untyped-call]
    return made if bias is None else made + bias.to(narrow)


class _Product(torch.autograd.Function):
    """x @ w.t() in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x_filled, w_filled = aligned(x, torch.bfloat16), aligned(w, torch.bfloat16)
        ctx.save_for_backward(x_filled, w_filled)
        ctx.kinds, ctx.columns = (x.dtype, w.dtype), w.shape[1]
        return x_filled @ w_filled.t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        wants_x, wants_w = ctx.needs_input_grad
        of_x, of_w = ctx.kinds
        g_x = cut(g @ w, ctx.columns, of_x) if wants_x else None
        return g_x, cut(g.t() @ x, ctx.columns, of_w) if wants_w else None


def cut(x: Tensor, columns: int, kind: torch.dtype) -> Tensor:
    """Return the first columns of x, in `kind` and dense."""
    return x[:, :columns].to(kind).contiguous()
