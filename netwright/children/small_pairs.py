"""Small layers of a recurrent cell in bfloat16 on processors that multiply it in vectors alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from netwright.children.aligned import whole
from netwright.children.cell_pairs import BACKWARD, FORWARD, GROUP, pair_code_of
from netwright.children.native import BYTES, call
from netwright.children.openmp import openmp
from netwright.children.pairs import BEHIND, LANES, ONCE, PAIR
from netwright.children.steps import arrived, constant
from netwright.spaces.recurrent import Cell

_NARROW = torch.bfloat16
_ahead: Callable[[dict[str, int]], tuple[int, ...]] = itemgetter(*FORWARD)
_back: Callable[[dict[str, int]], tuple[int, ...]] = itemgetter(*BACKWARD)


class Room:
    """Where arrays lie in one piece of memory; sizes: bytes of each.

    What lies in it begins as anything at all.
    """

    def __init__(self, **sizes: int) -> None:
        self._starts, self._size = {}, 0
        for name, size in sizes.items():
            self._starts[name] = self._size
            self._size += whole(size, BYTES)

    def make(self) -> Tensor:
        """Return such memory."""
        return torch.empty(self._size + BYTES, dtype=torch.uint8, device="cpu")

    def places(self, memory: Tensor) -> dict[str, int]:
        """Return the address of each array in it, a multiple of 64."""
        begin = whole(memory.data_ptr(), BYTES)
        return {name: begin + start for name, start in self._starts.items()}


class Plan:
    """What all calls of a layer over as many sequences a step have in common."""

    def __init__(
        self, cell: Cell, units: int, inputs: int, batch_sizes: tuple[int, ...], threads: int
    ) -> None:
        self.code = code = pair_code_of(cell, units, inputs)
        self.threads, self.most, self.end = threads, batch_sizes[0], len(batch_sizes)
        shape, total, rows = code.shape, sum(batch_sizes), self.most + BEHIND
        with torch.inference_mode(False):  # see `constant`
            self.sizes = torch.tensor((*batch_sizes, 0), device="cpu")
        self.scratch = rows * shape.sums
        self.kept = Room(both=(total + BEHIND) * shape.both + BYTES, kept=total * code.kept)
        self.ahead = Room(
            weight=shape.lines * cell.base * shape.leaf, scratch=threads * self.scratch
        )
        pairs = min(GROUP, self.end) * -(-self.most // 2) + ONCE
        self.apart = pairs * BYTES
        self.back = Room(
            weight=shape.lines * shape.back,
            weight_in=shape.lines_in * shape.back,
            g=rows * shape.g + BYTES,
            g_onward=rows * shape.onward,
            x_sums=rows * shape.onward_in,
            g_pairs=pairs * whole(code.g, LANES) * PAIR,
            h_pairs=pairs * shape.onward,
            x_pairs=pairs * shape.onward_in,
        )

    def run(self, name: str, numbers: tuple[int, ...]) -> None:
        """Call a function of the code, in its threads."""
        function, team = self.code.functions[name], openmp()
        if self.threads > 1 and team is not None:
            team.run(function, numbers, self.threads)
        else:
            call(function, (0, 0, 0, *numbers))


@functools.lru_cache(maxsize=64)
def plan_of(
    cell: Cell, units: int, inputs: int, batch_sizes: tuple[int, ...], threads: int
) -> Plan:
    """Return the plan, made at its first use."""
    return Plan(cell, units, inputs, batch_sizes, threads)


def paired_layer(
    cell: Cell,
    x: Tensor,
    w: Tensor,
    u: Tensor,
    h0: Tensor,
    c0: Tensor,
    batch_sizes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `netwright.children.small.small_layer` does, h in bfloat16.

    All but the products with W and U is in float32.
    """
    h, c = _Paired.apply(cell, x, w, u, h0, c0, batch_sizes, mask)  # type: ignore[no-untyped-call]
    return h, c


class _Paired(torch.autograd.Function):
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
        (total, inputs), units = x.shape, h0.shape[1]
        plan = plan_of(cell, units, inputs, batch_sizes, torch.get_num_threads())
        ctx.plan, ctx.kinds = plan, (x.dtype, w.dtype, h0.dtype, c0.dtype)
        x, h0, first = _known(x), _known(h0), c0.float().contiguous()
        w, u = w.float().contiguous(), u.float().contiguous()
        if mask is None:
            masks = constant(1.0, plan.most, units, torch.float32)
        else:
            masks = mask.float().contiguous()
        kept, used = plan.kept.make(), plan.ahead.make()
        out, c = x.new_empty(total, units, dtype=_NARROW), first.new_empty(total, units)
        found = {
            "x": x.data_ptr(), "x_narrow": x.dtype == _NARROW,
            "h_0": h0.data_ptr(), "h_narrow": h0.dtype == _NARROW,
            "c_0": first.data_ptr(), "mask": masks.data_ptr(), "w": w.data_ptr(),
            "u": u.data_ptr(), "c": c.data_ptr(), "out": out.data_ptr(),
            "sizes": plan.sizes.data_ptr(), "scratch_size": plan.scratch, "end": plan.end,
            "total": total, **plan.kept.places(kept), **plan.ahead.places(used),
        }  # fmt: skip
        plan.run("forward", _ahead(found))
        ctx.x_kind = x.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(kept, w, u, first, c, masks)
        return out, c.to(ctx.kinds[3])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        kept, w, u, first, c, masks = ctx.saved_tensors
        plan, (total, units), inputs = ctx.plan, c.shape, w.shape[1]
        g_out, g_last, row = arrived(grads, total, units, _NARROW, torch.float32)
        wants_x, wants_w, wants_u, wants_h, wants_c = ctx.needs_input_grad[1:6]
        of_x, of_w, of_h, of_c = ctx.kinds
        g_w, g_u, g_c = torch.empty_like(w), torch.empty_like(u), torch.empty_like(first)
        g_x = g_c.new_empty(total if wants_x else 0, inputs, dtype=ctx.x_kind)
        used = plan.back.make()
        found = {
            "g_out": g_out.data_ptr(), "g_last": g_last.data_ptr(), "g_last_row": row,
            "mask": masks.data_ptr(), "c_0": first.data_ptr(), "c": c.data_ptr(),
            "w": w.data_ptr(), "u": u.data_ptr(), "g_x": g_x.data_ptr(), "g_c": g_c.data_ptr(),
            "g_w": g_w.data_ptr(), "g_u": g_u.data_ptr(), "sizes": plan.sizes.data_ptr(),
            "x_narrow": ctx.x_kind == _NARROW, "wants_x": wants_x, "end": plan.end,
            "total": total, "apart": plan.apart, **plan.kept.places(kept),
            **plan.back.places(used),
        }  # fmt: skip
        plan.run("backward", _back(found))
        g_h0 = None
        if wants_h:
            start = found["g_onward"] - used.data_ptr()
            onward = used[start : start + plan.most * plan.code.shape.onward].view(torch.float32)
            g_h0 = (onward.view(plan.most, -1)[:, :units] * masks).to(of_h)
        return (
            None, g_x.to(of_x) if wants_x else None, g_w.to(of_w) if wants_w else None,
            g_u.to(of_w) if wants_u else None, g_h0, g_c.to(of_c) if wants_c else None, None, None,
        )  # fmt: skip


def _known(x: Tensor) -> Tensor:
    """Return x as compiled code reads it: bfloat16 or float32, and dense."""
    return (x if x.dtype in (_NARROW, torch.float32) else x.float()).contiguous()
