"""What a comparison keeps of a search: who leads, and what it cost."""

from __future__ import annotations

import random
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.executors.simulated import Simulated
from netwright.outcomes import best_so_far
from netwright.space import Architecture
from netwright.store import sqlite_url
from netwright.study import Study
from netwright.trial import TrialState, cost_of


def _finite(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most, allow_nan=False)


@given(st.lists(st.tuples(_finite(-3, 3), st.none() | _finite(0, 1)), min_size=1))
def test_what_has_no_score_never_leads_over_what_has_one(
    trials: list[tuple[float, float | None]],
) -> None:
    found = best_so_far([r for r, _ in trials], [s for _, s in trials])
    for n, best in enumerate(found):
        scored = [
            (-reward, k) for k, (reward, score) in enumerate(trials[: n + 1]) if score is not None
        ]
        assert best == (min(scored)[1] if scored else 0)


def _seconds(architecture: Architecture, seed: int) -> float:
    return 1 + random.Random(seed).random()


def _lost(architecture: Architecture, seed: int) -> Exception | None:
    return ChildError("lost") if random.Random(seed).random() < 0.5 else None


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failed_trial_costs_what_it_took(tmp_path: Path, workers: int) -> None:
    """Its own time, not that of its siblings before it, nor of the break between two runs."""
    space = choices_space(6, 3)
    url, executor = sqlite_url(tmp_path / "s.db"), Simulated(workers, _seconds, _lost)
    for trials in (2, 12):
        controller = RandomSearch(space, seed=1, batch=6)
        study = Study(space, controller, Additive(space), url, seed=1, clock=executor)
        study.run(trials, executor)
        executor.wait(SimpleQueue(), 1000.0)
    reopened = Study(space, RandomSearch(space, seed=1, batch=6), storage=url, seed=1)
    failed = [t for t in reopened.trials if t.state is TrialState.FAILED]
    assert len(failed) > 3
    for trial in failed:
        assert cost_of(trial) == pytest.approx(_seconds(trial.architecture, trial.seed))
    completed = [t for t in reopened.trials if t.completed]
    assert all(cost_of(t) == 0 for t in completed)  # what its evaluation says
    running = Study(space, RandomSearch(space), Additive(space)).ask()
    assert cost_of(running) == 0
