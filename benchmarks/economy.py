"""What early stopping saves of a search on real children, and what it costs in quality.

    python -m benchmarks.economy run digits --seeds 5 [--arm "NAME=KEY=VALUE;..."] [--set K=V]
    python -m benchmarks.economy replay STUDY... [--keep 0.5] [--rungs 1,2,4] [--warmup 10]

run: for each seed the full-training search and the same search under each arm's settings: that is,
controller, method of stopping, and what --arm adds. Cost is counted in epochs of
children (images are equal in all; a short training's are its share of them), which a busy machine
does not change, and in seconds. The quality of a search after n trials is that of its best trial so
far, retrained in full --retrain times with seeds that all arms share: the mean validation accuracy.
An arm is there when it first reaches what the reference ends with, less --tolerance; until then it
took a share of the epochs that the reference took until it was there itself ("ratio"), and of all
of the reference's ("of all"). An arm that never gets there is counted with its whole cost, and said
so. Its quality is also told once it has spent --share of the reference's epochs. The reference is
the paper's controller with full training, and then the guided one with full training. Once all
searches are over each one's network is trained for good and tested. Studies stay in --out, are gone
on with, and can be looked at by `netwright report`.

replay: rules on the recorded curves of full trainings, proposal by proposal, without training
anything: the share of epochs that they leave, the best few that they stop, and how what is told of
the stopped ranks with what they would have reached. The search itself would have gone another way.

Control: the same search without stopping. Results: docs/results/economy.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import shared
from benchmarks.shared import check_same, count, image_config, kept, recipe_digest
from netwright.config import set_threads
from netwright.errors import UsageError
from netwright.evaluators.image import ImageEvaluator
from netwright.executors.local import InProcess
from netwright.report.statistics import interval
from netwright.seeding import derive_seed
from netwright.stopping import Record, StoppingSettings, rule_of
from netwright.study import Study
from netwright.tasks.images import ImageConfig
from netwright.trial import SHORT, Trial, TrialState
from netwright.workspace import Workspace

FULL = "full"
WHOLE = ("controller.name=policy_gradient", "stopping.method=none")
GUIDED = ("controller.name=guided", "controller.guided.batch=1")
FEW = ("stopping.keep=0.1", "stopping.warmup=5")
RUNG = ("stopping.method=halving", "stopping.rungs=[1]", *FEW)
SHORT_FIRST = ("stopping.method=short", *FEW)
ARMS: Mapping[str, tuple[str, ...]] = {
    FULL: (),
    "rung": RUNG,
    "short": SHORT_FIRST,
    "guided": GUIDED,
    "guided rung": (*GUIDED, *RUNG),
    "guided short": (*GUIDED, *SHORT_FIRST),
}


# --- searches on real children ------------------------------------------------------------------


@dataclass(frozen=True)
class Economy:
    """The searches of one seed, in folders of `out`."""

    out: Path
    source: str
    settings: tuple[str, ...]
    seed: int
    retrain: int

    def config(self, changes: Sequence[str]) -> ImageConfig:
        """Return the configuration of an arm."""
        own = (*self.settings, *changes, f"study.seed={self.seed}")
        return image_config(self.source, [*WHOLE, *own])

    def settled(self, changes: Sequence[str]) -> ImageConfig:
        """Return the configuration of an arm, computed as the seed's full search is."""
        config, full = self.config(changes), self.place(FULL)
        return config.settled(full.config().execution.numerics if full.exists() else "")

    def place(self, arm: str) -> Workspace:
        """Return the folder of an arm."""
        return Workspace(self.out / f"{arm.replace(' ', '-')}-{self.seed}")

    def search(self, arm: str, changes: Sequence[str]) -> Study:
        """Return the finished search of an arm, gone on with if it was begun."""
        set_threads(self.config(changes))
        config, place = self.settled(changes), self.place(arm)
        check_same(place, config)
        study = place.open()[1] if place.exists() else place.begin(config)

        def say(trial: Trial) -> None:
            print(f"{arm} seed {self.seed} trial {trial.number}: {trial.state}", flush=True)

        study.run(config.study.trials, InProcess(config.execution.here), on_trial=say)
        return study

    @cached_property
    def whole(self) -> ImageEvaluator:
        """The evaluator of the full search."""
        config = self.settled(())
        return config.make_evaluator(config.make_space())

    def quality(self, study: Study, number: int) -> float:
        """Return the mean score of full retrainings of a trial's architecture; higher is better."""
        architecture, config = study.trial(number).architecture, self.settled(())

        def train(k: int) -> float:
            seed = derive_seed(self.seed, k, "economy")
            return self.whole.evaluate(architecture, seed, config.execution.here).score

        return self._mean("retrained", study, number, config, train)

    def tested(self, study: Study, number: int) -> float:
        """Return the mean test accuracy of final trainings; each opening is journalled."""
        architecture = study.trial(number).architecture
        config = self.settled(())

        def train(k: int) -> float:
            seed = derive_seed(self.seed, k, "economy")
            finished = config.train_final(
                study.space,
                architecture,
                point=None,
                child_seed=seed,
                opened=lambda: study.store.add_event("open_test", {"by": "economy"}),
            )
            return float(finished.record["test_accuracy"])

        return self._mean("tested", study, number, config, train)

    def _mean(
        self,
        what: str,
        study: Study,
        number: int,
        config: ImageConfig,
        train: Callable[[int], float],
    ) -> float:
        form = study.space.form(study.trial(number).architecture)
        key, cache = f"{form} as {recipe_digest(config)}", self.out / f"{what}-{self.seed}.json"
        each = [kept(cache, f"{key} repeat {k}", partial(train, k)) for k in range(self.retrain)]
        return float(np.mean(each))

    def path(self, study: Study, changes: Sequence[str]) -> list[Point]:
        """Return cost and quality of the best trial whenever there is a new one, and at the end."""
        config = self.settled(changes)
        epochs, seconds, best = 0.0, 0.0, -1.0
        points: list[Point] = []
        for trial in study.trials[: config.study.trials]:
            epochs += epochs_of(trial, config.stopping.share * config.training.epochs)
            seconds += trial.evaluation.cost if trial.evaluation is not None else 0.0
            if trial.completed and trial.reward is not None and trial.reward > best:
                best = trial.reward
                quality = self.quality(study, trial.number)
                points.append(Point(trial.number, epochs, seconds, quality))
        return [*points, replace(points[-1], epochs=epochs, seconds=seconds)]


