"""What `netwright show` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netwright.config import config_from_dict, task_of, with_settings
from netwright.errors import UsageError
from netwright.space import Architecture, SearchSpace
from netwright.spaces import load_architecture, shipped
from netwright.tasks.results import Shown
from netwright.trial import Trial
from netwright.workspace import Workspace


def named(what: str) -> tuple[str, SearchSpace, Architecture]:
    """Return (name, space, architecture) of what `--cell` and `--architecture` take.

    A shipped name ("v1", "nascell", "lstm", "gru"), an architecture file, or a study's trial:
    FOLDER:best or FOLDER:NUMBER.
    """
    folder, colon, which = what.rpartition(":")
    if not colon or not Path(folder).is_dir() or Path(what).is_file():
        return (what if what in shipped() else Path(what).stem, *load_architecture(what))
    if which != "best" and not which.isdecimal():
        raise UsageError(
            f"a study's trial must be FOLDER:best or FOLDER:NUMBER; got {what!r}; see netwright top"
        )
    _, study = Workspace(folder).open()
    trial = study.best if which == "best" else study.trial(int(which))
    name = f"{Path(folder).name}-{trial.number}"
    return name, study.space, trial.architecture


def resolve(what: str, trial: int | None, settings: Sequence[str]) -> Shown:
    """Return what a command line names: a study's trial (its best without one), or a file.

    A file is shown for data as the paper's, by the task that searches its kind of space.
    `settings` may set child.*.
    """
    if what in shipped() or not Path(what).is_dir():
        if trial is not None:
            raise UsageError(
                f"a trial number goes with a study's folder; got {what!r}; leave it out"
            )
        space, architecture = load_architecture(what)
        config = config_from_dict(with_settings({"task": task_of(space)}, settings), "--set")
        return config.show(what, space, architecture, None)
    config, study = Workspace(what).open()
    found = study.best if trial is None else study.trial(trial)
    changed = config_from_dict(with_settings(config.to_dict(), settings), "--set")
    score = (
        f"validation {config.metric.name} {found.score:.4f}"
        if found.score is not None
        else str(found.state)
    )
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
        "duplicate_of": trial.duplicate_of,
        "failure": trial.failure,
        "architecture": dict(trial.architecture),
    }
