"""A study of Netwright's written as a study of Optuna's, for optuna-dashboard and the like."""

from __future__ import annotations

import datetime
import warnings
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from netwright.errors import StudyError
from netwright.journal.database import first_line, hidden, parse
from netwright.protocols import Store
from netwright.space import Choice, SearchSpace
from netwright.spaces import space_from_dict
from netwright.study import Study
from netwright.trial import Trial, TrialState

DATABASE = (SQLAlchemyError, optuna.exceptions.StorageInternalError)


def export_study(study: Study | Store, storage_url: str, name: str) -> int:
    """Write the finished trials to a new Optuna study `name`; return how many.

    study: a study, or the journal of one whose space a file can name.
    storage_url: of a database, such as "sqlite:///optuna.db"; it may hold other Optuna studies.

    A choice becomes a categorical parameter; a connection decision one boolean parameter for each
    source it might take, "DECISION <- SOURCE". The value is the reward, which is maximised. Score,
    seed, failure and the like are user attributes, the curve the intermediate values, by epoch from
    1. Trials keep their order, times and, where none is still running, their numbers. Optuna writes
    one parameter at a time, some 3 ms each: a trial of 15 layers with all their connections, 180
    parameters, takes half a second.

    Raises `StudyError` where the database cannot be written, holds a study `name` or is a journal.
    """
    store = study.store if isinstance(study, Study) else study
    header = store.header()
    space = study.space if isinstance(study, Study) else space_from_dict(header["space"])
    trials = [t for t in store.trials(space) if t.state is not TrialState.RUNNING]
    if parse(storage_url) is None:
        raise _unwritable(storage_url, "it is no URL of a database")
    try:
        _check_no_journal(storage_url)
        storage = optuna.storages.RDBStorage(storage_url)
    except (*DATABASE, ImportError, ValueError, RuntimeError) as error:
        raise _unwritable(storage_url, first_line(error)) from error
    try:
        _write(storage, name, storage_url, header, [_frozen(trial, space) for trial in trials])
    except DATABASE as error:
        raise _unwritable(storage_url, first_line(error)) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return len(trials)


def _check_no_journal(url: str) -> None:
    """Raise `StudyError` where Netwright's own tables are there, of which one is Optuna's too."""
    engine = sa.create_engine(url)
    try:
        there = set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if {"header", "events", "trials"} <= there:
        raise StudyError(
            f"an Optuna study needs a database without a study of Netwright's; {hidden(url)!r} "
            f"holds one; use another, such as sqlite:///optuna.db"
        )


def _unwritable(url: str, why: str) -> StudyError:
    return StudyError(
        f"an Optuna study needs a database that can be written; got {hidden(url)!r} "
        f"({why[:160]}); use a URL such as sqlite:///optuna.db"
    )


def _write(
    storage: optuna.storages.RDBStorage,
    name: str,
    url: str,
    header: dict[str, Any],
    trials: list[FrozenTrial],
) -> None:
    """Write all or nothing."""
    try:
        made = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    except optuna.exceptions.DuplicatedStudyError as error:
        raise StudyError(
            f"an export needs a study name of its own; {hidden(url)} holds {name!r}; choose "
            f"another name, or delete that study"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made.set_metric_names(["reward"])
        for key in ("seed", "fingerprint", "controller", "versions"):
            if key in header:
                made.set_user_attr(f"netwright.{key}", header[key])
        made.add_trials(trials)
    except BaseException:
        optuna.delete_study(study_name=name, storage=storage)
        raise


STATES = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.STOPPED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


def _frozen(trial: Trial, space: SearchSpace) -> FrozenTrial:
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, value in trial.architecture.items():
        decision = space[name]
        if isinstance(decision, Choice):
            params[name] = value
            distributions[name] = CategoricalDistribution(decision.options)
            continue
        for source in space.sources(decision, trial.architecture):
            key = f"{name} <- {source}"
            params[key] = source in value  # type: ignore[operator]
            distributions[key] = CategoricalDistribution((False, True))
    evaluation = trial.evaluation
    state = STATES[trial.state]
    frozen = optuna.trial.create_trial(
        state=state,
        value=trial.reward if trial.completed else None,
        params=params,
        distributions=distributions,
        user_attrs=_attributes(trial),
        intermediate_values=dict(enumerate(evaluation.curve, 1)) if evaluation else {},
    )
    frozen.datetime_start = datetime.datetime.fromtimestamp(trial.started)
    frozen.datetime_complete = datetime.datetime.fromtimestamp(trial.finished or trial.started)
    return frozen


def _attributes(trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": trial.number,
        "batch": trial.batch,
        "seed": trial.seed,
        "score": trial.score,
        "failure": trial.failure,
        "log_prob": trial.log_prob,
        "duplicate_of": trial.duplicate_of,
        "given": dict(trial.given) or None,
    }
    if trial.evaluation is not None:
        found |= {"cost": trial.evaluation.cost, "parameters": trial.evaluation.parameters}
        found |= trial.evaluation.details
    return {key: value for key, value in found.items() if value is not None}