@dataclass(frozen=True)
class Point:
    """The best trial of a search so far, by number.

    epochs, seconds: of all children so far. quality: of the best of them, retrained.
    """

    number: int
    epochs: float
    seconds: float
    quality: float


def epochs_of(trial: Trial, short: float = 0.0) -> float:
    """Return the epochs that a trial was trained for; a duplicate's are another's.

    short: those of a short training, for a trial that had one.
    """
    if trial.evaluation is None or trial.duplicate_of is not None:
        return 0.0
    return len(trial.evaluation.curve) + (short if SHORT in trial.evaluation.details else 0.0)


@dataclass(frozen=True)
class Found:
    """One search: its points, the last at its end; how many it stopped; its network, tested."""

    points: list[Point]
    stopped: int
    tested: float

    def there(self, target: float) -> Point | None:
        """Return the first point of that quality."""
        return next((point for point in self.points if point.quality >= target), None)

    def at(self, epochs: float) -> Point:
        """Return the last point that cost no more, the first one where none did."""
        return next((p for p in self.points[::-1] if p.epochs <= epochs), self.points[0])


def arms_of(added: Sequence[str], only: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the settings of each arm: those here and those of --arm, of them those of --only."""
    arms = dict(ARMS)
    for text in added:
        name, _, changes = text.partition("=")
        arms[name] = tuple(changes.split(";"))
    unknown = [name for name in only if name not in arms]
    if unknown:
        raise UsageError(
            f"--only must be arms; got {unknown[0]!r}; use some of {', '.join(arms)}, or give it "
            f"settings with --arm"
        )
    return {name: changes for name, changes in arms.items() if not only or name in (FULL, *only)}


def run(args: argparse.Namespace) -> None:
    arms = arms_of(args.arm or (), args.only or ())
    seeds = [
        Economy(args.out, args.config, tuple(args.settings), seed, args.retrain)
        for seed in range(args.first, args.first + args.seeds)
    ]
    for one in seeds:
        for name, changes in arms.items():
            check_same(one.place(name), one.config(changes))
    done = [
        (one, name, study, one.path(study, changes))
        for one in seeds
        for name, changes in arms.items()
        for study in [one.search(name, changes)]
    ]
    rows: dict[str, list[Found]] = {name: [] for name in arms}
    print(f"\n| arm | seed | epochs | seconds | stopped | validation | test |\n{'|---' * 7}|")
    for one, name, study, points in done:  # every search is over before a test image is read
        end = points[-1]
        stopped = sum(trial.state is TrialState.STOPPED for trial in study.trials)
        rows[name].append(Found(points, stopped, one.tested(study, end.number)))
        print(
            f"| {name} | {one.seed} | {end.epochs:.0f} | {end.seconds:.0f} | {stopped} | "
            f"{end.quality:.4f} | {rows[name][-1].tested:.4f} |",
            flush=True,
        )
    for reference in (FULL, "guided"):
        if reference in rows:
            compare(rows, reference, args.tolerance, args.share)


def compare(
    rows: Mapping[str, Sequence[Found]], reference: str, tolerance: float, share: float
) -> None:
    """Print each arm beside the full search of `reference`, with 95% intervals over seeds."""
    heads = (
        "ratio",
        "of all",
        "of all, seconds",
        "whole search",
        "validation less its",
        f"the same after {share:g} of its epochs",
        "test less its",
    )
    print(f"\nbeside {reference}:\n\n| arm | {' | '.join(heads)} | there |\n{'|---' * 9}|")
    for name, all_found in rows.items():
        values, got = [], 0
        for found, its in zip(all_found, rows[reference], strict=True):
            end, last = its.points[-1], found.points[-1]
            own = its.there(end.quality - tolerance) or end
            first = found.there(end.quality - tolerance)
            at = first or last
            got += first is not None
            values.append(
                (
                    at.epochs / own.epochs,
                    at.epochs / end.epochs,
                    at.seconds / end.seconds if end.seconds else 0.0,
                    last.epochs / end.epochs,
                    last.quality - end.quality,
                    found.at(share * end.epochs).quality - end.quality,
                    found.tested - its.tested,
                )
            )
        told = [interval(column) for column in np.array(values).T]
        text = [f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in told[:4]]
        text += [f"{i.mean:+.4f} [{i.low:+.4f}, {i.high:+.4f}]" for i in told[4:]]
        print(f"| {name} | {' | '.join(text)} | {got} of {len(values)} |")


# --- recorded curves ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Replayed:
    """left: share of epochs. best: places among the rewards, from 1, of the best that went through.

    lost: how many of the five best were stopped. rank: Spearman's of what was told of the stopped
    with what they would have got, nan below three.
    """

    left: float
    best: int
    lost: int
    rank: float


def replayed(trials: Sequence[Trial], settings: StoppingSettings, lower: bool) -> Replayed:
    """Return what rules would have done to these whole trainings, told by proposals."""
    whole = [t for t in trials if t.completed and t.duplicate_of is None]
    records: list[Record] = []
    spent, told = 0, []
    through: dict[int, float] = {}
    for _, group in itertools.groupby(whole, key=lambda trial: trial.batch):
        latest, first = records[-settings.window :], records[: settings.warmup]
        rule = rule_of(latest, first[: len(records) - len(latest)], settings, lower)
        for trial in group:
            assert trial.evaluation is not None
            assert trial.reward is not None
            curve = trial.evaluation.curve
            cuts = (n for n in range(1, len(curve)) if rule and rule.stops(curve[:n]))
            end = next(cuts, len(curve))
            spent += end
            if rule is None or end == len(curve):
                records.append(Record(curve=curve, reward=trial.reward, whole=True))
                through[trial.number] = trial.reward
            else:
                guess = rule.reward(curve[:end])
                records.append(Record(curve=curve[:end], reward=guess, whole=False))
                told.append((guess, trial.reward))
    order = sorted(whole, key=lambda trial: (-(trial.reward or 0.0), trial.number))
    epochs = sum(epochs_of(trial) for trial in whole)
    return Replayed(
        left=spent / epochs,
        best=1 + sum((trial.reward or 0.0) > max(through.values()) for trial in order),
        lost=sum(trial.number not in through for trial in order[:5]),
        rank=spearman(*np.array(told).T) if len(told) > 2 else float("nan"),
    )


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the correlation of ranks, equal values sharing the mean of theirs; nan if all are."""
    ranks = np.array([[(c < v).sum() + (c == v).sum() / 2 for v in c] for c in (one, other)])
    if (ranks == ranks[:, :1]).all(1).any():
        return float("nan")
    both = np.asarray(np.corrcoef(ranks.astype(np.float64)))
    return float(both[0, 1])


def replay(args: argparse.Namespace) -> None:
    print(f"| rungs | keep | warmup | epochs left | best kept | of 5 lost | rank |\n{'|---' * 7}|")
    studies = [Workspace(folder).open() for folder in args.studies]
    for rungs, keep, warmup in itertools.product(args.rungs, args.keep, args.warmup):
        settings = StoppingSettings(method="halving", rungs=rungs, keep=keep, warmup=warmup)
        found = [replayed(study.trials, settings, config.metric.lower) for config, study in studies]
        left, lost, rank = (
            float(np.nanmean([getattr(one, name) for one in found]))
            for name in ("left", "lost", "rank")
        )
        best = ", ".join(str(one.best) for one in found)
        print(
            f"| {','.join(map(str, rungs))} | {keep:g} | {warmup} | {left:.2f} | {best} | "
            f"{lost:.1f} | {rank:.2f} |"
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    kinds = parser.add_subparsers(dest="kind", required=True)
    real = kinds.add_parser("run")
    real.add_argument("config")
    real.add_argument("--seeds", type=count, default=5)
    real.add_argument("--first", type=int, default=0, help="seeds from here on")
    real.add_argument("--retrain", type=count, default=3)
    real.add_argument("--tolerance", type=float, default=0.0)
    real.add_argument("--share", type=float, default=0.2)
    real.add_argument("--arm", action="append")
    real.add_argument("--only", nargs="*")
    real.add_argument("--set", action="append", default=[], dest="settings")
    real.add_argument("--out", type=Path, default=Path("runs/economy"))
    past = kinds.add_parser("replay")
    past.add_argument("studies", nargs="+", type=Path)
    past.add_argument(
        "--rungs", nargs="*", type=_numbers, default=[(1, 2, 4), (1,), (2, 4), (1, 3)]
    )
    past.add_argument("--keep", nargs="*", type=float, default=[0.67, 0.5, 0.33, 0.25])
    past.add_argument("--warmup", nargs="*", type=int, default=[10])
    args = parser.parse_args()
    (run if args.kind == "run" else replay)(args)


if __name__ == "__main__":
    shared.run(main)
