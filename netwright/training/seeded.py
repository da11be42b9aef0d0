"""Torch's global randomness, started from a seed for a while."""

from __future__ import annotations

from typing import Any

import torch


class seeded:  # noqa: N801
    """A block in which torch's global generator starts from a seed, and is put back after."""

    def __init__(self, seed: int) -> None:
        self._fork = torch.random.fork_rng()
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
