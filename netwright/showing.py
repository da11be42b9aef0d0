"""What `netwright show` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netwright.config import Config, config_from_dict, task_of, with_settings
from netwright.errors import StudyError, UsageError
from netwright.journal.database import hidden
from netwright.space import Architecture, SearchSpace
from netwright.spaces import load_architecture, shipped
from netwright.study import Study
from netwright.tasks.results import Shown
from netwright.trial import Trial, TrialState
from netwright.workspace import Workspace, is_url


def named(what: str, config: Config | None = None) -> tuple[str, SearchSpace, Architecture]:
    """Return (name, space, architecture) of what `--cell` and `--architecture` take.

    A shipped name ("v1", "nascell", "lstm", "gru"), an architecture file, or a study's trial:
    STUDY:best or STUDY:NUMBER. config: what is to train it, for the names in errors.
    """
    of = _of_study(what)
    if of is None and what not in shipped() and _is_study(what):
        name = Workspace(what).name
        raise UsageError(
            f"a study's trial must be STUDY:best or STUDY:NUMBER; got {name!r}; use "
            f"{name.rstrip('/')}:best"
        )
    if of is None:
        kinds = () if config is None else config.trains
        return (what if what in shipped() else Path(what).stem, *load_architecture(what, kinds))
    place, number = of
    _, study = place.open()
    trial = _trained(place, study, number)
    return f"{place.folder.name}-{trial.number}", study.space, trial.architecture


def said(what: str) -> str:
    """Return what `named` takes for messages, a URL without its password."""
    of = _of_study(what)
    if of is None:
        return hidden(what)
    place, number = of
    return f"{place.name}:{'best' if number is None else number}"


def _is_study(what: str) -> bool:
    return is_url(what) or Path(what).is_dir()


def _of_study(what: str) -> tuple[Workspace, int | None] | None:
    """Return study and number (None: the best) of STUDY:best or STUDY:NUMBER, else None."""
    where, colon, which = what.rpartition(":")
    sound = which == "best" or which.isdecimal()
    if is_url(what):  # whose last colon may be a port's
        if not sound or "/" not in where.partition("://")[2]:
            return None
    elif not colon or not Path(where).is_dir() or Path(what).exists():
        return None
    elif not sound:
        raise UsageError(
            f"a study's trial must be STUDY:best or STUDY:NUMBER; got {what!r}; see netwright top"
        )
    return Workspace(where), None if which == "best" else int(which)


def _trained(place: Workspace, study: Study, number: int | None) -> Trial:
    """Return a trial that has ended, the best one for None; raises `StudyError` for others."""
    trial = study.best if number is None else study.trial(number)
    if trial.state is TrialState.RUNNING:
        raise StudyError(
            f"a trial must have been trained; trial {trial.number} of {place.name} was only "
            f"proposed; go on with netwright resume {place.name}, or take one of netwright top "
            f"{place.name}"
        )
    return trial


def resolve(what: str, trial: int | None, settings: Sequence[str]) -> Shown:
    """Return what a command line names: a study's trial (its best without one), or a file.

    STUDY:best and STUDY:NUMBER name a trial too. A file is shown for data as the paper's, by the
    task that searches its kind of space. `settings` may set child.*.
    """
    of = None if trial is not None else _of_study(what)
    if of is not None:
        return _shown(*of, settings)
    if what in shipped() or not _is_study(what):
        if trial is not None:
            raise UsageError(f"a trial number goes with a study; got {what!r}; leave it out")
        space, architecture = load_architecture(what)
        config = config_from_dict(with_settings({"task": task_of(space)}, settings), "--set")
        return config.show(what, space, architecture, None)
    return _shown(Workspace(what), trial, settings)


def _shown(place: Workspace, trial: int | None, settings: Sequence[str]) -> Shown:
    config, study = place.open()
    found = _trained(place, study, trial)
    changed = config_from_dict(with_settings(config.to_dict(), settings), "--set")
    score = (
        f"validation {config.metric.name} {found.score:.4f}"
        if found.score is not None
        else str(found.state)
    )
    if found.stopped is not None:
        after = f"epoch {found.stopped}" if found.stopped else "its short training"
        score += f" when it was stopped after {after}"
    elif found.evaluation is not None and found.evaluation.short:
        score += " after a short training"
    title = f"{config.name}: trial {found.number}, {score}"
    return changed.show(title, study.space, found.architecture, study.store.header()["notes"])


def row_of(trial: Trial) -> dict[str, Any]:
    """Return a trial as `--json` prints it."""
    evaluation = trial.evaluation
    return {
        "trial": trial.number,
        "state": str(trial.state),
        "score": trial.score,
        "reward": trial.reward,
        "parameters": evaluation.parameters if evaluation else None,
        "cost_s": evaluation.cost if evaluation else None,
        "curve": list(evaluation.curve) if evaluation else [],
        "stopped_after": trial.stopped,
        "duplicate_of": trial.duplicate_of,
        "failure": trial.failure,
        "architecture": dict(trial.architecture),
    }
