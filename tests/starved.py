"""Lets threads of compiled passes run out of memory before, between and after they meet: test_team.

A thread that waits for ever can't be ended, so this is a process of its own.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch

from netwright.children import passes
from netwright.children.compiled import part
from netwright.children.team import meet
from netwright.children.tiled import ahead, back, threads

THREADS = 3
MEETS = (0, 1, 2)


@part
def _starving(meets: int, starve: Any, team: Any) -> None:
    """Meet so often; thread k finds no memory after it met starve[k] times, where that is >= 0."""
    for met in range(meets + 1):
        if starve[team[0]] == met:
            np.empty(1 << 61, np.uint8)[meets] = 1
        if met < meets:
            meet(team)


@part
def _pass(which: int, like: Any, numbers: Any, team: Any) -> None:
    _starving(which, numbers, team)


def _ended(run: Any, *given: Any) -> bool:
    """Say whether it ended as if there had been memory."""
    try:
        run(*given)
    except MemoryError:
        return False
    return True


def main() -> None:
    torch.set_num_threads(THREADS)
    kinds: Any = passes._PASSES[:3]
    passes._pass, passes._MEETS, passes.WORTH = _pass, MEETS, -1000  # type: ignore[assignment]
    threads._one, threads._MEETS = _starving, MEETS  # type: ignore[assignment]
    tiled = (ahead.convolved, ahead.inputs_back, back.weights_back)
    like, many = np.empty(0, np.float32), 0
    for meets in MEETS:
        for starve in product(range(-1, meets + 1), repeat=THREADS):
            whole = max(starve) < 0
            assert _ended(passes.run, kinds[meets], like, *starve) == whole, (meets, starve)
            assert _ended(threads.run, tiled[meets], *starve) == whole, (meets, starve)
            many += 1
    print(f"{many} cases")


if __name__ == "__main__":
    main()
