"""How alike two designs are: what a value model is taught instead of whole architectures."""

from __future__ import annotations

import math
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
        width = int(options.sum())
        self._options = options
        self._own = np.zeros((width, width), dtype=np.float32)
        self._column = np.cumsum(options) - options
        groups: dict[object, int] = {}
        column: list[int] = []  # of the shared features, that each option and each link adds to
        for d, decision in enumerate(space.decisions):
            if not isinstance(decision, Choice):
                continue
            count = len(decision.options)
            if count > 1:
                at = slice(int(self._column[d]), int(self._column[d]) + count)
                self._own[at, at] = _table(decision.options)
            for k in range(count):
                key = (decision.kind, decision.options, k)
                column.append(groups.setdefault(key, len(groups)))
        order = {int(d): k for k, d in enumerate(sorted(set(catalogue.link_at.tolist())))}
        ends = zip(catalogue.link_at.tolist(), catalogue.source_at.tolist(), strict=True)
        reach = [order[link] - order.get(source, -1) for link, source in ends]
        reaches = {r: len(groups) + i for i, r in enumerate(sorted(set(reach)))}
        column += [reaches[r] for r in reach]
        self._links = len(reach)
        self._always = catalogue.always_open
        self._shared = np.zeros((len(column), len(groups) + len(reaches)), dtype=np.float32)
        self._shared[np.arange(len(column)), column] = 1.0
        # Shared features are counts less their mean, by their spread over random designs.
        chance = np.full(len(column), 0.5, dtype=np.float32)
        chance[:width] = np.repeat(1.0 / np.maximum(options, 1), options)
        self._mean = chance @ self._shared
        variance = (chance * (1 - chance)) @ self._shared
        spread = np.maximum(variance, 1e-6) * max(1, self._shared.shape[1])
        self._scale = (1.0 / np.sqrt(spread)).astype(np.float32)

    def of(self, designs: Designs) -> Features:
        """Return the features of designs."""
        n, width = len(designs), int(self._options.sum())
        hot = np.zeros((n, width + self._links), dtype=np.float32)
        rows, d = np.nonzero(designs.active & (self._options > 0))
        hot[rows, self._column[d] + designs.choice[rows, d]] = 1.0
        hot[:, width:] = designs.links
        own = np.concatenate([hot[:, :width] @ self._own, self._of_links(designs)], 1)
        own /= np.maximum(np.sqrt((own * own).sum(1, keepdims=True)), 1e-6)
        counted = (hot @ self._shared - self._mean) * self._scale
        shared = np.concatenate([np.ones((n, 1), dtype=np.float32), counted], 1)
        shared /= np.sqrt((shared * shared).sum(1, keepdims=True))
        return Features(own, shared.astype(np.float32))

    def _of_links(self, designs: Designs) -> Array:
        """Return columns whose products count the links that are both taken or both left.

        Of links that are always open one column is enough, and one for all: (1 + ab) / 2 for a, b
        in -1 and 1.
        """
        always = self._always
        sign = (designs.links[:, always] - np.float32(0.5)) * np.float32(2**0.5)
        whole = np.full((len(designs), 1), math.sqrt(always.sum() / 2), dtype=np.float32)
        links, opened = designs.links[:, ~always], designs.open[:, ~always]
        return np.concatenate([sign, whole, links, opened & ~links], 1, dtype=np.float32)


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
