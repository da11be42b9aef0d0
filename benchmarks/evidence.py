"""Does the search beat random search, and do its networks beat a hand-drawn one?

    python -m benchmarks.evidence digits --seeds 5
    python -m benchmarks.evidence cifar10-small --seeds 1 --set data.source=PATH

For each study seed: the RL controller and random search at the same budget (paired: same space,
data split and training). Then the final training, each network tested once: the best of each
search, unselected random architectures (the average random architecture), and a VGG-style network
of the size of the RL network; where `netwright tune` was run on a study, its winner too. Prints a
table; the studies stay in --out and are gone on with. Control: random search. The lines of
docs/results/*.md come from here.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from netwright.children.baselines import vgg_of_size
from netwright.config import load_config
from netwright.evaluators.image import train_final
from netwright.finishing import best_setting
from netwright.seeding import derive_seed, rng
from netwright.study import Study
from netwright.tasks.images import ImageConfig, maker
from netwright.training.image import Recipe
from netwright.workspace import Workspace

Make = Callable[[tuple[int, int, int], int], nn.Module]
CONTROLLERS = ("policy_gradient", "random")


def searched(out: Path, source: str, settings: Sequence[str], seed: int, name: str) -> Study:
    config = load_config(source, [*settings, f"study.seed={seed}", f"controller.name={name}"])
    torch.set_num_threads(config.execution.threads or torch.get_num_threads())
    place = Workspace(out / f"{name}-{seed}")
    study = place.open()[1] if place.exists() else place.begin(config)

    def say(trial: Any) -> None:
        print(f"{name} seed {seed} trial {trial.number}: {trial.score}", flush=True)

    study.run(config.study.trials, on_trial=say)
    return study


@dataclass(frozen=True)
class Finals:
    """The final trainings of one study seed, cached in `out`/finals.json."""

    out: Path
    config: ImageConfig
    study: Study

    def train(self, key: str, make: Make, seed: int, recipe: Recipe | None = None) -> float:
        """Return the test accuracy of one training; each opening of the test set is journalled."""
        cache = self.out / "finals.json"
        known = json.loads(cache.read_text()) if cache.exists() else {}
        if key not in known:
            result = train_final(
                make,
                self.config.data,
                self.config.final_recipe(recipe or self.config.training, None),
                seed=self.config.study.seed,
                child_seed=seed,
                opened=lambda: self.study.store.add_event(
                    "open_test", {"by": "evidence", "for": key}
                ),
            )
            known[key] = result.test_accuracy
            cache.write_text(json.dumps(known, indent=1))
            print(f"final {key}: {result.test_accuracy:.4f}", flush=True)
        return float(known[key])


def size_of(study: Study, number: int) -> int:
    evaluation = study.trial(number).evaluation
    assert evaluation is not None
    return evaluation.parameters


def plot(path: Path, studies: dict[tuple[str, int], Study]) -> None:
    """Draw, over the trials, the mean over seeds of the best so far and of the last ten."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip(CONTROLLERS, ("#2166ac", "#b8500f"), strict=True):
        runs = [
            [t.score or 0.0 for t in study.trials]
            for (controller, _), study in studies.items()
            if controller == name
        ]
        n = min(len(run) for run in runs)
        best = [statistics.mean(max(run[: k + 1]) for run in runs) for k in range(n)]
        last = [
            statistics.mean(statistics.mean(run[max(0, k - 9) : k + 1]) for run in runs)
            for k in range(n)
        ]
        label = name.replace("_", " ")
        axes.step(range(1, n + 1), best, where="post", color=colour, label=f"{label}: best so far")
        axes.plot(range(1, n + 1), last, "--", color=colour, label=f"{label}: mean of the last 10")
    axes.set_xlabel("trials")
    axes.set_ylabel("validation accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def row(name: str, values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"| {name} | {statistics.mean(values):.4f}{spread} | {len(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--finals", type=int, default=3, help="final trainings a network")
    parser.add_argument("--only", choices=CONTROLLERS, help="search with this one and stop")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path("runs") / f"evidence-{args.config}"
    names = [args.only] if args.only else CONTROLLERS
    studies = {
        (name, seed): searched(out, args.config, args.settings, seed, name)
        for seed in range(args.seeds)
        for name in names
    }
    if args.only:
        return
    base = load_config(args.config, args.settings)
    assert isinstance(base, ImageConfig), "only images have the hand-drawn network"
    print(f"\n| search | best validation | mean of top 5 | mean of all | seed |\n{'|---' * 5}|")
    for (name, seed), study in studies.items():
        scores = [t.score or 0.0 for t in study.trials]
        top = [t.score or 0.0 for t in study.top(5)]
        print(
            f"| {name} | {max(scores):.4f} | {statistics.mean(top):.4f} | "
            f"{statistics.mean(scores):.4f} | {seed} |"
        )
    print("\n| network, trained for good | test accuracy | trainings |\n|---|---|---|")
    for line in finals(out, base, studies, args.seeds, args.finals):
        print(line, flush=True)


LABELS = {
    "policy_gradient": "best of the RL search",
    "policy_gradient tuned": "best of the RL search after `tune`",
    "random": "best of random search",
    "random tuned": "best of random search after `tune`",
    "average": "average random architecture (unselected)",
    "vgg": "hand-drawn VGG-style network of the RL network's size",
}


def finals(
    out: Path, base: ImageConfig, studies: dict[tuple[str, int], Study], seeds: int, repeats: int
) -> list[str]:
    results: dict[str, list[float]] = {name: [] for name in LABELS}
    for seed in range(seeds):
        config = replace(base, study=replace(base.study, seed=seed))
        pair = {name: studies[name, seed] for name in CONTROLLERS}
        runs = Finals(out, config, pair["policy_gradient"])
        space = pair["random"].space
        size = size_of(pair["policy_gradient"], pair["policy_gradient"].best.number)
        for repeat in range(repeats):
            child_seed = derive_seed(seed, repeat, "evidence")
            where = f"seed {seed} repeat {repeat}"
            for name, study in pair.items():
                best = study.best
                make = maker(space, best.architecture, config.child)
                key = f"{name} seed {seed} trial {best.number} repeat {repeat}"
                results[name].append(runs.train(key, make, child_seed))
                tuned = best_setting(study)
                if tuned is not None:
                    number, setting, _ = tuned
                    recipe, child = config.at(setting)
                    make = maker(space, study.trial(number).architecture, child)
                    key = f"{name} tuned trial {number} {where}"
                    results[f"{name} tuned"].append(runs.train(key, make, child_seed, recipe))
            drawn = space.sample(rng(seed, repeat, "average random architecture"))
            make = maker(space, drawn, config.child)
            results["average"].append(runs.train(f"average {where}", make, child_seed))
            results["vgg"].append(
                runs.train(
                    f"vgg of {size} {where}", partial(vgg_of_size, parameters=size), child_seed
                )
            )
    return [row(LABELS[name], values) for name, values in results.items() if values]


if __name__ == "__main__":
    main()
