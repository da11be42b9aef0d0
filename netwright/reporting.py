"""Gathers what the report shows of a study, from its journal alone."""

from __future__ import annotations

from pathlib import Path

from netwright.errors import StudyError
from netwright.report.page import ReportData, write_report
from netwright.trial import Trial
from netwright.workspace import Workspace


def write_study_report(folder: str | Path, control: Path | None, target: Path) -> None:
    """Write the report of the study in `folder`, beside `control` where one is given."""
    place = Workspace(folder)
    config, study = place.open()
    against: list[Trial] = []
    name = "random search"
    if control is not None:
        other_config, other = Workspace(control).open()
        if other.space.fingerprint != study.space.fingerprint:
            raise StudyError(
                f"a control must search the same space, {study.space.fingerprint}; {control} "
                f"searched {other.space.fingerprint}; run it with the same [space]"
            )
        against = other.trials
        if other_config.controller.name != "random":
            name = other_config.name
    header = study.store.header()
    trained = [event.payload for event in study.events("train")]
    write_report(
        target,
        ReportData(
            name=config.name,
            space=study.space,
            trials=study.trials,
            header={**header, "config": config.to_dict(), "folder": place.name},
            events=study.events(),
            snapshots=study.history(config.make_controller(study.space)),
            plans={
                trial.number: config.plan_of(study.space, trial.architecture, header["notes"])
                for trial in study.top(20)
            },
            control=against,
            control_name=name,
            metric=config.metric,
            final=trained[-1] if trained else {},
        ),
    )
