"""Studies on a real PostgreSQL server that goes away and comes back."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from netwright.errors import StudyError
from netwright.journal import database
from netwright.store import SqlStore
from netwright.study import Study
from netwright.workspace import Workspace
from tests import killed
from tests.equal import bits, outcome, same
from tests.postgres import Server


def test_a_search_on_a_server_is_the_search_on_a_file(postgres: Server) -> None:
    url = postgres.new_database()
    here, there = killed.study("sqlite://"), killed.study(url)
    here.run(24)
    for trials in (5, 24):
        there = killed.study(url)
        there.run(trials)
        there.store.close()
    assert [outcome(t) for t in here.trials] == [outcome(t) for t in there.trials]
    reopened = killed.study(url)
    assert same(bits(here), bits(reopened))
    reopened.store.close()


def test_a_server_that_is_away_is_waited_for(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LONGEST", 0.5)
    url = postgres.new_database()
    study, whole = killed.study(url), killed.study("sqlite://")
    whole.run(60)
    said: list[str] = []

    def outage() -> None:
        while len(study) < 10:
            time.sleep(0.01)
        postgres.stop()
        time.sleep(1.0)
        postgres.start()

    thread = threading.Thread(target=outage)
    thread.start()
    study.run(60, say=said.append)
    thread.join()
    assert any("the search waits for it; nothing is lost" in line for line in said)
    assert any("is back after" in line for line in said)
    assert [outcome(t) for t in study.trials] == [outcome(t) for t in whole.trials]
    assert study.store.checkpoint() is None
    study.store.close()


def test_without_a_server_it_is_one_line_without_the_password() -> None:
    with pytest.raises(StudyError, match="cannot be read or written") as caught:
        SqlStore("postgresql+psycopg://me:secret@127.0.0.1:1/study")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_workspace_may_be_a_database(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres.new_database()
    place = Workspace(url)
    assert not place.exists()
    with pytest.raises(StudyError, match="holds none; start one"):
        place.config()
    assert place.folder.parent == Path("runs")
    assert place.folder.name.startswith("study_")
    study = Study(killed.SPACE, killed.study("sqlite://").controller, storage=url)
    assert Workspace(url).exists()
    study.store.close()
    assert list(tmp_path.iterdir()) == []
