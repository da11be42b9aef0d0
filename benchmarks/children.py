"""Images a second of convolutional children, against a loop written by hand, and the machine.

    python -m benchmarks.children speed [--batch 64] [--steps 4] [--rounds 5] [--networks v1 v2 ...]
    python -m benchmarks.children accuracy [--config digits] [--seeds 5] [--set KEY=VALUE]
    python -m benchmarks.children memory [--batch 64] [--widen 40] [--sampled SEED]

speed: Netwright's loop (ours) beside (a) eager float32 with a DataLoader and (b) that with
channels_last, and bfloat16 where the probe finds it fast; a round trains each in turn on the same
images. With one thread, time is the processor's, which other processes do not count in. (c) is the
rate of a large product of matrices, in float32 and bfloat16; the share of it counts three products
a convolution. accuracy: the same children in float32 and bfloat16. memory: peak resident memory of
the 39-layer v3 with every skip connection. Results: docs/results/speed.md.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import shared
from benchmarks.shared import count, image_config
from netwright.children.baselines import ResNet
from netwright.children.conv import build
from netwright.children.joints import plain
from netwright.children.plan import ChildSettings
from netwright.data.images import DataSettings, ImageSet, Pipeline, Preprocess
from netwright.evaluators.image import ImageEvaluator
from netwright.seeding import rng
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv, load_architecture
from netwright.training.image import Recipe, train
from netwright.training.numerics import CASES, Numerics, chosen, measured

Labelled = tuple[Tensor, Tensor]
NETWORKS = ["v1", "v2", "v3", "figure7", "resnet20", "cifar10-small", "digits"]


# --- networks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network and its data. multiplications: of an image, in one pass forward."""

    name: str
    make: Callable[[], nn.Module]
    image: tuple[int, int, int]
    data: DataSettings

    def images(self, n: int) -> ImageSet:
        """Return `n` images of noise and their labels, the same ones each time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (n, *self.image), dtype=torch.uint8, generator=generator)
        return ImageSet(images, torch.randint(10, (n,), generator=generator))


def cases(names: list[str]) -> list[Case]:
    """Return the networks called `names`, those sampled by fixed seeds."""
    cifar = DataSettings(upsample=36, flip=True)
    found: list[Case] = []
    for name in names:
        if name == "resnet20":
            found.append(Case(name, lambda: ResNet(3, 10), (3, 32, 32), DataSettings(pad=4)))
            continue
        if name in ("digits", "cifar10-small"):
            config = image_config(name, ())
            space = config.make_space()
            shape = (1, 8, 8) if name == "digits" else (3, 16, 16)
            data = DataSettings(pad=config.data.pad, flip=config.data.flip)
            architecture = space.sample(rng(0, 0, "benchmark"))
        elif name == "figure7":
            space, architecture = load_architecture("v1")
            shape, data = (3, 32, 32), cifar
        else:
            space = {"v1": conv.v1, "v2": conv.v2, "v3": conv.v3}[name]()
            shape, data = (3, 32, 32), cifar
            architecture = space.sample(rng(0, 0, "benchmark"))
        found.append(Case(name, _maker(space, architecture, shape), shape, data))
    return found


def _maker(
    space: SearchSpace, architecture: Architecture, shape: tuple[int, int, int]
) -> Callable[[], nn.Module]:
    return lambda: build(space, architecture, shape, 10)


def multiplications(model: nn.Module, image: tuple[int, int, int]) -> int:
    """Return the multiplications of an image's convolutions in one pass forward."""
    found = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal found
        found += module.weight.numel() * output.shape[2] * output.shape[3]  # type: ignore[operator]

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model.eval()
    with torch.no_grad(), plain():
        model(torch.zeros(1, *image))
    for hook in hooks:
        hook.remove()
    return found


# --- loops --------------------------------------------------------------------------------------


class Images(Dataset[Labelled]):
    """The data set as one would write it by hand: an image at a time, augmented as it is asked for.

    The recipe is the data settings': padding or enlargement, a random crop, a flip at even odds.
    """

    def __init__(self, data: ImageSet, settings: DataSettings) -> None:
        self.data, self.settings = data, settings
        self.mean = torch.tensor([0.5] * data.shape[0]).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Labelled:
        image = (self.data.images[i].float() / 255 - self.mean) / 0.25
        height, width = image.shape[1:]
        side = self.settings.upsample
        if side:
            image = F.interpolate(image[None], (side, side), mode="bilinear")[0]
        elif self.settings.pad:
            image = F.pad(image, [self.settings.pad] * 4)
        top = random.randint(0, image.shape[1] - height)
        left = random.randint(0, image.shape[2] - width)
        image = image[:, top : top + height, left : left + width]
        if self.settings.flip and random.random() < 0.5:
            image = image.flip(2)
        return image, self.data.labels[i]


class ByHand:
    """A training loop of an afternoon, eager, with a DataLoader, in the numerics given.

    The network's layers are torch's own.
    """

    def __init__(self, case: Case, data: ImageSet, batch: int, numerics: Numerics) -> None:
        torch.manual_seed(0)
        self.numerics = numerics
        self.model = numerics.model(case.make(), "cpu")
        self.loader = DataLoader(Images(data, case.data), batch, shuffle=True, drop_last=True)
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, nesterov=True
        )

    def epoch(self) -> None:
        with plain():
            self._epoch()

    def _epoch(self) -> None:
        self.model.train()
        for images, labels in self.loader:
            with self.numerics.cast("cpu"):
                loss = F.cross_entropy(self.model(self.numerics.images(images)), labels)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            _ = loss.item()


