"""A database by URL: SQLite or PostgreSQL, whose troubles are one line, or waited out."""

from __future__ import annotations

import re
import sqlite3
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from netwright.errors import StudyError
from netwright.interrupts import held, let_through

T = TypeVar("T")
PASSING = ("full", "locked", "i/o error", "unable to open")  # SQLite's words for what may pass
JOURNAL = "study.db"  # in the folder of a study, which is named by it
LONGEST = 5.0  # seconds between attempts

_PASSWORD = re.compile(r"(://[^:]*):.*?(@[^@]*)?$", re.DOTALL)  # in what is no sound URL
_SECRET = re.compile(r"([?&][^=&]*passw(?:or)?d=)[^&]*", re.IGNORECASE)

_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def sqlite_url(path: str | Path) -> str:
    """Return the storage URL of a SQLite file."""
    if "?" in str(path):
        raise StudyError(
            f"a journal's path must have no question mark, which ends the path of a URL; got "
            f"{str(path)!r}; rename the folder"
        )
    return f"sqlite:///{Path(path)}"


def parse(url: str) -> sa.URL | None:
    """Return the parts of a database's URL, None for one that is none.

    It is none either where a password's @ or / would make the rest of it a host or a database.
    """
    try:
        found = sa.make_url(url)
    except (SQLAlchemyError, ValueError):  # the latter from a port that is no number
        return None
    server = found.get_backend_name() != "sqlite"
    torn = server and re.search(":.*@", found.database or "") is not None
    return None if torn or "@" in (found.host or "") else found


def hidden(url: str) -> str:
    """Return a database's URL, sound or not, without its password; other text as it is."""
    found = parse(url)
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***\2", url)) if found is None else _said(found)


def _said(url: sa.URL) -> str:
    return _SECRET.sub(r"\1***", url.render_as_string(hide_password=True))


def close_all() -> None:
    """Let go of every database file of this process, so that SQLite leaves nothing beside them.

    A database that is used again opens its file again.
    """
    for database in list(_databases):
        database.close()


class Database:
    """Connections to the database at `url`; "sqlite://" is one in memory.

    file: of SQLite, None for others and in memory. place: what people call it, and commands take: a
    study's folder, or the URL without its password.
    name: of the database, or the file without its ending.

    Raises `StudyError` for a URL that is none or has options for SQLite, and where a `must_exist`
    SQLite file is missing.
    """

    def __init__(self, url: str, must_exist: bool) -> None:
        parsed = parse(url)
        if parsed is None:
            raise StudyError(
                f"a storage must be a database URL such as sqlite:///study.db; got "
                f"{hidden(url)!r}; write @ : / ? in a password as %40 %3A %2F %3F"
            )
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite and "?" in url:
            raise StudyError(
                f"a SQLite journal's URL must be the path of its file, without options; got "
                f"{hidden(url)!r}; leave out ? and what follows"
            )
        self.file = parsed.database if self._sqlite and parsed.database != ":memory:" else None
        self.place = _place(parsed, self.file)
        if must_exist and self.file is not None and not Path(self.file).is_file():
            folder = Path(self.file).parent
            remedy = "start one with netwright search, or check the path"
            if folder.is_file():
                remedy = f"{folder} is a file: give the folder of a study"
            raise StudyError(f"a study must have a journal; there is none at {self.file}; {remedy}")
        self.name = Path(parsed.database or "study").stem
        self._kept: sqlite3.Connection | None = None
        self._alone: AbstractContextManager[object] = nullcontext()
        try:
            self.engine = self._connect(parsed)
        except (SQLAlchemyError, ImportError) as error:
            hint = "" if self._sqlite else "; pip install 'netwright[postgresql]' has its driver"
            raise StudyError(
                f"the storage {self.place} cannot be opened: {first_line(error)}{hint}"
            ) from error
        self._say: Callable[[str], None] | None = None
        if self.file is not None:
            _databases.add(self)
        weakref.finalize(self, _let_go, self.engine, self._kept)

    @property
    def shared(self) -> bool:
        """Whether another process can open it."""
        return not self._sqlite or self.file is not None

    def _connect(self, url: sa.URL) -> sa.Engine:
        if not self._sqlite:
            return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        if self.file is not None:
            engine = sa.create_engine(url, connect_args={"timeout": 60})
        else:
            engine = self._in_memory(url)

        @sa.event.listens_for(engine, "connect")
        def _durable(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=FULL")

        return engine

    def _in_memory(self, url: sa.URL) -> sa.Engine:
        """Return one connection, which threads use in turn.

        SQLAlchemy drops it where an interrupt breaks it off; the data live on in another that is
        kept and never used.
        """
        name = f"file:netwright-{uuid.uuid4().hex}?mode=memory&cache=shared"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(name, uri=True, check_same_thread=False)

        self._kept, self._alone = connect(), RLock()
        return sa.create_engine(url, creator=connect, poolclass=sa.pool.StaticPool)

    def close(self) -> None:
        """Let go of it."""
        _let_go(self.engine, self._kept)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn the database's own errors into one line."""
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"a journal must be a sound database; {self.file or self.place} cannot be read or "
                f"written ({first_line(error)}); check the file and the disk, or the server, or "
                f"restore a backup"
            ) from error

    @contextmanager
    def patient(self, say: Callable[[str], None]) -> Iterator[None]:
        """Wait, and `say` so, while the database is away or its disk is full, rather than raise."""
        self._say = say
        try:
            yield
        finally:
            self._say = None

    def read(self, query: Callable[[sa.Connection], T]) -> T:
        """Run `query` on a connection."""
        return self._attempts(lambda connection, again: query(connection))

    def write(
        self, change: Callable[[sa.Connection], object], done: sa.Select[Any] | None = None
    ) -> None:
        """Commit a change once; after a broken connection `done` has a row if it was.

        Without `done` the change may be made again.
        """

        def attempt(connection: sa.Connection, again: bool) -> None:
            if not again or done is None or connection.execute(done).first() is None:
                change(connection)

        self._attempts(attempt)

    def _attempts(self, attempt: Callable[[sa.Connection, bool], T]) -> T:
        pause = 0.1
        began: float | None = None
        while True:
            try:
                with held(), self._alone, self.engine.begin() as connection:
                    result = attempt(connection, began is not None)
            except DBAPIError as error:
                if self._say is None or not self._passes(error):
                    with self.guard():
                        raise
                if began is None:
                    began = time.monotonic()
                    self._say(
                        f"the journal at {self.place} cannot be used ({first_line(error)}); the "
                        f"search waits for it; nothing is lost"
                    )
                let_through()
                time.sleep(pause)
                pause = min(2 * pause, LONGEST)
                continue
            if began is not None and self._say is not None:
                self._say(f"the journal is back after {time.monotonic() - began:.0f} s; going on")
            return result

    def _passes(self, error: DBAPIError) -> bool:
        if not self._sqlite:
            return isinstance(error, OperationalError) or error.connection_invalidated
        text = str(error.orig).lower()
        return isinstance(error, OperationalError) and any(word in text for word in PASSING)


def _let_go(engine: sa.Engine, kept: sqlite3.Connection | None) -> None:
    engine.dispose()
    if kept is not None:
        kept.close()


def _place(url: sa.URL, file: str | None) -> str:
    if file is not None and Path(file).name == JOURNAL:
        return str(Path(file).parent)
    return _said(url)


def first_line(error: BaseException) -> str:
    """Return what the database's own error says, in one line."""
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
