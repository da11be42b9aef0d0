"""Time and memory limits of a child in this process."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from netwright.children import compiling
from netwright.errors import ChildError, TimeLimitError, out_of_memory


class Deadline:
    """A time limit in seconds from now, those in which is compiled aside; 0 means none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = compiling.now() + seconds if seconds else float("inf")

    def check(self) -> None:
        """Raise `TimeLimitError` once the time is over."""
        if compiling.now() > self._end:
            raise TimeLimitError(f"ran past its time limit of {self.seconds:g} s")


@functools.cache
def load_torch() -> None:
    """Load what torch loads with a process's first optimiser, a second or two of its compiler's."""
    torch.optim.SGD([torch.zeros(1)])


@functools.cache
def keep_memory() -> None:
    """Let memory that is freed stay with this process, where the C library is GNU's.

    Otherwise tensors of some MiB are given back to the system and zeroed again at every step.
    """
    libc = _libc()
    if libc is not None:
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


@contextmanager
def memory_limit(gigabytes: float) -> Iterator[None]:
    """Bound what this process may allocate in addition, in GiB; 0 means no bound.

    An allocation past the bound fails like one past the machine's memory. Where the system has no
    such bound (Windows, macOS) only the machine's own limit holds. Running out of memory, of the
    host or of a GPU, becomes a `ChildError`.
    """
    try:
        with _bounded(gigabytes):
            yield
    except MemoryError as error:
        raise ChildError("out of memory") from error
    except RuntimeError as error:
        if out_of_memory(error):
            raise ChildError(f"out of memory: {str(error).splitlines()[0][:200]}") from error
        raise


@contextmanager
def _bounded(gigabytes: float) -> Iterator[None]:
    if not gigabytes:
        yield
        return
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)  # what is kept unused would count as there before
    try:
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[5])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = pages * resource.getpagesize() + int(gigabytes * 2**30)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Let numbers below 1e-38 be 0 in this thread: fading states pass there, and are slow."""
    were = bool(torch.tensor(1e-39) * 1 != 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(not were)
