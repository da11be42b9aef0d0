"""Convolutions in all of torch's threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import torch
from numba import types
from numba.np.unsafe.ndarray import to_fixed_tuple

from netwright.children.compiled import kept_on_disk, named
from netwright.children.openmp import openmp
from netwright.children.recording import do
from netwright.children.team import ALONE, received
from netwright.children.tiled.ahead import convolved, inputs_back
from netwright.children.tiled.back import weights_back

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
        do(library.run, _any_of_them().address, (which, *numbers), threads)


@functools.cache
def _any_of_them() -> Any:
    """A C function that runs the one whose number it is given."""

    def body(data: Any) -> None:
        team, given = received(data, 1 + _MOST)
        which, numbers = given[0], given[1:]
        if which == 0:
            convolved(*_first(numbers, 18), team)  # type: ignore[call-arg]
        elif which == 1:
            inputs_back(*_first(numbers, 11), team)  # type: ignore[call-arg]
        else:
            weights_back(*_first(numbers, 21), team)  # type: ignore[call-arg]

    return kept_on_disk(numba.cfunc, types.void(types.voidptr))(named(body))
