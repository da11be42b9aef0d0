"""Two workers of one thread against one worker of two, by the clock: wants a machine to itself.

    python -m benchmarks.workers [--configs digits cifar10-small] [--rounds 3] [--children 8]
        [--epochs 5] [--networks resnet20 v1 figure7] [--set data.source=FOLDER] [--limit 240]

limit: seconds after which no further round is begun, shared out among the parts. --set is for all
of `configs` but digits. First what `--workers auto` measures and chooses. Then children an hour of
whole searches by random search, so that all crews train the same children, an epoch of those that
are not digits; crews take turns, and the ratios of a round are what counts. Then images a second of
larger networks in one process: one thread, two with the compiled passes, two without, by turns.
Results: docs/results/speed.md, earlier ones docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks import shared
from benchmarks.children import NETWORKS, Case, cases
from benchmarks.shared import count
from netwright.children.joints import plain
from netwright.config import load_config
from netwright.executors import probe
from netwright.executors.processes import Processes
from netwright.loop import Mode
from netwright.seeding import rng
from netwright.study import Study
from netwright.tasks.base import Config
from netwright.training.image import Recipe, make_optimiser
from netwright.training.limits import keep_memory
from netwright.training.numerics import Numerics, child_step, chosen

CREWS = ((1, 1), (2, 1), (1, 2))  # workers, threads of each


def seconds(config: Config, children: int, executor: Processes) -> float:
    """Return how long a search of so many children takes."""
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


def warm(config: Config, executor: Processes) -> None:
    """Start the workers; let each read the data and compile."""
    space = config.make_space()
    evaluator = config.make_evaluator(space)
    drawn = [space.sample(rng(0, i, "warm")) for i in range(2 * executor.workers)]
    for future in [executor.submit(evaluator, a, 0) for a in drawn]:
        future.result()


def searches(name: str, given: argparse.Namespace, end: float) -> None:
    """Print children an hour of each crew, and the ratios to the first."""
    epochs = given.epochs if name == "digits" else 1
    settings = [] if name == "digits" else list(given.set)
    config = load_config(name, ["controller.name=random", f"training.epochs={epochs}", *settings])
    config = config.settled()
    crews = [Processes(workers, threads=threads) for workers, threads in CREWS]
    for crew in crews:
        warm(config, crew)
    rows: list[list[float]] = []
    while len(rows) < given.rounds and (not rows or time.perf_counter() < end):
        rows.append([seconds(config, given.children, crew) for crew in crews])
    for crew in crews:
        crew.shutdown()
    of = f"{config.execution.numerics}, {given.children} children of {epochs} epochs"
    print(f"{name}, {of}, {len(rows)} rounds:")
    say([f"{w} x {t} threads" for w, t in CREWS], rows, 3600 * given.children, "children/h")


def say(names: Sequence[str], rows: Sequence[Sequence[float]], amount: float, unit: str) -> None:
    """Print the rate of each column, median, and its ratio to the first, [least, most]."""
    for i, name in enumerate(names):
        rate = amount / statistics.median(row[i] for row in rows)
        ratios = sorted(row[0] / row[i] for row in rows)
        spread = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        print(f"  {name:<24}{rate:>9.4g} {unit}, {spread}", flush=True)


def _step(case: Case, numerics: Numerics, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    model = numerics.model(case.make(), "cpu").train()
    optimiser = make_optimiser(model, Recipe(batch=batch, learning_rate=0.01))
    images = numerics.images(torch.randn(batch, *case.image))
    labels = torch.randint(10, (batch,))

    def step() -> None:
        with numerics.cast("cpu"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def network(case: Case, given: argparse.Namespace, end: float) -> None:
    """Print images a second in one process of one and of two threads."""
    keep_memory()
    torch.set_num_threads(1)
    numerics = chosen()
    step = _step(case, numerics, 32)
    rows: list[list[float]] = []
    while len(rows) < 2 * given.rounds + 1 and (len(rows) < 2 or time.perf_counter() < end):
        blocks = ((1, nullcontext()), (2, nullcontext()), (2, plain()))
        rows.append([_timed(step, threads, block) for threads, block in blocks])
    print(f"{case.name}, one process, {numerics}, batch 32, {len(rows) - 1} rounds:")
    say(["1 thread", "2 threads", "2 threads, plain"], rows[1:], 32, "images/s")


def _timed(step: Callable[[], None], threads: int, block: AbstractContextManager[None]) -> float:
    torch.set_num_threads(threads)
    with block:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began


def auto() -> None:
    """Print what `--workers auto` measures here, afresh."""
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict("os.environ", XDG_CACHE_HOME=folder),
    ):
        numerics = chosen()
        subject = probe.Subject(str(numerics), functools.partial(child_step, numerics))
        for threads in (0, 1):
            found = probe.best_workers(subject, threads=threads)
            fixed = f"execution.threads={threads}" if threads else "threads free"
            print(f"--workers auto, {fixed}: {found.said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", nargs="*", default=["digits"])
    three = ["resnet20", "v1", "figure7"]
    parser.add_argument("--networks", nargs="*", default=three, choices=NETWORKS)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--children", type=count, default=8)
    parser.add_argument("--epochs", type=count, default=5)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--limit", type=float, default=240.0)
    given = parser.parse_args()
    began = time.perf_counter()
    auto()
    larger = cases(given.networks)
    whole = 2 * len(given.configs) + len(larger)  # searches have two shares
    for i, name in enumerate(given.configs):
        searches(name, given, began + 0.9 * given.limit * 2 * (i + 1) / whole)
    for i, case in enumerate(larger):
        share = (2 * len(given.configs) + i + 1) / whole
        network(case, given, began + 0.9 * given.limit * share)
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    shared.run(main)
