"""Convolutions in all of torch's threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import torch
from numba import types
from numba.np.unsafe.ndarray import to_fixed_tuple

from netwright.children.compiled import kept_on_disk, named, part
from netwright.children.openmp import openmp
from netwright.children.recording import do
from netwright.children.team import ALONE, broken_off, received
from netwright.children.tiled.ahead import convolved, inputs_back
from netwright.children.tiled.back import weights_back

_MEETS = (0, 0, 2)  # how often the threads of each meet
_MOST = 21  # numbers that one takes
_first: Any = to_fixed_tuple


def run(what: Callable[..., None], *numbers: int) -> None:
    """Run one of them, in all of torch's threads."""
    threads = torch.get_num_threads()
    library = openmp() if threads > 1 else None
    if library is None:
        do(what, *numbers, ALONE)
    else:
        which = (convolved, inputs_back, weights_back).index(what)
        do(library.run_whole, _any_of_them().address, (which, *numbers), threads)


@part
def _one(which: int, numbers: Any, team: Any) -> None:
    if which == 0:
        convolved(*_first(numbers, 18), team)  # type: ignore[call-arg]
    elif which == 1:
        inputs_back(*_first(numbers, 11), team)  # type: ignore[call-arg]
    else:
        weights_back(*_first(numbers, 21), team)  # type: ignore[call-arg]


@functools.cache
def _any_of_them() -> Any:
    """A C function that runs the one whose number it is given."""

    def body(data: Any) -> None:
        team, given = received(data, 1 + _MOST)
        try:
            _one(given[0], given[1:], team)
        except Exception:
            broken_off(team, _MEETS[given[0]])

    return kept_on_disk(numba.cfunc, types.void(types.voidptr))(named(body))
