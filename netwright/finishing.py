"""After the search (paper, 4.1): the small grid on the best few, then one training and one test."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from netwright.children.conv import build
from netwright.children.plan import ChildSettings, compile_plan
from netwright.config import Config
from netwright.errors import ChildError
from netwright.evaluators.image import FinalResult, ImageEvaluator, train_final
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.training.image import Recipe
from netwright.workspace import check_folder


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    learning_rate: float
    weight_decay: float
    epsilon: float
    drops: tuple[float, ...]

    def apply(self, recipe: Recipe, child: ChildSettings) -> tuple[Recipe, ChildSettings]:
        """Return recipe and child settings with this point's values."""
        return (
            replace(
                recipe,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                drops=self.drops,
            ),
            replace(child, batch_norm_epsilon=self.epsilon),
        )


def grid(config: Config) -> list[Setting]:
    """Return every combination of the tune section."""
    t = config.tune
    points = itertools.product(t.learning_rates, t.weight_decays, t.epsilons, t.drops)
    return [Setting(*point) for point in points]


def tune_runs(config: Config, study: Study) -> list[tuple[int, Setting]]:
    """Return the runs of the grid, (trial number, setting), in order."""
    return [(t.number, s) for t in study.top(config.tune.top) for s in grid(config)]


def tune(config: Config, study: Study, evaluator: ImageEvaluator) -> Iterator[Mapping[str, Any]]:
    """Train the best few at every point of the grid, on validation data; yield each run's record.

    Each run is an event "tune" of the journal; those that are there are not run again.
    """
    known = {_key(event.payload): event.payload for event in study.events("tune")}
    for number, setting in tune_runs(config, study):
        record: dict[str, Any] = {"trial": number, "setting": dataclasses.asdict(setting)}
        if _key(record) in known:
            yield known[_key(record)]
            continue
        trial = study.trial(number)
        recipe, child = setting.apply(config.training, config.child)
        make = maker(study.space, trial.architecture, child)
        try:
            result = evaluator.evaluate_module(make, recipe, trial.seed, config.execution.device)
            record |= {"score": result.score, "cost": result.cost}
        except ChildError as error:
            record |= {"score": None, "failure": str(error)}
        study.store.add_event("tune", record)
        yield record


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record["trial"], record["setting"]], sort_keys=True)


def best_setting(study: Study) -> tuple[int, Setting, float] | None:
    """Return (trial, setting, validation score) of the best run of the grid, None without one."""
    runs = [event.payload for event in study.events("tune") if event.payload["score"] is not None]
    if not runs:
        return None
    best = max(runs, key=lambda run: float(run["score"]))
    values = {**best["setting"], "drops": tuple(best["setting"]["drops"])}
    return int(best["trial"]), Setting(**values), float(best["score"])


def maker(
    space: SearchSpace, architecture: Architecture, child: ChildSettings
) -> Callable[[tuple[int, int, int], int], nn.Module]:
    """Return what builds the child once image shape and classes are known."""
    return lambda image, classes: build(space, architecture, image, classes, child)


@dataclass(frozen=True)
class Finished:
    """The final network with all that its file and its report need."""

    space: SearchSpace
    architecture: Architecture
    child: ChildSettings
    recipe: Recipe
    result: FinalResult
    record: Mapping[str, Any]


def train_best(
    config: Config,
    study: Study,
    on_epoch: Callable[[int, float | None], None] | None = None,
) -> Finished:
    """Train the winner on training and validation data and test it once.

    The winner is the best run of the grid where `tune` was run, else the best trial. The journal
    gets "open_test" before the test set is read, and "train" with the result.
    """
    tuned = best_setting(study)
    if tuned is None:
        trial, recipe, child = study.best, config.training, config.child
        score = trial.score
    else:
        trial = study.trial(tuned[0])
        recipe, child = tuned[1].apply(config.training, config.child)
        score = tuned[2]
    extra = {"trial": trial.number, "validation_score": score, "tuned": tuned is not None}
    return train_architecture(
        config,
        study.space,
        trial.architecture,
        recipe,
        child,
        journal=study.store.add_event,
        extra=extra,
        child_seed=derive_seed(study.seed, trial.number, "final"),
        on_epoch=on_epoch,
    )


def final_recipe(config: Config, recipe: Recipe, rate: float | None) -> Recipe:
    """Return the recipe of the final training; `rate` is the architecture's own token."""
    if config.final.epochs:
        recipe = replace(recipe, epochs=config.final.epochs)
    return replace(recipe, learning_rate=rate) if rate else recipe


def train_architecture(
    config: Config,
    space: SearchSpace,
    architecture: Architecture,
    recipe: Recipe,
    child: ChildSettings,
    *,
    journal: Callable[[str, Mapping[str, Any]], None],
    extra: Mapping[str, Any],
    child_seed: int,
    on_epoch: Callable[[int, float | None], None] | None = None,
) -> Finished:
    """Train any architecture for good and test it once; see `train_best`."""
    child = replace(child, widen=child.widen + config.final.widen)
    tuned = bool(extra.get("tuned"))
    rate = compile_plan(space, architecture, (1, 8, 8), 2, child).learning_rate
    recipe = final_recipe(config, recipe, None if tuned else rate)
    result = train_final(
        maker(space, architecture, child),
        config.data,
        recipe,
        seed=config.study.seed,
        child_seed=child_seed,
        opened=lambda: journal("open_test", {"by": "train", **extra}),
        device=config.execution.device,
        on_epoch=on_epoch,
    )
    record = {
        **extra,
        "test_accuracy": result.test_accuracy,
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "seconds": result.seconds,
        "recipe": dataclasses.asdict(recipe),
        "child": dataclasses.asdict(child),
    }
    journal("train", record)
    return Finished(space, architecture, child, recipe, result, record)


def check_file(
    config: Config, space: SearchSpace, architecture: Architecture, target: Path
) -> None:
    """Raise a `UsageError` where `train_file` could not go on; writes nothing."""
    check_folder(target)
    data = config.make_evaluator(space).data
    compile_plan(space, architecture, data.shape, len(data.classes), config.child)


def train_file(
    config: Config,
    space: SearchSpace,
    architecture: Architecture,
    name: str,
    target: Path,
    on_epoch: Callable[[int, float | None], None] | None = None,
) -> Finished:
    """Train an architecture that no study found; its journal is `target`/training.db."""
    target.mkdir(parents=True, exist_ok=True)
    store = SqlStore(sqlite_url(target / "training.db"))
    if not store.exists():
        store.create({"space": space.to_dict(), "seed": config.study.seed, "config": {}})
    try:
        return train_architecture(
            config,
            space,
            architecture,
            config.training,
            config.child,
            journal=store.add_event,
            extra={"architecture": name},
            child_seed=derive_seed(config.study.seed, 0, "final"),
            on_epoch=on_epoch,
        )
    finally:
        store.close()
