"""Children an hour of 2 workers against 1, one thread each, on digits.

    python -m benchmarks.workers [--rounds 3] [--children 8] [--epochs 5]

Real searches by random search, so that both train the same children; rounds are interleaved and
the median ratio is what counts. Results: docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

from netwright.config import load_config
from netwright.executors.processes import Processes
from netwright.loop import Mode
from netwright.seeding import rng
from netwright.study import Study


def seconds(workers: int, children: int, epochs: int, executor: Processes) -> float:
    settings = ["controller.name=random", f"training.epochs={epochs}"]
    config = load_config("digits", settings)
    space = config.make_space()
    study = Study(
        space,
        config.make_controller(space),
        config.make_evaluator(space),
        mode=Mode(queue=True),
        retrain_duplicates=True,
    )
    began = time.perf_counter()
    study.run(children, executor)
    return time.perf_counter() - began


def warm(executor: Processes) -> None:
    """Start the workers and let each read the data."""
    config = load_config("digits", ["training.epochs=1"])
    space = config.make_space()
    evaluator = config.make_evaluator(space)
    drawn = [space.sample(rng(0, i, "warm")) for i in range(2 * executor.workers)]
    for future in [executor.submit(evaluator, a, 0) for a in drawn]:
        future.result()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--children", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    one, two = Processes(1, threads=1), Processes(2, threads=1)
    warm(one)
    warm(two)
    ratios = []
    for _ in range(given.rounds):
        single = seconds(1, given.children, given.epochs, one)
        double = seconds(2, given.children, given.epochs, two)
        ratios.append(single / double)
        rates = [3600 * given.children / s for s in (single, double)]
        print(f"1 worker {rates[0]:.0f} children/h, 2 workers {rates[1]:.0f}: {ratios[-1]:.2f}")
    print(f"median of {given.rounds}: {statistics.median(ratios):.2f}")
    one.shutdown()
    two.shutdown()


if __name__ == "__main__":
    main()
