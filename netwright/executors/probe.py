"""How many workers this machine feeds best, measured: a second or two a case, kept per machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netwright.machine import cores, keep, kept, processor, torch_version

NAME = "workers"  # of the file of measurements

SECONDS = 1.5  # each case
GAIN = 1.05  # more workers must be that much faster than fewer

# A small child's training step, as many as fit in the time; prints how many after a start together.
STEPS = """
import sys, time, torch
threads, begin, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 24, 3, padding=1), torch.nn.BatchNorm2d(24), torch.nn.ReLU(),
    torch.nn.Conv2d(24, 24, 3, padding=1), torch.nn.BatchNorm2d(24), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(24, 10))
model = model.to(memory_format=torch.channels_last)
images = torch.randn(64, 3, 16, 16).contiguous(memory_format=torch.channels_last)
labels = torch.zeros(64, dtype=torch.long)
step = lambda: torch.nn.functional.cross_entropy(model(images), labels).backward()
step()
late = time.time() > begin
time.sleep(max(0.0, begin - time.time()))
end, steps = time.time() + seconds, 0
while time.time() < end:
    step()
    steps += 1
print(-1 if late else steps)
"""

Measure = Callable[[int, int], float]


@dataclass(frozen=True)
class Crew:
    """workers: children at once. threads: of torch in each. said: why, in a line; may be empty."""

    workers: int
    threads: int
    said: str


def best_workers(
    devices: Sequence[str] = ("cpu",), threads: int = 0, measure: Measure | None = None
) -> Crew:
    """Return the workers and threads with which most children are trained an hour.

    A GPU gets one worker. On processors, 1 worker of all threads is measured against more workers
    of fewer, down to one thread each. `threads` fixes those of a worker, 0 does not.
    """
    if any(not device.startswith("cpu") for device in devices):
        n = len(devices)
        return Crew(n, threads or 1, f"{n} workers, one for each device")
    cases = _cases(cores(), threads)
    if len(cases) == 1:
        return Crew(1, cases[0][1], "1 worker: there is one processor")
    key = f"{processor()}, {cores()} processors, torch {torch_version()}, threads {threads}"
    speeds = kept(NAME, key)
    if speeds is None or len(speeds) != len(cases):
        speeds = [(measure or _measured)(*case) for case in cases]
        keep(NAME, key, speeds)
    best = 0
    for i, speed in enumerate(speeds):
        if speed > GAIN * speeds[best]:
            best = i
    workers, each = cases[best]
    ratio = speeds[best] / speeds[0] if speeds[0] > 0 else 1.0
    said = f"{workers} workers of {each} threads: {ratio:.1f} times as fast as 1 of {cases[0][1]}"
    return Crew(workers, each, said if best else f"1 worker of {each} threads: as fast as more")


def _cases(processors: int, threads: int) -> list[tuple[int, int]]:
    """Return (workers, threads of each) from one worker to one a processor."""
    if threads:
        return [(1, threads)] + [(n, threads) for n in (processors // threads,) if n > 1]
    counts = sorted({1, max(1, processors // 4), max(1, processors // 2), processors})
    return [(n, processors // n) for n in counts]


def _measured(workers: int, threads: int) -> float:
    """Return the steps a second of so many processes together; 0 where they did not start."""
    wait = 4.0
    for _ in range(3):
        began = time.time()
        command = [sys.executable, "-c", STEPS, str(threads), str(began + wait), str(SECONDS)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(workers)
        ]
        counts = [int(process.communicate()[0].strip() or -1) for process in running]
        if min(counts) >= 0:
            return sum(counts) / SECONDS
        wait *= 2  # a slow start: give it longer
    return 0.0
