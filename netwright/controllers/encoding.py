"""Architectures of a space as tensors, for policies that score a batch at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netwright.space import Architecture, Choice, Connections, SearchSpace, Value


@dataclass(frozen=True)
class Encoded:
    """n architectures of a space of D decisions and A anchors.

    active: bool [n, D], the decision holds.
    learned: bool [n, D], it holds and was the policy's to make (not given).
    choice: int64 [n, D], the chosen option; 0 where it does not hold or is a connection decision.
    links: bool [n, A, A], anchor i takes anchor j.
    open: bool [n, A, A], anchor i might have taken anchor j.
    """

    active: Tensor
    learned: Tensor
    choice: Tensor
    links: Tensor
    open: Tensor

    def __len__(self) -> int:
        return int(self.active.shape[0])


class _Row:
    """One architecture of `Encoded`, as lists."""

    def __init__(self, decisions: int, anchors: int) -> None:
        self.active = [False] * decisions
        self.learned = [False] * decisions
        self.choice = [0] * decisions
        self.links = [[False] * anchors for _ in range(anchors)]
        self.open = [[False] * anchors for _ in range(anchors)]


class Encoding:
    """The tensor view of one space: D decisions, at most K options, A anchors."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.index = {decision.name: d for d, decision in enumerate(space.decisions)}
        self.anchor = {name: a for a, name in enumerate(space.anchors)}
        self.choices = [
            (d, decision)
            for d, decision in enumerate(space.decisions)
            if isinstance(decision, Choice)
        ]
        self.connections = [
            (d, decision)
            for d, decision in enumerate(space.decisions)
            if isinstance(decision, Connections)
        ]
        self.width = max((len(choice.options) for _, choice in self.choices), default=1)
        self.option_index = {
            choice.name: {option: k for k, option in enumerate(choice.options)}
            for _, choice in self.choices
        }
        # conditions[d] = [(index of the earlier choice, bool [K] of the options that meet it)]
        self.conditions: list[list[tuple[int, Tensor]]] = []
        for decision in space.decisions:
            met = []
            for name, options in decision.when:
                allowed = torch.zeros(self.width, dtype=torch.bool)
                allowed[[self.option_index[name][option] for option in options]] = True
                met.append((self.index[name], allowed))
            self.conditions.append(met)
        self.sources = [
            [self.anchor[source] for source in decision.sources] for _, decision in self.connections
        ]

    def encode(
        self,
        architectures: Sequence[Architecture],
        given: Sequence[Collection[str]] | None = None,
    ) -> Encoded:
        """Return the tensors of `architectures`; `given[k]` names choices fixed in the k-th."""
        d_, a_ = len(self.index), len(self.anchor)
        rows = [_Row(d_, a_) for _ in architectures]
        for k, (row, architecture) in enumerate(zip(rows, architectures, strict=True)):
            fixed = given[k] if given is not None else ()
            for name, value in architecture.items():
                d = self.index[name]
                row.active[d] = True
                row.learned[d] = name not in fixed
                decision = self.space[name]
                if isinstance(decision, Choice):
                    row.choice[d] = self.option_index[name][value]  # type: ignore[index]
                    continue
                i = self.anchor[decision.anchor]
                for source in self.space.sources(decision, architecture):
                    row.open[i][self.anchor[source]] = True
                for source in value:  # type: ignore[union-attr]
                    row.links[i][self.anchor[source]] = True
        n = len(rows)
        return Encoded(
            torch.tensor([row.active for row in rows], dtype=torch.bool).view(n, d_),
            torch.tensor([row.learned for row in rows], dtype=torch.bool).view(n, d_),
            torch.tensor([row.choice for row in rows], dtype=torch.int64).view(n, d_),
            torch.tensor([row.links for row in rows], dtype=torch.bool).view(n, a_, a_),
            torch.tensor([row.open for row in rows], dtype=torch.bool).view(n, a_, a_),
        )

    def decode(self, encoded: Encoded) -> list[Architecture]:
        """Inverse of `encode`."""
        active, choice, links = (
            t.tolist() for t in (encoded.active, encoded.choice, encoded.links)
        )
        result = []
        for k in range(len(encoded)):
            values: list[tuple[str, Value]] = []
            for d, decision in enumerate(self.space.decisions):
                if not active[k][d]:
                    continue
                if isinstance(decision, Choice):
                    values.append((decision.name, decision.options[choice[k][d]]))
                else:
                    row = links[k][self.anchor[decision.anchor]]
                    taken = tuple(s for s in decision.sources if row[self.anchor[s]])
                    values.append((decision.name, taken))
            result.append(Architecture(self.space.fingerprint, tuple(values)))
        return result

    def given_options(self, given: Mapping[str, object]) -> dict[int, int]:
        """Return {decision index: option index} for fixed choices."""
        return {
            self.index[name]: self.option_index[name][value]  # type: ignore[index]
            for name, value in given.items()
        }
