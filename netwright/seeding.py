"""All randomness of a study, derived from its one seed."""

from __future__ import annotations

import hashlib
import random


def derive_seed(study_seed: int, number: int, purpose: str) -> int:
    """Return the seed in [0, 2**63) for one purpose of one numbered thing.

    `number` counts whatever `purpose` names: trials for "child", proposals for "propose". The
    result is the first 63 bits of a SHA-256, so seeds of different purposes are unrelated and the
    same on every machine.
    """
    text = f"{study_seed}/{number}/{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def rng(study_seed: int, number: int, purpose: str) -> random.Random:
    """Return a Python generator seeded by `derive_seed`."""
    return random.Random(derive_seed(study_seed, number, purpose))
