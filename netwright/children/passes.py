"""What stands around convolutions, in few passes over memory: compiled once for every child.

Images come as the address of dense memory [N, H, W, C] of the type of `like`: float32, or uint16
for bfloat16, which numpy has not; an address costs a call less than an array does. Other addresses
are of float32. Sums over pixels are float32 in a thread's range: 16 / gcd(C, 16) of them a channel,
each of every so manyth pixel (`netwright.children.lanes.period`); these are added up in float64,
and so are those of several threads. A gradient that arrives from several takers is added up where
it is needed, a tile at a time: takers is int64 [K, 4], of each the address of its first number and
its steps from image to image, row to row and column to column, in numbers; channels are adjacent;
`takers, count` are its address and K. NaN stays NaN everywhere. `run` runs them in all of torch's
threads (`netwright.children.team`) for `netwright.children.joints`, whose plain versions are what
they are tested against.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.np.unsafe.ndarray import to_fixed_tuple

from netwright.children.arrived import added, pooled, unpooled
from netwright.children.compiled import kept_on_disk, named, part
from netwright.children.normalising import normalised, normalised_backward, scaled
from netwright.children.openmp import openmp
from netwright.children.recording import do
from netwright.children.team import ALONE, broken_off, received

__all__ = ["added", "normalised", "normalised_backward", "pooled", "run", "scaled", "unpooled"]

WORTH = 1 << 15  # numbers of a pass from which several threads take it

_PASSES: tuple[Callable[..., None], ...] = (
    scaled,
    normalised,
    normalised_backward,
    added,
    pooled,
    unpooled,
)
_MEETS = (0, 2, 1, 0, 0, 0)  # how often the threads of each meet
_MOST = 15  # numbers that one takes
_first: Any = to_fixed_tuple


def run(what: Callable[..., None], like: Any, *numbers: int) -> None:
    """Run a pass, `numbers` what it takes between `like` and its team.

    The first three are address, pixels and channels of images; where these are large, all threads
    of torch run it.
    """
    threads = torch.get_num_threads()
    library = openmp() if threads > 1 and numbers[1] * numbers[2] >= WORTH else None
    if library is None:
        do(what, like, *numbers, ALONE)
    else:
        do(
            library.run_whole,
            _any_pass(like.dtype).address,
            (_PASSES.index(what), *numbers),
            threads,
        )


@part
def _pass(which: int, like: Any, numbers: Any, team: Any) -> None:
    """The pass whose place in `_PASSES` that is."""
    if which == 0:
        scaled(like, *_first(numbers, 8), team)  # type: ignore[call-arg]
    elif which == 1:
        normalised(like, *_first(numbers, 15), team)  # type: ignore[call-arg]
    elif which == 2:
        normalised_backward(like, *_first(numbers, 15), team)  # type: ignore[call-arg]
    elif which == 3:
        added(like, *_first(numbers, 7), team)  # type: ignore[call-arg]
    elif which == 4:
        pooled(like, *_first(numbers, 7), team)  # type: ignore[call-arg]
    else:
        unpooled(like, *_first(numbers, 8), team)  # type: ignore[call-arg]


@functools.cache
def _any_pass(dtype: Any) -> Any:
    """A C function that runs the pass whose place in `_PASSES` it is given, on images of a type."""

    def body(data: Any) -> None:
        team, given = received(data, 1 + _MOST)
        try:
            _pass(given[0], np.empty(0, dtype), given[1:], team)
        except Exception:
            broken_off(team, _MEETS[given[0]])

    return kept_on_disk(numba.cfunc, types.void(types.voidptr))(named(body))
