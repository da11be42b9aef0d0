"""Functions that `tests.test_compiled` compiles in processes of its own."""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from netwright.children.compiled import jit, kept_on_disk


@jit
def twice(x: int) -> int:
    """Return 2x."""
    return 2 * x


def half() -> Any:
    """Return a C function of half of a whole number."""

    def body(x: Any) -> Any:
        return x // 2

    return kept_on_disk(numba.cfunc, types.int64(types.int64))(body)
