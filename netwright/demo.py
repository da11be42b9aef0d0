"""`netwright demo`: the whole road on data that comes with a dependency."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from netwright import finishing
from netwright.config import Config, config_from_dict, load_config, set_threads, with_settings
from netwright.executors.local import InProcess
from netwright.exporting import export_network, find_images
from netwright.network import save_network
from netwright.progress import counting, search_progress
from netwright.reporting import write_study_report
from netwright.showing import describe, resolve
from netwright.study import Study
from netwright.workspace import Workspace

TRIALS = 60  # each for RL and random search, so that two cores need under ten minutes


def run_demo(folder: Path, settings: Sequence[str], out: Console, err: Console) -> None:
    """Search digits by reinforcement learning and at random, then finish the winner.

    A demo that was cut off is gone on with; one that is done is made anew.
    """
    config = load_config("digits", [f"study.trials={TRIALS}", *settings])
    set_threads(config)
    place, control = Workspace(folder), Workspace(folder / "random-search")
    if place.network.exists():
        shutil.rmtree(folder)
    study = _search(place, config, "RL search", err)
    random = config_from_dict(
        with_settings(config.to_dict(), ["controller.name=random"]), "the demo"
    )
    other = _search(control, random, "random search", err)
    evaluator = config.make_evaluator(study.space)
    with counting(err, "tuning", len(finishing.tune_runs(config, study))) as advance:
        for record in finishing.tune(config, study, evaluator):
            advance(f"trial {record['trial']}: {record['score']:.4f}")
    with counting(err, "final training", config.final.epochs or config.training.epochs) as advance:
        finished = finishing.train_best(config, study, lambda e, _: advance(f"epoch {e}"))
    save_network(place.network, finished)
    with counting(err, "export and report", 2) as advance:
        written = export_network(place.network, place.network, find_images(folder))
        advance("network written")
        write_study_report(folder, control.folder, place.report)
        advance("report written")
    shown = describe(*resolve(str(folder), int(finished.record["trial"]), []))
    out.print(shown.table())
    best, best_random = study.best.score or 0.0, other.best.score or 0.0
    lines = [
        f"validation accuracy   {best:.4f} by reinforcement learning, {best_random:.4f} by random "
        f"search, {len(study.trials)} children each",
        f"test accuracy         {finished.result.test_accuracy:.4f} (trained on all but the test "
        f"set, tested once)",
        f"parameters            {finished.record['parameters']:,}",
        *(f"{kind:<21} {line}" for kind, line in written.items()),
        f"report                {place.report}",
    ]
    for line in lines:
        out.print(line, markup=False)


def _search(place: Workspace, config: Config, what: str, err: Console) -> Study:
    study = place.open()[1] if place.exists() else place.begin(config)
    with search_progress(err, study, config.study.trials, what) as on_trial:
        study.run(config.study.trials, InProcess(config.execution.device), on_trial)
    return study
