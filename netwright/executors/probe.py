"""How many workers this machine feeds best, measured: a second or two a case, kept per machine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netwright.machine import cores, keep, kept, processor, torch_version

NAME = "workers"  # of the file of measurements

SECONDS = 1.5  # each case
GAIN = 1.05  # more workers must be that much faster than fewer

# A small child's training steps, as children are trained; says when it is ready, waits for a line,
# prints how many steps fit in the time.
STEPS = """
import sys, time, torch
from netwright.training.limits import keep_memory
from netwright.training.numerics import Numerics, child_step
torch.set_num_threads(int(sys.argv[1]))
keep_memory()
step = child_step(Numerics.parse(sys.argv[2], "numerics"))
for _ in range(3):
    step()
print("ready", flush=True)
sys.stdin.readline()
end, steps = time.time() + float(sys.argv[3]), 0
while time.time() < end:
    step()
    steps += 1
print(steps)
"""

Measure = Callable[[int, int], float]


@dataclass(frozen=True)
class Crew:
    """workers: children at once. threads: of torch in each. said: why, in a line; may be empty."""

    workers: int
    threads: int
    said: str


def best_workers(
    devices: Sequence[str] = ("cpu",),
    threads: int = 0,
    numerics: str = "",
    say: Callable[[str], None] | None = None,
    measure: Measure | None = None,
) -> Crew:
    """Return the workers and threads with which most children are trained an hour.

    A GPU gets one worker. On processors, 1 worker of all threads is measured against more workers
    of fewer, down to one thread each. `threads` fixes those of a worker, 0 does not. numerics: of
    the children, such as "bfloat16 channels_last"; "" is float32's. say: told of a measurement.
    """
    if any(not device.startswith("cpu") for device in devices):
        n = len(devices)
        return Crew(n, threads or 1, f"{n} workers, one for each device")
    cases = _cases(cores(), threads)
    if len(cases) == 1:
        return Crew(1, cases[0][1], "1 worker: there is one processor")
    numerics = numerics or "float32 channels_last"
    key = f"{processor()}, {cores()} processors, torch {torch_version()}, threads {threads}"
    key += f", {numerics}"
    speeds = kept(NAME, key)
    if speeds is None or len(speeds) != len(cases):
        if say is not None:
            say("measuring how many workers this machine feeds best, once")
        measure = measure or functools.partial(_measured, numerics=numerics)
        speeds = [measure(*case) for case in cases]
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


def _measured(workers: int, threads: int, numerics: str) -> float:
    """Return the steps a second of so many processes together; 0 where one fails."""
    command = [sys.executable, "-c", STEPS, str(threads), numerics, str(SECONDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(workers)
    ]
    ready = [process.stdout is not None and process.stdout.readline() for process in running]
    if all(ready):
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
    counts = [process.communicate()[0].strip() for process in running]
    return sum(map(int, counts)) / SECONDS if all(counts) else 0.0
