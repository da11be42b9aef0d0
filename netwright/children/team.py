"""A thread's share of a pass over memory that all of torch's threads run, in compiled code.

torch's OpenMP keeps its threads spinning between parallel regions; a second pool would wait for
them. So a pass is run by the OpenMP library that torch has loaded, in one region: every thread
runs it with its number, takes its range of the rows, and meets the others where it needs what they
found. Ranges depend on the number of threads alone, and sums over ranges are added in their order,
so the same number of threads gives the same bits. A team is a thread's number, how many there are,
the address of what lets them meet, and that of what they tell, int64 [threads, 2]: how often each
has met the others, and how often it had when an exception broke it off, -1 where none did. Of an
exception in one thread the others hear where they meet, and end there too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.compiled import called, carray, part, pointer

ALONE = (0, 1, 0, 0)


@part
def meet(team: Any) -> None:
    """Wait until all have come here; raises `MemoryError` in all where one did not."""
    if team[1] > 1:
        called(team[2])
        told = _told(team)
        met = told[team[0], 0]
        for k in range(team[1]):
            if 0 <= told[k, 1] <= met:  # a quick thread may have gone on, and been broken off since
                told[team[0], 1] = met
                raise MemoryError
        told[team[0], 0] = met + 1


@part
def _told(team: Any) -> Any:
    return carray(pointer(team[3]), (team[1], 2), np.int64)


@part
def broken_off(team: Any, meets: int) -> None:
    """Tell that an exception broke this thread off, where the others would wait for it.

    meets: how often each thread meets the others in all.
    """
    told = _told(team)[team[0]]
    if told[1] < 0:  # else it is what `meet` raised
        told[1] = told[0]
        if told[0] < meets:
            called(team[2])


@part
def share(team: Any, n: int, step: int = 1) -> Any:
    """Return this thread's range of 0 .. n, cut at multiples of `step`."""
    steps = -(-n // step)
    first, last = steps * team[0] // team[1], steps * (team[0] + 1) // team[1]
    return first * step, min(n, last * step)


@part
def received(data: Any, most: int) -> Any:
    """Return this thread's team and the numbers, int64 [most], of what `OpenMP.run_whole` gives."""
    held = carray(data, (4 + most,), np.int64)
    return (np.int64(called(held[0])), np.int64(called(held[1])), held[2], held[3]), held[4:]


@part
def array(address: int, shape: Any, like: Any) -> Any:
    """Return the memory at an address, of the type of `like`."""
    return carray(pointer(address), shape, like.dtype)


@part
def line_of(address: int, channels: int) -> Any:
    """Return float32 [C] at an address."""
    return carray(pointer(address), (channels,), np.float32)


@part
def sums_of(address: int, team: Any, channels: int) -> Any:
    """Return float64 [threads, 2, C] at an address, for what each thread has added up.

    One thread needs no address, which is then 0.
    """
    if address == 0:
        return np.empty((team[1], 2, channels))
    return carray(pointer(address), (team[1], 2, channels), np.float64)


@part
def takers_of(address: int, count: int) -> Any:
    """Return int64 [K, 4] at an address."""
    return carray(pointer(address), (count, 4), np.int64)


@part
def number(bits: int) -> Any:
    """Return the float64 of these bits."""
    return np.int64(bits).view(np.float64)


@part
def whole_of(sums: Any) -> Any:
    """[threads, 2, C] -> [2, C], added up in the threads' order."""
    found = sums[0].copy()
    for k in range(1, sums.shape[0]):
        for i in range(2):
            for c in range(found.shape[1]):
                found[i, c] += sums[k, i, c]
    return found
