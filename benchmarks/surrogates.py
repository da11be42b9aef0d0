"""How hard the synthetic surrogates are: what random architectures score, and what searches find.

    python -m benchmarks.surrogates spread --draws 10000
    python -m benchmarks.surrogates search --evaluations 500 --seeds 10

`spread`: mean, standard deviation and quantiles of the noise-free score of random architectures,
the share of its variance that a sum over single decisions explains on held-out draws, and the time
of an evaluation. `search`: the noise-free score of the architecture that each controller saw the
best (noisy) reward of, one surrogate a seed.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import shared
from benchmarks.shared import count
from netwright.controllers.evolution import Evolution
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.evaluators.surrogates import CellSurrogate, ConvSurrogate
from netwright.protocols import Controller
from netwright.seeding import derive_seed
from netwright.space import Architecture, Choice, SearchSpace
from netwright.spaces import conv, recurrent
from netwright.trial import Trial, TrialState

Surrogate = ConvSurrogate | CellSurrogate
TASKS: dict[str, tuple[SearchSpace, type[ConvSurrogate] | type[CellSurrogate]]] = {
    "conv": (conv.v1(15), ConvSurrogate),
    "cell": (recurrent.space("paper"), CellSurrogate),
}
CONTROLLERS: dict[str, Callable[[SearchSpace, int], Controller]] = {
    "random": lambda space, seed: RandomSearch(space, seed=seed),
    "evolution": lambda space, seed: Evolution(space, seed=seed),
    "policy": lambda space, seed: PolicyGradient(
        space, PolicySettings(batch=4, learning_rate=0.01), seed=seed
    ),
}


def spread(draws: int, seeds: int) -> None:
    """Print what random architectures score."""
    for name, (space, kind) in TASKS.items():
        for seed in range(seeds):
            task = kind(space, seed)
            generator = random.Random(seed)
            drawn = [space.sample(generator) for _ in range(draws)]
            started = time.process_time()
            found = [task.evaluate(a, i, "cpu") for i, a in enumerate(drawn)]
            took = (time.process_time() - started) / draws
            assert all(evaluation.finite for evaluation in found)
            scores = np.array([task.expected(a) for a in drawn])
            at = np.quantile(scores, (0, 0.01, 0.5, 0.99, 1))
            print(
                f"{name} seed {seed}: optimum {task.expected(task.optimum):.4g}, mean "
                f"{scores.mean():.4g}, sd {scores.std():.3g}, min, 1%, 50%, 99%, max "
                f"{' '.join(f'{q:.4g}' for q in at)}, R2 of single decisions "
                f"{_additive(space, drawn, scores, kind is CellSurrogate):.2f}, "
                f"{took * 1e3:.2f} ms",
                flush=True,
            )


def _additive(
    space: SearchSpace, drawn: list[Architecture], scores: np.ndarray, logarithm: bool
) -> float:
    """Return R2, on the last quarter, of a sum over single decisions fitted to the rest."""
    rows = []
    for architecture in drawn:
        row = [1.0]
        for decision in space.decisions:
            value = architecture[decision.name]
            if isinstance(decision, Choice):
                row += [float(value == option) for option in decision.options[1:]]
            else:
                assert isinstance(value, tuple)
                row += [float(source in value) for source in decision.sources]
        rows.append(row)
    x, y = np.array(rows), np.log(scores) if logarithm else scores
    cut = len(drawn) * 3 // 4
    fit = np.linalg.lstsq(x[:cut], y[:cut], rcond=None)[0]
    return float(1 - ((y[cut:] - x[cut:] @ fit) ** 2).mean() / y[cut:].var())


def search(evaluations: int, seeds: int, controllers: list[str]) -> None:
    """Print what each controller finds."""
    for name, (space, kind) in TASKS.items():
        for which in controllers:
            started = time.perf_counter()
            found = [
                _best(kind(space, seed), CONTROLLERS[which](space, seed), seed, evaluations)
                for seed in range(seeds)
            ]
            sem = statistics.stdev(found) / math.sqrt(seeds) if seeds > 1 else math.nan
            print(
                f"{name} {which:<9} after {evaluations}: {statistics.fmean(found):.4g} ± {sem:.2g}"
                f"  [{' '.join(f'{f:.3g}' for f in found)}]"
                f"  {(time.perf_counter() - started) / seeds:.1f} s a search",
                flush=True,
            )


def _best(task: Surrogate, controller: Controller, seed: int, evaluations: int) -> float:
    best, score, number = -math.inf, math.nan, 0
    while number < evaluations:
        told = []
        for architecture in controller.propose(controller.batch):
            child = derive_seed(seed, number, "child")
            evaluation = task.evaluate(architecture, child, "cpu")
            told.append(
                Trial(
                    number=number,
                    batch=0,
                    architecture=architecture,
                    seed=child,
                    state=TrialState.COMPLETED,
                    evaluation=evaluation,
                    reward=evaluation.reward,
                )
            )
            number += 1
            if evaluation.reward > best:
                best, score = evaluation.reward, task.expected(architecture)
        controller.tell(told)
    return score


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("spread", "search"))
    parser.add_argument("--draws", type=count, default=10_000)
    parser.add_argument("--evaluations", type=count, default=500)
    parser.add_argument("--seeds", type=count, default=10)
    parser.add_argument("--controllers", nargs="+", default=list(CONTROLLERS), choices=CONTROLLERS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "spread":
        spread(given.draws, given.seeds)
    else:
        search(given.evaluations, given.seeds, given.controllers)


if __name__ == "__main__":
    shared.run(main)
