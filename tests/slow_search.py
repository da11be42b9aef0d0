"""A search with a terminal: `-m tests.slow_search FOLDER SECONDS WORKERS [TRIALS [RETRIES]]`.

Its children take SECONDS each; it is run as `netwright search` runs its own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from netwright.config import load_config
from netwright.console import err, resume_from, run
from netwright.evaluators.synthetic import Additive
from netwright.searching import run_search
from netwright.space import Architecture
from netwright.store import sqlite_url
from netwright.study import Study
from netwright.trial import Evaluation
from tests import killed

app = typer.Typer()


class Sleeping(Additive):
    """Takes its time, in short naps, as training takes short steps."""

    def __init__(self, seconds: float) -> None:
        super().__init__(killed.SPACE, noise=0.05)
        self.seconds = seconds

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        end = time.time() + self.seconds
        while time.time() < end:
            time.sleep(0.01)
        return super().evaluate(architecture, seed, device)


def study_in(folder: Path, seconds: float) -> Study:
    controller = killed.study("sqlite://").controller
    storage = sqlite_url(folder / "study.db")
    return Study(killed.SPACE, controller, Sleeping(seconds), storage, seed=7)


@app.command()
def search(
    folder: Path, seconds: float, workers: int, trials: int = 100_000, retries: int = 1
) -> None:
    sets = [f"execution.workers={workers}", "execution.threads=0", f"execution.retries={retries}"]
    config = load_config("digits", sets)
    study = study_in(folder, seconds)
    resume_from(str(folder))
    if not run_search(config, study, trials, err):
        raise KeyboardInterrupt


if __name__ == "__main__":
    names = ("trials", "retries")
    sys.argv[4:] = [f"--{name}={value}" for name, value in zip(names, sys.argv[4:], strict=False)]
    run(app)
