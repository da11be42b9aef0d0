"""What every journal promises."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from netwright.errors import StudyError
from netwright.space import SearchSpace
from netwright.store import SqlStore, sqlite_url
from netwright.trial import Evaluation, Outline, Trial, TrialState
from tests.strategies import small_space

Open = Callable[[], SqlStore]
FORMS = ["0" * 32, "1" * 32, "2" * 32]


@pytest.fixture(params=["file", "memory", "postgresql"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the same journal anew (the one in memory is kept open)."""
    opened: list[SqlStore] = []
    url = {"file": sqlite_url(tmp_path / "s.db"), "memory": "sqlite://"}.get(request.param)
    url = url or request.getfixturevalue("postgres").new_database()

    def open_() -> SqlStore:
        if request.param == "memory" and opened:
            return opened[0]
        opened.append(SqlStore(url))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


def _trials(space: SearchSpace, first: int = 0, n: int = 3) -> list[Trial]:
    architectures = list(space.enumerate())
    return [
        Trial(
            number=i,
            batch=first,
            architecture=architectures[i],
            seed=2**62 + i,
            given={"type": "a"},
            started=1.5,
        )
        for i in range(first, first + n)
    ]


EVALUATION = Evaluation(
    reward=0.125,
    score=0.5,
    curve=(0.25, 0.5),
    cost=2.0,
    parameters=7,
    details={"note": "x", "n": 1},
)


def test_a_journal_gives_back_what_it_was_given(reopen: Open) -> None:
    space, store = small_space(), reopen()
    assert not store.exists()
    store.create({"seed": 3, "space": space.to_dict()})
    assert store.size() == (0, 0)
    trials = _trials(space)
    store.add_proposal(trials, FORMS, {"n": 3, "given": {}})
    done = replace(
        trials[1], state=TrialState.COMPLETED, evaluation=EVALUATION, reward=0.125, finished=9.0
    )
    failed = replace(
        trials[0], state=TrialState.FAILED, failure="out of memory", reward=0.0, finished=8.0
    )
    store.finish(done)
    store.finish(failed)
    store.add_event("tell", {"numbers": [0, 1]})
    again = reopen()
    assert again.exists()
    assert again.header()["seed"] == 3
    assert again.trials(space) == [failed, done, trials[2]]
    assert again.size() == (3, 2)
    assert [(e.sequence, e.kind) for e in again.events()] == [(1, "propose"), (2, "tell")]
    assert again.events("tell")[0].payload == {"numbers": [0, 1]}


def test_a_finished_trial_never_changes(reopen: Open) -> None:
    space, store = small_space(), reopen()
    store.create({})
    trials = _trials(space)
    store.add_proposal(trials, FORMS, {"n": 3, "given": {}})
    done = replace(
        trials[0], state=TrialState.COMPLETED, evaluation=EVALUATION, reward=0.125, finished=9.0
    )
    store.finish(done)
    with pytest.raises(StudyError, match=r"trial 0 is in .* already"):
        store.finish(replace(done, reward=1.0))
    assert reopen().trials(space)[0] == done


def test_a_proposal_is_journalled_whole_or_not_at_all(reopen: Open) -> None:
    space, store = small_space(), reopen()
    store.create({})
    trials = _trials(space)
    store.add_proposal(trials[2:], FORMS[:1], {"n": 1, "given": {}})
    with pytest.raises(StudyError, match=r"trial 0 is in .* already; another process"):
        store.add_proposal(trials, FORMS, {"n": 3, "given": {}})
    assert [t.number for t in reopen().trials(space)] == [2]
    assert len(reopen().events()) == 1


def test_telling_goes_with_the_result_in_one_step(reopen: Open) -> None:
    space, store = small_space(), reopen()
    store.create({})
    trials = _trials(space)
    store.add_proposal(trials, FORMS, {"n": 3, "given": {}})
    done = replace(
        trials[2], state=TrialState.COMPLETED, evaluation=EVALUATION, reward=0.125, finished=9.0
    )
    store.finish(done, told=[2])
    assert reopen().events("tell")[0].payload == {"numbers": [2]}


def test_a_second_study_in_one_place_is_refused(reopen: Open) -> None:
    reopen().create({"seed": 1})
    with pytest.raises(StudyError, match="needs a place of its own"):
        reopen().create({"seed": 2})
    assert reopen().header()["seed"] == 1


