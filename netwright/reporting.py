"""Gathers what the report shows of a study, from its journal alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netwright import finishing
from netwright.config import Config
from netwright.errors import StudyError
from netwright.network import holds
from netwright.report.page import ReportData, write_report
from netwright.study import Study
from netwright.trial import Trial
from netwright.workspace import Workspace


def _check_control(config: Config, control: Config, place: str, other: str) -> None:
    """Raise `StudyError` where the scores of two studies are not to be compared."""
    if config.metric != control.metric:
        raise StudyError(
            f"a control must have the same scores, {config.metric.name}; {other} has "
            f"{control.metric.name}; run it with the same [data]"
        )
    ours, theirs = (_plain(c.to_dict()) for c in (config, control))
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise StudyError(
                f"a control must be trained and scored as the study was; {key} is {value!r} in "
                f"{place} and {theirs.get(key)!r} in {other}; run it with "
                f"--set {key}={value}"
            )


def _check_data(study: Study, control: Study, place: str, other: str) -> None:
    """Raise `StudyError` where both note what they were scored on, and it is not the same."""
    ours, theirs = (s.store.header().get("notes", {}).get("digest") for s in (study, control))
    if ours and theirs and ours != theirs:
        raise StudyError(
            f"a control must be scored on the same data; {other} was searched on other ones, or on "
            f"another split of them (study.seed), than {place}; run it with the same"
        )


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scores depend on as "section.key"; equal places of data are equal."""
    found: dict[str, Any] = {"task": data["task"]}
    for section in ("data", "child", "training"):
        found |= {f"{section}.{key}": value for key, value in data.get(section, {}).items()}
    for key in ("data.source", "data.table"):
        if found.get(key) and Path(found[key]).exists():
            found[key] = str(Path(found[key]).resolve())
    return found


def _commands(place: Workspace, config: Config, study: Study) -> list[tuple[str, str]]:
    """Return the commands that are still worth giving, and what each does."""
    name = shlex.quote(place.name)
    if len(study) < config.study.trials:
        found = [(f"netwright resume {name}", "go on with the search")]
    else:
        further = f"netwright resume {name} --trials {2 * len(study)}"
        found = [(further, "search as much again")]
    if not study.top(1):
        return found
    trained = finishing.was_trained(study)
    if not trained:
        what = "train the winner on all training data and test it once"
        found.append((f"netwright train {name}", what))
    network, said = _network(place, study) if trained else (name, "")
    what = f"write the trained network for other programs{said}"
    found.append((f"netwright export {network}", what))
    if trained:
        found.append((f"netwright predict {network} FILES", "use it; FILES: one, or a folder"))
    return found


def _network(place: Workspace, study: Study) -> tuple[str, str]:
    """Return how commands name the network that was trained last, and what explains the name."""
    last = study.events("train")[-1:]
    if holds(place.network, last):
        return shlex.quote(place.name), ""
    for event in reversed(study.events("saved")):
        if holds(Path(event.payload["network"]), last):
            return shlex.quote(event.payload["network"]), ""
    return "NETWORK", "; NETWORK: the folder in which it was saved"


def write_study_report(where: str | Path, control: str | Path | None, target: Path) -> None:
    """Write the report of the study at `where`, beside that at `control` where one is given."""
    place = Workspace(where)
    config, study = place.open()
    against: list[Trial] = []
    name = "random search"
    if control is not None:
        beside = Workspace(control)
        other_config, other = beside.open()
        if other.space.fingerprint != study.space.fingerprint:
            raise StudyError(
                f"a control must search the same space, {study.space.fingerprint}; {beside.name} "
                f"searched {other.space.fingerprint}; run it with the same [space]"
            )
        _check_control(config, other_config, place.name, beside.name)
        against = other.trials
        _check_data(study, other, place.name, beside.name)
        if other_config.controller.name != "random":
            name = other_config.controller.name
        if name == config.controller.name:
            name = f"{name} ({beside.folder.name})"
    header = study.store.header()
    trained = [event.payload for event in study.events("train")]
    write_report(
        target,
        ReportData(
            name=config.name,
            space=study.space,
            trials=study.trials,
            header={**header, "config": config.to_dict()},
            events=study.events(),
            plans={
                trial.number: config.plan_of(study.space, trial.architecture, header["notes"])
                for trial in study.top(20)
            },
            snapshots=study.history(config.make_controller(study.space)),
            control=against,
            control_name=name,
            metric=config.metric,
            final=trained[-1] if trained else {},
            commands=_commands(place, config, study),
        ),
    )
