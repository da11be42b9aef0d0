"""What compiling takes: it is done once a machine, so no training is charged for it.

What numba compiles, or reads where it was kept, counts; a cell's machine code is made in every
process and is part of what its children cost.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from numba.core import event

from netwright.machine import tell

NOTE = "compiling for this processor, once a machine: up to a minute, which no child is charged for"


class _Own(threading.local):
    depth = 0
    began = (0.0, 0.0)
    wall = 0.0


class _Seconds(event.Listener):
    """Adds up what a thread spends in numba's compiler, or waiting for one that is."""

    def __init__(self) -> None:
        self.own = _Own()
        self.processor = 0.0
        self._lock = threading.Lock()

    def on_start(self, _: Any) -> None:
        if not self.own.depth:
            self.own.began = time.perf_counter(), time.thread_time()
        self.own.depth += 1

    def on_end(self, _: Any) -> None:
        self.own.depth -= 1
        if not self.own.depth:
            wall, processor = self.own.began
            self.own.wall += time.perf_counter() - wall
            with self._lock:
                self.processor += time.thread_time() - processor


class _Once(event.Listener):
    """Tells, at the first function that was not kept."""

    told = False

    def on_start(self, _: Any) -> None:
        if not self.told:
            self.told = True
            tell(NOTE)

    def on_end(self, _: Any) -> None:
        pass


_SECONDS = _Seconds()
event.register("numba:compiler_lock", _SECONDS)  # type: ignore[no-untyped-call]
event.register("numba:compile", _Once())  # type: ignore[no-untyped-call]


def wall() -> float:
    """Return the seconds for which this thread has compiled, or waited for another that did."""
    return _SECONDS.own.wall


def now() -> float:
    """Return a time in seconds, which stands still for this thread while it compiles."""
    return time.perf_counter() - wall()


def processor() -> float:
    """Return the processor's seconds in which this process has compiled."""
    return _SECONDS.processor
