"""A small table of trained cells for tests."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

HEAD = "architecture,valid_accuracy,test_accuracy"


def write_table(path: Path, options: str = "abc", seed: int = 7) -> Path:
    """Write a table of three edges, accuracies drawn from a seed; return its path."""
    draws = random.Random(seed)
    lines = [HEAD]
    for x, y, z in itertools.product(options, repeat=3):
        valid, test = (f"{draws.uniform(10, 90):.2f}" for _ in range(2))
        lines.append(f"|{x}~0|+|{y}~0|{z}~1|,{valid},{test}")
    path.write_text("\n".join(lines) + "\n")
    return path
