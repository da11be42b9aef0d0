"""Ctrl-C and SIGTERM: the first lets what is begun end, a second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

LIMIT = 8.0  # seconds for running children; what follows takes no two
_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)
]


@dataclass
class Stopping:
    """Whether an end was asked for."""

    asked: bool = False


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def graceful(
    stop: Callable[[], None], say: Callable[[str], None], limit: float = LIMIT
) -> Iterator[Stopping]:
    """Call `stop` at the first SIGINT or SIGTERM; raise `KeyboardInterrupt` `limit` s later.

    A second signal raises it at once. `say` gets what to tell the person, if somebody can hear it.
    Only the main thread can take signals; in another one nothing changes.
    """
    state = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def asked(number: int, _: FrameType | None) -> None:
        if state.asked:
            raise KeyboardInterrupt
        state.asked = True
        stop()
        _alarm_in(limit)
        with suppress(OSError):  # a terminal that hung up, a full disk
            say(
                f"{signal.Signals(number).name}: no more children are started; those that run have "
                f"{limit:g} s to end; once more ends at once"
            )

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, asked) for number in numbers}
    if hasattr(signal, "SIGALRM"):
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _interrupt)
    try:
        yield state
    finally:
        _alarm_in(0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at SIGTERM too, so that workers are ended, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Hold:
    """Takes an interrupt in place of the handler that was set, which gets it later."""

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self._handler = handler
        self._waiting = 0

    def __call__(self, number: int, _: FrameType | None) -> None:
        self._waiting += 1
        if self._waiting > 1:
            self.let_through()

    def let_through(self) -> None:
        waiting, self._waiting = self._waiting, 0
        for _ in range(waiting):
            self._handler(signal.SIGINT, None)


@contextmanager
def held() -> Iterator[None]:
    """Hold an interrupt back to the end of the block; a second one comes through.

    Only the main thread takes signals; in another one, or in such a block, nothing changes.
    """
    handler = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread()
    if not here or not callable(handler) or isinstance(handler, _Hold):
        yield
        return
    hold = _Hold(handler)
    try:
        signal.signal(signal.SIGINT, hold)
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        hold.let_through()


@contextmanager
def all_held() -> Iterator[None]:
    """Hold every interrupt back while processes are started, which takes no time.

    They are then begun whole, and leave SIGINT to this process from their first moment. That this
    thread does not take it is not enough for it: Python's handlers run in the main thread whichever
    takes the signal.
    """
    waiting: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], object]] = {}
    here = threading.current_thread() is threading.main_thread()
    try:
        for number in _ENDING if here else ():
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, lambda number, _: waiting.append(number))
        with _masked():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in waiting:
            before[number](number, None)


@contextmanager
def _masked() -> Iterator[None]:
    """Block SIGINT in this thread and in processes that it starts meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Take an interrupt that is held back, in the midst of a wait."""
    hold = signal.getsignal(signal.SIGINT)
    if isinstance(hold, _Hold) and threading.current_thread() is threading.main_thread():
        hold.let_through()


def _alarm_in(seconds: float) -> None:
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, seconds)
