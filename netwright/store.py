"""The journal: SQLite through SQLAlchemy, PostgreSQL by URL; rows are only ever added."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from netwright.errors import StudyError
from netwright.journal import tables
from netwright.journal.database import Database, close_all, sqlite_url
from netwright.journal.lease import Holder, Lease
from netwright.journal.lease import read as read_lease
from netwright.journal.tables import FORMAT, FORMATS, STOPPING
from netwright.protocols import Event
from netwright.space import SearchSpace
from netwright.trial import Outline, Trial, TrialState

__all__ = ["SqlStore", "close_all", "sqlite_url"]

CHECKPOINTS = 2  # of which the newest is used, kept


class SqlStore:
    """The journal of one study at a database URL; "sqlite://" keeps it in memory.

    Raises `StudyError` where the database is missing (unless `create`), is no journal, is damaged
    or of another format. Nothing is written until `create` or `add_...` is called.
    """

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        self._database = Database(url, must_exist)
        self._file = self._database.file
        self.place = self._database.place
        try:
            if self.exists():
                self._check()
        except StudyError:
            self.close()
            raise

    # --- the header -------------------------------------------------------------------------

    def exists(self) -> bool:
        """Say whether there is a study here; reads only."""
        if self._file is not None and not Path(self._file).exists():
            return False
        with self._database.guard():
            return bool(sa.inspect(self._database.engine).has_table("header"))

    def _check(self) -> None:
        if self._file is not None:
            said = self._database.read(
                lambda c: c.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            )
            if said != "ok":
                raise StudyError(
                    f"a journal must be a sound database; {self._file} is damaged "
                    f"({' '.join(str(said).split())[:120]}); "
                    f"restore it from a backup"
                )
        found = self.header().get("format")
        if found not in FORMATS:
            raise StudyError(
                f"a journal must be of format {' or '.join(map(str, FORMATS))}; got {found!r} in "
                f"{self.place}; open it with the version of netwright that wrote it"
            )

    def create(self, header: Mapping[str, Any]) -> None:
        """Write the tables and the header of a new study."""
        if self.exists():
            raise StudyError(
                f"a new study needs a place of its own; {self.place} holds one; resume it, or "
                f"choose another"
            )
        if self._file is not None:
            try:
                Path(self._file).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(
                    f"a journal needs a folder that can be made; {self._file} has none "
                    f"({error.strerror}); choose another"
                ) from error
        known = STOPPING if header.get("stopping") else FORMAT
        rows = [
            {"key": key, "value": json.dumps(value)}
            for key, value in {**header, "format": known}.items()
        ]
        engine = self._database.engine
        with self._database.guard():
            if self._file is not None:
                with engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            with engine.begin() as connection:
                if connection.dialect.name == "sqlite":  # whose tables are else made one by one
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                tables.metadata.create_all(connection)
                connection.execute(tables.header.insert(), rows)

    def header(self) -> dict[str, Any]:
        """Return the header."""
        rows = self._database.read(lambda c: c.execute(sa.select(tables.header)).all())
        with self._database.guard():
            return {row.key: json.loads(row.value) for row in rows}

    # --- writing ----------------------------------------------------------------------------

    def add_proposal(
        self, trials: Sequence[Trial], canonical: Sequence[str], payload: Mapping[str, Any]
    ) -> None:
        """Journal a proposal and its trials, all or nothing; `canonical` has their digests."""
        rows = [tables.trial_row(t, digest) for t, digest in zip(trials, canonical, strict=True)]
        event = tables.event_row("propose", payload)

        def change(connection: sa.Connection) -> None:
            connection.execute(tables.trials.insert(), rows)
            connection.execute(tables.events.insert(), event)

        self._write(change, _events_like(event), trials[0].number)

    def finish(self, trial: Trial, told: Sequence[int] = ()) -> None:
        """Make a finished trial durable, and in one step that the controller is told `told`."""
        row = tables.result_row(trial, trial.number in told)
        results = tables.results.c
        own = sa.and_(results.number == trial.number, results.finished == trial.finished)
        event = tables.event_row("tell", {"numbers": list(told)})
        begun = {"of": trial.number, "at": trial.started}

        def change(connection: sa.Connection) -> None:
            connection.execute(tables.results.insert(), row)
            connection.execute(tables.BEGIN, begun)
            if told:
                connection.execute(tables.events.insert(), event)

        self._write(change, sa.select(results.number).where(own), trial.number)

    def _write(
        self, change: Callable[[sa.Connection], None], there: sa.Select[Any], number: int
    ) -> None:
        try:
            self._database.write(change, there)
        except IntegrityError as error:
            raise StudyError(
                f"a trial is written once; trial {number} is in {self.place} already; another "
                f"process may be running this study: stop one of them"
            ) from error

    def add_event(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Append an event."""
        row = tables.event_row(kind, payload)
        self._database.write(lambda c: c.execute(tables.events.insert(), row), _events_like(row))

    # --- reading ----------------------------------------------------------------------------

    def size(self) -> tuple[int, int]:
        """Return how many trials there are, and how many of them are finished."""
        kinds = (tables.trials, tables.results)
        counts = [sa.select(sa.func.count()).select_from(t).scalar_subquery() for t in kinds]
        trials, results = self._database.read(lambda c: c.execute(sa.select(*counts)).one())
        return int(trials), int(results)

    def outlines(self) -> list[Outline]:
        """Return the outline of each trial, by number."""
        of, result = tables.trials.c, tables.results.c
        query = (
            sa.select(of.number, of.batch, of.canonical, result.state, result.reward, result.told)
            .select_from(tables.trials.outerjoin(tables.results, of.number == result.number))
            .order_by(of.number)
        )
        states: dict[str | None, TrialState] = {str(state): state for state in TrialState}
        states[None] = TrialState.RUNNING
        rows = self._database.read(lambda c: c.execute(query).all())
        with self._database.guard():
            outlines = [
                Outline(batch, own, states[to], reward, bool(told))
                for _, batch, own, to, reward, told in rows
            ]
        if rows and rows[-1][0] != len(rows) - 1:
            raise StudyError(
                f"a journal must hold every trial; {self.place} has {len(rows)} of "
                f"{rows[-1][0] + 1}; restore it from a backup"
            )
        return outlines

    def trials(self, space: SearchSpace, numbers: Sequence[int] | None = None) -> list[Trial]:
        """Return all trials by number, or those asked for."""
        query = tables.whole_trials()
        parts: list[sa.Select[Any]] = [query]
        if numbers is not None:
            chunks = [numbers[i : i + 500] for i in range(0, len(numbers), 500)]
            parts = [query.where(tables.trials.c.number.in_(chunk)) for chunk in chunks]
        rows = self._database.read(lambda c: [row for p in parts for row in c.execute(p)])
        with self._database.guard():
            return [tables.trial_of(row, space) for row in rows]

    def events(self, kind: str | None = None, after: int = 0) -> list[Event]:
        """Return the events in order, those of a later sequence than `after`."""
        query = sa.select(tables.events).order_by(tables.events.c.sequence)
        if kind is not None:
            query = query.where(tables.events.c.kind == kind)
        if after:
            query = query.where(tables.events.c.sequence > after)
        rows = self._database.read(lambda c: c.execute(query).all())
        with self._database.guard():
            return [
                Event(sequence=sequence, kind=what, payload=json.loads(payload), time=when)
                for sequence, what, payload, when in rows
            ]

    # --- the controller, as a cache -----------------------------------------------------------

    def checkpoint(self) -> tuple[int, str, bytes] | None:
        """Return the newest (sequence of the event it follows, versions, state), or None."""
        table = tables.checkpoints
        query = sa.select(table).order_by(table.c.sequence.desc()).limit(1)
        row = self._database.read(lambda c: c.execute(query).first())
        return None if row is None else (row.sequence, row.versions, row.state)

    def add_checkpoint(self, versions: str, state: bytes) -> None:
        """Keep the controller's state after the last event."""
        table = tables.checkpoints

        def change(connection: sa.Connection) -> None:
            last = (
                connection.execute(sa.select(sa.func.max(tables.events.c.sequence))).scalar() or 0
            )
            connection.execute(table.delete().where(table.c.sequence == last))
            row = {"sequence": last, "versions": versions, "state": state}
            connection.execute(table.insert(), row)
            newest = sa.select(table.c.sequence).order_by(table.c.sequence.desc())
            kept = connection.execute(newest.limit(CHECKPOINTS)).scalars().all()
            connection.execute(table.delete().where(table.c.sequence < kept[-1]))

        self._database.write(change)

    # --- who runs it --------------------------------------------------------------------------

    def lease(self, progress: Callable[[], Mapping[str, Any]]) -> Lease | None:
        """Return the lease, not yet taken; None where no other process can open the journal."""
        if not self._database.shared:
            return None
        database = self._database
        return Lease(database.engine, self.place, progress, database.guard)

    def holder(self) -> Holder | None:
        """Return who searches here, or did and died."""
        return self._database.read(read_lease)

    def patient(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Wait for a database that is away rather than raise, and `say` so."""
        return self._database.patient(say)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()


def _events_like(row: Mapping[str, Any]) -> sa.Select[Any]:
    own = [tables.events.c[name] == value for name, value in row.items()]
    return sa.select(tables.events.c.sequence).where(sa.and_(*own))
