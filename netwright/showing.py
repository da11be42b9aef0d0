"""What `netwright show` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netwright.config import Config, config_from_dict, task_of, with_settings
from netwright.errors import StudyError, UsageError
from netwright.space import Architecture, SearchSpace
from netwright.spaces import load_architecture, shipped
from netwright.study import Study
from netwright.tasks.results import Shown
from netwright.trial import Trial, TrialState
from netwright.workspace import Workspace


def named(what: str, config: Config | None = None) -> tuple[str, SearchSpace, Architecture]:
    """Return (name, space, architecture) of what `--cell` and `--architecture` take.

    A shipped name ("v1", "nascell", "lstm", "gru"), an architecture file, or a study's trial:
    FOLDER:best or FOLDER:NUMBER. config: what is to train it, for the names in errors.
    """
    if what not in shipped() and Path(what).is_dir():
        raise UsageError(
            f"a study's trial must be FOLDER:best or FOLDER:NUMBER; got {what!r}; use "
            f"{what.rstrip('/')}:best"
        )
    place = _of_study(what)
    if place is None:
        kinds = () if config is None else config.trains
        return (what if what in shipped() else Path(what).stem, *load_architecture(what, kinds))
    folder, number = place
    _, study = Workspace(folder).open()
    trial = trained(folder, study, number)
    return f"{folder.name}-{trial.number}", study.space, trial.architecture


def _of_study(what: str) -> tuple[Path, int | None] | None:
    """Return folder and number (None: the best) of FOLDER:best or FOLDER:NUMBER, else None."""
    folder, colon, which = what.rpartition(":")
    if not colon or not Path(folder).is_dir() or Path(what).exists():
        return None
    if which != "best" and not which.isdecimal():
        raise UsageError(
            f"a study's trial must be FOLDER:best or FOLDER:NUMBER; got {what!r}; see netwright top"
        )
    return Path(folder), None if which == "best" else int(which)


def trained(folder: Path, study: Study, number: int | None) -> Trial:
    """Return a trial that has ended, the best one for None; raises `StudyError` for others."""
    trial = study.best if number is None else study.trial(number)
    if trial.state is TrialState.RUNNING:
        raise StudyError(
            f"a trial must have been trained; trial {trial.number} of {folder} was only proposed; "
            f"go on with netwright resume {folder}, or take one of netwright top {folder}"
        )
    return trial


def resolve(what: str, trial: int | None, settings: Sequence[str]) -> Shown:
    """Return what a command line names: a study's trial (its best without one), or a file.

    FOLDER:best and FOLDER:NUMBER name a trial too. A file is shown for data as the paper's, by the
    task that searches its kind of space. `settings` may set child.*.
    """
    place = None if trial is not None else _of_study(what)
    if place is not None:
        return _shown(*place, settings)
    if what in shipped() or not Path(what).is_dir():
        if trial is not None:
            raise UsageError(
                f"a trial number goes with a study's folder; got {what!r}; leave it out"
            )
        space, architecture = load_architecture(what)
        config = config_from_dict(with_settings({"task": task_of(space)}, settings), "--set")
        return config.show(what, space, architecture, None)
    return _shown(Path(what), trial, settings)


def _shown(folder: Path, trial: int | None, settings: Sequence[str]) -> Shown:
    config, study = Workspace(folder).open()
    found = trained(folder, study, trial)
    changed = config_from_dict(with_settings(config.to_dict(), settings), "--set")
    score = (
        f"validation {config.metric.name} {found.score:.4f}"
        if found.score is not None
        else str(found.state)
    )
    if found.stopped is not None:
        after = f"epoch {found.stopped}" if found.stopped else "its short training"
        score += f" when it was stopped after {after}"
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
