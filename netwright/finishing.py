"""After the search (paper, 4.1): the small grid on the best few, then one training and one test."""

from __future__ import annotations

import hashlib
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
from netwright.tasks.files import DESCRIPTION, WEIGHTS, noted
from netwright.tasks.results import Finished
from netwright.trial import Trial
from netwright.workspace import check_folder

JOURNAL = "training.db"  # of a training without a study
SEED = "tune"  # what the seeds of the grid's runs are derived for

Point = Mapping[str, Any] | None  # of the grid; None stands for the configuration's own settings


def points(config: Config, space: SearchSpace) -> list[Point]:
    """Return the grid, and the configuration's own settings where they are none of it.

    space: the architecture's, whose own learning rate, if it has one, is none of the grid.
    """
    grid: list[Point] = [*config.grid()]
    own = not config.rated(space) and any(config.at(point) == config.at(None) for point in grid)
    return grid if own else [*grid, None]


def tune_runs(config: Config, study: Study) -> list[tuple[int, Point]]:
    """Return the runs of the grid, (trial number, point), in order."""
    tried = points(config, study.space)
    return [(trial.number, point) for trial in study.top(config.tune_top) for point in tried]


def tune(config: Config, study: Study, evaluator: Evaluator) -> Iterator[Mapping[str, Any]]:
    """Train the best few at every point of the grid, on validation data; yield each run's record.

    All runs of an architecture have one seed, another than its trial had: what was lucky in the
    search is not so again. Each is an event "tune" of the journal; those that are there, trained
    as these, are not run again. Its "how" names what all runs share.
    """
    scalars = {k: v for k, v in _section(config).items() if isinstance(v, int | float)}
    how = _digest([config.identity(), {**scalars, "top": None}, SEED])
    runs = []
    for number, point in tune_runs(config, study):
        seed = derive_seed(config.study.seed, number, SEED)
        runs.append(_Run(number, study.trial(number).architecture, point, seed))
    return _tune(config, study.store, evaluator, runs, {"how": how})


def _section(config: Config) -> dict[str, Any]:
    """Return the section [tune]; those of images had no epochs of their own once."""
    section: dict[str, Any] = config.to_dict()["tune"]
    if config.task == "images" and not section["epochs"]:
        del section["epochs"]
    return section


def tune_architecture(
    config: Config, store: Store, space: SearchSpace, architecture: Architecture
) -> Iterator[Mapping[str, Any]]:
    """Like `tune` for one architecture that no study found; its events have trial 0."""
    seed = derive_seed(config.study.seed, 0, SEED)
    runs = [_Run(0, architecture, point, seed) for point in points(config, space)]
    return _tune(config, store, config.make_evaluator(space), runs, {})


@dataclass(frozen=True)
class _Run:
    """One architecture, of trial `number`, at one point of the grid."""

    number: int
    architecture: Architecture
    point: Point
    seed: int


def _tune(
    config: Config,
    store: Store,
    evaluator: Evaluator,
    runs: Iterable[_Run],
    extra: Mapping[str, Any],
) -> Iterator[Mapping[str, Any]]:
    """Yield the record of each run, from the journal where it is there.

    Runs of before another grid are noted again, so that the last of the journal are these.
    """
    how = extra.get("how")
    records = [event.payload for event in store.events("tune")]
    known = {_key(record): record for record in records if record.get("how") in (None, how)}
    last = not records or records[-1].get("how") == how
    for run in runs:
        record: dict[str, Any] = {"trial": run.number, "setting": run.point, **extra}
        if _key(record) in known:
            if not last:
                store.add_event("tune", {**known[_key(record)], "how": how})
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


def best_setting(study: Study) -> tuple[int, Point, float] | None:
    """Return (trial, point, validation score) of the best run of the grid, None without one.

    Of grids that were trained differently the last one counts.
    """
    records = [event.payload for event in study.events("tune")]
    how = records[-1].get("how") if records else None
    best = best_run(record for record in records if record.get("how") == how)
    if best is None:
        return None
    return int(best["trial"]), best["setting"], float(best["score"])


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


def place_for(target: Path, training: str) -> Path:
    """Return where a network that is trained is saved: `target`.

    Where another training has put its own there meanwhile it is a folder beside that.
    """
    try:
        _check_target(target, training)
    except StudyError:
        return target.with_name(f"{target.name}-{training}")
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
    return _digest([*made_of, point, seed])


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


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
    grid = _section(config) if tune else None
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
) -> Finished:
    """Train an architecture that no study found; its journal is `target`/training.db.

    With `on_tune`, which gets the record of each run, the grid comes first and the final training
    takes its best point. A run that was cut off goes on. Raises `StudyError` where the folder holds
    the training of something else.
    """
    with closing(_training_journal(config, space, architecture, target)) as store:
        config = config.settled(str(store.header().get("notes", {}).get("numerics", "")))
        point = None
        extra: dict[str, Any] = {"architecture": called, "tuned": on_tune is not None}
        if on_tune is not None:
            records = []
            for record in tune_architecture(config, store, space, architecture):
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
        "config": {**config.identity(), "tune": _section(config)},
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
