"""After the search and its grid (paper, 4.1): one training and one test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from netwright.config import Config
from netwright.errors import NetwrightError, StudyError
from netwright.protocols import Executor
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.spaces import digest
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.tasks.base import OnEpoch
from netwright.tasks.files import DESCRIPTION, WEIGHTS, noted
from netwright.tasks.results import Finished
from netwright.trial import Trial
from netwright.tuning import (
    Point,
    best_run,
    best_setting,
    digest_of,
    tune_architecture,
    tune_section,
)
from netwright.workspace import check_folder

JOURNAL = "training.db"  # of a training without a study


def train_best(config: Config, study: Study, on_epoch: OnEpoch | None = None) -> Finished:
    """Train the winner on training and validation data and test it once.

    The winner is `best_setting` where `tune` was run, else the best trial. The journal gets
    "open_test" before the test set is read, and "train" with the result.
    """
    trial, point, score, tuned = _winner(study)
    seed = derive_seed(study.seed, trial.number, "final")
    extra = {"trial": trial.number, "validation_score": score, "tuned": tuned}
    finished = train_architecture(
        config,
        study.space,
        trial.architecture,
        point=point,
        journal=study.store.add_event,
        extra={**extra, "setting": point} if point else extra,
        child_seed=seed,
        on_epoch=on_epoch,
    )
    return replace(finished, training=_name_of(config, study, trial, point))


def was_trained(study: Study) -> bool:
    """Say whether `train_best` has trained the winner, at any settings of the final training."""
    trial, point, _, _ = _winner(study)
    made = [(e.payload.get("trial"), e.payload.get("setting")) for e in study.events("train")]
    return (trial.number, point or None) in made


def check_best(config: Config, study: Study, target: Path) -> None:
    """Raise a `UsageError` where `train_best` could not go on to `target`; writes nothing."""
    check_folder(target)
    if (target / JOURNAL).exists():
        raise _another(target)
    trial, point, _, _ = _winner(study)
    _check_target(target, _name_of(config, study, trial, point))
    config.check_final(study.space, trial.architecture, study.evaluator)


def save(finished: Finished, target: Path) -> Path:
    """Save a network that was trained in `target`, and return that.

    Where another training has put its own there meanwhile it is a folder beside that.
    """
    try:
        _check_target(target, finished.training)
    except StudyError:
        target = target.with_name(f"{target.name}-{finished.training}")
    finished.save(target)
    return target


def holds_best(config: Config, study: Study, target: Path) -> bool:
    """Say whether `target` holds the network that `train_best` would train."""
    trial, point, _, _ = _winner(study)
    return bool(noted(target, "training") == _name_of(config, study, trial, point))


def _name_of(config: Config, study: Study, trial: Trial, point: Point) -> str:
    seed = derive_seed(study.seed, trial.number, "final")
    return training_name(config, study.space, trial.architecture, point, seed)


def _winner(study: Study) -> tuple[Trial, Point, float | None, bool]:
    """Return the trial to train, the point, its validation score, and whether it was tuned."""
    tuned = best_setting(study)
    if tuned is None:
        return study.best, None, study.best.score, False
    return study.trial(tuned[0]), tuned[1], tuned[2], True


def training_name(
    config: Config, space: SearchSpace, architecture: Architecture, point: Any, seed: int
) -> str:
    """Return 16 hex digits over all that a final training comes from, but where it runs.

    point: of the grid, None for the configuration's own; or the grid, where it comes first.
    """
    made_of = [config.identity(), config.to_dict().get("final"), digest(space, architecture)]
    return digest_of([*made_of, point, seed])


def _check_target(target: Path, name: str) -> None:
    """Raise `StudyError` where `target` holds the network of another training than `name`."""
    if any((target / file).exists() for file in (WEIGHTS, DESCRIPTION)) and (
        noted(target, "training") != name
    ):
        raise _another(target)


def _another(target: Path) -> StudyError:
    return StudyError(
        f"a folder holds one training; {target} holds that of another architecture or "
        f"other settings; use --out with another folder, or move that one away"
    )


def train_architecture(
    config: Config,
    space: SearchSpace,
    architecture: Architecture,
    *,
    point: Point,
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
    config: Config, space: SearchSpace, architecture: Architecture, target: Path, tune: bool
) -> None:
    """Raise a `UsageError` where `train_file` could not go on; writes nothing."""
    check_folder(target)
    if (target / JOURNAL).exists():
        _training_journal(config, space, architecture, target).close()
    _check_target(target, _file_name(config, space, architecture, tune))
    config.check_final(space, architecture)


def tests_opened(target: Path) -> int:
    """Return how often a training without a study, in `target`, opened the test data."""
    with closing(SqlStore(sqlite_url(target / JOURNAL), must_exist=True)) as store:
        return len(store.events("open_test"))


def _file_name(config: Config, space: SearchSpace, architecture: Architecture, tune: bool) -> str:
    grid = tune_section(config) if tune else None
    seed = derive_seed(config.study.seed, 0, "final")
    return training_name(config, space, architecture, grid, seed)


def train_file(
    config: Config,
    space: SearchSpace,
    architecture: Architecture,
    called: str,
    target: Path,
    on_epoch: OnEpoch | None = None,
    on_tune: Callable[[Mapping[str, Any]], None] | None = None,
    workers: Callable[[], AbstractContextManager[Executor]] | None = None,
) -> Finished:
    """Train an architecture that no study found; its journal is `target`/training.db.

    With `on_tune`, which gets the record of each run, the grid comes first, and the final training
    takes its best point. workers: give what trains the grid, by default this process. A run that
    was cut off goes on. Raises `StudyError` where the folder holds the training of something else.
    """
    with closing(_training_journal(config, space, architecture, target)) as store:
        config = config.settled(str(store.header().get("notes", {}).get("numerics", "")))
        point = None
        extra: dict[str, Any] = {"architecture": called, "tuned": on_tune is not None}
        if on_tune is not None:
            records = []
            with workers() if workers else nullcontext() as executor:
                for record in tune_architecture(config, store, space, architecture, executor):
                    records.append(record)
                    on_tune(record)
            best = best_run(records)
            if best is None:
                raise NetwrightError(f"all {len(records)} runs of the grid failed at {target}")
            point = best["setting"]
            extra |= {"validation_score": best["score"], **({"setting": point} if point else {})}
        finished = train_architecture(
            config,
            space,
            architecture,
            point=point,
            journal=store.add_event,
            extra=extra,
            child_seed=derive_seed(config.study.seed, 0, "final"),
            on_epoch=on_epoch,
        )
    name = _file_name(config, space, architecture, on_tune is not None)
    return replace(finished, training=name)


def _training_journal(
    config: Config, space: SearchSpace, architecture: Architecture, target: Path
) -> SqlStore:
    header = {
        "space": space.to_dict(),
        "architecture": digest(space, architecture),
        "seed": config.study.seed,
        "config": {**config.identity(), "tune": tune_section(config)},
    }
    target.mkdir(parents=True, exist_ok=True)
    store = SqlStore(sqlite_url(target / JOURNAL))
    if not store.exists():
        notes = {"numerics": config.settled().execution.numerics}
        store.create({**header, "notes": notes})
    elif any(store.header().get(key) != json.loads(json.dumps(header[key])) for key in header):
        store.close()
        raise _another(target)
    return store
