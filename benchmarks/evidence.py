"""Does the search beat random search, and do its networks beat a hand-drawn one?

    python -m benchmarks.evidence digits --seeds 5
    python -m benchmarks.evidence cifar10-small --seeds 3 --tune --set data.source=PATH

For each study seed: the controller and random search at the same budget (paired: same space, data
split and training). Then the final training, that of `netwright train`, each network tested once:
the best of each search, unselected random architectures (the average random architecture), and a
VGG-style network of the size that the controller's has there. With --tune the grid of `netwright
tune` comes before: on the best few of both searches and, on the same validation images, on the
VGG-style network, which then has the size of the controller's winner. Prints tables; the studies
stay in --out and are gone on with, and those of other settings are refused. Control: random search.
The lines of docs/results/*.md come from here.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.shared import check_same, count, image_config, kept, recipe_digest, run
from netwright.children.baselines import vgg_of_size
from netwright.children.plan import compile_plan
from netwright.config import set_threads
from netwright.controllers.making import CONTROLLERS
from netwright.errors import NetwrightError, UsageError
from netwright.evaluators.image import ImageEvaluator, train_final
from netwright.executors.local import InProcess
from netwright.report.statistics import interval
from netwright.seeding import derive_seed, rng
from netwright.space import Architecture, SearchSpace
from netwright.spaces import digest
from netwright.study import Study
from netwright.tasks.images import ImageConfig, maker
from netwright.training.image import Recipe
from netwright.trial import Trial
from netwright.tuning import Point, best_setting, points, tune
from netwright.workspace import Workspace

Make = Callable[[tuple[int, int, int], int], nn.Module]
CONTROL = "random"


def begun(
    out: Path, source: str, settings: Sequence[str], seed: int, names: Sequence[str]
) -> dict[str, ImageConfig]:
    """Return the configurations of a seed's searches, computed alike; refuse others in `out`."""
    own = [f"study.seed={seed}"]
    asked = {n: image_config(source, [*settings, *own, f"controller.name={n}"]) for n in names}
    places = {name: Workspace(out / f"{name}-{seed}") for name in names}
    for name, config in asked.items():
        check_same(places[name], config)
    set_threads(asked[names[0]])
    there = [place.config().execution.numerics for place in places.values() if place.exists()]
    numerics = asked[names[0]].settled(next(iter(there), "")).execution.numerics
    return {name: config.settled(numerics) for name, config in asked.items()}


def searched(out: Path, config: ImageConfig) -> Study:
    name, seed = config.controller.name, config.study.seed
    place = Workspace(out / f"{name}-{seed}")
    study = place.open()[1] if place.exists() else place.begin(config)

    def say(trial: Trial) -> None:
        print(f"{name} seed {seed} trial {trial.number}: {trial.score}", flush=True)

    study.run(config.study.trials, InProcess(config.execution.here), on_trial=say)
    return study


@dataclass(frozen=True)
class Network:
    """One that is trained for good: how it is made and trained, at which point of the grid.

    parameters: of the network as it is trained for good. score: of the search or of the grid.
    """

    key: str
    make: Make
    recipe: Recipe
    point: Point
    parameters: int
    score: float


@dataclass(frozen=True)
class Seed:
    """What one study seed gives: both searches, their winners, the hand-drawn network."""

    out: Path
    config: ImageConfig
    seed: int
    studies: dict[str, Study]

    def winner(self, name: str, tuned: bool) -> Network:
        """Return a search's winner, after the grid of `netwright tune` with `tuned`."""
        study = self.studies[name]
        number, point, score = study.best.number, None, study.best.score
        if tuned:
            held = Workspace(self.out / f"{name}-{self.seed}").config()
            own = replace(held, execution=self.config.execution)
            for record in tune(own, study, self._evaluator):
                print(f"{name} seed {self.seed} tune: {record}", flush=True)
            found = best_setting(study)
            if found is None:
                raise NetwrightError(f"every run of the grid failed for {name} seed {self.seed}")
            number, point, score = found
        assert score is not None
        architecture = study.trial(number).architecture
        key = f"{name} seed {self.seed} trial {number} {digest(study.space, architecture)}"
        return self._designed(key, study.space, architecture, point, score)

    def _designed(
        self,
        key: str,
        space: SearchSpace,
        architecture: Architecture,
        point: Point,
        score: float,
    ) -> Network:
        """Return an architecture as `netwright train` trains it."""
        recipe, child = self.config.for_good(space, architecture, point)
        data = self._evaluator.data
        plan = compile_plan(space, architecture, data.shape, len(data.classes), child)
        make = maker(space, architecture, child)
        return Network(key, make, recipe, point, plan.parameters, score)

    @cached_property
    def _evaluator(self) -> ImageEvaluator:
        return self.config.make_evaluator(self.studies[CONTROL].space)

    def drawn(self, parameters: int, tuned: bool) -> Network:
        """Return the VGG-style network of about so many parameters, at its best point."""
        make = partial(vgg_of_size, parameters=parameters)
        key = f"vgg of {parameters} seed {self.seed}"
        tried = points(self.config, self.studies[CONTROL].space) if tuned else []
        how = f"{recipe_digest(self.config)} for {self.config.tuned_at(None)[0].epochs}"
        scores = [self._scored(f"{key} at {json.dumps(p)} as {how}", make, p) for p in tried]
        best = max(range(len(tried)), key=lambda k: scores[k]["reward"], default=None)
        point = None if best is None else tried[best]
        return Network(
            key=key,
            make=make,
            recipe=self.config.final_recipe(self.config.at(point)[0]),
            point=point,
            parameters=parameters if best is None else int(scores[best]["size"]),
            score=float("nan") if best is None else scores[best]["score"],
        )

    def _scored(self, key: str, make: Make, point: Point) -> dict[str, float]:
        """Train it at a point of the grid on the search's images; kept in `out`/drawn.json."""
        seed = derive_seed(self.seed, 0, "evidence drawn")

        def score() -> dict[str, float]:
            recipe, _ = self.config.tuned_at(point)
            here = self.config.execution.here
            found = self._evaluator.evaluate_module(make, recipe, seed, here)
            return {"score": found.score, "reward": found.reward, "size": found.parameters}

        return kept(self.out / "drawn.json", key, score)

    def average(self, repeat: int) -> Network:
        """Return a random architecture, another one for each repeat."""
        space = self.studies[CONTROL].space
        drawn = space.sample(rng(self.seed, repeat, "average random architecture"))
        key = f"average seed {self.seed} {digest(space, drawn)}"
        return self._designed(key, space, drawn, None, float("nan"))

    def tested(self, network: Network, repeat: int) -> float:
        """Return the test accuracy of one final training; kept in `out`/finals.json.

        Each opening of the test set is in the control's journal.
        """
        how = recipe_digest(self.config)
        key = f"{network.key} at {json.dumps(network.point)} repeat {repeat} as {how}"

        def test() -> float:
            return train_final(
                network.make,
                self.config.data,
                network.recipe,
                seed=self.seed,
                child_seed=derive_seed(self.seed, repeat, "evidence"),
                opened=lambda: self.studies[CONTROL].store.add_event(
                    "open_test", {"by": "evidence", "for": key}
                ),
                device=self.config.execution.here,
                numerics=self.config.numerics(network.recipe),
            ).test_accuracy

        return kept(self.out / "finals.json", key, test)


