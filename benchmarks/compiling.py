"""What torch.compile would give a child's training, and what it costs first.

    python -m benchmarks.compiling [--networks cifar10-small v1] [--precision float32]
        [--batch 32] [--steps 4] [--rounds 6]

Netwright's loop, as it is, and with torch's own layers compiled whole (`torch.compile`, its default
mode, which wants a C++ compiler); a round trains both in turn on the same images. Prints the
seconds until the first compiled step, by the clock, how many times as fast the steps are after it,
and after how many images that is paid back. With one thread, times of steps are the processor's.
Results: docs/results/speed.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks import shared
from benchmarks.children import NETWORKS, Case, Ours, cases, seconds
from benchmarks.shared import count
from netwright.children.joints import plain
from netwright.data.images import ImageSet
from netwright.training.numerics import PRECISIONS, Numerics, chosen


class Compiled(Ours):
    """Netwright's loop around torch's own layers, compiled."""

    def __init__(self, case: Case, data: ImageSet, batch: int, numerics: Numerics) -> None:
        super().__init__(case, data, batch, numerics)
        self.model.compile()

    def epoch(self) -> None:
        with plain():
            super().epoch()


def measure(case: Case, given: argparse.Namespace, numerics: Numerics) -> None:
    n = given.steps * given.batch
    data = case.images(n)
    loops = [kind(case, data, given.batch, numerics) for kind in (Ours, Compiled)]
    loops[0].epoch()
    began = time.perf_counter()
    loops[1].epoch()
    first = time.perf_counter() - began
    rows = [[seconds(loop.epoch) for loop in loops] for _ in range(given.rounds)]
    ratios = sorted(own / theirs for own, theirs in rows)
    own, theirs = (statistics.median(row[i] for row in rows) / n for i in (0, 1))
    paid = f"{first / (own - theirs):,.0f} images" if own > theirs else "never"
    print(
        f"{case.name:<14}{first:>7.0f} s first{statistics.median(ratios):>7.2f} times as fast "
        f"[{ratios[0]:.2f}, {ratios[-1]:.2f}], paid back: {paid}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    two = ["cifar10-small", "v1"]
    parser.add_argument("--networks", nargs="+", default=two, choices=NETWORKS)
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--batch", type=count, default=32)
    parser.add_argument("--steps", type=count, default=4)
    parser.add_argument("--rounds", type=count, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    numerics = chosen(given.precision, "cpu")
    for case in cases(given.networks):
        measure(case, given, numerics)


if __name__ == "__main__":
    shared.run(main)
