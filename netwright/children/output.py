"""The output layer of a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.errors import ConfigError, out_of_range


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
        """Return the summed negative log-likelihood; features [N, units], targets int64 [N]."""
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
