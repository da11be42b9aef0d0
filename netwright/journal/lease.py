"""The lease: one process runs a study's search, and others are told who.

A lease that died is taken over: at once where its process is known to be gone, after `DEAD` seconds
without a heartbeat where it cannot be asked. A holder that lost it stops at its next heartbeat.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from netwright.errors import StudyError
from netwright.interrupts import held
from netwright.journal import tables

DEAD = 60.0  # seconds
BEAT = 2.0

_live: set[str] = set()  # the tokens that this process holds, or takes just now


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who runs a search, as another process sees it.

    alive: None where it runs on another machine and cannot be asked. age: seconds since its last
    heartbeat, below 0 where the clock was set back since. progress: what `Watch.to_dict` gave then.
    """

    host: str
    pid: int
    token: str
    since: float
    age: float
    alive: bool | None
    progress: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        """Whether the lease is in force.

        A clock that is set back leaves a heartbeat in the future until the holder's next one.
        """
        return abs(self.age) < DEAD if self.alive is None else self.alive

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


def _process(pid: int) -> str:
    """Return what tells a process from a later one of the same number; empty where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        stat = text.rsplit(")", 1)[1].split()
        return "" if stat[0] in "ZX" else stat[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "?"
    return "?"


def _host() -> str:
    """Return the name of this machine, and of the container, as processes are numbered in it."""
    try:
        space = Path("/proc/self/ns/pid").readlink()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()} {boot[:8]} {space}"


def _now(connection: sa.Connection) -> float:
    """Return the database's clock, which all its clients share."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(sa.select(sa.extract("epoch", sa.func.now()))).scalar_one())


def read(connection: sa.Connection) -> Holder | None:
    """Return who holds the lease, or held it last without giving it back."""
    row = connection.execute(sa.select(tables.lease)).one_or_none()
    if row is None:
        return None
    here = row.host == _host()
    alive = here and _process(row.pid) == row.process
    if alive and row.pid == os.getpid():  # it may have been broken off before it gave it back
        alive = row.token in _live
    return Holder(
        host=str(row.host).split(" ")[0],
        pid=row.pid,
        token=row.token,
        since=row.since,
        age=_now(connection) - row.heartbeat,
        alive=alive if here else None,
        progress=json.loads(row.progress),
    )


class Lease:
    """Held from `take` to `release`; a thread keeps it with a heartbeat each two seconds.

    progress: called for what to show to others. where: the journal, for messages. guard: what turns
    the database's errors into one line.
    """

    def __init__(
        self,
        engine: sa.Engine,
        where: str,
        progress: Callable[[], Mapping[str, Any]],
        guard: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._engine = engine
        self._guard = guard
        self._where = where
        self._progress = progress
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    @held()
    def take(self) -> None:
        """Take the lease; raises `StudyError` with the holder's name where it is held."""
        _live.add(self._token)
        with self._guard(), self._engine.begin() as connection:
            holder = read(connection)
            if holder is not None and holder.holds:
                raise StudyError(
                    f"a study is searched by one process at a time; {self._where} is by {holder}; "
                    f"wait for it, stop it, or use netwright status to watch it"
                )
            if holder is not None:
                its = tables.lease.c.token == holder.token
                if connection.execute(tables.lease.delete().where(its)).rowcount == 0:
                    raise self._taken()
            now = _now(connection)
            row = {"id": 1, "token": self._token, "host": _host(), "pid": os.getpid()}
            row |= {"process": _process(os.getpid()), "since": now, "heartbeat": now}
            try:
                connection.execute(tables.lease.insert(), {**row, "progress": self._said()})
            except IntegrityError as error:
                raise self._taken() from error
        thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        thread.start()
        self._thread = thread

    def _taken(self) -> StudyError:
        return StudyError(
            f"a study is searched by one process at a time; another took {self._where} just now; "
            f"use netwright status to watch it"
        )

    def _said(self) -> str:
        return json.dumps(dict(self._progress()))

    def _mine(self) -> Any:
        return tables.lease.update().where(tables.lease.c.token == self._token)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self._lost = not self._renewed()
            except DBAPIError:
                continue  # away for now; the search waits for it, and so does this
            if self._lost:
                return

    def _renewed(self) -> bool:
        with self._engine.begin() as connection:
            row = {"heartbeat": _now(connection), "progress": self._said()}
            return connection.execute(self._mine(), row).rowcount == 1

    def check(self) -> None:
        """Raise `StudyError` where another process has taken the lease over."""
        if self._lost:
            raise StudyError(
                f"a study is searched by one process at a time; {self._where} was taken over by "
                f"another while this one could not reach it for {DEAD:.0f} s; let that one go on"
            )

    @held()
    def release(self) -> None:
        """Give the lease back, where it was taken; a database that is away is left alone."""
        _live.discard(self._token)
        self._stop.set()
        try:
            with self._engine.begin() as connection:
                mine = tables.lease.c.token == self._token
                connection.execute(tables.lease.delete().where(mine))
        except DBAPIError:
            pass
        if self._thread is not None:
            self._thread.join()
