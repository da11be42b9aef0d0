"""Controllers on a table of trained cells: regret in test accuracy against evaluations.

    python -m benchmarks.nats TABLE [--seeds 200] [--evaluations 500]
        [--controllers random evolution reinforce local_search ppo tpe]

TABLE as `netwright.evaluators.table` reads it. Reward: validation accuracy. Printed:
the mean over seeds of the best test accuracy of the table minus that of the best-by-validation so
far, in points, with its standard error. Test accuracies are looked up after each search has ended.
Results: docs/results/search-quality.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable

import torch

from netwright.controllers.evolution import Evolution
from netwright.controllers.local_search import LocalSearch
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.ppo import Ppo, PpoSettings
from netwright.controllers.random import RandomSearch
from netwright.controllers.tpe import Tpe
from netwright.evaluators.table import TableEvaluator, test_accuracies
from netwright.protocols import Controller
from netwright.space import Architecture, SearchSpace
from netwright.trial import Trial

AT = (50, 100, 200, 500)
CONTROLLERS: dict[str, Callable[[SearchSpace, int], Controller]] = {
    "random": lambda space, seed: RandomSearch(space, seed=seed),
    "evolution": lambda space, seed: Evolution(space, seed=seed),
    "reinforce": lambda space, seed: PolicyGradient(
        space, PolicySettings(batch=4, learning_rate=0.01), seed=seed
    ),
    "local_search": lambda space, seed: LocalSearch(space, seed=seed),
    "ppo": lambda space, seed: Ppo(
        space, PpoSettings(batch=4, learning_rate=0.01, entropy=0.01), seed=seed
    ),
    "tpe": lambda space, seed: Tpe(space, seed=seed),
}


def search(controller: Controller, task: TableEvaluator, trials: int) -> list[Architecture]:
    """Return the best-by-validation after each evaluation; a cell drawn again counts again."""
    best: list[Architecture] = []
    reward = -math.inf
    batch = 0
    while len(best) < trials:
        told = []
        for architecture in controller.propose(controller.batch):
            score = task.evaluate(architecture, 0, "cpu").score
            told.append(
                Trial(number=0, batch=batch, architecture=architecture, seed=0, reward=score)
            )
            if score > reward:
                reward, found = score, architecture
            best.append(found)
        controller.tell(told)
        batch += 1
    return best[:trials]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--controllers", nargs="+", default=list(CONTROLLERS))
    parser.add_argument("--evaluations", type=int, choices=AT, default=AT[-1])
    given = parser.parse_args()
    at = [n for n in AT if n <= given.evaluations]
    torch.set_num_threads(1)
    task = TableEvaluator(given.table)
    found = {
        name: [
            search(CONTROLLERS[name](task.space, seed), task, at[-1]) for seed in range(given.seeds)
        ]
        for name in given.controllers
    }
    test = test_accuracies(given.table)
    top = max(test.values())
    print("regret in points after  " + "  ".join(f"{n:>13}" for n in at))
    for name, runs in found.items():
        cells = []
        for n in at:
            regrets = [100 * (top - test[best[n - 1]]) for best in runs]
            error = statistics.stdev(regrets) / math.sqrt(len(regrets)) if len(runs) > 1 else 0.0
            cells.append(f"{statistics.mean(regrets):.3f} ± {error:.3f}")
        print(f"{name:<24}" + "  ".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
