"""The output layer of a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.errors import ConfigError, out_of_range

CHUNK = 1 << 20  # logits at a time in training


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


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of `targets` under softmax(x W^T + b).

    x: [N, units], weight: [V, units], bias: [V], targets: int64 [N]. Logits are made for some rows
    at a time and turned into their gradient in place: one array of `CHUNK` numbers instead of three
    of N * V. The gradient is worked out on the way there, so it is differentiable once.
    """
    loss: Tensor = _LinearCrossEntropy.apply(x, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        needed = any(ctx.needs_input_grad)
        rows = max(1, CHUNK // len(weight))
        total = x.new_zeros(())
        g_x, g_weight, g_bias = (
            torch.empty_like(x),
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )
        for start in range(0, len(x), rows):
            part, target = x[start : start + rows], targets[start : start + rows, None]
            logits = torch.addmm(bias, part, weight.t())
            whole = logits.logsumexp(1, keepdim=True)
            total += (whole - logits.gather(1, target)).sum()
            if needed:
                p = logits.sub_(whole).exp_()
                p.scatter_add_(1, target, p.new_full((), -1.0).expand(target.shape))
                torch.mm(p, weight, out=g_x[start : start + rows])
                g_weight.addmm_(p.t(), part)
                g_bias += p.sum(0)
        if needed:
            ctx.save_for_backward(g_x, g_weight, g_bias)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return (*(g * gradient for gradient in ctx.saved_tensors), None)


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
        """Return the summed negative log-likelihood; features [N, units], targets int64 [N]."""
        first = targets
        total = features.new_zeros(())
        for token, low, high in self._tails():
            inside = (targets >= low) & (targets < high)
            first = torch.where(inside, token, first)
            rows = inside.nonzero().squeeze(1)
            weight, bias = self.weight[low:high], self.bias[low:high]
            total = total + linear_cross_entropy(features[rows], weight, bias, targets[rows] - low)
        weight, bias = self.weight[: self.cutoffs[0]], self.bias[: self.cutoffs[0]]
        if self.ranges is not None:
            weight = torch.cat([weight, self.ranges.weight])
            bias = torch.cat([bias, self.ranges.bias])
        return total + linear_cross_entropy(features, weight, bias, first)

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
