"""Calls of a step, written down to be made again on the same memory.

A step of a small child is made of calls of microseconds, and to find out what they take (shapes,
addresses, tables, memory) costs as much again. It is the same in every step: so one step's calls
are recorded, and what they worked on is held, and later steps make the same calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Recording:
    """calls: functions and what they took, numbers that are addresses among it. held: whose."""

    calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = field(default_factory=list)
    held: list[object] = field(default_factory=list)

    def again(self) -> None:
        """Make the calls."""
        for what, given in self.calls:
            what(*given)


class _Now(threading.local):
    recording: Recording | None = None


_now = _Now()


@contextmanager
def recorded() -> Iterator[Recording]:
    """A block of which all that goes through `do` is recorded, and all of `hold` is held."""
    before, found = _now.recording, Recording()
    _now.recording = found
    try:
        yield found
    finally:
        _now.recording = before


def do(what: Callable[..., object], *given: Any) -> None:
    """Call a function that writes to memory that it is given."""
    if _now.recording is not None:
        _now.recording.calls.append((what, given))
    what(*given)


def hold(memory: T) -> T:
    """Return memory that calls are told the address of, held while they are recorded."""
    if _now.recording is not None:
        _now.recording.held.append(memory)
    return memory
