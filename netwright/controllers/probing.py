"""Single changes of a design that no model has a say in: what is never tried is never learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.controllers.designs import Catalogue, Designs
from netwright.space import Choice, Option

Array = NDArray[Any]
RARE = 1 / 3
TRIES = 3


class Probes:
    """Draws changes of one decision: another option, or a link taken or left.

    A kind of n decisions (`Choice.kind`; the links are one kind), in a space of k kinds and D
    decisions that can change, has the weight 1 / n - k / D where n is `RARE` of the mean, D / k, or
    less, else 0: what is learnt of one layer or node tells something of the others, but a decision
    that has fewer equals than most has to be tried itself, and mutations hardly ever do. Where all
    kinds are about as large there are no probes.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        decisions, kinds = catalogue.space.decisions, dict[object, int]()
        place: list[int] = []  # of each change: a decision, or the decisions' number and a link
        kind: list[int] = []
        step: list[int] = []  # to how many options further on
        for d, decision in enumerate(decisions):
            if isinstance(decision, Choice):
                own = kinds.setdefault(decision.kind, len(kinds))
                for k in range(1, len(decision.options)):
                    place.append(d)
                    kind.append(own)
                    step.append(k)
        links = len(catalogue.link_at)
        self._place = np.array([*place, *(len(decisions) + np.arange(links))], dtype=np.int64)
        self._kind = np.array([*kind, *[len(kinds)] * links], dtype=np.int64)
        self._step = np.array([*step, *[0] * links], dtype=np.int64)

    def of(
        self,
        design: Designs,
        told: Designs,
        share: float,
        generator: np.random.Generator,
        given: Mapping[str, Option] | None = None,
    ) -> Designs:
        """Return all changes of one kind of one design [1], in random order, or nothing.

        Of these, what `TRIES` of those told have is left out. share: >= 0, the weights are times
        this, and where they make less than 1 the rest is for nothing. Choices of `given` stay.
        """
        can = self._catalogue.places(design, given)[0, self._place]
        place, kind, step = self._place[can], self._kind[can], self._step[can]
        kinds = np.unique(kind)
        sizes = np.array([len(np.unique(place[kind == own])) for own in kinds], dtype=float)
        mean = sizes.sum() / max(len(sizes), 1)
        weights = share * np.where(sizes <= RARE * mean, 1 / sizes - 1 / max(mean, 1), 0)
        if weights.sum() < 1e-9 or generator.random() >= weights.sum():
            return design[:0]
        drawn = generator.choice(kinds, p=weights / weights.sum())
        order = generator.permutation(np.flatnonzero(kind == drawn))
        order = order[self._tried(design, told, place[order], step[order]) < TRIES]
        return self._catalogue.changed(design, place[order], step[order], generator, given)

    def _tried(self, design: Designs, told: Designs, place: Array, step: Array) -> Array:
        """Return how many of those told have what each change leads to."""
        choices = design.choice.shape[1]
        found = np.zeros(len(place), np.int64)
        for k, (at, by) in enumerate(zip(place, step, strict=True)):
            if at < choices:
                option = (design.choice[0, at] + by) % self._catalogue.options[at]
                found[k] = (told.active[:, at] & (told.choice[:, at] == option)).sum()
            else:
                link = at - choices
                found[k] = (told.links[:, link] != design.links[0, link]).sum()
        return found
