"""How well cheap trainings of children rank them, before anything is built on their scores.

    python -m benchmarks.fidelity digits --children 40 [--shares 0.125,0.25] [--donors 10]
        [--set KEY=VALUE]

Random architectures, each trained in full twice, with two seeds, and shortly with a schedule of its
own (`stopping.method = "short"`) for each share. Prints Spearman's correlation of each score with
that of a full training of another seed, over all children and over the better half by the mean of
the full ones, and its cost by process time. Control: the other full training, which no cheap score
should be expected to beat; and the best score so far after the first epochs of a full training.
--donors: short trainings also with weights inherited from so many other children trained in full
(`stopping.donors`): "warm".
Results: docs/results/economy.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import shared
from benchmarks.economy import spearman
from benchmarks.shared import count, image_config
from netwright.controllers.random import RandomSearch
from netwright.evaluators.image import ImageEvaluator
from netwright.seeding import derive_seed
from netwright.space import Architecture
from netwright.stopping import Donor, Rule, Rung
from netwright.tasks.images import ImageConfig
from netwright.trial import Evaluation

Array = NDArray[Any]
STOP = Rung(epoch=1, threshold=2.0, scores=(0.0,), rewards=(0.0,))  # nobody passes


def timed(
    evaluator: ImageEvaluator, architecture: Architecture, seed: int, rule: Rule | None
) -> tuple[Evaluation, float]:
    began = time.process_time()
    found = evaluator.evaluate_until(architecture, seed, "cpu", rule)
    return found, time.process_time() - began


def measured(
    config: ImageConfig, children: int, shares: list[float], donors: int
) -> Mapping[str, Array]:
    """Return, by name, scores and seconds [2, 2, children]: of two seeds of each training."""
    space = config.make_space()
    evaluator = config.make_evaluator(space)
    config.prepare(evaluator)
    drawn = RandomSearch(space, seed=config.study.seed).propose(children + donors)
    architectures, others = drawn[:children], drawn[children:]
    epochs = config.training.epochs
    names = [f"{n} epochs of it" for n in range(1, epochs)] + [f"short, {s:g}" for s in shares]
    names += [f"warm, {share:g}" for share in shares if donors]
    found = {name: np.zeros((2, 2, children)) for name in ["full", *names]}
    for k in (0, 1):
        seeds = [derive_seed(config.study.seed, 2 * i + k, "donor") for i in range(donors)]
        pairs = zip(others, seeds, strict=True)
        given = tuple(Donor(architecture=a.to_json(), seed=seed) for a, seed in pairs)
        for other, donor in zip(others, given, strict=True):
            keep = Rule(rungs=(), short=shares[0], wanted=donors)
            evaluator.evaluate_until(other, donor.seed, "cpu", keep)
        for i, architecture in enumerate(architectures):
            seed = derive_seed(config.study.seed, 2 * i + k, "fidelity")
            whole, seconds = timed(evaluator, architecture, seed, None)
            found["full"][:, k, i] = whole.score, seconds
            for n in range(1, epochs):
                best = max(whole.curve[:n])
                found[f"{n} epochs of it"][:, k, i] = best, seconds * n / epochs
            for share in shares:
                rule = Rule(rungs=(STOP,), short=share)
                begun = {"short": rule, "warm": replace(rule, donors=given)}
                for kind in ("short", "warm") if donors else ("short",):
                    short, seconds = timed(evaluator, architecture, seed, begun[kind])
                    found[f"{kind}, {share:g}"][:, k, i] = short.score, seconds
            print(f"child {i}, seed {k}: {whole.score:.4f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("config")
    parser.add_argument("--children", type=count, default=40)
    parser.add_argument("--donors", type=int, default=0)
    parser.add_argument("--shares", default="0.0625,0.125,0.25")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    args = parser.parse_args()
    config = image_config(args.config, args.settings)
    torch.set_num_threads(config.execution.threads or torch.get_num_threads())
    shares = [float(share) for share in args.shares.split(",")]
    found = measured(config.settled(), args.children, shares, args.donors)
    full = found["full"][0]
    good = np.flatnonzero(full.mean(0) >= np.median(full.mean(0)))
    draws = np.random.default_rng(0).integers(args.children, size=(500, args.children))

    def agree(scores: Array, part: Array) -> float:
        return float(np.mean([spearman(scores[k][part], full[1 - k][part]) for k in (0, 1)]))

    print(f"\n| score | all, 95% of resampled children | better half | cost |\n{'|---' * 4}|")
    for name, (scores, seconds) in found.items():
        drawn = [agree(scores, draw) for draw in draws]
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        ranks = [agree(scores, part) for part in (np.arange(args.children), good)]
        cost = seconds.sum() / found["full"][1].sum()
        spread = f"[{low:.2f}, {high:.2f}]"
        print(f"| {name} | {ranks[0]:.2f} {spread} | {ranks[1]:.2f} | {cost:.3f} |")


if __name__ == "__main__":
    shared.run(main)
