"""Architectures of a space as arrays: thousands are drawn, mutated and compared at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.controllers.encoding import Encoded, Encoding
from netwright.space import Architecture, Connections, Option

Array = NDArray[Any]


@dataclass(frozen=True)
class Designs:
    """n architectures of a space of D decisions and L possible links (anchor, source).

    choice: int64 [n, D], the chosen option, 0 where there is none. links: bool [n, L]. active: bool
    [n, D], the decision holds. open: bool [n, L], the link could be taken.
    """

    choice: Array
    links: Array
    active: Array
    open: Array

    def __len__(self) -> int:
        return len(self.choice)

    def __getitem__(self, rows: Any) -> Designs:
        return Designs(self.choice[rows], self.links[rows], self.active[rows], self.open[rows])

    def keys(self) -> list[bytes]:
        """Return what tells different architectures apart, for each."""
        whole = np.concatenate([self.choice.astype(np.int16).view(np.uint8), self.links], 1)
        whole = np.concatenate([whole, self.active], 1).astype(np.uint8)
        return [row.tobytes() for row in whole]

    def without(self, known: set[bytes]) -> Designs:
        """Return each design once, but not those whose key is known; all if every one is."""
        first = {key: i for i, key in reversed(list(enumerate(self.keys()))) if key not in known}
        return self[sorted(first.values())] if first else self


def joined(parts: Sequence[Designs]) -> Designs:
    """Return the designs of all parts in order."""
    return Designs(
        np.concatenate([part.choice for part in parts]),
        np.concatenate([part.links for part in parts]),
        np.concatenate([part.active for part in parts]),
        np.concatenate([part.open for part in parts]),
    )


class Catalogue:
    """Draws, mutates, encodes and decodes the designs of one space."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.space = encoding.space
        decisions = self.space.decisions
        self.options = np.zeros(len(decisions), dtype=np.int64)
        for d, choice in encoding.choices:
            self.options[d] = len(choice.options)
        at, own, source = [], [], []
        for (d, connections), sources in zip(encoding.connections, encoding.sources, strict=True):
            for j in sources:
                at.append(d)
                own.append(encoding.anchor[connections.anchor])
                source.append(j)
        anchor_at = np.array([d for d, _ in encoding.connections], dtype=np.int64)
        self.link_at = np.array(at, dtype=np.int64)  # [L], the connection decision
        self._link_own = np.array(own, dtype=np.int64)  # its anchor
        self._link_source = np.array(source, dtype=np.int64)  # the anchor it might take
        self.source_at = anchor_at[self._link_source] if len(source) else self.link_at
        self._conditions = [
            [(parent, allowed.numpy()) for parent, allowed in met] for met in encoding.conditions
        ]
        held = np.array([not conditions for conditions in self._conditions], dtype=bool)
        self.always_open = held[self.link_at] & held[self.source_at]  # [L]
        self._is_choice = np.array([not isinstance(d, Connections) for d in decisions])

    # --- making -----------------------------------------------------------------------------

    def random(
        self, n: int, generator: np.random.Generator, given: Mapping[str, Option] | None = None
    ) -> Designs:
        """Return n designs, every decision that holds drawn uniformly; `given` fixes choices."""
        choice = generator.integers(0, np.maximum(self.options, 1), (n, len(self.options)))
        links = generator.integers(0, 2, (n, len(self.link_at)), dtype=np.bool_)
        return self._sound(choice, links, given)

    def mutated(
        self,
        parents: Designs,
        changes: Array,
        generator: np.random.Generator,
        given: Mapping[str, Option] | None = None,
    ) -> Designs:
        """Return each parent with so many of its decisions changed; changes: int [n], >= 1.

        A change is another option, or a link taken or left. What comes to hold is drawn anew.
        Choices of `given` stay.
        """
        n = len(parents)
        rows = np.arange(n)
        choice, links = self._loose(parents, generator)
        places = self.places(parents, given)
        keys = np.where(places, generator.random(places.shape, np.float32), np.float32(-1))
        most = min(int(changes.max(initial=0)), keys.shape[1])
        order = np.argpartition(-keys, most - 1, axis=1)[:, :most]
        order = np.take_along_axis(order, np.argsort(-np.take_along_axis(keys, order, 1), 1), 1)
        for k in range(order.shape[1]):
            at = order[:, k]
            do = (changes > k) & places[rows, at]
            is_choice = do & (at < len(self.options))
            r, d = rows[is_choice], at[is_choice]
            choice[r, d] += generator.integers(1, np.maximum(self.options[d], 2))
            choice[r, d] %= self.options[d]
            is_link = do & (at >= len(self.options))
            r, d = rows[is_link], at[is_link] - len(self.options)
            links[r, d] ^= True
        return self._sound(choice, links, given)

    def changed(
        self,
        parent: Designs,
        place: Array,
        step: Array,
        generator: np.random.Generator,
        given: Mapping[str, Option] | None = None,
    ) -> Designs:
        """Return one parent [1] with one change in each of the n designs.

        place: int [n], a decision, whose option is the one `step` further on, or the number of
        decisions and a link, which is taken or left. What comes to hold is drawn anew.
        """
        choice, links = self._loose(parent[np.zeros(len(place), dtype=np.int64)], generator)
        rows, choices = np.arange(len(place)), place < len(self.options)
        r, d = rows[choices], place[choices]
        choice[r, d] = (choice[r, d] + step[choices]) % self.options[d]
        links[rows[~choices], place[~choices] - len(self.options)] ^= True
        return self._sound(choice, links, given)

    def places(self, designs: Designs, given: Mapping[str, Option] | None = None) -> Array:
        """Return what can change in each, its decisions, then its links: bool [n, D + L]."""
        free = designs.active & (self.options > 1)
        free[:, list(self.encoding.given_options(given or {}))] = False
        return np.concatenate([free, designs.open], 1)

    def _loose(self, designs: Designs, generator: np.random.Generator) -> tuple[Array, Array]:
        """Return copies of choices and links, where those that do not hold are drawn."""
        choice, links = designs.choice.copy(), designs.links.copy()
        if not (designs.active.all() and designs.open.all()):
            latent = self.random(len(designs), generator)
            np.copyto(choice, latent.choice, where=~designs.active)
            np.copyto(links, latent.links, where=~designs.open)
        return choice, links

    def _sound(self, choice: Array, links: Array, given: Mapping[str, Option] | None) -> Designs:
        """Return designs of full arrays, without what does not hold in them."""
        for d, option in self.encoding.given_options(given or {}).items():
            choice[:, d] = option
        active = np.ones(choice.shape, dtype=bool)
        for d, conditions in enumerate(self._conditions):
            for parent, allowed in conditions:
                active[:, d] &= active[:, parent] & allowed[choice[:, parent]]
        choice = np.where(active & self._is_choice, choice, 0)
        if len(self.link_at):
            opened = active[:, self.link_at] & active[:, self.source_at]
        else:
            opened = np.zeros(links.shape, dtype=bool)
        return Designs(choice, links & opened, active, opened)

    # --- to and fro -------------------------------------------------------------------------

    def of(self, encoded: Encoded) -> Designs:
        """Return encoded architectures as designs."""
        own, source = self._link_own, self._link_source
        return Designs(
            encoded.choice.numpy(),
            encoded.links.numpy()[:, own, source],
            encoded.active.numpy(),
            encoded.open.numpy()[:, own, source],
        )

    def read(self, architectures: Sequence[Architecture]) -> Designs:
        """Return architectures as designs."""
        return self.of(self.encoding.encode(architectures))

    def written(self, designs: Designs) -> list[Architecture]:
        """Return designs as architectures."""
        anchors = len(self.encoding.anchor)
        links, opened = np.zeros((2, len(designs), anchors, anchors), dtype=bool)
        links[:, self._link_own, self._link_source] = designs.links
        opened[:, self._link_own, self._link_source] = designs.open
        held = designs.active
        found = (held, held, designs.choice, links, opened)
        return self.encoding.decode(Encoded(*map(torch.from_numpy, found)))
