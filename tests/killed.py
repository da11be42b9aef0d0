"""A search that tests kill: `python -m tests.killed DATABASE TRIALS`."""

from __future__ import annotations

import sys
import time

from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.evaluators.synthetic import Learning, choices_space
from netwright.space import Architecture
from netwright.stopping import Rule, StoppingSettings
from netwright.study import Study
from netwright.trial import Evaluation

SPACE = choices_space(12, 3)


class Slow(Learning):
    """Takes 5 ms, so that kills land in the midst of evaluations as well as of writes."""

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        time.sleep(0.005)
        return super().evaluate_until(architecture, seed, device, rule)


def study(storage: str) -> Study:
    controller = PolicyGradient(SPACE, PolicySettings(batch=4, learning_rate=0.02), seed=7)
    stopping = StoppingSettings(method="halving", rungs=(1, 3), warmup=8)
    return Study(SPACE, controller, Slow(SPACE, noise=0.05), storage, seed=7, stopping=stopping)


if __name__ == "__main__":
    study(sys.argv[1]).run(int(sys.argv[2]))
