"""Rules of early stopping where searches cost nothing: a closed form, as noisy as real children.

    python -m benchmarks.thrift [--config cifar10-small] [--landscapes 30] [--first 300]
        [--arm "NAME=KEY=VALUE;..."] [--set KEY=VALUE]

The configuration's space, with `ConvSurrogate` for what a network is worth, scaled so that random
ones differ by --spread. A whole training tells that with an error of --noise, a short one less .1
with an error of --short-noise: what docs/results/economy.md has of cifar10-small, where a quarter
of the steps correlates with a whole training (.74) as another whole one does (.76). Prints, for
each arm, what its network is worth beside the reference's (REINFORCE, 60 children trained whole) on
the same landscapes, and its epochs of all of the reference's. Control: the reference. It says which
rule may be better; what one does on real children says `python -m benchmarks.economy run`.
"""

from __future__ import annotations

import argparse
import random

import numpy as np

from benchmarks import shared
from benchmarks.economy import WHOLE, arms_of, epochs_of
from benchmarks.shared import count, image_config
from netwright.controllers.making import make_controller
from netwright.controllers.random import RandomSearch
from netwright.evaluators.surrogates import ConvSurrogate
from netwright.report.statistics import interval
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.stopping import Rule
from netwright.study import Study
from netwright.trial import Evaluation, Stop, trained

IMAGE = (3, 16, 16)


class Noisy:
    """The worth of networks on one landscape, and trainings that tell it with an error."""

    def __init__(
        self, space: SearchSpace, seed: int, epochs: int, spread: float, noise: float, short: float
    ) -> None:
        self._form = ConvSurrogate(space, seed, 0.0, image=IMAGE)
        drawn = RandomSearch(space, seed=seed, batch=200).propose(200)
        values = [self._form.expected(architecture) for architecture in drawn]
        self._middle, self._scale = float(np.mean(values)), spread / float(np.std(values))
        self.epochs, self.noise, self.short = epochs, noise, short

    def worth(self, architecture: Architecture) -> float:
        """Return what a network is worth; random ones 0 in the mean."""
        return (self._form.expected(architecture) - self._middle) * self._scale

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Return a whole training."""
        return self.evaluate_until(architecture, seed, device, None)

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        """Return a training, short or whole or both."""
        value = self.worth(architecture)

        def fit(share: float, stop: Stop | None) -> list[float]:
            draws = random.Random(f"{seed} {share}")
            if share < 1:
                return [value - 0.1 + draws.gauss(0.0, self.short)]
            return [value + draws.gauss(0.0, self.noise)] * self.epochs

        curve, judged, details = trained(fit, rule, self.epochs)
        return Evaluation(reward=judged[-1], score=judged[-1], curve=curve, details=details)


def searched(args: argparse.Namespace, changes: tuple[str, ...], seed: int) -> tuple[float, float]:
    """Return what a search's best network is worth, and the epochs of its children."""
    own = [*WHOLE, "study.trials=60", *args.settings, *changes, f"study.seed={seed}"]
    config = image_config(args.config, own)
    space, epochs = config.make_space(), config.training.epochs
    evaluator = Noisy(space, seed, epochs, args.spread, args.noise, args.short_noise)
    controller = make_controller(space, config.controller, derive_seed(seed, 0, "controller"))
    study = Study(space, controller, evaluator, seed=seed, stopping=config.stopping)
    study.run(config.study.trials)
    cost = sum(epochs_of(trial, config.stopping.share * epochs) for trial in study.trials)
    return evaluator.worth(study.best.architecture), cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--config", default="cifar10-small")
    parser.add_argument("--first", type=int, default=300)
    parser.add_argument("--landscapes", type=count, default=30)
    parser.add_argument("--spread", type=float, default=0.018)
    parser.add_argument("--noise", type=float, default=0.0105)
    parser.add_argument("--short-noise", type=float, default=0.0115)
    parser.add_argument("--arm", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    args = parser.parse_args()
    names = [text.partition("=")[0] for text in args.arm]
    arms = arms_of(args.arm, names)
    seeds = range(args.first, args.first + args.landscapes)
    found = {
        name: np.array([searched(args, changes, seed) for seed in seeds])
        for name, changes in arms.items()
    }
    reference = found["full"]
    print("| arm | worth less the reference's | epochs / its |\n|---|---|---|")
    for name, rows in found.items():
        ahead = interval(rows[:, 0] - reference[:, 0])
        share = float((rows[:, 1] / reference[:, 1]).mean())
        print(f"| {name} | {ahead.mean:+.4f} [{ahead.low:+.4f}, {ahead.high:+.4f}] | {share:.3f} |")


if __name__ == "__main__":
    shared.run(main)
