"""How many proposals are in flight is what the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from netwright.store import SqlStore, sqlite_url
from tests.cli.conftest import SETS, Run


@pytest.mark.parametrize(
    ("asked", "queue", "replicas"),
    [([], False, 1), (["study.mode=queue"], True, 1), (["study.replicas=3"], False, 3)],
    ids=["as it is", "queue", "replicas"],
)
def test_the_mode_of_a_search(
    asked: list[str], queue: bool, replicas: int, run: Run, tmp_path: Path
) -> None:
    sets = [word for setting in asked for word in ("--set", setting)]
    folder = tmp_path / "study"
    code, _, said = run("search", "digits", *SETS, *sets, "--trials", 6, "--study", folder)
    assert code == 0, said
    store = SqlStore(sqlite_url(folder / "study.db"), must_exist=True)
    try:
        mode = store.header()["mode"]
        told = [event.payload for event in store.events("tell")]
    finally:
        store.close()
    assert (mode["queue"], mode["replicas"]) == (queue, replicas)
    assert told
