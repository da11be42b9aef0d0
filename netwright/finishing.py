"""After the search (paper, 4.1): the small grid on the best few, then one training and one test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netwright.config import Config
from netwright.errors import ChildError, NetwrightError, StudyError
from netwright.protocols import Evaluator, Store
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.spaces import digest
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
    runs = []
    for number, point in tune_runs(config, study):
        trial = study.trial(number)
        runs.append(_Run(number, trial.architecture, point, trial.seed))
    return _tune(config, study.store, evaluator, runs)


def tune_architecture(
    config: Config, store: Store, space: SearchSpace, architecture: Architecture
) -> Iterator[Mapping[str, Any]]:
    """Like `tune` for one architecture that no study found; its events have trial 0."""
    seed = derive_seed(config.study.seed, 0, "tune")
    runs = [_Run(0, architecture, point, seed) for point in config.grid()]
    return _tune(config, store, config.make_evaluator(space), runs)


@dataclass(frozen=True)
class _Run:
    """One architecture, of trial `number`, at one point of the grid."""

    number: int
    architecture: Architecture
    point: Mapping[str, Any]
    seed: int


def _tune(
    config: Config, store: Store, evaluator: Evaluator, runs: Iterable[_Run]
) -> Iterator[Mapping[str, Any]]:
    """Yield the record of each run, from the journal where it is there."""
    known = {_key(event.payload): event.payload for event in store.events("tune")}
    for run in runs:
        record: dict[str, Any] = {"trial": run.number, "setting": run.point}
        if _key(record) in known:
            yield known[_key(record)]
            continue
        try:
            result = config.evaluate_point(evaluator, run.architecture, run.point, run.seed)
            record |= {"score": result.score, "reward": result.reward, "cost": result.cost}
        except ChildError as error:
            record |= {"score": None, "failure": str(error)}
        store.add_event("tune", record)
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
    on_tune: Callable[[Mapping[str, Any]], None] | None = None,
) -> Finished:
    """Train an architecture that no study found; its journal is `target`/training.db.

    With `on_tune`, which gets the record of each run, the grid comes first and the final training
    takes its best point. A run that was cut off goes on. Raises `StudyError` where the folder holds
    the training of something else.
    """
    with closing(_training_journal(config, space, architecture, target)) as store:
        point, extra = None, {"architecture": name, "tuned": on_tune is not None}
        if on_tune is not None:
            records = []
            for record in tune_architecture(config, store, space, architecture):
                records.append(record)
                on_tune(record)
            best = best_run(records)
            if best is None:
                raise NetwrightError(f"all {len(records)} runs of the grid failed at {target}")
            point, extra["validation_score"] = best["setting"], best["score"]
        return train_architecture(
            config,
            space,
            architecture,
            point=point,
            journal=store.add_event,
            extra=extra,
            child_seed=derive_seed(config.study.seed, 0, "final"),
            on_epoch=on_epoch,
        )


def _training_journal(
    config: Config, space: SearchSpace, architecture: Architecture, target: Path
) -> SqlStore:
    header = {
        "space": space.to_dict(),
        "architecture": digest(space, architecture),
        "seed": config.study.seed,
        "config": {**config.identity(), "tune": config.to_dict()["tune"]},
    }
    target.mkdir(parents=True, exist_ok=True)
    store = SqlStore(sqlite_url(target / "training.db"))
    if not store.exists():
        store.create(header)
    elif any(store.header().get(key) != json.loads(json.dumps(header[key])) for key in header):
        store.close()
        raise StudyError(
            f"a folder holds one training; {target} holds that of another architecture or "
            f"configuration; use --out with another folder"
        )
    return store
