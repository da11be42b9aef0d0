"""What a search survives, counted: `python -m benchmarks.faults [--kills 200] [--each 100]`.

Real processes and real signals. Last result: docs/results/faults.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import shared
from netwright.controllers.random import RandomSearch
from netwright.executors.processes import Processes
from netwright.loop import Mode
from netwright.space import Architecture, Choice, Option, SearchSpace
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.training.limits import memory_limit
from netwright.trial import Evaluation, Trial, TrialState
from tests import killed
from tests.equal import bits, outcome, same
from tests.postgres import running

KINDS = ("worker killed", "worker hung", "out of memory", "NaN", "exception", "unpicklable result")


# --- the coordinator is killed ------------------------------------------------------------------


def _finished(path: Path) -> list[Trial]:
    if not path.exists():
        return []
    with closing(SqlStore(sqlite_url(path))) as store:
        found = store.trials(killed.SPACE) if store.exists() else []
    return [trial for trial in found if trial.state is not TrialState.RUNNING]


def kills(wanted: int) -> None:
    """Kill a search at random moments until `wanted` kills; compare with one left alone."""
    random_moment = random.Random(0)
    done = lost = unsound = searches = 0
    with tempfile.TemporaryDirectory() as folder:
        trials = 240
        whole = killed.study("sqlite://")
        whole.run(trials)
        expected, expected_bits = [outcome(t) for t in whole.trials], bits(whole)
        alike = Counter[str]()
        while done < wanted:
            path = Path(folder) / f"{searches}.db"
            searches += 1
            before: list[Trial] = []
            while len(before) < trials:
                was_killed = _killed_search(path, trials, random_moment.uniform(0.05, 0.6))
                done += was_killed
                unsound += not _sound(path)
                now = _finished(path)
                kept = {trial.number: trial for trial in now}
                lost += sum(kept.get(trial.number) != trial for trial in before)
                part = len(now)
                alike["trials"] += [outcome(t) for t in now] == expected[:part]
                alike["of"] += 1
                before = now
            end = killed.study(sqlite_url(path))
            alike["controllers"] += same(bits(end), expected_bits)
            end.store.close()
    print(
        f"coordinator killed {done} times in {searches} searches of {trials} trials: finished "
        f"trials lost or changed {lost}; journal as the uninterrupted one's {alike['trials']} of "
        f"{alike['of']} times; controller bit-identical at the end {alike['controllers']} of "
        f"{searches}; unsound databases {unsound}"
    )


def _killed_search(path: Path, trials: int, after: float) -> bool:
    """Run the search in a process forked from this one and kill it; say whether it lived so long.

    A fork needs no second in which nothing can be killed; this process has no threads.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            killed.study(sqlite_url(path)).run(trials)
            code = 0
        finally:
            os._exit(code)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _sound(path: Path) -> bool:
    if not path.exists():
        return True
    connection = sqlite3.connect(path)
    try:
        return bool(connection.execute("pragma integrity_check").fetchone() == ("ok",))
    finally:
        connection.close()


# --- children go wrong ----------------------------------------------------------------------------


class Alternating(RandomSearch):
    """Proposes the faulty option every second time."""

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        self.replay_propose(n, given)
        return [self.space.architecture({"fault": i % 2}) for i in range(n)]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn nothing."""


class Faulty:
    """Does what its kind says for the option 1."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        good = Evaluation(reward=0.5, score=0.5)
        if architecture["fault"] == 0:
            return good
        if self.kind == "worker killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "worker hung":
            time.sleep(1000)
        elif self.kind == "out of memory":
            with memory_limit(0.05):
                np.ones(2**30)
        elif self.kind == "NaN":
            return Evaluation(reward=float("nan"), score=float("nan"))
        elif self.kind == "exception":
            raise ZeroDivisionError("division by zero")
        else:
            return replace(good, details={"a": _unpicklable()})
        return good


def _unpicklable() -> Any:
    return (i for i in itertools.count())


def faults(kind: str, each: int) -> None:
    """Search with `each` faulty and as many sound children; count how they end."""
    space = SearchSpace("faults", [Choice("fault", (0, 1))])
    limit = 1.0 if kind == "worker hung" else 0.0
    executor = Processes(2, threads=0, retries=0, time_limit=limit)
    mode = Mode(queue=True)
    study = Study(
        space,
        Alternating(space, batch=2),
        Faulty(kind),
        retrain_duplicates=True,
        mode=mode,
    )
    began = time.time()
    try:
        study.run(2 * each, executor)
    finally:
        executor.shutdown()
    failed = Counter(str(t.failure)[:70] for t in study.trials if t.failure is not None)
    sound = sum(t.completed for t in study.trials if t.architecture["fault"] == 0)
    causes = "; ".join(f"{count} x {cause!r}" for cause, count in failed.items())
    print(
        f"{kind}: {2 * each} trials in {time.time() - began:.0f} s; sound children that "
        f"completed {sound} of {each}; failures {causes}",
        flush=True,
    )


# --- orphans --------------------------------------------------------------------------------------


def orphans(wanted: int) -> None:
    """Kill coordinators that have two workers each; count workers alive ten seconds later."""
    left = 0
    for _ in range(wanted):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _search_with_workers(writing)
        os.close(writing)
        workers = [int(line) for line in os.fdopen(reading).readline().split()]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        deadline = time.time() + 10
        while time.time() < deadline and any(map(_alive, workers)):
            time.sleep(0.1)
        left += sum(map(_alive, workers))
    print(f"coordinator killed {wanted} times beside two busy workers: workers left behind {left}")


def _search_with_workers(writing: int) -> None:
    executor = Processes(2, threads=0)
    architecture = killed.SPACE.sample(random.Random(0))
    futures = [executor.submit(_Busy(), architecture, seed) for seed in range(6)]
    pids = [int(futures[i].result().score) for i in range(2)]
    os.write(writing, f"{pids[0]} {pids[1]}\n".encode())
    time.sleep(1000)


class _Busy:
    """The first two children say who they are; the others stay."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        time.sleep(1.0 if seed < 2 else 5.0)
        return Evaluation(reward=0.0, score=float(os.getpid()))


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --- the database goes away -------------------------------------------------------------------


def outage(seconds: float) -> None:
    """Stop a real PostgreSQL server under a search for a while; compare with one left alone."""
    trials = 400
    whole = killed.study("sqlite://")
    whole.run(trials)
    with running() as server:
        study = killed.study(server.new_database())
        said: list[str] = []

        def away() -> None:
            while len(study) < 100:
                time.sleep(0.01)
            server.stop()
            time.sleep(seconds)
            server.start()

        thread = threading.Thread(target=away)
        thread.start()
        study.run(trials, say=said.append)
        thread.join()
        alike = [outcome(t) for t in study.trials] == [outcome(t) for t in whole.trials]
        equal = same(bits(study), bits(whole))
        study.store.close()
    for line in said:
        print(f"  {line.splitlines()[0][:160]}")
    print(
        f"PostgreSQL stopped for {seconds:.0f} s: {trials} trials, as those of the undisturbed "
        f"search: {alike}; controller bit-identical: {equal}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--orphans", type=int, default=10)
    parser.add_argument("--outage", type=float, default=60.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.kills:
        kills(given.kills)
    for kind in KINDS if given.each else ():
        faults(kind, given.each)
    if given.orphans:
        orphans(given.orphans)
    if given.outage:
        try:
            outage(given.outage)
        except pytest.skip.Exception as reason:  # what the tests' server raises without one
            print(f"PostgreSQL stopped: not measured, {reason}")


if __name__ == "__main__":
    shared.run(main)