def searches(seeds: Sequence[Seed], name: str) -> None:
    """Print what each search found on validation images; stopped children have no part in it."""
    print(f"\n| search | best validation | mean of top 5 | child-seconds | seed |\n{'|---' * 5}|")
    for seed in seeds:
        for own in (name, CONTROL):
            study = seed.studies[own]
            top = [t.score or 0.0 for t in study.top(5)]
            spent = sum(t.evaluation.cost for t in study.trials if t.evaluation is not None)
            print(
                f"| {own} | {top[0]:.4f} | {statistics.mean(top):.4f} | {spent:.0f} | {seed.seed} |"
            )


def finals(seeds: Sequence[Seed], name: str, repeats: int, grid: bool) -> None:
    """Train every network for good, so many times, and print the tests of each seed and of all."""
    columns: dict[str, list[float]] = {}
    head = "network, trained for good | seed | parameters | validation | test"
    lines = [f"\n| {head} |\n{'|---' * 5}|"]
    for seed in seeds:
        rows = {f"best of {name}": seed.winner(name, False)}
        if grid:
            rows[f"best of {name} after tune"] = seed.winner(name, True)
        size = list(rows.values())[-1].parameters
        rows[f"best of {CONTROL} search"] = seed.winner(CONTROL, False)
        if grid:
            rows[f"best of {CONTROL} search after tune"] = seed.winner(CONTROL, True)
        rows["hand-drawn VGG-style network" + grid * " after tune"] = seed.drawn(size, grid)
        for row, network in rows.items():
            tests = [seed.tested(network, repeat) for repeat in range(repeats)]
            columns.setdefault(row, []).append(statistics.mean(tests))
            lines.append(
                f"| {row} | {seed.seed} | {network.parameters} | {network.score:.4f} | "
                f"{' '.join(f'{test:.4f}' for test in tests)} |"
            )
        tests = [seed.tested(seed.average(repeat), repeat) for repeat in range(repeats)]
        columns.setdefault("average random architecture (unselected)", []).append(
            statistics.mean(tests)
        )
    print("\n".join(lines))
    first = f"best of {name} after tune" if grid else f"best of {name}"
    print(f"\n| network, trained for good | test accuracy | {first} is ahead by |\n|---|---|---|")
    for row, values in columns.items():
        gap = interval(np.array(columns[first]) - np.array(values))
        ahead = "" if row == first else f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        print(f"| {row} | {statistics.mean(values):.4f} | {ahead} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("config")
    parser.add_argument("--controller", choices=sorted({*CONTROLLERS} - {CONTROL}))
    parser.add_argument("--seeds", type=count, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first study seed")
    parser.add_argument("--finals", type=count, default=3, help="final trainings a network")
    parser.add_argument("--tune", action="store_true", help="the grid before the final trainings")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path("runs") / f"evidence-{Path(args.config).stem}"
    base = image_config(args.config, args.settings)
    name = args.controller or base.controller.name
    if name == CONTROL:
        raise UsageError(
            f"the searches must be by two controllers; {args.config} has {CONTROL}, which is the "
            f"control; use --controller guided"
        )
    numbers = range(args.first, args.first + args.seeds)
    asked = [begun(out, args.config, args.settings, n, (name, CONTROL)) for n in numbers]
    seeds = []
    for seed, configs in zip(numbers, asked, strict=True):
        studies = {own: searched(out, config) for own, config in configs.items()}
        seeds.append(Seed(out, configs[name], seed, studies))
    searches(seeds, name)
    finals(seeds, name, args.finals, args.tune)


if __name__ == "__main__":
    run(main)
