"""Torch's global randomness, started from a seed for a while."""

from __future__ import annotations

from typing import Any

import torch


def start(seed: int, device: str = "cpu") -> None:
    """Start torch's global generators from a seed: the processor's alone, or with it `device`'s."""
    if torch.device(device).type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class seeded:  # noqa: N801
    """A block in which torch's global generators start from a seed, and are put back after.

    These are the processor's and `device`'s; no other device is looked at.
    """

    def __init__(self, seed: int, device: str = "cpu") -> None:
        where = torch.device(device)
        if where.type == "cpu":
            self._fork = torch.random.fork_rng(devices=[])
        else:
            self._fork = torch.random.fork_rng([where], device_type=where.type)
        self._seed, self._device = seed, device

    def __enter__(self) -> None:
        self._fork.__enter__()
        start(self._seed, self._device)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
