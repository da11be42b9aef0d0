"""Searches that are watched, interrupted and refused to a second process, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netwright.errors import StudyError
from netwright.executors.probe import Crew
from netwright.interrupts import LIMIT
from netwright.journal.lease import Lease
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.tasks import execution
from netwright.workspace import Workspace
from tests import killed, slow_search
from tests.cli.conftest import SETS, Run, refused
from tests.equal import outcome, same


@contextmanager
def _start(folder: Path, *args: str, seconds: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.slow_search", str(folder), str(seconds), *args],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for_trials(folder: Path, n: int) -> SqlStore:
    deadline = time.time() + 60
    while time.time() < deadline:
        if (folder / "study.db").exists():
            try:
                store = SqlStore(sqlite_url(folder / "study.db"))
                if store.exists() and sum(o.reward is not None for o in store.outlines()) >= n:
                    return store
                store.close()
            except StudyError:  # being written
                pass
        time.sleep(0.02)
    raise AssertionError("the search did not begin")


def _wait_for_a_proposal(folder: Path) -> SqlStore:
    store, deadline = _wait_for_trials(folder, 0), time.time() + 60
    while not store.outlines():
        assert time.time() < deadline, "nothing was proposed"
        time.sleep(0.02)
    return store


def _wait_for_children(folder: Path, n: int) -> SqlStore:
    """Wait until the search says with its heartbeat that so many run."""
    store, deadline = _wait_for_a_proposal(folder), time.time() + 60
    while (holder := store.holder()) is None or holder.progress.get("running") != n:
        assert time.time() < deadline, "its children were not started"
        time.sleep(0.02)
    return store


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_the_first_signal_lets_running_children_end(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    folder = tmp_path / "s"
    with _start(folder, str(workers), seconds=0.2) as process:
        store = _wait_for_trials(folder, 2)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert f"{number.name}: no more children are started" in err
        assert (
            err.splitlines()[-1] == f"netwright: interrupted; go on with: netwright resume {folder}"
        )
        assert store.holder() is None
        assert store.events("interrupted") == []
        finished = sum(o.reward is not None for o in store.outlines())
        store.close()
    with _start(folder, str(workers), str(finished + 3)) as process:
        assert process.wait(60) == 0


@pytest.mark.parametrize("twice", [True, False])
def test_children_that_do_not_end_are_recorded_as_interrupted(tmp_path: Path, twice: bool) -> None:
    folder = tmp_path / "s"
    with _start(folder, "2", seconds=0.0 if twice else 1000.0) as process:
        if twice:
            store = _wait_for_trials(folder, 2)
        else:
            store = _wait_for_children(folder, 2)
        began = time.time()
        process.send_signal(signal.SIGINT)
        if twice:
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert time.time() - began < (5 if twice else 15)
        # by the signal itself where the second came when all was over, for a shell 130 too
        assert process.returncode in ((130, -signal.SIGINT) if twice else (130,)), err
        assert "Traceback" not in err
        if not twice:
            assert len(store.events("interrupted")[0].payload["numbers"]) == 2
        assert store.holder() is None
        store.close()


def _goes_on_as_if_nothing_had_been(folder: Path, trials: int) -> None:
    found, whole = slow_search.study_in(folder, 0.0), slow_search.study_in(folder / "whole", 0.0)
    for study in (found, whole):
        study.run(trials)
    assert [outcome(t) for t in found.trials] == [outcome(t) for t in whole.trials]
    assert all(trial.completed for trial in found.trials)
    assert same(found.controller.state_dict(), whole.controller.state_dict())
    for study in (found, whole):
        study.store.close()


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGINT, 1)]
)
def test_a_second_signal_ends_slow_children_at_once_and_nothing_is_lost(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    folder = tmp_path / "s"
    with _start(folder, str(workers), seconds=1000.0) as process:
        store = _wait_for_children(folder, workers)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith(f"netwright: {number.name}: no more children are started; those ")
        assert said.endswith("once more ends at once\n")
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < LIMIT - 1  # which the first one gives them
        assert err.splitlines()[-1:] == [
            f"netwright: interrupted; go on with: netwright resume {folder}"
        ]
        assert process.returncode == 130
        assert "Traceback" not in err
        lost = [event.payload["numbers"] for event in store.events("interrupted")]
        assert lost == [list(range(workers))]
        assert store.holder() is None
        store.close()
    _goes_on_as_if_nothing_had_been(folder, 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_whose_stderr_nobody_reads_ends_by_a_signal_as_others_do(
    tmp_path: Path, workers: int
) -> None:
    folder = tmp_path / "s"
    with _start(folder, str(workers), seconds=1000.0) as process:
        store = _wait_for_children(folder, workers)
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        lost = [event.payload["numbers"] for event in store.events("interrupted")]
        assert lost == [list(range(workers))]
        assert store.holder() is None
        store.close()


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_search_costs_no_child(
    tmp_path: Path, number: signal.Signals, retries: int
) -> None:
    """As Ctrl-C in a terminal, and as a service or a queue of jobs that is stopped."""
    folder = tmp_path / "s"
    with _start(folder, "2", "100000", str(retries), seconds=0.3) as process:
        store = _wait_for_trials(folder, 2)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert store.holder() is None
        if number is signal.SIGINT:
            assert store.events("interrupted") == []
        finished = sum(o.reward is not None for o in store.outlines())
        store.close()
    _goes_on_as_if_nothing_had_been(folder, finished + 3)


def test_a_signal_to_all_processes_while_workers_start_interrupts_the_search(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "s"
    with _start(folder, "2", "100000", "0", seconds=1000.0) as process:
        store = _wait_for_children(folder, 2)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        said = f"netwright: interrupted; go on with: netwright resume {folder}"
        assert err.splitlines()[-1] == said
        assert process.returncode == 130
        assert [event.payload["numbers"] for event in store.events("interrupted")] == [[0, 1]]
        store.close()
    _goes_on_as_if_nothing_had_been(folder, 6)


def test_a_second_search_of_one_study_is_refused_with_the_name_of_the_first(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "s"
    with _start(folder, "1", seconds=1000.0) as process:  # no trial ends: nothing more is written
        store = _wait_for_a_proposal(folder)
        second = slow_search.study_in(folder, 0.0)
        with pytest.raises(StudyError, match=f"process {process.pid} on ") as caught:
            second.run(10_000)
        assert "since" in str(caught.value)
        holder = store.holder()
        assert holder is not None
        assert (holder.pid, holder.alive, holder.holds) == (process.pid, True, True)
        process.kill()
        process.wait()
        holder = store.holder()
        assert holder is not None
        assert not holder.holds
        second.run(1)  # the lease that died is taken over
        assert len(second) == 1
        store.close()


def test_a_search_whose_lease_was_taken_over_stops(tmp_path: Path) -> None:
    study = killed.study(sqlite_url(tmp_path / "s.db"))
    lease = study.store.lease(dict)
    assert isinstance(lease, Lease)
    lease.take()
    with SqlStore(sqlite_url(tmp_path / "s.db"))._database.engine.begin() as connection:
        connection.exec_driver_sql("update lease set token = 'another'")
    assert lease._renewed() is False
    lease._lost = True
    with pytest.raises(StudyError, match="was taken over by another"):
        lease.check()
    lease.release()


def test_a_search_whose_lease_was_taken_over_ends_with_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with _start(folder, "2", seconds=1000.0) as process:
        store = _wait_for_children(folder, 2)
        with store._database.engine.begin() as connection:
            connection.exec_driver_sql("update lease set token = 'another'")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        assert out == ""
        assert [line for line in err.splitlines() if line.startswith("netwright: ")] == [
            f"netwright: a study is searched by one process at a time; {folder} was taken over by "
            f"another while this one could not reach it for 60 s; let that one go on"
        ]
        assert "Traceback" not in err
        assert [event.kind for event in store.events()] == ["propose"]
        holder = store.holder()
        assert holder is not None
        assert holder.token == "another"
        store.close()


def test_a_lease_of_another_machine_holds_for_a_minute(tmp_path: Path) -> None:
    study = killed.study(sqlite_url(tmp_path / "s.db"))
    store = study.store
    assert isinstance(store, SqlStore)
    lease = store.lease(dict)
    assert lease is not None
    lease.take()
    for age, holds in ((30, True), (61, False), (-30, True), (-61, False)):  # of a clock set back
        with store._database.engine.begin() as connection:
            connection.exec_driver_sql(
                f"update lease set host = 'far away', heartbeat = {time.time() - age}"
            )
        holder = store.holder()
        assert holder is not None
        assert (holder.host, holder.alive, holder.holds) == ("far", None, holds)
    Study(killed.SPACE, study.controller, storage="sqlite://")
    study.run(1)  # taken over
    lease.release()


def _status(folder: Path, *args: str) -> str:
    said = subprocess.run(
        [sys.executable, "-m", "netwright.cli", "status", str(folder), *args],
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout


def test_status_shows_a_search_from_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with _start(folder, "2", seconds=0.1) as process:
        store = _wait_for_trials(folder, 3)
        deadline = time.time() + 20
        while time.time() < deadline:
            holder = store.holder()
            if holder is not None and holder.progress.get("done"):
                break
            time.sleep(0.1)
        found = json.loads(_status(folder, "--json"))
        by = found["searched_by"]
        assert found["trials"] >= 3
        assert (by["pid"], by["alive"]) == (process.pid, True)
        assert by["progress"]["workers"] == 2
        assert 0 < by["progress"]["utilisation"] <= 1
        lines = _status(folder).splitlines()
        assert f"searched by process {process.pid} on " in lines[1]
        assert "children/h" in lines[2]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert "died; go on with: netwright resume" in _status(folder)
        store.close()


def test_workers_are_a_number_or_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(run("search", "digits", "--study", tmp_path / "s", "--workers", "many"), "got 'many'")
    refused(run("search", "digits", "--study", tmp_path / "s", "--workers", "0"), "or auto")
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(execution, "best_workers", lambda *given: Crew(1, 1, "just 1"))
    call = ("search", "digits", "--study", tmp_path / "s", "--trials", 1, *SETS)
    code, out, err = run(*call, "--workers", "auto")
    assert (code, out.startswith("1 trials")) == (0, True)
    assert "netwright: just 1" in err


def _searched_on_two_processors(*args: object) -> tuple[str, int]:
    """Run a command in a process that sees at most two, on a machine that seems quiet.

    Return what it said and how many it saw.
    """
    script = (
        "import os, sys; from netwright import cli\n"
        "os.getloadavg = lambda: (0.0, 0.0, 0.0)\n"
        "if hasattr(os, 'sched_setaffinity'):\n"
        "    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])\n"
        "from netwright.machine import cores; print(cores()); sys.stdout.flush(); cli.main()"
    )
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, int(done.stdout.split()[0])


def test_workers_are_measured_once_and_as_many_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sets = (*SETS, "--set", "training.precision=float32", "--set", "execution.threads=1")
    place, kept = tmp_path / "s", tmp_path / "netwright" / "workers.json"
    first = ("search", "digits", "--study", place, "--trials", 3, "--workers", "auto", *sets)
    err, seen = _searched_on_two_processors(*first)
    if seen == 1:
        assert "netwright: 1 worker: there is one processor" in err
        return
    assert "netwright: measuring how many workers this machine feeds best, once" in err
    assert re.search(r"^netwright: (1 worker|\d+ workers) of 1 thread: ", err, re.MULTILINE)
    ((name, speeds),) = json.loads(kept.read_text()).items()
    assert (len(speeds), min(speeds) > 0) == (2, True)
    kept.write_text(json.dumps({name: [1.0, 10.0]}))
    err, seen = _searched_on_two_processors("resume", place, "--trials", 6, "--workers", "auto")
    assert "measuring" not in err
    assert f"netwright: {seen} workers of 1 thread: 10.0 times as fast as 1 of 1" in err
    assert [trial.completed for trial in Workspace(place).open()[1].trials] == [True] * 6


def test_a_preset_of_small_children_takes_as_many_workers_as_the_machine_feeds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of its own accord, and they find what one finds."""
    monkeypatch.setattr(execution, "best_workers", lambda *given: Crew(2, 1, "two"))
    searched = ("--trials", 3, *SETS)
    code, _, err = run("search", "digits", "--study", tmp_path / "two", *searched)
    assert code == 0, err
    assert "netwright: two" in err
    code, _, err = run("search", "digits", "--study", tmp_path / "one", *searched, "--workers", 1)
    assert code == 0, err
    assert "netwright: two" not in err
    (_, one), (_, two) = (Workspace(tmp_path / name).open() for name in ("one", "two"))
    assert [t.reward for t in one.trials] == [t.reward for t in two.trials]
    assert len(one) == 3


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_ray_that_would_leave_the_gpu_alone_is_refused_before_anything_is_written(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("--set", "execution.executor=ray", "--set", "execution.device=cuda")
    refused(run(command, "digits", *asked), "execution.gpus must be above 0", "on cuda; got 0.0")
    assert not list(tmp_path.iterdir())
