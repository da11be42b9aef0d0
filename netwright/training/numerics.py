"""Memory layout and precision of a child's arithmetic: given, or measured once a machine.

bfloat16 is several times as fast as float32 where the processor has it and ten times as slow where
it has not, and nothing but the time tells.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.children import compiling
from netwright.children.layers import ConvNormRelu
from netwright.errors import ConfigError, out_of_range
from netwright.machine import instructions, keep, kept, processor, torch_version
from netwright.training.seeded import seeded

PRECISIONS = ("auto", "float32", "bfloat16")
NAME = "numerics"  # of the file of measurements
SECONDS = 1.5  # for all cases together
ROUNDS = 12  # at most
GAIN = 1.15  # what is not plain float32 must be that much faster
HOPELESS = 2.0  # times as slow as the best: not measured again
STEADY = 1.15  # times as slow as the other half of the rounds: a busy machine

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Numerics:
    """precision: "float32" or "bfloat16" (activations and products; weights stay float32).

    layout: of images in memory, "channels_last" or "contiguous".
    """

    precision: str = "float32"
    layout: str = "channels_last"

    def __str__(self) -> str:
        return f"{self.precision} {self.layout}"

    @classmethod
    def parse(cls, text: str, key: str) -> Numerics:
        """Return what `str` gave; raises `ConfigError`, which names `key`."""
        known = dict.fromkeys((*CASES, *UNFRAMED))
        for case in known:
            if str(case) == text:
                return case
        rule = f"must be one of {', '.join(map(str, known))}, or empty"
        raise ConfigError(out_of_range(key, rule, text, "''"))

    def model(self, model: nn.Module, device: str) -> nn.Module:
        """Move `model` to `device`, its weights in this layout."""
        moved: nn.Module = model.to(device, memory_format=_FORMATS[self.layout])  # type: ignore[call-overload]
        return moved

    def images(self, images: Tensor) -> Tensor:
        """Return `images` [N, C, H, W] in this layout and precision."""
        dtype = torch.bfloat16 if self.precision == "bfloat16" else images.dtype
        return images.to(dtype).contiguous(memory_format=_FORMATS[self.layout])

    def cast(self, device: str) -> AbstractContextManager[object]:
        """Return the block in which a network is run; backward passes stay outside."""
        on = self.precision == "bfloat16"
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=on)


CASES = (
    Numerics("float32", "channels_last"),
    Numerics("float32", "contiguous"),
    Numerics("bfloat16", "channels_last"),
)

UNFRAMED = (Numerics("float32", "contiguous"), Numerics("bfloat16", "contiguous"))  # no images


@dataclass(frozen=True)
class Speeds:
    """Steps a second of each case, 0 where one cannot be run. steady: the rounds agreed on them."""

    each: Sequence[float]
    steady: bool = True


Measure = Callable[[str], Speeds]


def chosen(
    precision: str = "auto",
    device: str = "cpu",
    measure: Measure | None = None,
    cases: tuple[Numerics, ...] = CASES,
    of: str = "",
) -> Numerics:
    """Return how children are trained fastest on `device`, at `precision` if that is not "auto".

    measure: of `cases`. The first steady answer is kept, a file for each machine, and not measured
    again; one that is not steady holds for this process. of: names what is measured.
    """
    fitting = [case for case in cases if precision in ("auto", case.precision)]
    if len(fitting) == 1:
        return fitting[0]
    found = _speeds(device, torch.get_num_threads(), measure, len(cases), of)
    speeds = dict(zip(cases, found, strict=True))
    plain = fitting[0]
    best = max(fitting, key=lambda case: speeds[case])
    return best if speeds[best] > GAIN * speeds[plain] else plain


@functools.lru_cache(maxsize=64)
def _speeds(
    device: str, threads: int, measure: Measure | None, cases: int, of: str
) -> tuple[float, ...]:
    key = f"{_name(device)}, torch {torch_version()}, threads {threads}"
    key += f", {of}" if of else ""
    speeds = kept(NAME, key)
    if speeds is None or len(speeds) != cases:
        found = (measure or measured)(device)
        speeds = list(found.each)
        if found.steady:
            keep(NAME, key, speeds)
    return tuple(speeds)


def _name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()} ({instructions()}, {torch.backends.cpu.get_cpu_capability()})"


def measured(device: str) -> Speeds:
    """Return how fast each of `CASES` trains, side by side.

    The step is that of a small child whose third layer takes two outputs.
    """
    return race([child_step(case, device) for case in CASES], device)


def race(steps: Sequence[Callable[[], object]], device: str) -> Speeds:
    """Return how often a second each of `steps` can be run, by turns, the best of each.

    Seconds are those of `clock`. They are steady where the best of every second round is near the
    best of the others, of those that were still in the race at its end.
    """
    times: list[list[float]] = [[] for _ in steps]
    still = dict(enumerate(steps))
    end = math.inf
    for turn in range(ROUNDS + 1):  # the first warms up
        for i, step in list(still.items()):
            try:
                times[i].append(_timed(step, device))
            except (RuntimeError, NotImplementedError):
                times[i] = [math.inf]
                del still[i]
        if turn == 0:
            end = time.perf_counter() + SECONDS
            times = [own if i not in still else [] for i, own in enumerate(times)]
            continue
        best = [min(own) for own in times]
        if turn > 1:
            still = {i: step for i, step in still.items() if best[i] <= HOPELESS * min(best)}
        if turn > 1 and time.perf_counter() > end:
            break
    halves = [sorted((min(times[i][::2]), min(times[i][1::2]))) for i in still]
    return Speeds([1 / least for least in best], all(b <= STEADY * a for a, b in halves))


def clock(device: str) -> Callable[[], float]:
    """Return what tells the seconds that training takes.

    With one thread on a processor these are the processor's own, in which other work beside it
    does not count; elsewhere those of the wall. Those in which is compiled, once a machine, count
    in neither.
    """
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    if alone:
        return lambda: time.process_time() - compiling.processor()
    return compiling.now


def _timed(step: Callable[[], object], device: str) -> float:
    now = clock(device)
    began = now()
    step()
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
    return now() - began


class _Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvNormRelu(nn.Conv2d(before, 36, 3, padding=1, bias=False), nn.BatchNorm2d(36))
            for before in (3, 36, 72)
        )
        self.classifier = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        one = self.layers[0](x)
        two = self.layers[1](one)
        logits: Tensor = self.classifier(self.layers[2](torch.cat([one, two], 1)).mean((2, 3)))
        return logits


def child_step(case: Numerics, device: str = "cpu") -> Callable[[], None]:
    """Return a training step of a small child, gradients and no update."""
    with seeded(0):
        model = case.model(_Child(), device)
        images = torch.randn(16, 3, 16, 16).to(device)
        labels = torch.randint(10, (16,)).to(device)

    def step() -> None:
        with case.cast(device):
            logits = model(case.images(images))
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    return step
