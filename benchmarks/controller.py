"""What a proposal and an update of the controller cost, and batching's share in it.

    python -m benchmarks.controller

v1 at 15 layers with anchors (60 decisions, 105 connections), one thread. Ratio in one run: n
architectures advanced together against n sampled and scored one by one by the same code.
Last result (2 cores, torch 2.13.0, one other process beside it): 1.44 ms at batch 64, 2.91 ms
at batch 8, 14.1 ms one by one (9.8 and 4.8 times).
"""

from __future__ import annotations

import time

import torch

from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.spaces import conv
from netwright.trial import Trial


def milliseconds(batch: int, architectures: int) -> float:
    """Return the median time an architecture, sampling and update together."""
    controller = PolicyGradient(conv.v1(15), PolicySettings(batch=batch))
    controller.baseline = 0.5
    times = []
    for _ in range(max(3, architectures // batch)):
        started = time.perf_counter()
        drawn = controller.propose(batch)
        trials = [
            Trial(number=0, batch=0, architecture=a, seed=0, reward=0.4 + 0.01 * i)
            for i, a in enumerate(drawn)
        ]
        controller.tell(trials)
        times.append((time.perf_counter() - started) / batch * 1e3)
    return sorted(times)[len(times) // 2]


def main() -> None:
    torch.set_num_threads(1)
    milliseconds(8, 8)
    single = milliseconds(1, 20)
    for batch in (8, 64):
        each = milliseconds(batch, 256)
        print(
            f"batch {batch}: {each:.2f} ms an architecture; one by one {single:.1f} ms "
            f"({single / each:.1f} times)"
        )


if __name__ == "__main__":
    main()
