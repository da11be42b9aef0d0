"""How many workers this machine feeds best, measured: a second or two a case, kept per machine.

Measured again next time where the machine was busy with more than it could do.
"""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from netwright.interrupts import all_held
from netwright.machine import busy, cores, keep, kept, processor, torch_version

NAME = "workers"  # of the file of measurements

SECONDS = 1.5  # each case
GAIN = 1.05  # more workers must be that much faster than fewer

# Training steps as children take them: reads how to make one, says when it is ready, waits for a
# line, prints how many steps a second fit in the time, one at least.
STEPS = """
import pickle, sys, time, torch
from netwright.training.limits import keep_memory
torch.set_num_threads(int(sys.argv[1]))
keep_memory()
step = pickle.load(sys.stdin.buffer)()
for _ in range(3):
    step()
print("ready", flush=True)
sys.stdin.buffer.readline()
began, steps, passed = time.time(), 0, 0.0
while passed < float(sys.argv[2]):
    step()
    steps, passed = steps + 1, time.time() - began
print(steps / passed)
"""

Measure = Callable[[int, int], float]


@dataclass(frozen=True)
class Subject:
    """What workers train. name: of it, as it is kept. make: picklable, returns a training step."""

    name: str
    make: Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Crew:
    """workers: children at once. threads: of torch in each. said: why, in a line; may be empty."""

    workers: int
    threads: int
    said: str


def best_workers(
    subject: Subject,
    devices: Sequence[str] = ("cpu",),
    threads: int = 0,
    say: Callable[[str], None] | None = None,
    measure: Measure | None = None,
) -> Crew:
    """Return the workers and threads that take most training steps of `subject` together.

    A GPU gets one worker. On processors, 1 worker of all threads is measured against more workers
    of fewer, down to one thread each. `threads` fixes those of a worker, 0 does not. say: told of a
    measurement.
    """
    if any(not device.startswith("cpu") for device in devices):
        n = len(devices)
        return Crew(n, threads or 1, f"{n} workers, one for each device")
    cases = _cases(cores(), threads)
    if len(cases) == 1:
        return Crew(1, cases[0][1], "1 worker: there is one processor")
    key = f"{processor()}, {cores()} processors, torch {torch_version()}, threads {threads}"
    key += f", {subject.name}"
    speeds = kept(NAME, key)
    if speeds is None or len(speeds) != len(cases):
        measure = measure or functools.partial(_measured, make=subject.make)
        quiet = not busy()
        if say is not None:
            when = "once" if quiet else "and again next time, for it is busy"
            say(f"measuring how many workers this machine feeds best, {when}")
        speeds = [measure(*case) for case in cases]
        if quiet and all(speeds):
            keep(NAME, key, speeds)
    best = 0
    for i, speed in enumerate(speeds):
        if speed > GAIN * speeds[best]:
            best = i
    workers, each = cases[best]
    ratio = speeds[best] / speeds[0] if speeds[0] > 0 else 1.0
    threaded = "1 thread" if each == 1 else f"{each} threads"
    said = f"{workers} workers of {threaded}: {ratio:.1f} times as fast as 1 of {cases[0][1]}"
    return Crew(workers, each, said if best else f"1 worker of {threaded}: as fast as more")


def _cases(processors: int, threads: int) -> list[tuple[int, int]]:
    """Return (workers, threads of each) from one worker to one a processor."""
    if threads:
        return [(1, threads)] + [(n, threads) for n in (processors // threads,) if n > 1]
    counts = sorted({1, max(1, processors // 4), max(1, processors // 2), processors})
    return [(n, processors // n) for n in counts]


def _measured(workers: int, threads: int, make: Callable[[], object]) -> float:
    """Return the steps a second of so many processes together; 0 where one fails."""
    command = [sys.executable, "-c", STEPS, str(threads), str(SECONDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        running: list[subprocess.Popen[bytes]] = []
        with all_held():
            for _ in range(workers):
                begun = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
                running.append(stack.enter_context(begun))
                stack.callback(begun.wait)
                stack.callback(begun.kill)  # where an interrupt leaves it
        for process in running:
            _send(process, pickle.dumps(make))
        ready = [process.stdout is not None and process.stdout.readline() for process in running]
        if all(ready):
            for process in running:
                _send(process, b"go\n")
        speeds = [process.communicate()[0].strip() for process in running]
    return sum(map(float, speeds)) if all(speeds) else 0.0


def _send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it failed, and its output says so by being empty
        process.stdin.write(data)
        process.stdin.flush()
