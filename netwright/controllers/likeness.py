"""How alike two designs are: what a value model is taught instead of whole architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.controllers.designs import Catalogue, Designs
from netwright.space import Choice, Option

Array = NDArray[Any]
NEAR = 0.5  # of the options' range: numbers so far apart are alike by exp(-1/2)


@dataclass(frozen=True)
class Features:
    """Unit vectors of n designs; the product of two says how alike they are.

    own: float32 [n, F], decision by decision. shared: float32 [n, G], by how often each option
    was taken by all decisions of a kind, and each reach of a link.
    """

    own: Array
    shared: Array

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, rows: Any) -> Features:
        return Features(self.own[rows], self.shared[rows])


def joined(parts: Sequence[Features]) -> Features:
    """Return the features of all parts in order."""
    return Features(
        np.concatenate([part.own for part in parts]),
        np.concatenate([part.shared for part in parts]),
    )


class Likeness:
    """Works features out for the designs of one space.

    Options that are numbers are alike as they are near, half of it; others are equal or not.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        space, options = catalogue.space, catalogue.options
        self._options = options
        self._own = np.zeros((int(options.sum()), int(options.sum())), dtype=np.float32)
        self._column = np.cumsum(options) - options
        groups: dict[object, int] = {}
        member: list[int] = []
        for d, decision in enumerate(space.decisions):
            if isinstance(decision, Choice):
                at = slice(int(self._column[d]), int(self._column[d] + options[d]))
                self._own[at, at] = _table(decision.options)
                group = groups.setdefault((decision.kind, decision.options), len(groups))
                member += [group] * int(options[d])
        reach: list[int] = []
        order = {int(d): k for k, d in enumerate(sorted(set(catalogue.link_at.tolist())))}
        for at, source in zip(
            catalogue.link_at.tolist(), catalogue.source_at.tolist(), strict=True
        ):
            reach.append(order[at] - order.get(source, -1))
        self._links = len(reach)
        self._shared = self._sums(member, groups, options, reach)
        self._scale = self._spread(self._shared)

    def _sums(
        self, member: Sequence[int], groups: dict[object, int], options: Array, reach: Sequence[int]
    ) -> Array:
        """Return float32 [one-hots and links, G]: which column each adds to."""
        first: dict[tuple[int, int], int] = {}
        column = []
        place = 0
        for d in np.flatnonzero(options > 0).tolist():
            for k in range(int(options[d])):
                column.append(first.setdefault((member[place], k), len(first)))
                place += 1
        reaches = {r: len(first) + i for i, r in enumerate(sorted(set(reach)))}
        column += [reaches[r] for r in reach]
        sums = np.zeros((len(column), len(first) + len(reaches)), dtype=np.float32)
        sums[np.arange(len(column)), column] = 1.0
        return sums

    def _spread(self, sums: Array) -> Array:
        """Return what makes each column's spread over random designs about one."""
        counts = sums.sum(0)
        chance = np.full(len(sums), 0.5, dtype=np.float32)
        where = np.flatnonzero(self._options > 0)
        chance[: int(self._options.sum())] = np.repeat(
            1.0 / self._options[where], self._options[where]
        )
        self._mean = chance @ sums
        variance = (chance * (1 - chance)) @ sums
        spread: Array = 1.0 / np.sqrt(np.maximum(variance, 1e-6) * max(1, (counts > 0).sum()))
        return spread.astype(np.float32)

    def of(self, designs: Designs) -> Features:
        """Return the features of designs."""
        n, width = len(designs), int(self._options.sum())
        hot = np.zeros((n, width + self._links), dtype=np.float32)
        rows, d = np.nonzero(designs.active & (self._options > 0))
        hot[rows, self._column[d] + designs.choice[rows, d]] = 1.0
        hot[:, width:] = designs.links
        free = np.repeat(self._options > 1, self._options)
        own = np.concatenate(
            [(hot[:, :width] * free) @ self._own, hot[:, width:], designs.open & ~designs.links], 1
        ).astype(np.float32)
        own /= np.maximum(np.sqrt((own * own).sum(1, keepdims=True)), 1e-6)
        counted = (hot @ self._shared - self._mean) * self._scale
        shared = np.concatenate([np.ones((n, 1), dtype=np.float32), counted], 1)
        shared /= np.sqrt((shared * shared).sum(1, keepdims=True))
        return Features(own, shared.astype(np.float32))


def _table(options: Sequence[Option]) -> Array:
    """Return unit rows [K, K] whose products say how alike options are."""
    k = len(options)
    alike = np.eye(k)
    if k > 2 and all(isinstance(option, int | float) for option in options):
        place = np.argsort(np.argsort(np.array(options, dtype=float))) / (k - 1)
        gap = (place[:, None] - place[None, :]) / NEAR
        alike = 0.5 * alike + 0.5 * np.exp(-0.5 * gap * gap)
    rows: Array = np.linalg.cholesky(alike).astype(np.float32)
    return rows
