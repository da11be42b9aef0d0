"""The journal: SQLite through SQLAlchemy, PostgreSQL by URL; rows are only ever added.

The one table that changes shape of nothing: `events` gives the order in which things happened,
`trials` what was proposed, `results` how each ended. A trial without a result is still to be run.
"""

from __future__ import annotations

import json
import math
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from netwright.errors import StudyError
from netwright.protocols import Event
from netwright.space import SearchSpace
from netwright.trial import Evaluation, Trial, TrialState

FORMAT = 1

_metadata = sa.MetaData()
_header = sa.Table(
    "header",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
)
_trials = sa.Table(
    "trials",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("batch", sa.Integer, nullable=False),
    sa.Column("choices", sa.Text, nullable=False),
    sa.Column("given", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
)
_results = sa.Table(
    "results",
    _metadata,
    sa.Column("number", sa.ForeignKey("trials.number"), primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reward", sa.Float, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("duplicate_of", sa.Integer),
    sa.Column("finished", sa.Float, nullable=False),
    sa.Column("evaluation", sa.Text),
)


def sqlite_url(path: str | Path) -> str:
    """Return the storage URL of a SQLite file."""
    if "?" in str(path):
        raise StudyError(
            f"a journal's path must have no question mark, which ends the path of a URL; got "
            f"{str(path)!r}; rename the folder"
        )
    return f"sqlite:///{Path(path)}"


def place_of(url: str) -> str:
    """Return what people call the place of a journal: a study's folder, a file, or the URL."""
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///"):
        return url
    return str(path.parent if path.name == "study.db" else path)


_stores: weakref.WeakSet[SqlStore] = weakref.WeakSet()


def close_all() -> None:
    """Let go of every database file of this process, so that SQLite leaves nothing beside them.

    A store that is used again opens its file again.
    """
    for store in list(_stores):
        store.close()


class SqlStore:
    """The journal of one study at a database URL; "sqlite://" keeps it in memory.

    Raises `StudyError` where the database is missing (unless `create`), is no journal, is damaged
    or of another format. Nothing is written until `create` or `add_...` is called.
    """

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        self.url = url
        try:
            parsed = sa.engine.make_url(url)
        except SQLAlchemyError as error:
            raise StudyError(
                f"a storage must be a database URL such as sqlite:///study.db; got {url!r}"
            ) from error
        self._file = parsed.database if parsed.get_backend_name() == "sqlite" else None
        if self._file == ":memory:":
            self._file = None
        if must_exist and self._file is not None and not Path(self._file).is_file():
            raise StudyError(
                f"a study must have a journal; there is none at {self._file}; start one with "
                f"netwright search, or check the path"
            )
        try:
            self._engine = self._connect(parsed)
        except (SQLAlchemyError, ImportError) as error:
            raise StudyError(f"the storage {url!r} cannot be opened: {_first(error)}") from error
        if self._file is not None:
            _stores.add(self)
        weakref.finalize(self, self._engine.dispose)
        try:
            if self.exists():
                self._check()
        except StudyError:
            self.close()
            raise

    def _connect(self, url: sa.URL) -> sa.Engine:
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True)
        pool = {} if self._file else {"poolclass": sa.pool.StaticPool}
        engine = sa.create_engine(url, connect_args={"timeout": 60}, **pool)

        @sa.event.listens_for(engine, "connect")
        def _durable(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=FULL")

        return engine

    # --- the header -------------------------------------------------------------------------

    def exists(self) -> bool:
        """Say whether there is a study here; reads only."""
        if self._file is not None and not Path(self._file).exists():
            return False
        with self._guard():
            return bool(sa.inspect(self._engine).has_table("header"))

    def _check(self) -> None:
        if self._file is not None:
            with self._guard(), self._engine.connect() as connection:
                said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if said != "ok":
                raise StudyError(
                    f"a journal must be a sound database; {self._file} is damaged "
                    f"({' '.join(str(said).split())[:120]}); "
                    f"restore it from a backup"
                )
        found = self.header().get("format")
        if found != FORMAT:
            raise StudyError(
                f"a journal must be of format {FORMAT}; got {found!r} in {place_of(self.url)}; "
                f"open it with the version of netwright that wrote it"
            )

    def create(self, header: Mapping[str, Any]) -> None:
        """Write the tables and the header of a new study."""
        if self.exists():
            raise StudyError(
                f"a new study needs a place of its own; {place_of(self.url)} holds one; resume it, "
                f"or choose another"
            )
        if self._file is not None:
            try:
                Path(self._file).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(
                    f"a journal needs a folder that can be made; {self._file} has none "
                    f"({error.strerror}); choose another"
                ) from error
        rows = [
            {"key": key, "value": json.dumps(value)}
            for key, value in {**header, "format": FORMAT}.items()
        ]
        with self._guard():
            if self._file is not None:
                with self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            with self._engine.begin() as connection:
                _metadata.create_all(connection)
                connection.execute(_header.insert(), rows)

    def header(self) -> dict[str, Any]:
        """Return the header."""
        with self._guard(), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_header)).all()
            return {row.key: json.loads(row.value) for row in rows}

    # --- writing ----------------------------------------------------------------------------

    def add_proposal(self, trials: Sequence[Trial], payload: Mapping[str, Any]) -> None:
        """Journal a proposal and its trials, all or nothing."""
        rows = [
            {
                "number": trial.number,
                "batch": trial.batch,
                "choices": trial.architecture.to_json(),
                "given": json.dumps(dict(trial.given)),
                "seed": trial.seed,
                "started": trial.started,
            }
            for trial in trials
        ]
        with self._writing("trial", rows[0]["number"]) as connection:
            connection.execute(_trials.insert(), rows)
            connection.execute(_events.insert(), _event("propose", payload))

    def finish(self, trial: Trial, tell: bool = False) -> None:
        """Make a finished trial durable; with `tell`, journal in one step that it was told."""
        row = {
            "number": trial.number,
            "state": str(trial.state),
            "reward": trial.reward,
            "failure": trial.failure,
            "duplicate_of": trial.duplicate_of,
            "finished": trial.finished,
            "evaluation": _dump(trial.evaluation),
        }
        with self._writing("trial", trial.number) as connection:
            connection.execute(_results.insert(), row)
            if tell:
                connection.execute(_events.insert(), _event("tell", {"numbers": [trial.number]}))

    def add_event(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Append an event."""
        with self._guard(), self._engine.begin() as connection:
            connection.execute(_events.insert(), _event(kind, payload))

    @contextmanager
    def _writing(self, what: str, number: object) -> Iterator[sa.Connection]:
        try:
            with self._guard(), self._engine.begin() as connection:
                yield connection
        except IntegrityError as error:
            raise StudyError(
                f"a {what} is written once; {what} {number} is in {place_of(self.url)} already; "
                f"another process may be running this study: stop one of them"
            ) from error

    # --- reading ----------------------------------------------------------------------------

    def trials(self, space: SearchSpace) -> list[Trial]:
        """Return all trials by number."""
        query = (
            sa.select(_trials, _results)
            .select_from(_trials.outerjoin(_results, _trials.c.number == _results.c.number))
            .order_by(_trials.c.number)
        )
        with self._guard(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
            return [_trial(row, space) for row in rows]

    def events(self, kind: str | None = None) -> list[Event]:
        """Return the events in order."""
        query = sa.select(_events).order_by(_events.c.sequence)
        if kind is not None:
            query = query.where(_events.c.kind == kind)
        with self._guard(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
            return [
                Event(
                    sequence=row.sequence,
                    kind=row.kind,
                    payload=json.loads(row.payload),
                    time=row.time,
                )
                for row in rows
            ]

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn the database's own errors into one line."""
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"a journal must be a sound database; {self._file or self.url} cannot be read or "
                f"written ({_first(error)}); check the file and the disk, or restore a backup"
            ) from error