def test_a_missing_journal_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"there is none at .*deep/s\.db;"):
        SqlStore(sqlite_url(tmp_path / "deep" / "s.db"), must_exist=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_truncated_journal_is_one_line_and_left_alone(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "s.db"
    space, store = small_space(), SqlStore(sqlite_url(path))
    store.create({"padding": ["x" * 1000] * 50})
    store.add_proposal(_trials(space, n=12), FORMS * 4, {"n": 12, "given": {}})
    store.close()
    content = path.read_bytes()[: int(path.stat().st_size * keep)]
    path.write_bytes(content)
    with pytest.raises(StudyError, match="must be a sound database") as caught:
        SqlStore(sqlite_url(path)).trials(space)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_file_of_something_else_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_text("no database at all, but long enough to be looked at " * 100)
    with pytest.raises(StudyError, match="must be a sound database"):
        SqlStore(sqlite_url(path)).exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "s.db"
    store = SqlStore(sqlite_url(path))
    store.create({})
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("update header set value = '99' where key = 'format'")
    connection.close()
    with pytest.raises(StudyError, match="must be of format 2 or 3; got 99"):
        SqlStore(sqlite_url(path))


def test_a_bad_url_is_one_line() -> None:
    with pytest.raises(StudyError, match=r"must be a database URL .*; got 'not a url'"):
        SqlStore("not a url")


@pytest.mark.parametrize(
    "url", ["sqlite:///a.db?mode=foo", "sqlite:///a.db?timeout=x", "sqlite://?cache=shared"]
)
def test_a_sqlite_url_with_options_is_one_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError) as caught:
        SqlStore(url)
    assert f"without options; got {url!r}; leave out ?" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_outlines_are_what_trials_are(reopen: Open) -> None:
    space, store = small_space(), reopen()
    store.create({})
    trials = _trials(space)
    store.add_proposal(trials, FORMS, {"n": 3, "given": {}})
    store.finish(
        replace(trials[2], state=TrialState.FAILED, failure="x", reward=-1.0, finished=2.0), [2]
    )
    store.finish(replace(trials[0], state=TrialState.FAILED, failure="x", reward=0.0, finished=2.0))
    assert reopen().outlines() == [
        Outline(0, FORMS[0], TrialState.FAILED, 0.0, False),
        Outline(0, FORMS[1]),
        Outline(0, FORMS[2], TrialState.FAILED, -1.0, True),
    ]
    assert [t.number for t in reopen().trials(space, [2, 0])] == [0, 2]
    assert reopen().events(after=1)[0].payload == {"numbers": [2]}


def test_the_newest_checkpoint_is_given_and_few_are_kept(reopen: Open) -> None:
    store = reopen()
    store.create({})
    assert store.checkpoint() is None
    for i in range(4):
        store.add_event("tell", {"numbers": []})
        store.add_checkpoint("versions", bytes([i]))
    store.add_checkpoint("versions", b"again")
    found = reopen().checkpoint()
    assert found is not None
    assert found[1:] == ("versions", b"again")
    assert found[0] == reopen().events()[-1].sequence


def test_a_lease_is_held_by_one_and_given_back(reopen: Open) -> None:
    store = reopen()
    store.create({})
    lease, other = store.lease(lambda: {"done": 3}), reopen().lease(dict)
    if lease is None or other is None:
        assert store.place == "sqlite://"  # no other process can open it
        return
    lease.take()
    holder = store.holder()
    assert holder is not None
    assert (holder.pid, holder.holds, holder.progress) == (os.getpid(), True, {"done": 3})
    with pytest.raises(StudyError, match=f"is by process {os.getpid()} on .*, since 20"):
        other.take()
    lease.check()
    lease.release()
    assert store.holder() is None
    other.take()
    other.release()


def test_a_broken_connection_after_a_commit_writes_nothing_twice(reopen: Open) -> None:
    """The commit went through and its answer was lost: what was written is found again."""
    space, store = small_space(), reopen()
    store.create({})
    trials = _trials(space)
    done = replace(
        trials[0], state=TrialState.COMPLETED, evaluation=EVALUATION, reward=0.125, finished=9.0
    )
    said: list[str] = []
    breaks = _Breaks(store)
    with store.patient(said.append), breaks:
        store.add_proposal(trials, FORMS, {"n": 3, "given": {}})
        store.finish(done, [0])
        store.add_event("note", {"text": "once"})
    assert breaks.times == 3
    assert [e.kind for e in reopen().events()] == ["propose", "tell", "note"]
    assert reopen().trials(space) == [done, *trials[1:]]
    assert sum("waits for it" in line for line in said) == 3
    assert sum("going on" in line for line in said) == 3


def test_an_outage_is_as_long_as_it_was_where_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlStore(sqlite_url(tmp_path / "s.db"))
    store.create({})
    clock = count(1e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    said: list[str] = []
    with store.patient(said.append), _Breaks(store):
        store.add_event("note", {})
    assert re.fullmatch(r"the journal is back after \d+ s; going on", said[1])
    store.close()


class _Breaks:
    """Loses the answer to every first commit."""

    def __init__(self, store: SqlStore) -> None:
        self.engine = store._database.engine
        self.times = 0
        self._again = False

    def _lose(self, connection: sa.Connection) -> None:
        self._again = not self._again
        if self._again:
            self.times += 1
            connection.connection.commit()
            raise OperationalError("commit", {}, Exception("database is locked"))

    def __enter__(self) -> None:
        sa.event.listen(self.engine, "commit", self._lose)

    def __exit__(self, *_: object) -> None:
        sa.event.remove(self.engine, "commit", self._lose)


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """SQLite's own word of a full disk, from a bound on its pages."""
    space = small_space()
    store = SqlStore(sqlite_url(tmp_path / "s.db"))
    store.create({})
    engine = store._database.engine
    said: list[str] = []

    @sa.event.listens_for(engine, "begin")
    def bound(connection: sa.Connection) -> None:
        full = not said
        pages = "10" if full else "1000000"
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    trials = _trials(space)
    large = {"n": 3, "given": {}, "padding": "x" * 100_000}
    with pytest.raises(StudyError, match="database or disk is full"):
        store.add_proposal(trials, FORMS, large)
    with store.patient(said.append):
        store.add_proposal(trials, FORMS, large)
    assert "the search waits for it; nothing is lost" in said[0]
    assert "is back after" in said[1]
    assert len(store.trials(space)) == 3
    store.close()


def test_other_errors_are_not_waited_for(tmp_path: Path) -> None:
    store = SqlStore(sqlite_url(tmp_path / "s.db"))
    store.create({})
    with store._database.engine.begin() as connection:
        connection.exec_driver_sql("drop table events")
    with store.patient(lambda text: None), pytest.raises(StudyError, match="no such table"):
        store.add_event("note", {})
    store.close()
