"""The OpenMP library that torch has loaded, whose threads compiled passes share with it."""

from __future__ import annotations

import ctypes
import functools
import struct
from array import array
from pathlib import Path

import torch


class OpenMP:
    """Runs C functions in torch's threads, by names that GNU's, LLVM's and Intel's library have."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._region = library.GOMP_parallel
        self._region.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
        self._region.restype = None
        names = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
        found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names]
        self._addresses = struct.pack("=3q", *(address or 0 for address in found))

    def run(self, function: int, numbers: tuple[int, ...], threads: int) -> None:
        """Call the C function at an address in so many threads, with the address of int64 numbers.

        Before `numbers` stand the addresses of functions without arguments: the thread's number,
        how many there are, and the barrier.
        """
        data = self._addresses + struct.pack(f"={len(numbers)}q", *numbers)
        self._region(function, data, threads, 0)

    def run_whole(self, function: int, numbers: tuple[int, ...], threads: int) -> None:
        """Run a function of `netwright.children.team`; raises `MemoryError` where a thread did."""
        told = array("q", [0, -1] * threads)
        self.run(function, (told.buffer_info()[0], *numbers), threads)
        if any(met >= 0 for met in told[1::2]):
            raise MemoryError("a thread of compiled code found no memory to work in")


@functools.cache
def openmp() -> OpenMP | None:
    """Return torch's library, None where it has none of these names."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return OpenMP(ctypes.CDLL(str(path)))  # finds names in what it is linked to
    except (OSError, AttributeError):
        return None


def ready() -> bool:
    """Return whether compiled passes can run in as many threads as torch has now."""
    return torch.get_num_threads() == 1 or openmp() is not None