class Ours:
    """Netwright's loop."""

    def __init__(self, case: Case, data: ImageSet, batch: int, numerics: Numerics) -> None:
        torch.manual_seed(0)
        self.model, self.numerics = case.make(), numerics
        self.pipeline = Pipeline(data, Preprocess.fit(data, case.data), case.data)
        self.recipe = Recipe(epochs=1, batch=batch, learning_rate=0.01)

    def epoch(self) -> None:
        train(self.model, self.pipeline, None, self.recipe, 0, numerics=self.numerics)


# --- speed --------------------------------------------------------------------------------------


def seconds(work: Callable[[], None]) -> float:
    """Return how long `work` takes: of the processor with one thread, else by the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    work()
    return clock() - began


def limit(dtype: torch.dtype) -> float:
    """Return the multiplications a second of a product of two 1024x1024 matrices, best of 8."""
    a = torch.randn(1024, 1024).to(dtype)
    turns = 8 if seconds(lambda: _discard(a @ a)) < 0.5 else 1
    return 1024**3 / min(seconds(lambda: _discard(a @ a)) for _ in range(turns))


def _discard(result: Tensor) -> None:
    del result


def speed(given: argparse.Namespace) -> None:
    rates = {dtype: limit(dtype) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, rate in rates.items():
        print(f"(c) {str(dtype).removeprefix('torch.')}: {2 * rate / 1e9:.1f} GFLOP/s")
    speeds = measured("cpu")
    for case, steps in zip(CASES, speeds.each, strict=True):
        print(f"probe {case}: {steps:.1f} steps/s")
    ours = chosen(given.precision, measure=lambda device: speeds)
    native = speeds.each[2] > speeds.each[0]
    tuned = Numerics("bfloat16" if native else "float32", "channels_last")
    print(f"ours: {ours}; (b): {tuned}; {torch.get_num_threads()} threads")
    print("network        images/s    ours/(a)  [least, most]    ours/(b)  [least, most]   of (c)")
    for network in cases(given.networks):
        _compare(network, given, ours, tuned, rates)


def _compare(
    network: Case,
    given: argparse.Namespace,
    numerics: Numerics,
    tuned: Numerics,
    rates: dict[torch.dtype, float],
) -> None:
    n, batch = given.steps * given.batch, given.batch
    data = network.images(n)
    loops: list[Ours | ByHand] = [
        Ours(network, data, batch, numerics),
        ByHand(network, data, batch, Numerics("float32", "contiguous")),
        ByHand(network, data, batch, tuned),
    ]
    times = []
    for turn in range(given.rounds + 1):
        row = [seconds(loop.epoch) for loop in loops]
        if turn:
            times.append(row)
    rate = n / statistics.median(row[0] for row in times)
    dtype = torch.bfloat16 if numerics.precision == "bfloat16" else torch.float32
    share = 3 * multiplications(network.make(), network.image) * rate / rates[dtype]
    text = f"{network.name:<14}{rate:>9.4g}"
    for other in (1, 2):
        ratios = sorted(row[other] / row[0] for row in times)
        spread = f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        text += f"{statistics.median(ratios):>12.2f}  {spread:<14}"
    print(f"{text}{share:>7.0%}", flush=True)


# --- accuracy and memory ------------------------------------------------------------------------


def accuracy(given: argparse.Namespace) -> None:
    """Train one sampled child a seed in both precisions, with the same weights and order."""
    config = image_config(given.config, given.set)
    space = config.make_space()
    differences = []
    scores: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for seed in range(given.seeds):
        architecture = space.sample(rng(seed, 0, "benchmark"))
        for precision, found in scores.items():
            recipe = replace(config.training, precision=precision)
            evaluator = ImageEvaluator(space, config.data, recipe, config.child, seed=0)
            found.append(evaluator.evaluate(architecture, seed, "cpu").score)
        differences.append(scores["bfloat16"][-1] - scores["float32"][-1])
        print(f"seed {seed}: " + ", ".join(f"{k} {v[-1]:.4f}" for k, v in scores.items()))
    for precision, found in scores.items():
        print(f"{precision}: {statistics.mean(found):.4f} ± {statistics.stdev(found):.4f}")
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    print(f"bfloat16 - float32, paired: {mean:+.4f} ± {spread:.4f}")


def memory(given: argparse.Namespace) -> None:
    space = conv.v3()
    values: dict[str, object] = {}
    for i in range(1, 14):
        values |= {f"layer{i}.height": 3, f"layer{i}.width": 3, f"layer{i}.filters": 36}
        values[f"layer{i}.inputs"] = [f"layer{j}" for j in range(1, i)]
    full = space.architecture(values)
    if given.sampled is not None:
        full = space.sample(rng(given.sampled, 0, "benchmark"))
    model = build(space, full, (3, 32, 32), 10, ChildSettings(widen=given.widen))
    images = torch.randint(0, 256, (2 * given.batch, 3, 32, 32), dtype=torch.uint8)
    data = ImageSet(images, torch.randint(10, (2 * given.batch,)))
    settings = DataSettings(upsample=36, flip=True)
    pipeline = Pipeline(data, Preprocess.fit(data, settings), settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recipe = Recipe(epochs=1, batch=given.batch, precision=given.precision)
    train(model, pipeline, None, recipe, 0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, batch {given.batch}: peak "
        f"resident {after / 2**20:.2f} GiB, {before / 2**20:.2f} before training"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["speed", "accuracy", "memory"])
    parser.add_argument("--batch", type=count, default=64)
    parser.add_argument("--steps", type=count, default=4)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--config", default="digits")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument("--widen", type=int, default=40)
    parser.add_argument("--sampled", type=int)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    {"speed": speed, "accuracy": accuracy, "memory": memory}[given.what](given)


if __name__ == "__main__":
    shared.run(main)
