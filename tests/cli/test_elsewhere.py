"""Searches from the command line elsewhere: on Ray, on PostgreSQL, on another device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netwright.evaluators.image import ImageEvaluator
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.tasks.execution import ExecutionSettings
from netwright.trial import Evaluation
from netwright.workspace import Workspace
from tests.cli.conftest import SETS, Run
from tests.postgres import Server
from tests.ray_cluster import two_nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, Any]]:
    with two_nodes() as made:
        yield made


def _searched(run: Run, place: object, trials: int, *args: object) -> str:
    code, _, err = run("search", "digits", "--study", place, "--trials", trials, *SETS, *args)
    assert code == 0, err
    return err


def _rewards(place: object) -> list[float | None]:
    study = Workspace(str(place)).open()[1]
    rewards = [trial.reward for trial in study.trials]
    study.store.close()
    return rewards


@pytest.mark.filterwarnings("ignore")  # Ray's own, of its sockets and processes
def test_a_search_on_a_ray_cluster_is_the_search_here(
    run: Run, tmp_path: Path, nodes: tuple[Any, Any]
) -> None:
    there = ("execution.executor=ray", f"execution.address={nodes[0].address}")
    err = _searched(run, tmp_path / "there", 3, *(w for s in there for w in ("--set", s)))
    assert "netwright: Ray, 2 children at once" in err
    _searched(run, tmp_path / "here", 3)
    assert _rewards(tmp_path / "there") == _rewards(tmp_path / "here")


def test_a_search_whose_journal_is_a_postgresql_database_is_the_search_on_a_file(
    run: Run, tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres.new_database()
    _searched(run, url, 2)
    code, out, err = run("status", url, "--json")
    assert code == 0, err
    assert json.loads(out)["trials"] == 2
    code, _, err = run("resume", url, "--trials", 4)
    assert code == 0, err
    _searched(run, "here", 4)
    assert _rewards(url) == _rewards("here")


def test_children_train_on_the_device_that_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without such a device: what trains says what it was given."""
    devices: list[str] = []

    def trained(
        self: ImageEvaluator, a: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        devices.append(device)
        return Evaluation(reward=0.5, score=0.5)

    monkeypatch.setattr(ExecutionSettings, "check_device", lambda self: None)
    monkeypatch.setattr(ImageEvaluator, "pipelines", lambda self, device: None)
    monkeypatch.setattr(ImageEvaluator, "evaluate_until", trained)
    numerics = 'execution.numerics="float32 channels_last"'
    _searched(
        run,
        tmp_path / "s",
        3,
        "--set",
        "execution.device=cuda:1",
        "--set",
        numerics,
        "--workers",
        1,
    )
    assert devices == ["cuda:1"] * 3
