"""Tokens a second in training language models: cells beside an `nn.LSTM` of as many parameters.

    python -m benchmarks.words [--sizes small medium] [--rounds 5]

One window of truncated backpropagation at a time, forward, backward, clipping and the optimiser,
as `netwright.training.language.train` takes it, on random tokens of a vocabulary of 10,000; one
thread; all models by turns in one run. Seconds are the processor's (time.process_time: what other
work on the machine takes is not counted in); ratios are medians over the turns. "small" is the
preset ptb-small's model and recipe, "medium" 20M parameters, batch 20, 35 steps, a whole softmax.
"cross-entropy" takes the loss by `F.cross_entropy` on all logits, not by `linear_cross_entropy`;
"bf16" is that under autocast. The first line says what the processor has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from netwright.children import output
from netwright.children.language import Core, LanguageChildSettings, LanguageModel
from netwright.nn import load_cell

VOCABULARY = 10_000
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
SIZES: dict[str, tuple[LanguageChildSettings, int, str]] = {
    "small": (
        LanguageChildSettings(budget=1_000_000, shared=True, cutoffs=(1000, 3000)),
        20,
        "adam",
    ),
    "medium": (LanguageChildSettings(budget=20_000_000), 35, "sgd"),
}
BATCH = 20


def whole(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return what `linear_cross_entropy` does, by all logits at once."""
    return F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")


class Work:
    """A model and its optimiser, a window at a time."""

    def __init__(self, core: Core, size: str, loss: Loss, low: bool = False) -> None:
        settings, steps, optimiser = SIZES[size]
        torch.manual_seed(0)
        self.model = LanguageModel(core, VOCABULARY, settings)
        parameters = list(self.model.parameters())
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self.optimiser = kinds[optimiser](parameters, lr=0.001)
        self.loss, self.low = loss, low
        # Words are as frequent as in a text, so that the ranges of an adaptive softmax are too.
        ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
        drawn = torch.multinomial(1 / ranks, (steps + 1) * BATCH, replacement=True)
        self.columns = drawn.view(steps + 1, BATCH)
        self.state = self.model.start(BATCH)

    def step(self) -> None:
        kept = output.linear_cross_entropy
        output.linear_cross_entropy = self.loss  # type: ignore[assignment]
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
                features, _ = self.model(self.columns[:-1], self.state)
                total = self.model.output.loss(features.flatten(0, 1), self.columns[1:].flatten())
        finally:
            output.linear_cross_entropy = kept
        self.optimiser.zero_grad(set_to_none=True)
        (total.float() / BATCH).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self.model.parameters()), 5.0)
        self.optimiser.step()


def compare(size: str, rounds: int, bf16: bool) -> None:
    """Print a row a model: tokens a second, and against nn.LSTM."""
    cell, fused = load_cell("nascell"), output.linear_cross_entropy
    works = {
        "nn.LSTM, cross-entropy": Work("lstm", size, whole),
        "nn.LSTM": Work("lstm", size, fused),
        "cell, cross-entropy": Work(cell, size, whole),
        "cell": Work(cell, size, fused),
    }
    for name, core in (("nn.LSTM, bf16", "lstm"), ("cell, bf16", cell)) if bf16 else ():
        work = Work(core, size, whole, low=True)
        try:
            work.step()
        except RuntimeError as error:  # oneDNN has no bf16 LSTM for some processors
            print(f"| {size} | {name} | cannot be run here: {str(error)[:60]} |||")
        else:
            works[name] = work
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work.step()
            if turn:
                times[name].append(time.process_time() - started)
    reference = times["nn.LSTM"]
    for name, work in works.items():
        ratios = [a / b for a, b in zip(reference, times[name], strict=True)]
        tokens = BATCH * SIZES[size][1] / statistics.median(times[name])
        parameters = sum(p.numel() for p in work.model.parameters())
        print(
            f"| {size} | {name} | {parameters:,} | {work.model.width} | {tokens:,.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 too, native or not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    print(f"{torch.backends.cpu.get_cpu_capability()}, bf16 products native: {native}")
    print("| size | model | parameters | width | tokens a second | times nn.LSTM |")
    print("|---" * 6 + "|")
    for size in args.sizes:
        compare(size, args.rounds, args.bf16 or native)


if __name__ == "__main__":
    main()
