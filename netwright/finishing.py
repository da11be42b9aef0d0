"""After the search (paper, 4.1): the small grid on the best few, then one training and one test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from netwright.config import Config
from netwright.errors import ChildError
from netwright.protocols import Evaluator
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.tasks.base import OnEpoch
from netwright.tasks.results import Finished
from netwright.workspace import check_folder


def tune_runs(config: Config, study: Study) -> list[tuple[int, dict[str, Any]]]:
    """Return the runs of the grid, (trial number, point), in order."""
    return [(t.number, p) for t in study.top(config.tune_top) for p in config.grid()]


def tune(config: Config, study: Study, evaluator: Evaluator) -> Iterator[Mapping[str, Any]]:
    """Train the best few at every point of the grid, on validation data; yield each run's record.

    Each run is an event "tune" of the journal; those that are there are not run again.
    """
    known = {_key(event.payload): event.payload for event in study.events("tune")}
    for number, point in tune_runs(config, study):
        record: dict[str, Any] = {"trial": number, "setting": point}
        if _key(record) in known:
            yield known[_key(record)]
            continue
        trial = study.trial(number)
        try:
            result = config.evaluate_point(evaluator, trial.architecture, point, trial.seed)
            record |= {"score": result.score, "reward": result.reward, "cost": result.cost}
        except ChildError as error:
            record |= {"score": None, "failure": str(error)}
        study.store.add_event("tune", record)
        yield record


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record["trial"], record["setting"]], sort_keys=True)


def best_run(records: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the record of the best run of the grid, the earliest of equals; None without one.

    It goes by the reward; journals of images written before it was noted have only the score.
    """
    runs = [record for record in records if record["score"] is not None]
    by = "reward" if all("reward" in run for run in runs) else "score"
    return max(runs, key=lambda run: float(run[by]), default=None)


def best_setting(study: Study) -> tuple[int, Mapping[str, Any], float] | None:
    """Return (trial, point, validation score) of the best run of the grid, None without one."""
    best = best_run(event.payload for event in study.events("tune"))
    return None if best is None else (int(best["trial"]), best["setting"], float(best["score"]))


def train_best(config: Config, study: Study, on_epoch: OnEpoch | None = None) -> Finished:
    """Train the winner on training and validation data and test it once.

    The winner is the best run of the grid where `tune` was run, else the best trial. The journal
    gets "open_test" before the test set is read, and "train" with the result.
    """
    tuned = best_setting(study)
    trial = study.best if tuned is None else study.trial(tuned[0])
    score = trial.score if tuned is None else tuned[2]
    return train_architecture(
        config,
        study.space,
        trial.architecture,
        point=None if tuned is None else tuned[1],
        journal=study.store.add_event,
        extra={"trial": trial.number, "validation_score": score, "tuned": tuned is not None},
        child_seed=derive_seed(study.seed, trial.number, "final"),
        on_epoch=on_epoch,
    )


def train_architecture(
    config: Config,
    space: SearchSpace,
    architecture: Architecture,
    *,
    point: Mapping[str, Any] | None,
    journal: Callable[[str, Mapping[str, Any]], None],
    extra: Mapping[str, Any],
    child_seed: int,
    on_epoch: OnEpoch | None = None,
) -> Finished:
    """Train any architecture for good and test it once; see `train_best`.

    point: of the grid, or None. extra: what else the journal notes of it.
    """
    finished = config.train_final(
        space,
        architecture,
        point=point,
        child_seed=child_seed,
        opened=lambda: journal("open_test", {"by": "train", **extra}),
        on_epoch=on_epoch,
    )
    finished = replace(finished, record={**extra, **finished.record})
    journal("train", finished.record)
    return finished


def check_file(
    config: Config, space: SearchSpace, architecture: Architecture, target: Path
) -> None:
    """Raise a `UsageError` where `train_file` could not go on; writes nothing."""
    check_folder(target)
    config.check_final(space, architecture)


def train_file(
    config: Config,
    space: SearchSpace,
    architecture: Architecture,
    name: str,
    target: Path,
    on_epoch: OnEpoch | None = None,
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
            point=None,
            journal=store.add_event,
            extra={"architecture": name},
            child_seed=derive_seed(config.study.seed, 0, "final"),
            on_epoch=on_epoch,
        )
    finally:
        store.close()