def _first(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__


def _event(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "payload": json.dumps(dict(payload)), "time": time.time()}


def _dump(evaluation: Evaluation | None) -> str | None:
    if evaluation is None:
        return None
    curve = [value if math.isfinite(value) else None for value in evaluation.curve]
    return json.dumps(
        {
            "reward": evaluation.reward,
            "score": evaluation.score,
            "curve": curve,
            "cost": evaluation.cost,
            "parameters": evaluation.parameters,
            "details": dict(evaluation.details),
        }
    )


def _load(text: str | None) -> Evaluation | None:
    if text is None:
        return None
    data = json.loads(text)
    data["curve"] = tuple(math.nan if value is None else value for value in data["curve"])
    return Evaluation(**data)


def _trial(row: Any, space: SearchSpace) -> Trial:
    number, batch, choices, given, seed, started, ended, state, reward, failure, of, at, text = row
    architecture = space.architecture(json.loads(choices), f"trial {number}")
    return Trial(
        number=number,
        batch=batch,
        architecture=architecture,
        seed=seed,
        given=json.loads(given),
        started=started,
        state=TrialState.RUNNING if ended is None else TrialState(state),
        evaluation=_load(text),
        reward=reward,
        failure=failure,
        duplicate_of=of,
        finished=at,
    )
