"""One thread a test process: small networks gain nothing from more, and tests run side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from netwright.executors.probe import Crew
from netwright.tasks import execution
from tests.postgres import Server, running

torch.set_num_threads(1)

# No test measures time; CI draws the same examples each run, a developer's machine new ones.
settings.register_profile("netwright", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("netwright")


@pytest.fixture(autouse=True, scope="session")
def one_worker() -> Iterator[None]:
    """Searches that leave their workers to a measurement have one, so that none is measured."""

    def one(subject: object, devices: Sequence[str], threads: int, *_: object) -> Crew:
        return Crew(1, threads, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "best_workers", one)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch's, whatever a test before this one or this one sets."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, started when first asked for."""
    with running() as server:
        yield server
