"""Sections that the configuration of every task has: the search, and comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netwright.depth import DepthSchedule
from netwright.errors import ConfigError
from netwright.rules import Section

MODES = ("replicas", "queue")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The search itself.

    trials: finished trials to reach, >= 1. seed: >= 0; everything random comes from it.
    mode: "replicas": each proposal is told whole; "queue": each result is told as it comes, and no
    worker waits. replicas: proposals in flight at once in that mode, >= 1 (paper: 100 of 8).
    retrain_duplicates: train an architecture again though an equal one has completed.
    failure_reward: what the controller is told for a failed trial; the lowest reward that it was
    told before where that is less.
    depth: a schedule of depths, or none.
    """

    trials: int = 100
    seed: int = 0
    mode: str = "replicas"
    replicas: int = 1
    retrain_duplicates: bool = False
    failure_reward: float = 0.0
    depth: DepthSchedule | None = None

    def __post_init__(self) -> None:
        section = Section("study", self)
        section.at_least(1, "trials", "replicas")
        section.one_of("mode", MODES)
        if not 0 <= self.seed < 2**63:
            section.refuse("seed", "must be in [0, 2**63)")
        if not math.isfinite(self.failure_reward):
            section.refuse("failure_reward", "must be finite")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What `netwright compare` runs.

    controllers: names, each with settings of its own where it has some:
    "evolution:population=50,sample=25". The first is compared with each of the others. seeds: >= 1,
    counted from study.seed; all controllers get the same ones. at: finished trials at which the
    tables look, rising; those beyond study.trials are left out, and study.trials is always in.
    batch: children that are proposed at once, >= 1: the same for all, because who hears of each
    child before the next one chooses better. Those taught by gradients, policy_gradient and ppo,
    have controller.batch, of which they make an update. An entry's own settings go before both.
    """

    controllers: tuple[str, ...] = (
        "guided",
        "evolution",
        "local_search",
        "policy_gradient",
        "random",
    )
    seeds: int = 5
    at: tuple[int, ...] = (50, 100, 200, 500)
    batch: int = 1

    def __post_init__(self) -> None:
        section = Section("compare", self)
        section.at_least(1, "seeds", "batch")
        if not self.controllers or len(set(self.controllers)) < len(self.controllers):
            raise ConfigError(
                f"compare.controllers must be different names, at least one; got "
                f"{list(self.controllers)}; see netwright config CONFIG"
            )
        section.rising("at", "must be numbers of trials that rise", 0)
