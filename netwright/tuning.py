"""The small grid of training settings on the best few (paper, 4.1), on validation data."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from netwright.config import Config
from netwright.errors import ChildError
from netwright.executors.local import InProcess
from netwright.protocols import Evaluator, Executor, Store
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.study import Study
from netwright.trial import Evaluation

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


def tune(
    config: Config, study: Study, evaluator: Evaluator, executor: Executor | None = None
) -> Iterator[Mapping[str, Any]]:
    """Train the best few at every point of the grid, on validation data; yield each run's record.

    All runs of an architecture have one seed, another than its trial had: what was lucky in the
    search is not so again. Each is an event "tune" of the journal, in the grid's order whatever ran
    first; those that are there, trained as these, are not run again. Its "how" names what all runs
    share. executor: where they run, this process by default.
    """
    scalars = {k: v for k, v in tune_section(config).items() if isinstance(v, int | float)}
    how = digest_of([config.identity(), {**scalars, "top": None}, SEED])
    runs = []
    for number, point in tune_runs(config, study):
        seed = derive_seed(config.study.seed, number, SEED)
        runs.append(_Run(number, study.trial(number).architecture, point, seed))
    train = partial(_trained, config, evaluator, executor)
    return _tune(train, study.store, runs, {"how": how})


def tune_architecture(
    config: Config,
    store: Store,
    space: SearchSpace,
    architecture: Architecture,
    executor: Executor | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Like `tune` for one architecture that no study found; its events have trial 0."""
    seed = derive_seed(config.study.seed, 0, SEED)
    runs = [_Run(0, architecture, point, seed) for point in points(config, space)]
    train = partial(_trained, config, config.make_evaluator(space), executor)
    return _tune(train, store, runs, {})


def tune_section(config: Config) -> dict[str, Any]:
    """Return the section [tune]; those of images had no epochs of their own once."""
    section: dict[str, Any] = config.to_dict()["tune"]
    if config.task == "images" and not section["epochs"]:
        del section["epochs"]
    return section


def digest_of(data: Any) -> str:
    """Return 16 hex digits that name plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Run:
    """One architecture, of trial `number`, at one point of the grid."""

    number: int
    architecture: Architecture
    point: Point
    seed: int


@lru_cache(maxsize=1)
def _read(pickled: bytes) -> Evaluator:
    """Return the evaluator that all points of a grid have in a worker, so its data, too."""
    found: Evaluator = pickle.loads(pickled)
    return found


@dataclass(frozen=True)
class _AtPoint:
    """Trains at a point of the grid."""

    config: Config
    evaluator: Evaluator
    point: Point

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Train the architecture there; raises as evaluators do."""
        there = replace(self.config.execution, device=device, devices=())
        config = replace(self.config, execution=there)
        return config.evaluate_point(self.evaluator, architecture, self.point, seed)

    def __getstate__(self) -> tuple[Config, bytes, Point]:
        return self.config, pickle.dumps(self.evaluator), self.point

    def __setstate__(self, state: tuple[Config, bytes, Point]) -> None:
        config, pickled, point = state
        self.__dict__.update(config=config, evaluator=_read(pickled), point=point)


def _trained(
    config: Config, evaluator: Evaluator, executor: Executor | None, runs: Iterable[_Run]
) -> Iterator[Future[Evaluation]]:
    """Yield the trainings, finished, in order of `runs`: as many at once as there are workers."""
    executor = executor or InProcess(config.execution.here)
    left = deque(runs)
    begun: deque[Future[Evaluation]] = deque()
    while left or begun:
        busy = [future for future in begun if not future.done()]
        if left and len(busy) < executor.workers:
            run = left.popleft()
            there = _AtPoint(config, evaluator, run.point)
            begun.append(executor.submit(there, run.architecture, run.seed))
        elif not begun[0].done():
            wait(busy, return_when=FIRST_COMPLETED)
        while begun and begun[0].done():
            yield begun.popleft()


def _tune(
    train: Callable[[Iterable[_Run]], Iterator[Future[Evaluation]]],
    store: Store,
    runs: Sequence[_Run],
    extra: Mapping[str, Any],
) -> Iterator[Mapping[str, Any]]:
    """Yield the record of each run, from the journal where it is there.

    Runs of before another grid are noted again, so that the last of the journal are these.
    """
    how = extra.get("how")
    records = [event.payload for event in store.events("tune")]
    known = {_key(record): record for record in records if record.get("how") in (None, how)}
    last = not records or records[-1].get("how") == how
    given: list[dict[str, Any]] = [
        {"trial": run.number, "setting": run.point, **extra} for run in runs
    ]
    new = [run for run, record in zip(runs, given, strict=True) if _key(record) not in known]
    trained = train(new)
    for record in given:
        if _key(record) in known:
            if not last:
                store.add_event("tune", {**known[_key(record)], "how": how})
            yield known[_key(record)]
            continue
        try:
            result = next(trained).result()
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
