"""A study that was interrupted goes on in the same process, as if it had not been."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from netwright.controllers.random import RandomSearch
from netwright.errors import StudyError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.executors import worker
from netwright.executors.local import InProcess
from netwright.interrupts import held, let_through
from netwright.journal import lease as leases
from netwright.journal.database import Database
from netwright.journal.lease import Lease
from netwright.scheduling import Ended, WallClock
from netwright.space import Architecture, Choice, SearchSpace
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.trial import Evaluation
from tests.contracts.test_controllers import CONTROLLERS
from tests.equal import outcome, same

TRIALS = 13


class _Breaks:
    """Raises once, at a call of a given number."""

    def __init__(self) -> None:
        self.calls, self.at = 0, -1

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt

    def within(self, calls: int) -> None:
        self.calls, self.at = 0, calls


def _canonical(breaks: _Breaks) -> Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]:
    def canonical(_: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
        breaks()
        return values

    return canonical


def _study(storage: str, name: str = "policy_gradient", breaks: _Breaks | None = None) -> Study:
    choices = [Choice(f"k{i}", (0, 1, 2)) for i in range(6)]
    space = SearchSpace("six", choices, canonical=_canonical(breaks or _Breaks()))
    return Study(space, CONTROLLERS[name](space, 3), Additive(space, noise=0.05), storage, seed=3)


def _same(study: Study, name: str = "policy_gradient") -> None:
    whole = _study("sqlite://", name)
    whole.run(TRIALS)
    assert [outcome(t) for t in study.trials] == [outcome(t) for t in whole.trials]
    assert same(study.controller.state_dict(), whole.controller.state_dict())


def _url(kind: str, folder: Path) -> str:
    return "sqlite://" if kind == "memory" else sqlite_url(folder / "s.db")


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_a_proposal_broken_off_before_it_is_journalled_is_made_again(
    tmp_path: Path, kind: str, name: str
) -> None:
    breaks = _Breaks()
    study = _study(_url(kind, tmp_path), name, breaks)
    study.run(4)
    for calls in (1, 2):
        breaks.within(calls)
        with pytest.raises(KeyboardInterrupt):
            study.run(TRIALS)
    study.run(TRIALS)
    _same(study, name)


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("step", ["tell", "propose_scored"])
def test_a_controller_broken_off_half_way_begins_anew(
    tmp_path: Path, kind: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(_url(kind, tmp_path))
    study.run(4)
    controller, breaks = study.controller, _Breaks()
    real = getattr(controller, step)

    def broken(*given: Any) -> Any:
        result = real(*given)
        breaks()
        return result

    monkeypatch.setattr(controller, step, broken)
    breaks.within(1)
    with pytest.raises(KeyboardInterrupt):
        study.run(TRIALS)
    with pytest.raises(StudyError, match="run it on, or open the study again"):
        study.snapshot()
    study.run(TRIALS)
    _same(study)


def test_a_journal_in_memory_outlives_its_connection() -> None:
    study = _study("sqlite://")
    study.run(4)
    breaks = _Breaks()
    sa.event.listen(_database(study).engine, "do_execute", breaks)  # SQLAlchemy drops it then
    for calls in (4, 8):
        breaks.within(calls)
        with pytest.raises(KeyboardInterrupt):
            study.run(TRIALS)
    study.run(TRIALS)
    _same(study)


def test_a_journal_in_memory_is_open_to_other_threads() -> None:
    study = _study("sqlite://")
    study.run(4)
    thread = threading.Thread(target=study.run, args=(9,))
    thread.start()
    thread.join()
    assert len(study) == 9
    study.run(TRIALS)
    _same(study)


def test_threads_use_the_one_connection_in_turn() -> None:
    database, seen = Database("sqlite://", must_exist=False), []
    other = threading.Thread(target=lambda: database.read(lambda _: seen.append("other")))

    def first(_: sa.Connection) -> None:
        other.start()
        other.join(0.1)
        seen.append("first")

    database.read(first)
    other.join()
    assert seen == ["first", "other"]
    database.close()


def _database(study: Study) -> Database:
    assert isinstance(study.store, SqlStore)
    return study.store._database


# --- signals ------------------------------------------------------------------------------------


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_what_is_held() -> None:
    before, done = signal.getsignal(signal.SIGINT), []

    @held()
    def ends() -> None:
        held()(_interrupt)()
        done.append("ends")

    @held()
    def waits() -> None:
        _interrupt()
        done.append("waits")
        let_through()
        done.append("waited")

    @held()
    def twice() -> None:
        _interrupt()
        _interrupt()
        done.append("twice")

    for part in (ends, waits, twice):
        with pytest.raises(KeyboardInterrupt):
            part()
        assert signal.getsignal(signal.SIGINT) is before
    assert done == ["ends", "waits"]


@pytest.mark.parametrize("step", ["propose_scored", "finish"])
def test_an_interrupt_breaks_off_no_step(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study("sqlite://")
    study.run(4)
    where = study.store if step == "finish" else study.controller
    real, once = getattr(where, step), [1]

    def interrupted(*given: Any) -> Any:
        result = real(*given)
        if once:
            once.clear()
            _interrupt()
        return result

    monkeypatch.setattr(where, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(TRIALS)
    assert study.store.size() == (len(study._keeper.ledger), len(study))
    study.snapshot(samples=2)
    study.run(TRIALS)
    _same(study)


def test_an_interrupt_ends_a_wait_for_the_database() -> None:
    database, calls = Database("sqlite://", must_exist=False), []

    def away(_: sa.Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OperationalError("", {}, Exception("database is locked"))

    with database.patient(lambda _: _interrupt()), pytest.raises(KeyboardInterrupt):
        held()(database.read)(away)
    assert len(calls) == 1
    database.close()


# --- workers that end with the search -----------------------------------------------------------


class _Ending(InProcess):
    """Workers that end at a child's number, where the search is told to end as well."""

    def __init__(self, study: Study, how: str) -> None:
        super().__init__()
        self.study, self.how, self.calls = study, how, 0
        self.told_to_end = True

    def submit(self, *given: Any) -> Future[Evaluation]:
        self.calls += 1
        if self.calls != 7:
            return super().submit(*given)
        if self.told_to_end:
            self.study.stop()
        future: Future[Evaluation] = Future()
        if self.how == "none starts":
            raise worker.ended()
        lost = worker.died("signal 15 (SIGTERM)", 1)
        future.set_exception(lost if self.how == "lost" else worker.ended())
        return future


