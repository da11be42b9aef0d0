"""What a proposal costs beside its child: `python -m benchmarks.overhead [--trials 500]`.

Milliseconds of one core for propose and tell, mean of the 20 after so many trials told, on
the paper's space v1 of 15 layers with connections and on its space of cells. Results:
docs/results/search-quality.md.
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from benchmarks import shared
from benchmarks.shared import count
from netwright.config import config_from_dict
from netwright.controllers.making import CONTROLLERS
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv, recurrent
from netwright.trial import Trial

SPACES = {"v1, 15 layers": conv.v1(15), "cells, base 8": recurrent.space("cells")}


def overhead(name: str, space: SearchSpace, trials: int, proposals: int = 20) -> float:
    """Return the mean milliseconds of process time that a trial costs its controller."""
    config = config_from_dict({"controller": {"name": name, "batch": 1}}, "overhead")
    controller = config.make_controller(space)
    generator = random.Random(0)
    told = [_trial(n, space.sample(generator), generator.random()) for n in range(trials)]
    controller.tell(told)
    began, asked = time.process_time(), 0
    for k in range(proposals):
        drawn = controller.propose(1)
        asked += len(drawn)
        controller.tell([_trial(trials + k, architecture, 0.5) for architecture in drawn])
    return 1000 * (time.process_time() - began) / asked


def _trial(number: int, architecture: Architecture, reward: float) -> Trial:
    return Trial(number=number, batch=number, architecture=architecture, seed=0, reward=reward)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=count, default=500)
    names = sorted(CONTROLLERS)
    parser.add_argument("--controllers", nargs="+", default=names, choices=names)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.controllers:
        for label, space in SPACES.items():
            spent = overhead(name, space, given.trials)
            print(f"{name:<16} {label:<14} {spent:7.1f} ms a trial at {given.trials}", flush=True)


if __name__ == "__main__":
    shared.run(main)
