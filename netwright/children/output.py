"""The output layer of a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.children.aligned import aligned
from netwright.children.compiled import compiles
from netwright.errors import ConfigError, out_of_range

LEFT_OUT = -100  # the target of a row that does not count, PyTorch's own `ignore_index`


def check_cutoffs(cutoffs: Sequence[int], vocabulary: int) -> None:
    """Raise `ConfigError` unless `cutoffs` rise within (0, vocabulary)."""
    if any(not a < b for a, b in zip((0, *cutoffs), (*cutoffs, vocabulary), strict=True)):
        raise ConfigError(
            out_of_range(
                "child.cutoffs",
                f"must rise within (0, {vocabulary}), the vocabulary",
                list(cutoffs),
                "[]",
            )
        )


class Output(nn.Module):
    """Features to the probabilities of all units, by softmax or by adaptive softmax.

    The weight, [V, units], may be set to the embedding's. cutoffs: places in a vocabulary of
    falling frequency. Without any it is a softmax. With some the frequent units before the first
    cutoff and one token for each later range share a softmax, and each range has its own (Grave et
    al. 2017, without their smaller projections): still a distribution over all units, for a
    fraction of the work.
    """

    def __init__(self, vocabulary: int, units: int, cutoffs: Sequence[int] = ()) -> None:
        super().__init__()
        check_cutoffs(cutoffs, vocabulary)
        self.weight: Tensor = nn.Parameter(torch.empty(vocabulary, units))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.cutoffs = (*cutoffs, vocabulary)
        self.ranges = nn.Linear(units, len(cutoffs)) if cutoffs else None

    def _head(self, features: Tensor) -> Tensor:
        logits = F.linear(features, self.weight[: self.cutoffs[0]], self.bias[: self.cutoffs[0]])
        return logits if self.ranges is None else torch.cat([logits, self.ranges(features)], 1)

    def _tails(self) -> Iterator[tuple[int, int, int]]:
        for k, (low, high) in enumerate(zip(self.cutoffs, self.cutoffs[1:], strict=False)):
            yield self.cutoffs[0] + k, low, high

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the summed negative log-likelihood; features [N, units], targets int64 [N].

        A target of -100 is left out. Raises `ValueError` for targets of another shape or type and
        `IndexError` for one that is no unit. Differentiable once where it is compiled, on the
        processor.
        """
        low = torch.is_autocast_enabled(features.device.type)
        kind = torch.get_autocast_dtype(features.device.type) if low else self.weight.dtype
        known = kind in (torch.float32, torch.bfloat16) and self.weight.dtype == torch.float32
        able = features.device.type == "cpu" and compiles()
        if not able or not known or torch.compiler.is_compiling():
            return self.plain_loss(features, targets)
        _check(targets, len(features), len(self.bias))
        weights = [self.weight, self.bias]
        if self.ranges is not None:
            weights += [self.ranges.weight, self.ranges.bias]
        tails = tuple(self._tails())
        total: Tensor = _Loss.apply(features, targets, self.cutoffs[0], tails, kind, *weights)  # type: ignore[no-untyped-call]
        return total

    def plain_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return what `loss` does, by PyTorch's own operations."""
        first = targets
        total = features.new_zeros(())
        for token, low, high in self._tails():
            inside = (targets >= low) & (targets < high)
            first = torch.where(inside, token, first)
            rows = inside.nonzero().squeeze(1)
            logits = F.linear(features[rows], self.weight[low:high], self.bias[low:high])
            total = total + F.cross_entropy(logits, targets[rows] - low, reduction="sum")
        return total + F.cross_entropy(self._head(features), first, reduction="sum")

    @torch.no_grad()
    def start_from(self, counts: Tensor) -> None:
        """Set the biases so that zero features give the frequencies `counts`, [V], plus one."""
        share = (counts + 1) / (counts + 1).sum()
        self.bias.copy_(share.log())
        if self.ranges is not None:
            ranges = [share[low:high].sum().log() for _, low, high in self._tails()]
            self.ranges.bias.copy_(torch.stack(ranges))

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Return log P of every unit; features [N, units] -> [N, V]."""
        head = self._head(features).log_softmax(1)
        parts = [head[:, : self.cutoffs[0]]]
        for token, low, high in self._tails():
            logits = F.linear(features, self.weight[low:high], self.bias[low:high])
            parts.append(head[:, token : token + 1] + logits.log_softmax(1))
        return torch.cat(parts, 1)


def _check(targets: Tensor, rows: int, vocabulary: int) -> None:
    """Refuse targets that compiled code would read or write elsewhere with."""
    if targets.shape != (rows,) or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 [{rows}], one for each row of features; got "
            f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape)}"
        )
    if rows == 0:
        return
    low, high = (int(t) for t in torch.aminmax(targets))
    if low < 0:  # some may be left out
        low = int(targets.where(targets != LEFT_OUT, 0).min())
    if low < 0 or high >= vocabulary:
        raise IndexError(
            f"targets must be in [0, {vocabulary}), the vocabulary, or {LEFT_OUT} to be left out; "
            f"got {low if low < 0 else high}"
        )


class _Loss(torch.autograd.Function):
    """The loss of `Output`: its logits are kept as their own gradient, in the products' type."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        targets: Tensor,
        first: int,
        tails: tuple[tuple[int, int, int], ...],
        kind: torch.dtype,
        weight: Tensor,
        bias: Tensor,
        *ranges: Tensor,
    ) -> Tensor:
        from netwright.children.softmax import softmax_loss

        x, w = aligned(features, kind), aligned(weight, kind)
        g_bias, total, in_head = torch.empty_like(bias), bias.new_zeros(()), targets
        places, gradients = [], []
        for token, low, high in tails:
            inside = (targets >= low) & (targets < high)
            in_head = torch.where(inside, token, in_head)
            rows = inside.nonzero().squeeze(1)
            logits = x[rows] @ w[low:high].t()
            total += softmax_loss(logits, bias[low:high], targets[rows] - low, g_bias[low:high])
            places.append(rows)
            gradients.append(logits)
        logits, biases, g_biases = x @ w[:first].t(), bias[:first], g_bias[:first]
        w_ranges = [aligned(r, kind) for r in ranges[:1]]
        if ranges:
            logits = torch.cat([logits, x @ w_ranges[0].t()], 1)
            biases = torch.cat([biases, ranges[1]])
            g_biases = torch.empty_like(biases)
        total += softmax_loss(logits, biases, in_head, g_biases)
        if ranges:
            g_bias[:first] = g_biases[:first]
        ctx.first, ctx.tails, ctx.kind, ctx.units = first, tails, features.dtype, weight.shape[1]
        ctx.save_for_backward(
            x, w, g_bias, g_biases[first:], logits, *w_ranges, *places, *gradients
        )
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w, g_bias, g_range_bias, logits, *rest = ctx.saved_tensors
        first, tails = ctx.first, ctx.tails
        scaled, ranges = x * g, []
        g_weight = g_bias.new_empty(len(w), ctx.units)
        head = logits[:, :first]
        g_x = head @ w[:first]
        _transposed_product(head, scaled, g_weight[:first])
        if tails:
            in_ranges = logits[:, first:]
            g_x += in_ranges @ rest[0]
            g_ranges = g_bias.new_empty(len(rest[0]), ctx.units)
            _transposed_product(in_ranges, scaled, g_ranges)
            ranges = [g_ranges, g_range_bias * g]
        for k, (_, low, high) in enumerate(tails):
            rows, part = rest[1 + k], rest[1 + len(tails) + k]
            g_x.index_add_(0, rows, part @ w[low:high])
            _transposed_product(part, scaled[rows], g_weight[low:high])
        g_x = (g_x[:, : ctx.units] * g).to(ctx.kind)
        return g_x, None, None, None, None, g_weight, g_bias * g, *ranges


def _transposed_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a.t() @ b without the columns that fill b up, computed in their type."""
    if a.dtype == out.dtype:
        torch.mm(a.t(), b, out=out)
    else:
        out.copy_((a.t() @ b)[:, : out.shape[1]])
