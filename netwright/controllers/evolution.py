"""Regularised evolution (Real et al. 2019): the control that is ahead early."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netwright.controllers.neighbours import mutate, shares
from netwright.controllers.random import RandomSearch
from netwright.protocols import PolicySnapshot
from netwright.rules import Section
from netwright.seeding import derive_seed, rng
from netwright.space import Architecture, Option, SearchSpace
from netwright.trial import Trial


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """Its settings.

    population: the youngest trials that may become parents, >= 1 (30). sample: how many of them
    are drawn, of which the best is mutated, in [1, population] (10). batch: >= 1 (1).
    """

    population: int = 30
    sample: int = 10
    batch: int = 1

    def __post_init__(self) -> None:
        section = Section("controller", self)
        section.at_least(1, "population", "sample", "batch")
        if self.sample > self.population:
            rule = f"must be at most controller.population ({self.population})"
            section.refuse("sample", rule, self.population)


class Evolution:
    """Draws at random until `population` trials are told, then mutates the best of a sample.

    A mutation changes one decision: another option, or one connection taken or left; decisions
    that begin to hold by it are drawn anew. The oldest trial leaves, good or bad.
    """

    def __init__(
        self, space: SearchSpace, settings: EvolutionSettings | None = None, *, seed: int = 0
    ) -> None:
        self.space = space
        self.settings = settings or EvolutionSettings()
        self.batch = self.settings.batch
        self._seed = seed
        self._proposals = 0
        self._alive: deque[tuple[Architecture, float]] = deque(maxlen=self.settings.population)
        self._told = 0

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Return n architectures; `given` fixes choices, which are never mutated."""
        generator = rng(self._seed, self._proposals, "propose")
        self.replay_propose(n, given)
        return [self._one(generator, given or {}) for _ in range(n)]

    def _one(self, generator: random.Random, given: Mapping[str, Option]) -> Architecture:
        if self._told < self.settings.population:
            return self.space.sample(generator, given)
        drawn = generator.sample(list(self._alive), self.settings.sample)
        parent, _ = max(drawn, key=lambda member: member[1])
        return mutate(self.space, parent, generator, given)

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._proposals += 1

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials into the population; the oldest leave."""
        for trial in trials:
            self._alive.append((trial.architecture, trial.standing))
            self._told += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the population."""
        alive = [{"values": dict(a), "reward": reward} for a, reward in self._alive]
        return {"proposals": self._proposals, "told": self._told, "alive": alive}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self._proposals, self._told = int(state["proposals"]), int(state["told"])
        self._alive.clear()
        for member in state["alive"]:
            self._alive.append((self.space.architecture(member["values"]), float(member["reward"])))

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Return the shares of options in the population; uniform ones while there is none.

        entropy: of the uniform distribution, an upper bound: a population has no probabilities.
        """
        uniform = RandomSearch(self.space, seed=derive_seed(self._seed, 0, "snapshot"))
        found = uniform.snapshot(seed, samples, given)
        return shares(self.space, [a for a, _ in self._alive], found, given)
