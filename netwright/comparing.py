"""`netwright compare`: controllers by seeds on one space and evaluator, with paired seeds."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.config import Config, config_from_dict, set_threads, with_settings
from netwright.controllers.making import CONTROLLERS, settings_of
from netwright.errors import ConfigError, StudyError
from netwright.executors.processes import ignore_interrupts
from netwright.interrupts import all_held
from netwright.machine import cores
from netwright.outcomes import best_so_far, read, read_run, write
from netwright.report.comparison import Measure, at_equal_cost, markdown, plot
from netwright.seeding import rng
from netwright.space import SearchSpace
from netwright.store import sqlite_url
from netwright.study import Study
from netwright.trial import cost_of
from netwright.workspace import check_folder
from netwright.writing import write_whole

Array = NDArray[Any]
HEADER, TABLES = "compare.json", "compare.md"
HEAD = {"identity": dict, "numerics": str, "data": dict}  # of the header; older ones lack data
BY_GRADIENT = ("policy_gradient", "ppo")  # whose batch is an update's
RANDOM = 1000  # architectures drawn for the average random one, where evaluations cost nothing


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search of a comparison: a controller, by its entry in compare.controllers, and a seed."""

    entry: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """What its files are called."""
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", self.entry)
        digest = hashlib.sha256(self.entry.encode()).hexdigest()[:6]
        return f"{label if label == self.entry else f'{label}-{digest}'}-{self.seed}"


def configured(config: Config, entry: str, seed: int) -> Config:
    """Return the configuration of one run; `entry` as in `CompareSettings.controllers`."""
    name, _, rest = entry.partition(":")
    settings = [f"controller.name={name}", f"study.seed={seed}"]
    if name not in BY_GRADIENT:
        batch = config.compare.batch
        settings += [f"controller.batch={batch}", f"controller.guided.batch={batch}"]
    for part in re.split(r",(?![^\[]*\])", rest) if rest else ():  # not within a list
        key = part.strip()
        _check_own(entry, name, key.partition("=")[0].strip())
        settings.append(f"controller.{key}")
    return config_from_dict(with_settings(config.to_dict(), settings), f"compare {entry}")


def _check_own(entry: str, name: str, key: str) -> None:
    """Raise a `ConfigError` for a setting that the controller `name` is not made of."""
    if name in CONTROLLERS and key.partition(".")[0] not in (own := settings_of(name)):
        remedy = f"guided.{key}" if name == "guided" else ", ".join(own[1:])
        raise ConfigError(
            f"an entry's settings must be those of its controller; {entry!r} sets {key}, which "
            f"{name} does not have; use {remedy}"
        )


def runs_of(config: Config) -> list[Run]:
    """Return every run, seed by seed; raises `ConfigError` for an entry that is none."""
    compare, first = config.compare, config.study.seed
    return [
        Run(entry=entry, seed=seed, config=configured(config, entry, seed))
        for seed in range(first, first + compare.seeds)
        for entry in compare.controllers
    ]


