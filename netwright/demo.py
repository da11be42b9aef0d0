"""`netwright demo`: the whole road on data that comes with a dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from netwright import finishing
from netwright.config import Config, config_from_dict, load_config, set_threads, with_settings
from netwright.errors import StudyError
from netwright.exporting import export_network, find_inputs, missing_for_onnx
from netwright.progress import counting
from netwright.reporting import write_study_report
from netwright.searching import grid_workers, run_search
from netwright.showing import resolve
from netwright.study import Study
from netwright.tuning import tune, tune_runs
from netwright.workspace import Workspace

TRIALS = 60  # each for the search and random search, so that two cores need under ten minutes


def run_demo(where: str | Path, settings: Sequence[str], out: Console, err: Console) -> None:
    """Search digits by its preset's controller and at random, then finish the winner.

    where: the study's folder, or its database's URL; random search lies in random-search of the
    folder. A demo that was cut off is gone on with, one that is done is shown again; nothing is
    deleted. Raises `StudyError` where another study is there.
    """
    config = load_config("digits", [f"study.trials={TRIALS}", *settings])
    config.execution.check_device()
    set_threads(config)
    place = Workspace(where)
    control = Workspace(place.folder / "random-search")
    study = _search(place, config, "search", err)
    random = config_from_dict(
        with_settings(config.to_dict(), ["controller.name=random"]), "the demo"
    )
    other = _search(control, random, "random search", err)
    if not (place.network.exists() and place.report.exists() and study.events("train")):
        _finish(where, control, study, err)
    record = study.events("train")[-1].payload
    out.print(resolve(str(where), int(record["trial"]), []).table())
    best, best_random = study.best.score or 0.0, other.best.score or 0.0
    lines = [
        f"validation accuracy  {best:.4f} by {config.controller.name}, {best_random:.4f} by random "
        f"search: one run of each, {len(study.trials)} children (five and more: "
        f"docs/results/search-quality.md)",
        f"test accuracy        {record['test_accuracy']:.4f}, trained on all but the test set; "
        f"{_tests(study)}",
        f"parameters           {record['parameters']:,}",
        f"network              {place.network} (safetensors + JSON, network.py, .pt2"
        f"{'; .onnx needs the extra onnx' if missing_for_onnx() else ', .onnx'})",
        f"report               {place.report}",
    ]
    for line in lines:
        out.print(line, markup=False)


def _tests(study: Study) -> str:
    """Say how often the test set was opened, by this demo or a command on its folder."""
    times = len(study.events("open_test"))
    return "tested once" if times == 1 else f"the test set was opened {times} times in this folder"


def _score_of(record: Mapping[str, Any]) -> str:
    score = record["score"]
    return "failed" if score is None else f"{score:.4f}"


def _search(place: Workspace, config: Config, what: str, err: Console) -> Study:
    if not place.exists():
        study = place.begin(config)
    else:
        found, study = place.open()
        if found.identity() != config.identity():
            raise StudyError(
                f"the demo needs a folder of its own; {place.name} holds the study "
                f"{found.name!r} of another configuration; use --study with another folder"
            )
    if not run_search(place.config(), study, config.study.trials, err, what):
        raise KeyboardInterrupt
    return study


def _finish(where: str | Path, control: Workspace, study: Study, err: Console) -> None:
    place = Workspace(where)
    config = place.config()
    evaluator = config.make_evaluator(study.space)
    runs = len(tune_runs(config, study))
    with grid_workers(config, err) as executor, counting(err, "tuning", runs) as advance:
        for record in tune(config, study, evaluator, executor):
            advance(f"trial {record['trial']}: {_score_of(record)}")
    if not (study.events("train") and finishing.holds_best(config, study, place.network)):
        with counting(err, "final training", config.final_epochs) as advance:
            finished = finishing.train_best(config, study, lambda e, _: advance(f"epoch {e}"))
        finished.save(place.network)
    with counting(err, "export and report", 2) as advance:
        inputs = find_inputs(where, place.network)
        export_network(place.network, place.network, inputs, onnx=not missing_for_onnx())
        advance("network written")
        write_study_report(where, control.folder, place.report)
        advance("report written")
