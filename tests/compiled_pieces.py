"""Functions that tests compile in processes of their own, and how these are run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
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


def printed(script: str, cache: Path) -> list[str]:
    """Run a script that keeps what it compiles in `cache`; return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