@pytest.mark.parametrize("how", ["lost", "all ended", "none starts"])
def test_a_child_whose_worker_ends_with_the_search_has_not_failed(how: str) -> None:
    study = _study("sqlite://")
    study.run(TRIALS, _Ending(study, how))
    assert [event.payload for event in study.events("interrupted")] == [{"numbers": [6]}]
    assert len(study) == 6
    study.run(TRIALS)
    _same(study)


def test_a_child_whose_worker_dies_has_failed() -> None:
    study = _study("sqlite://")
    executor = _Ending(study, "lost")
    executor.told_to_end = False
    study.run(TRIALS, executor)
    failed = [trial.failure for trial in study.trials if not trial.completed]
    assert failed == ["WorkerLostError: the worker died: signal 15 (SIGTERM)"]


# --- the lease ----------------------------------------------------------------------------------


def test_a_lease_interrupted_while_it_is_taken_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(sqlite_url(tmp_path / "s.db"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _raise)
        with pytest.raises(KeyboardInterrupt):
            study.run(4)
    assert study.store.holder() is None  # type: ignore[attr-defined]
    study.run(TRIALS)
    _same(study)


def test_a_lease_is_given_back_before_its_thread_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(sqlite_url(tmp_path / "s.db"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", _raise)
        with pytest.raises(KeyboardInterrupt):
            study.run(4)
    assert study.store.holder() is None  # type: ignore[attr-defined]


def test_a_process_takes_over_its_own_lease_that_was_not_given_back(tmp_path: Path) -> None:
    store = SqlStore(sqlite_url(tmp_path / "s.db"))
    store.create({})
    left, second = _lease(store), _lease(store)
    left.take()
    with pytest.raises(StudyError, match="searched by one process at a time"):
        second.take()
    left._engine = _Away()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        left.release()
    holder = store.holder()
    assert holder is not None
    assert (holder.token, holder.holds) == (left._token, False)
    third = _lease(store)
    third.take()
    third.release()
    store.close()


class _Away:
    def begin(self) -> None:
        raise KeyboardInterrupt


def _lease(store: SqlStore) -> Lease:
    lease = store.lease(dict)
    assert lease is not None
    return lease


def _raise(*_: Any) -> None:
    raise KeyboardInterrupt


class _Taken(WallClock):
    """A clock on which another process takes a study's lease over, which is seen at once."""

    def __init__(self, file: Path, when: str) -> None:
        self.file, self.when, self.calls = file, when, 0
        self.journal: tuple[Any, ...] = ()

    def take_over(self, when: str) -> None:
        self.calls += when == self.when
        if self.calls != 6 or self.journal:
            return
        with closing(sqlite3.connect(self.file)) as connection, connection:
            connection.execute("update lease set token = 'another'")
        (heart,) = (thread for thread in threading.enumerate() if thread.name == "lease")
        heart.join(60)  # which stops once it has seen it
        self.journal = _journal(self.file)

    def wait(self, ended: SimpleQueue[Ended], timeout: float) -> Ended | None:
        self.take_over("while it waits")
        return super().wait(ended, timeout)


def _journal(file: Path) -> tuple[Any, ...]:
    with closing(sqlite3.connect(file)) as connection:
        names = "select name from sqlite_master where type = 'table' order by name"
        tables = [name for (name,) in connection.execute(names)]
        return tuple(connection.execute(f"select * from {name}").fetchall() for name in tables)


@pytest.mark.parametrize("when", ["in a child", "while it waits", "after a trial"])
def test_a_search_that_lost_its_lease_writes_nothing_more(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.01)
    file = tmp_path / "s.db"
    clock = _Taken(file, when)
    space = choices_space(6, 3)

    class Child(Additive):
        def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
            clock.take_over("in a child")
            return super().evaluate(architecture, seed, device)

    controller = RandomSearch(space, seed=3, batch=2)  # what follows the sixth trial is a proposal
    study = Study(space, controller, Child(space), sqlite_url(file), clock=clock)
    with pytest.raises(StudyError) as caught:
        study.run(TRIALS, on_trial=lambda _: clock.take_over("after a trial"))
    assert str(caught.value) == (
        f"a study is searched by one process at a time; {sqlite_url(file)} was taken over by "
        f"another while this one could not reach it for 60 s; let that one go on"
    )
    assert clock.journal
    assert _journal(file) == clock.journal