class Comparison:
    """A folder of runs: one JSON file each, written when it has ended.

    A run whose evaluations cost something keeps its study's journal beside it and goes on from
    there; one that costs nothing begins again.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.runs = runs_of(config)
        self._results: dict[str, dict[str, Any]] = {}  # of runs that have ended

    @cached_property
    def _space(self) -> SearchSpace:
        return self.config.make_space()

    def begin(self) -> None:
        """Make the folder, or check that it holds this comparison; raises `UsageError`."""
        check_folder(self.folder)
        data = self.config.prepare(self.config.make_evaluator(self._space))
        path = self.folder / HEADER
        identity = json.loads(json.dumps(_identity(self.config)))
        if path.exists():
            header = read(path, HEAD, {"data": {}})
            self._settle(header["numerics"])
            if header["identity"] != identity:
                raise StudyError(
                    f"a comparison goes on only as it began, but for its controllers, seeds and "
                    f"trials; {self.folder} holds another; use --out with another folder"
                )
            self.config.check_noted(header["data"], str(self.folder), data)
            (self.folder / "runs").mkdir(exist_ok=True)
            return
        self._settle("")
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        numerics = self.config.execution.numerics
        write(path, {"identity": identity, "numerics": numerics, "data": data})

    def _settle(self, numerics: str) -> None:
        """Let all runs be computed in one way, that of `numerics` or what is measured now."""
        self.config = self.config.settled(numerics)
        self.runs = runs_of(self.config)

    def missing(self) -> list[Run]:
        """Return the runs that have not come to their end."""
        return [run for run in self.runs if self._result(run) is None]

    def _path(self, run: Run) -> Path:
        return self.folder / "runs" / f"{run.name}.json"

    def _result(self, run: Run) -> dict[str, Any] | None:
        path = self._path(run)
        if run.name in self._results or not path.exists():
            return self._results.get(run.name)
        result = read_run(path, self._space)
        wanted, own = json.loads(json.dumps(_settings(run.config))), result["controller"]
        right = all(own.get(key) == wanted[key] for key in settings_of(run.config.controller.name))
        if right and len(result["rewards"]) >= self.config.study.trials:
            self._results[run.name] = result
        return self._results.get(run.name)

    def go_on(self, said: Callable[[str], None]) -> Iterator[Run]:
        """Yield each missing run when it has ended."""
        missing = self.missing()
        workers = self.config.execution.workers
        if self.config.instant and workers != 1 and len(missing) > 1:
            yield from self._together(missing, workers or cores())
            return
        if self.config.instant:
            for run in missing:
                write(self._path(run), instant_run(run))
                yield run
            return
        with self.config.execution.running(self.config.subject(), said) as (executor, choice):
            if choice:
                said(choice)
            for run in missing:
                storage = sqlite_url(self.folder / "runs" / f"{run.name}.db")
                study = run.config.make_study(storage)
                with closing(study.store):
                    study.run(self.config.study.trials, executor, say=said)
                    write(self._path(run), outcome(run, study))
                yield run

    def _together(self, missing: Sequence[Run], workers: int) -> Iterator[Run]:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=ignore_interrupts)
        try:
            with all_held():
                futures = {pool.submit(instant_run, run): run for run in missing}
            for future in as_completed(futures):
                write(self._path(futures[future]), future.result())
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)  # what runs ends, what waits does not begin

    # --- what came of it --------------------------------------------------------------------

    def write(self) -> dict[str, Any]:
        """Write tables and plots; return what `--json` prints. Every run must have ended."""
        measures, costs = self.measured()
        trials = self.config.study.trials
        at = sorted({n for n in self.config.compare.at if n < trials} | {trials})
        text = f"# {self.config.name}: {self.config.compare.seeds} paired seeds\n\n"
        text += "\n".join(markdown(measure, at) for measure in measures)
        if not self.config.instant:
            equal, labels = at_equal_cost(measures[0], costs)
            text += "\n" + markdown(equal, range(1, len(labels) + 1), labels=labels)
        average = self.average_random()
        if average is not None:
            text += (
                f"\nThe average random architecture: {average:.4f} ({self.config.metric.name}).\n"
            )
        written = [self.folder / TABLES]
        write_whole(written[0], text)
        plots = {
            f"{name}-trials": plot(measure)
            for name, measure in zip(("best", "regret"), measures, strict=False)
        }
        if not self.config.instant:
            plots["best-cost"] = plot(measures[0], costs)
        for name, svg in plots.items():
            written.append(self.folder / f"{name}.svg")
            write_whole(written[-1], svg)
        return {
            "files": [str(path) for path in written],
            "text": text,
            "measures": {
                m.name: {
                    entry: {str(n): _or_none(values[:, n - 1].mean()) for n in at}
                    for entry, values in m.values.items()
                }
                for m in measures
            },
            "average_random": average,
        }

    def measured(self) -> tuple[list[Measure], dict[str, Array]]:
        """Return the score, the judged regret where it is known, and the costs, by controller."""
        trials, metric = self.config.study.trials, self.config.metric
        results = [(run, self._ended(run)) for run in self.runs]
        judge = self.config.judge()
        scores: dict[str, list[Array]] = {}
        regrets: dict[str, list[Array]] = {}
        costs: dict[str, list[Array]] = {}
        for run, result in results:
            best = best_so_far(result["rewards"][:trials], result["scores"][:trials])
            own = np.array([np.nan if s is None else s for s in result["scores"]], dtype=float)
            scores.setdefault(run.entry, []).append(own[best])
            costs.setdefault(run.entry, []).append(np.cumsum(result["costs"][:trials]))
            if judge is not None:
                worth = {
                    n: judge.score(self._space.architecture(result["best"][str(n)]))
                    for n in set(best)
                }
                judged = np.array([worth[n] for n in best])
                gap = judged - judge.best if metric.lower else judge.best - judged
                regrets.setdefault(run.entry, []).append(gap)
        measures = [
            Measure(
                name=f"validation {metric.name}",
                lower=metric.lower,
                values={entry: np.stack(rows) for entry, rows in scores.items()},
            )
        ]
        if judge is not None:
            measures.append(
                Measure(
                    name=f"regret in {judge.name}",
                    lower=True,
                    values={entry: np.stack(rows) for entry, rows in regrets.items()},
                )
            )
        return measures, {entry: np.stack(rows) for entry, rows in costs.items()}

    def _ended(self, run: Run) -> dict[str, Any]:
        result = self._result(run)
        if result is None:
            raise StudyError(
                f"every run of a comparison must have ended; {run.name} in {self.folder} has "
                f"not; run netwright compare again"
            )
        return result

    def average_random(self) -> float | None:
        """Return the mean score of random architectures; None where none was trained whole."""
        config = self.config
        if config.instant:
            evaluator = config.make_evaluator(self._space)
            draws = rng(config.study.seed, 0, "average")
            drawn = [self._space.sample(draws) for _ in range(RANDOM)]
            found = [evaluator.evaluate(a, k, "cpu").score for k, a in enumerate(drawn)]
            return float(np.mean(found))
        if config.stopping.method != "none":
            return None  # the poor ones have no score
        random = [r for r in self.runs if r.config.controller.name == "random"]
        scores = [s for r in random for s in self._ended(r)["scores"][: config.study.trials]]
        found = [s for s in scores if s is not None]
        return float(np.mean(found)) if found else None


def instant_run(run: Run) -> dict[str, Any]:
    """Search from the beginning, with the journal in memory; return its outcome."""
    set_threads(run.config)
    study = run.config.make_study("sqlite://")
    with closing(study.store):
        study.run(run.config.study.trials)
        return outcome(run, study)


def outcome(run: Run, study: Study) -> dict[str, Any]:
    """Return what a comparison keeps of a search: numbers, and the architectures that led."""
    trials = study.trials[: run.config.study.trials]
    rewards = [float(trial.reward or 0.0) for trial in trials]
    scores = [trial.score if trial.stopped is None else None for trial in trials]
    leaders = sorted(set(best_so_far(rewards, scores)))
    return {
        "controller": _settings(run.config),
        "entry": run.entry,
        "seed": run.seed,
        "rewards": rewards,
        "scores": scores,
        "costs": [cost_of(trial) for trial in trials],
        "best": {str(n): dict(trials[n].architecture) for n in leaders},
    }


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _identity(config: Config) -> dict[str, Any]:
    """Return what all runs share: a configuration without controller and seed."""
    identity = config.identity()
    del identity["controller"], identity["study"]["seed"]
    return {"task": config.task, **identity}


def _settings(config: Config) -> dict[str, Any]:
    data: dict[str, Any] = config.to_dict()["controller"]
    return data


def check_entries(config: Config) -> None:
    """Raise a `UsageError` where a controller of the comparison cannot be made or is none."""
    runs = {entry: _sole(config, entry) for entry in config.compare.controllers}
    _check_apart(runs)
    space, trials = config.make_space(), config.study.trials
    for entry, run in runs.items():
        run.make_controller(space)
        population = run.controller.population
        if run.controller.name == "evolution" and population >= trials > 1:
            raise ConfigError(
                f"evolution's population must be below study.trials, or it is random search; "
                f"{entry!r} has {population} of {trials} trials; use evolution:population="
                f"{max(1, trials // 3)},sample={max(1, trials // 6)}"
            )


def _sole(config: Config, entry: str) -> Config:
    """Return a run's configuration; raises `ConfigError` for an entry that sets a name."""
    if re.search(r"[:,]\s*name\s*=", entry):
        raise ConfigError(
            f"an entry of compare.controllers names its controller before the colon; got "
            f"{entry!r}, which sets name after it; leave that out"
        )
    return configured(config, entry, config.study.seed)


def _check_apart(runs: Mapping[str, Config]) -> None:
    """Raise a `ConfigError` for an entry that is made of what another is."""
    seen: list[tuple[dict[str, Any], str]] = []
    for entry, run in runs.items():
        data = _settings(run)
        own = {key: data[key] for key in settings_of(data["name"])}
        like = next((other for settings, other in seen if settings == own), None)
        if like is not None:
            raise ConfigError(
                f"entries of compare.controllers must differ in what their controllers are made "
                f"of; {entry!r} is as {like!r}; leave one out"
            )
        seen.append((own, entry))
