"""Tokens a second in training language models: cells beside an `nn.LSTM` of as many parameters.

    python -m benchmarks.words [--sizes small medium] [--rounds 5] [--bf16]

One step of the trainer (`netwright.training.language.take_step`: forward, backward, clipping and
the optimiser) at a time, on random words as frequent as a text's, of a vocabulary of 10,000; one
thread; all models by turns in one run, in float32 and, where the processor has it, in bfloat16.
Seconds are the processor's (time.process_time: what other work on the machine takes is not counted
in); ratios are medians over the turns, against nn.LSTM in the precision that was faster for it.
"small" is the preset ptb-small's model and recipe, "medium" 20M parameters, batch 20, 35 steps, a
whole softmax. Then the output layer alone, forward and backward: as it is against PyTorch's
operations. The first line says what the processor has.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks import shared
from benchmarks.shared import count
from netwright.children.language import Core, LanguageChildSettings, LanguageModel
from netwright.children.output import Output
from netwright.nn import load_cell
from netwright.training.language import (
    NARROW,
    PLAIN,
    LanguageRecipe,
    make_optimiser,
    take_step,
)
from netwright.training.limits import no_denormals
from netwright.training.numerics import Numerics

VOCABULARY = 10_000
SIZES: dict[str, tuple[LanguageChildSettings, LanguageRecipe]] = {
    "small": (
        LanguageChildSettings(budget=1_000_000, shared=True, cutoffs=(1000, 3000)),
        LanguageRecipe(steps=20, optimiser="adam", learning_rate=0.001),
    ),
    "medium": (
        LanguageChildSettings(budget=20_000_000),
        LanguageRecipe(steps=35, learning_rate=0.001),
    ),
}


class Work:
    """A model and its optimiser, a window at a time."""

    def __init__(self, core: Core, size: str, numerics: Numerics = PLAIN) -> None:
        settings, self.recipe = SIZES[size]
        torch.manual_seed(0)
        self.model = LanguageModel(core, VOCABULARY, settings)
        self.optimiser = make_optimiser(self.model, self.recipe)
        self.numerics = numerics
        # Words are as frequent as in a text, so that the ranges of an adaptive softmax are too.
        ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
        steps, batch = self.recipe.steps, self.recipe.batch
        drawn = torch.multinomial(1 / ranks, (steps + 1) * batch, replacement=True)
        self.columns = drawn.view(steps + 1, batch)
        self.state = self.model.start(batch)

    def step(self) -> None:
        """Take a step as the trainer does."""
        inputs, targets = self.columns[:-1], self.columns[1:]
        _, self.state = take_step(
            self.model, self.optimiser, inputs, targets, self.state, self.recipe, self.numerics
        )


def compare(size: str, rounds: int, bf16: bool) -> None:
    """Print a row a model: tokens a second, and against nn.LSTM at its best."""
    cores: dict[str, Core] = {"nn.LSTM": "lstm", "cell": load_cell("nascell")}
    works = {name: Work(core, size) for name, core in cores.items()}
    for name, core in cores.items() if bf16 else ():
        work = Work(core, size, NARROW)
        try:
            work.step()
        except RuntimeError as error:  # oneDNN has no bf16 LSTM for some processors
            print(f"| {size} | {name}, bf16 | cannot be run here: {str(error)[:60]} |||")
        else:
            works[f"{name}, bf16"] = work
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work.step()
            if turn:
                times[name].append(time.process_time() - started)
    lstms = [taken for name, taken in times.items() if name.startswith("nn.LSTM")]
    reference = min(lstms, key=statistics.median)
    for name, work in works.items():
        ratios = [a / b for a, b in zip(reference, times[name], strict=True)]
        tokens = work.recipe.batch * work.recipe.steps / statistics.median(times[name])
        parameters = sum(p.numel() for p in work.model.parameters())
        print(
            f"| {size} | {name} | {parameters:,} | {work.model.width} | {tokens:,.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


def compare_losses(
    rows: int, units: int, cutoffs: tuple[int, ...], rounds: int, bf16: bool
) -> None:
    """Print the milliseconds of the output layer's loss both ways."""
    torch.manual_seed(0)
    output = Output(VOCABULARY, units, cutoffs)
    torch.nn.init.uniform_(output.weight, -0.1, 0.1)
    x = torch.randn(rows, units).requires_grad_()
    ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    targets = torch.multinomial(1 / ranks, rows, replacement=True)
    for numerics in (PLAIN, NARROW) if bf16 else (PLAIN,):
        times: list[list[float]] = [[], []]
        for turn in range(rounds + 1):
            for loss, taken in zip((output.plain_loss, output.loss), times, strict=True):
                output.zero_grad()
                started = time.process_time()
                with numerics.cast("cpu"):
                    total = loss(x, targets)
                total.float().backward()  # type: ignore[no-untyped-call]
                if turn:
                    taken.append((time.process_time() - started) * 1e3)
        ratios = [a / b for a, b in zip(*times, strict=True)]
        print(
            f"loss of {rows} rows, {units} units, cutoffs {cutoffs}, {numerics.precision}: "
            f"PyTorch's {statistics.median(times[0]):.1f} ms, as it is "
            f"{statistics.median(times[1]):.1f} ms, median ratio {statistics.median(ratios):.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 too, native or not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    print(f"{torch.backends.cpu.get_cpu_capability()}, bf16 products native: {native}")
    bf16 = args.bf16 or native
    print("| size | model | parameters | width | tokens a second | times nn.LSTM |")
    print("|---" * 6 + "|")
    for size in args.sizes:
        with no_denormals():
            compare(size, args.rounds, bf16)
    losses = {"small": (400, 79, (1000, 3000)), "medium": (700, 537, ())}
    for size in args.sizes:
        compare_losses(*losses[size], args.rounds, bf16)


if __name__ == "__main__":
    shared.run(main)
