"""The controller's matrices are small: one thread is fastest and gives the same bits everywhere."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

_ALONE = threading.RLock()  # numpy's number of threads is the process's: who sets it gives it back


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch, and the BLAS of numpy and scipy, on one thread inside the block.

    Blocks of several threads run one after another.
    """
    before = torch.get_num_threads()
    try:
        with _ALONE, _products_alone():
            if before != 1:
                torch.set_num_threads(1)
            yield
    finally:
        if torch.get_num_threads() != before:  # a BLAS on torch's OpenMP sets torch's too
            torch.set_num_threads(before)


def _products_alone() -> AbstractContextManager[Any]:
    libraries = _libraries("scipy.linalg" in sys.modules)
    if all(library.num_threads == 1 for library in libraries.lib_controllers):
        return nullcontext()
    limited: AbstractContextManager[Any] = libraries.limit(limits=1)
    return limited


@functools.cache
def _libraries(scipy: bool) -> Any:
    """Find the BLAS libraries that are loaded, which takes milliseconds; scipy brings its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of OpenMP libraries, which are left alone
        return ThreadpoolController().select(user_api="blas")
