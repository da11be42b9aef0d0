"""Architectures of a space as tensors, for policies that score a batch at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

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
        self._codes = {d: self.option_index[choice.name] for d, choice in self.choices}
        self._anchor_of = {d: self.anchor[c.anchor] for d, c in self.connections}
        # bool [A, A], anchor i has anchor j among its sources
        self.possible = torch.zeros(len(self.anchor), len(self.anchor), dtype=torch.bool)
        for i, sources in enumerate(self.sources):
            self.possible[i, sources] = True

    def encode(
        self,
        architectures: Sequence[Architecture],
        given: Sequence[Collection[str]] | None = None,
    ) -> Encoded:
        """Return the tensors of `architectures`; `given[k]` names choices fixed in the k-th."""
        n, d_, a_ = len(architectures), len(self.index), len(self.anchor)
        held: list[int] = []
        options: list[int] = []
        linked: list[int] = []
        for k, architecture in enumerate(architectures):
            rows = architecture.values_
            at = [self.index[name] for name, _ in rows]
            held.extend([k * d_ + d for d in at])
            for d, (_, value) in zip(at, rows, strict=True):
                if isinstance(value, tuple):
                    first = (k * a_ + self._anchor_of[d]) * a_
                    linked.extend([first + self.anchor[source] for source in value])
                    options.append(0)
                else:
                    options.append(self._codes[d][value])
        active = torch.zeros(n * d_, dtype=torch.bool)
        choice = torch.zeros(n * d_, dtype=torch.int64)
        links = torch.zeros(n * a_ * a_, dtype=torch.bool)
        places = torch.tensor(held, dtype=torch.int64)
        active[places] = True
        choice[places] = torch.tensor(options, dtype=torch.int64)
        links[torch.tensor(linked, dtype=torch.int64)] = True
        active = active.view(n, d_)
        learned = active.clone()
        for k, names in enumerate(given or ()):
            for name in names:
                learned[k, self.index[name]] = False
        return Encoded(
            active, learned, choice.view(n, d_), links.view(n, a_, a_), self._open(active)
        )

    def _open(self, active: Tensor) -> Tensor:
        """Return which links could be taken, bool [n, A, A], from which decisions hold."""
        a_ = len(self.anchor)
        opened = torch.zeros(len(active), a_, a_, dtype=torch.bool)
        if a_:
            reached = active[:, [d for d, _ in self.connections]]  # [n, A]
            opened = reached[:, :, None] & reached[:, None, :] & self.possible
        return opened

    def decode(self, encoded: Encoded) -> list[Architecture]:
        """Inverse of `encode`."""
        columns: list[list[tuple[str, Value]]] = []  # of each decision, a value each architecture
        for d, decision in enumerate(self.space.decisions):
            if isinstance(decision, Choice):
                pairs = [(decision.name, option) for option in decision.options]
                columns.append([pairs[k] for k in encoded.choice[:, d].tolist()])
                continue
            i, name = self._anchor_of[d], decision.name
            rows = encoded.links[:, i, self.sources[i]].tolist()
            columns.append([(name, tuple(compress(decision.sources, row))) for row in rows])
        return [
            Architecture(self.space.fingerprint, tuple(compress(values, active)))
            for values, active in zip(
                zip(*columns, strict=True), encoded.active.tolist(), strict=True
            )
        ]

    def given_options(self, given: Mapping[str, object]) -> dict[int, int]:
        """Return {decision index: option index} for fixed choices."""
        return {
            self.index[name]: self.option_index[name][value]  # type: ignore[index]
            for name, value in given.items()
        }
