"""Random search: the control that counts (Li and Talwalkar 2019; Yu et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from netwright.errors import ConfigError
from netwright.protocols import PolicySnapshot
from netwright.seeding import rng
from netwright.space import Architecture, Choice, Option, SearchSpace
from netwright.trial import Trial


class RandomSearch:
    """Draws every decision uniformly and learns nothing."""

    def __init__(self, space: SearchSpace, *, seed: int = 0, batch: int = 1) -> None:
        if batch < 1:
            raise ConfigError(f"controller.batch must be 1 or more; got {batch}; --set it to 1")
        self.space = space
        self.batch = batch
        self._seed = seed
        self._proposals = 0

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Return n uniform draws; `given` fixes choices."""
        generator = rng(self._seed, self._proposals, "propose")
        self.replay_propose(n, given)
        return [self.space.sample(generator, given) for _ in range(n)]

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._proposals += 1

    def tell(self, trials: Sequence[Trial]) -> None:
        """Do nothing: this controller does not learn."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of proposals, all that is needed to go on."""
        return {"proposals": self._proposals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self._proposals = int(state["proposals"])

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Return uniform probabilities, and the entropy estimated from `samples` draws."""
        generator = rng(seed, 0, "snapshot")
        given = given or {}
        total = 0.0
        for _ in range(samples):
            total -= log_uniform(self.space, self.space.sample(generator, given), given)
        options, connections = {}, {}
        for decision in self.space.decisions:
            if not isinstance(decision, Choice):
                connections[decision.name] = (0.5,) * len(decision.sources)
            elif decision.name in given:
                options[decision.name] = tuple(
                    float(option == given[decision.name]) for option in decision.options
                )
            else:
                options[decision.name] = (1 / len(decision.options),) * len(decision.options)
        return PolicySnapshot(
            entropy=total / max(samples, 1), options=options, connections=connections
        )


def log_uniform(
    space: SearchSpace, architecture: Architecture, given: Mapping[str, Option] | None = None
) -> float:
    """Return the log-probability with which `SearchSpace.sample` draws `architecture`."""

    total = 0.0
    for name in architecture:
        decision = space[name]
        if given and name in given:
            continue
        if isinstance(decision, Choice):
            total -= math.log(len(decision.options))
        else:
            total -= math.log(2) * len(space.sources(decision, architecture))
    return total
