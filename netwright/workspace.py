"""A study's folder: the journal and what the commands put beside it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from netwright.config import Config, config_from_dict, presets
from netwright.errors import StudyError, UsageError
from netwright.journal.database import JOURNAL, Database
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study


def is_url(where: str | Path) -> bool:
    """Say whether a study's place is a database's URL; if not, it is a folder."""
    return "://" in str(where)


def check_folder(folder: Path) -> None:
    """Raise `UsageError` where `folder` could not be made or written to; writes nothing."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(
            f"a folder to write to must be writable, or where one can be made; got {folder}, but "
            f"{there} is {'read-only' if there.is_dir() else 'a file'}; choose another"
        )


class Workspace:
    """A folder DIR: DIR/study.db, and report.html, network/ and exports once they are made.

    where: the folder, or a database's URL, whose folder is runs/ and the name of the database; that
    of DIR/study.db is DIR. name: what people call it, and commands take. Making one writes nothing.
    """

    def __init__(self, where: str | Path) -> None:
        self.name = str(where)
        self._is_url = is_url(where)
        if self._is_url:
            database = Database(self.name, must_exist=False)
            database.close()
            self.name = database.place
            self.storage = str(where)
            own = not is_url(self.name)
            self.folder = Path(self.name) if own else Path("runs") / database.name
        else:
            self.folder = Path(where)
            self.storage = sqlite_url(self.folder / JOURNAL)

    @property
    def report(self) -> Path:
        """Where the report lies."""
        return self.folder / "report.html"

    @property
    def network(self) -> Path:
        """The folder of the trained network."""
        return self.folder / "network"

    def exists(self) -> bool:
        """Say whether there is a journal."""
        if not self._is_url:
            return (self.folder / JOURNAL).exists()
        return self._begun()

    def _begun(self) -> bool:
        """Say whether the journal holds a study; one whose creation was cut off does not."""
        with closing(SqlStore(self.storage)) as store:
            return store.exists()

    def store(self) -> SqlStore:
        """Return the journal; raises `StudyError` where there is none."""
        store = SqlStore(self.storage, must_exist=True)
        if not store.exists():
            store.close()
            raise StudyError(
                f"a journal must hold a study; {store.place} holds none; start one with netwright "
                f"search"
            )
        return store

    def begin(self, config: Config) -> Study:
        """Start a study; raises `StudyError` where one is.

        The data are read and prepared first, so that bad data leave nothing behind. What is
        measured of the machine is noted, so that the study goes on with it.
        """
        check_folder(self.folder)
        if self._begun():
            raise StudyError(
                f"a new study needs a folder of its own; {self.name} holds one; use netwright "
                f"resume {self.name}, or --study with another folder"
            )
        space = config.make_space()
        evaluator = config.make_evaluator(space)
        found = config.prepare(evaluator)
        config = config.settled()
        config.settle(evaluator)
        notes = {"config": config.to_dict(), **found}
        study = config.make_study(self.storage, notes)
        study.evaluator = evaluator
        return study

    def open(self) -> tuple[Config, Study]:
        """Return the configuration and the study, gone on with; raises `StudyError`."""
        config = self.config()
        return config, config.make_study(self.storage)

    def config(self) -> Config:
        """Return the configuration that the journal holds."""
        if not self.exists() and (self.folder.suffix == ".toml" or str(self.folder) in presets()):
            raise StudyError(
                f"a study must be a folder that netwright search made; {self.folder} is a "
                f"configuration; begin with netwright search {self.folder}, or train a known "
                f"architecture with netwright train {self.folder} --cell NAME"
            )
        with closing(self.store()) as store:
            notes = store.header().get("notes")
        if not isinstance(notes, dict) or "config" not in notes:
            raise StudyError(
                f"this command needs a study begun with netwright search; {self.name} was begun "
                f"in Python; open it with Study(...)"
            )
        return config_from_dict(notes["config"], self.name)
