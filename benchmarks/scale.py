"""Many workers and many trials, with the real study and controller.

    python -m benchmarks.scale cost       the coordinator's work a trial, beside Optuna's
    python -m benchmarks.scale open       a study of 100,000 trials
    python -m benchmarks.scale load       1 to 10,000 workers under a simulated clock
    python -m benchmarks.scale quality    evaluations to equal quality, against workers and mode

Children are simulated: closed-form scores, durations drawn heavy-tailed (lognormal, mean one hour),
2% lost. The coordinator is not: its seconds are the processor's. Results: docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.shared import count, run
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.executors.simulated import Simulated
from netwright.loop import Mode
from netwright.protocols import Controller
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv
from netwright.store import sqlite_url
from netwright.study import Study
from netwright.trial import Evaluation, Trial

HOUR = 3600.0
SIGMA = 0.75  # of the logarithm of a duration: the longest of 800 takes about 8 times the mean
LOST = 0.02


def duration(architecture: Architecture, seed: int) -> float:
    return HOUR * random.Random(seed).lognormvariate(-(SIGMA**2) / 2, SIGMA)


def lost(architecture: Architecture, seed: int) -> Exception | None:
    return ChildError("lost") if random.Random(seed ^ 1).random() < LOST else None


def flat(architecture: Architecture) -> Evaluation:
    return Evaluation(reward=0.5, score=0.5, curve=(0.5,) * 50)


def policy(space: SearchSpace, seed: int = 0, **settings: float) -> PolicyGradient:
    made = PolicySettings(**settings)  # type: ignore[arg-type]
    return PolicyGradient(space, made, seed=seed)


# --- the coordinator's work ---------------------------------------------------------------------


def cost(trials: int) -> None:
    choices, network = choices_space(60, 4), conv.v1(15)
    rows: list[tuple[str, Callable[[], tuple[float, float]]]] = []
    modes = {"replicas": Mode(replicas=13), "queue": Mode(queue=True)}  # for 100 workers
    for name, space in (("60 choices", choices), ("v1, 15 layers", network)):

        def journal(space: SearchSpace = space) -> tuple[float, float]:
            return _ours(space, RandomSearch(space, batch=8), modes["queue"], trials)

        rows.append((f"journal alone, {name}", journal))
        for kind, mode in modes.items():

            def learning(space: SearchSpace = space, mode: Mode = mode) -> tuple[float, float]:
                return _ours(space, policy(space), mode, trials)

            rows.append((f"with controller, {name}, {kind}", learning))
    rows.append(("Optuna, TPE, SQLite, 60 choices", lambda: _optuna(min(trials, 200))))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in rows}
    for _ in range(3):  # in turn, so that other work on the machine meets all of them
        for name, measure in rows:
            found[name].append(measure())
    for name, times in found.items():
        wall, own = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:<42} {wall * 1e3:8.2f} ms a trial, processor {own * 1e3:6.2f} ms")


def _ours(
    space: SearchSpace, controller: Controller, mode: Mode, trials: int
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        executor = Simulated(100, duration)
        url = sqlite_url(Path(folder) / "s.db")
        study = Study(space, controller, flat, url, mode=mode, clock=executor)
        return _timed(lambda: study.run(trials, executor), trials)


def _optuna(trials: int) -> tuple[float, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        for i in range(60):
            trial.suggest_categorical(f"d{i}", (0, 1, 2, 3))
        return 0.5

    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(storage=sqlite_url(Path(folder) / "o.db"), direction="maximize")
        return _timed(lambda: study.optimize(objective, n_trials=trials), trials)


def _timed(run: Callable[[], object], trials: int) -> tuple[float, float]:
    wall, own = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) / trials, (time.process_time() - own) / trials


# --- a large study --------------------------------------------------------------------------------


def opening(trials: int) -> None:
    space = choices_space(60, 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.db"
        mode, executor = Mode(queue=True), Simulated(800, duration, lost)

        def make(controller: Controller) -> Study:
            task = Additive(space, noise=0.02)
            return Study(space, controller, task, sqlite_url(path), mode=mode, clock=executor)

        study = make(RandomSearch(space, batch=8))
        wall, _ = _timed(lambda: study.run(trials, executor), 1)
        print(f"{trials} trials written in {wall:.0f} s, {path.stat().st_size / 1e6:.0f} MB")
        study.store.close()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            began = time.perf_counter()
            again = make(RandomSearch(space, batch=8))
            opened = time.perf_counter()
            again.top(10)
            looked = time.perf_counter()
            again.run(len(again) + 8, executor)
            ran = time.perf_counter() - looked
            print(
                f"open {opened - began:.2f} s, top {looked - opened:.3f} s, 8 more trials "
                f"{ran:.2f} s"
            )
            again.store.close()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"memory: at most {(after - before) / 1024:.0f} MB more than the search itself had")


# --- many workers ---------------------------------------------------------------------------------


def load(trials_each: int) -> None:
    print("workers  mode      trials  utilisation  to the last start  trials/h  coordinator")
    for workers in (1, 10, 100, 800, 10_000):
        replicas = max(1, -(-workers // 8))
        modes = {"one": Mode(), "replicas": Mode(replicas=replicas), "queue": Mode(queue=True)}
        trials = max(200, min(trials_each * workers, 20_000))
        for name, mode in modes.items():
            if name == "one" and workers > 100:
                continue  # one proposal of 8 keeps 8 busy, however many there are
            space = choices_space(60, 4)
            executor = Simulated(workers, duration, lost)
            with tempfile.TemporaryDirectory() as folder:
                url = sqlite_url(Path(folder) / "s.db")
                made = policy(space)
                study = Study(space, made, Additive(space), url, mode=mode, clock=executor)
                watch = _Starts(study)
                _, own = _timed(lambda: study.run(trials, executor, watch.see), 1)  # noqa: B023
            hours = executor.time() / HOUR
            whole = study.progress()["utilisation"]
            print(
                f"{workers:>7}  {name:<8} {trials:>7} {whole:>12.3f} {watch.full:>18.3f} "
                f"{trials / hours:>9.1f} {own / executor.time():>11.2%}",
                flush=True,
            )


class _Starts:
    """The utilisation until no trial is left to start; what follows is the end of the search."""

    def __init__(self, study: Study) -> None:
        self.study, self.full = study, 0.0

    def see(self, _: object) -> None:
        watch = self.study.watch
        assert watch is not None
        if watch.target - watch.done >= watch.workers:
            self.full = self.study.progress()["utilisation"]


# --- quality --------------------------------------------------------------------------------------


STALENESS = {"queue": "sampling", "weighted": "importance", "ignored": "none"}  # of a queue


def quality(given: argparse.Namespace) -> None:
    """Print evaluations until the last 64 architectures have `level` on average, without noise.

    A search that never gets there counts with all of its evaluations, so that a mean with such a
    one is a bound from below, and is said to be.
    """
    cap = given.trials or 8000
    print(f"learning rate {given.rate}, batch 8, limit {given.limit}, {given.seeds} seeds")
    print(f"mode      workers  evaluations to {given.level} (sem)  against 1 worker  reached")
    base: Needed | None = None
    runs = [("one", 1), *((mode, n) for mode in given.modes for n in given.workers)]
    for name, workers in runs:
        mode = Mode(queue=name in STALENESS, replicas=max(1, workers // 8))
        each = [_evaluations(name, workers, mode, seed, given, cap) for seed in range(given.seeds)]
        found = Needed(each, cap)
        base = base or found
        print(f"{name:<9} {workers:>7} {found.told(base)}", flush=True)


@dataclass(frozen=True)
class Needed:
    """Evaluations that searches needed, None for one that did not get there in `cap`."""

    each: Sequence[int | None]
    cap: int

    @property
    def reached(self) -> int:
        return sum(n is not None for n in self.each)

    @property
    def mean(self) -> float:
        return statistics.mean(self.cap if n is None else n for n in self.each)

    def told(self, base: Needed) -> str:
        """Return mean and standard error, the difference to `base`, and how many got there."""
        n = len(self.each)
        counted = [float(self.cap if n is None else n) for n in self.each]
        sem = statistics.stdev(counted) / math.sqrt(n) if n > 1 else math.nan
        bound = ">=" if self.reached < n else ""
        more = f"{bound}{self.mean / base.mean - 1:+.1%}" if base.reached == len(base.each) else "-"
        mean = f"{bound}{self.mean:.0f}"
        return f"{mean:>10} ± {sem:<6.0f} {more:>20}  {self.reached} of {n}"


def _evaluations(
    name: str, workers: int, mode: Mode, seed: int, given: argparse.Namespace, cap: int
) -> int | None:
    space = choices_space(40, 4)
    settings = PolicySettings(
        learning_rate=given.rate, limit=given.limit, staleness=STALENESS.get(name, "sampling")
    )
    task = Additive(space, seed=seed, noise=0.02)
    controller = PolicyGradient(space, settings, seed=seed)
    executor = Simulated(workers, duration, lost)
    study = Study(space, controller, task, seed=seed, mode=mode, clock=executor)
    last: deque[float] = deque(maxlen=64)
    seen = 0

    def see(trial: Trial) -> None:
        nonlocal seen
        if statistics.fmean(last or [0.0]) < given.level:
            last.append(task.expected(trial.architecture))
            seen += 1
        else:
            study.stop()

    study.run(cap, executor, see)
    return seen if statistics.fmean(last or [0.0]) >= given.level else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("cost", "open", "load", "quality"))
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--limit", type=float, default=2.0)
    parser.add_argument("--workers", type=count, nargs="+", default=[10, 32, 100, 320, 800])
    modes = ["replicas", *STALENESS]
    parser.add_argument("--modes", nargs="+", default=modes, choices=modes)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "cost":
        cost(given.trials or 400)
    elif given.what == "open":
        opening(given.trials or 100_000)
    elif given.what == "load":
        load(given.trials or 10)
    else:
        quality(given)


if __name__ == "__main__":
    run(main)
