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

from netwright.children.aligned import aligned, cut
from netwright.children.compiled import graphed
from netwright.children.openmp import openmp
from netwright.children.tiles import fit, laid_tiles
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
    h, c = _Layer.apply(cell, z, u, bias, h0, c0, tuple(batch_sizes), mask)  # type: ignore[no-untyped-call]
    return h, c


def run_layer(cell: Cell, z: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Return `fast_layer` where it can run, else `plain_layer`."""
    known = z.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    fast = z.device.type == "cpu" and known and not graphed()
    return (fast_layer if fast else plain_layer)(cell, z, *rest)


class _Layer(torch.autograd.Function):
    """All steps of a layer; the tree in float32 or float64.

    The products with h_(t-1) are in those too, whatever z is, but for large weights of bfloat16,
    which oneDNN lays out once and multiplies step by step. Small ones gain less by bfloat16 than
    the calls cost.
    """

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
        from netwright.children.cell_code import code_of
        from netwright.children.cell_steps import FORWARD

        kind = torch.float64 if z.dtype == torch.float64 else torch.float32
        units = h0.shape[1]
        narrow = z.dtype == torch.bfloat16 and u.numel() >= PACKED and _packs()
        tiled = z.dtype == torch.bfloat16 and not narrow and fit(batch_sizes)
        held = z.dtype if narrow or tiled else kind
        ctx.kinds = tuple(t.dtype for t in (z, u, h0, c0))
        z = z.to(held).contiguous()
        weight = u if tiled else u.to(held).contiguous()
        first = c0.to(kind).contiguous()
        added = constant(0.0, 1, len(u), kind) if bias is None else bias.to(kind).contiguous()
        masks = constant(1.0, *first.shape, kind) if mask is None else mask.to(kind).contiguous()
        sizes = numbers_of((*batch_sizes, 0))
        code = code_of(cell, units, "tiles" if tiled else str(held).removeprefix("torch."))
        onward = z.new_empty(len(z), code.onward_row)
        onward[:, units:] = 0
        out = z.new_empty(len(z), units)
        kept, c = first.new_empty(z.shape), first.new_empty(len(z), units)
        onward[: batch_sizes[0], :units] = h0 if mask is None else h0 * mask
        arrays = {
            "z": z, "bias": added, "mask": masks, "onward": onward, "c_0": first, "c": c,
            "out": out, "kept": kept, "sizes": sizes,
        }  # fmt: skip
        run = Runner(code, "forward", FORWARD, arrays)
        if narrow:
            multiply, start = _multiplier(weight, batch_sizes[0]), 0
            for t, rows in enumerate(batch_sizes):
                made = multiply(onward[start : start + rows])
                run(given=made.data_ptr(), first=t, end=t + 1, start=start)
                start += rows
        else:
            if tiled:
                packed = laid_tiles(code, "weight_ahead", weight)
            else:
                packed = laid(code, "weight_ahead", weight, code.across)
            scratch = first.new_empty(batch_sizes[0], cell.base * code.across)
            run(
                weight=packed.data_ptr(), scratch=scratch.data_ptr(),
                first=0, end=len(batch_sizes), start=0,
            )  # fmt: skip
        ctx.code, ctx.batch_sizes, ctx.narrow, ctx.tiled = code, batch_sizes, narrow, tiled
        ctx.masked, ctx.biased = mask is not None, bias is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, weight, first, c, onward, kept, masks, sizes)
        return out.to(ctx.kinds[0]), c.to(kind if ctx.kinds[0] == kind else c0.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        from netwright.children.cell_steps import BACKWARD

        z, weight, first, c, onward, kept, masks, sizes = ctx.saved_tensors
        kind, held, units, batch = c.dtype, z.dtype, c.shape[1], ctx.batch_sizes
        g_out, g_last, row = arrived(grads, len(z), units, held, kind)
        g_z, g_v = (z.new_empty(len(z), ctx.code.g_row) for _ in range(2))
        g_z[:, z.shape[1] :] = g_v[:, z.shape[1] :] = 0
        g_c = torch.empty_like(first)
        arrays = {
            "z": z, "kept": kept, "mask": masks, "c_0": first, "c": c, "g_out": g_out,
            "g_last": g_last, "g_c": g_c, "g_z": g_z, "g_v": g_v, "sizes": sizes,
        }  # fmt: skip
        run = Runner(ctx.code, "backward", BACKWARD, arrays, g_last_row=row)
        if ctx.narrow:
            multiply, end = _multiplier(weight.t(), batch[0]), len(z)
            g_onward = onward
            for t, rows in reversed(list(enumerate(batch))):
                run(g_onward=g_onward.data_ptr(), first=t, end=t + 1, start=end)
                g_onward = multiply(g_v[end - rows : end])
                end -= rows
        else:
            if ctx.tiled:
                packed = laid_tiles(ctx.code, "weight_back", weight)
            else:
                packed = laid(ctx.code, "weight_back", weight, ctx.code.across)
            g_onward = first.new_empty(batch[0], ctx.code.across)
            run(
                weight=packed.data_ptr(), g_onward=g_onward.data_ptr(),
                first=0, end=len(batch), start=len(z),
            )  # fmt: skip
        g_h0 = g_onward[:, :units].to(kind)
        g_h0 = g_h0 * masks if ctx.masked else g_h0
        g_u = None
        if ctx.needs_input_grad[2]:
            g_u = cut((g_v.t() @ aligned(onward, held))[: z.shape[1]], units, ctx.kinds[1])
        g_bias = g_v[:, : z.shape[1]].sum(0, dtype=kind) if ctx.biased else None
        of_z, of_u, of_h, of_c = ctx.kinds
        return (
            None, g_z[:, : z.shape[1]].to(of_z), g_u,
            None if g_bias is None else g_bias.to(of_u), g_h0.to(of_h), g_c.to(of_c), None, None,
        )  # fmt: skip


def arrived(
    grads: Sequence[Tensor | None], rows: int, units: int, held: torch.dtype, kind: torch.dtype
) -> tuple[Tensor, Tensor, int]:
    """Return the gradients of a layer's h and c, and how far the rows of the second are apart.

    One that did not come is zeros; of the second these are a single row.
    """
    of_h, of_c = grads
    if of_h is None:
        g_out = torch.zeros(rows, units, dtype=held, device="cpu")
    else:
        g_out = of_h.to(held).contiguous()
    if of_c is None:
        return g_out, constant(0.0, 1, units, kind), 0
    return g_out, of_c.to(kind).contiguous(), units


class Runner:
    """Calls a function of `cell_code.Code` on arrays, in torch's threads."""

    def __init__(
        self, code: Any, name: str, takes: Sequence[str], arrays: dict[str, Tensor], **numbers: int
    ) -> None:
        self._function, self._takes = code.functions[name], takes
        self._kept = code, arrays  # while their addresses are
        self._numbers = {name: array.data_ptr() for name, array in arrays.items()} | numbers

    def __call__(self, **numbers: int) -> None:
        """Run it with the rest of the numbers; those that it has no use for may lack."""
        from netwright.children.native import call

        found = self._numbers | numbers
        taken = tuple([found.get(name, 0) for name in self._takes])
        threads, team = torch.get_num_threads(), openmp()
        if threads > 1 and team is not None:
            team.run(self._function, taken, threads)
        else:
            call(self._function, (0, 0, 0, *taken))


@functools.lru_cache(maxsize=64)
def constant(value: float, rows: int, units: int, kind: torch.dtype) -> Tensor:
    """Return [rows, units] of one number, which is not to be written to.

    What is made in inference mode could not be kept for a way back later.
    """
    with torch.inference_mode(False):
        return torch.full((rows, units), value, dtype=kind, device="cpu")


@functools.lru_cache(maxsize=256)
def numbers_of(numbers: tuple[int, ...]) -> Tensor:
    """Return int64 numbers, which are not to be written to; see `constant`."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device="cpu")


def laid(code: Any, name: str, weight: Tensor, across: int) -> Tensor:
    """Return weights as a function of `cell_code.Code` lays them out, for so many units."""
    from netwright.children.native import call

    rows = len(weight) if name.endswith("back") else len(weight) // code.units * weight.shape[1]
    found = weight.new_empty(rows * across)
    call(code.functions[name], (weight.data_ptr(), found.data_ptr()))
    return found


def _multiplier(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """Return what multiplies up to `rows` rows with weight.t(), laid out once by oneDNN."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    linear = torch.ops.mkldnn._linear_pointwise

    def product(a: Tensor) -> Tensor:
        made: Tensor = linear(a, packed, None, "none", [], "")
        return made

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
