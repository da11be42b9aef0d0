"""Tokens a second in training language models: cells beside an `nn.LSTM` of as many parameters.

    python -m benchmarks.words [--sizes small medium] [--rounds 5]

One window of truncated backpropagation at a time, forward, backward, clipping and the optimiser,
as `netwright.training.language.train` takes it, on random tokens of a vocabulary of 10,000; one
thread; all models by turns in one run. Seconds are the processor's (time.process_time: what other
work on the machine takes is not counted in); ratios are medians over the turns. "small" is the
preset ptb-small's model and recipe, "medium" 20M parameters, batch 20, 35 steps, a whole softmax.
"bf16" is under autocast. Then the output layer alone, forward and backward: all logits at once, as
it is, against a loss in chunks that works its gradient out on the way. The first line says what the
processor has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netwright.children.language import Core, LanguageChildSettings, LanguageModel
from netwright.nn import load_cell

VOCABULARY = 10_000
CHUNK = 1 << 20  # logits at a time
SIZES: dict[str, tuple[LanguageChildSettings, int, str]] = {
    "small": (
        LanguageChildSettings(budget=1_000_000, shared=True, cutoffs=(1000, 3000)),
        20,
        "adam",
    ),
    "medium": (LanguageChildSettings(budget=20_000_000), 35, "sgd"),
}
BATCH = 20


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of `targets` under softmax(x W^T + b).

    x: [N, units], weight: [V, units], bias: [V], targets: int64 [N]. Logits are made for some rows
    at a time and turned into their gradient in place: one array of `CHUNK` numbers instead of three
    of N * V. The gradient is worked out on the way there, so it is differentiable once.
    """
    loss: Tensor = _LinearCrossEntropy.apply(x, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        needed = any(ctx.needs_input_grad)
        rows = max(1, CHUNK // len(weight))
        total = x.new_zeros(())
        g_x, g_weight, g_bias = (
            torch.empty_like(x),
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )
        for start in range(0, len(x), rows):
            part, target = x[start : start + rows], targets[start : start + rows, None]
            logits = torch.addmm(bias, part, weight.t())
            whole = logits.logsumexp(1, keepdim=True)
            total += (whole - logits.gather(1, target)).sum()
            if needed:
                p = logits.sub_(whole).exp_()
                p.scatter_add_(1, target, p.new_full((), -1.0).expand(target.shape))
                torch.mm(p, weight, out=g_x[start : start + rows])
                g_weight.addmm_(p.t(), part)
                g_bias += p.sum(0)
        if needed:
            ctx.save_for_backward(g_x, g_weight, g_bias)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return (*(g * gradient for gradient in ctx.saved_tensors), None)


class Work:
    """A model and its optimiser, a window at a time."""

    def __init__(self, core: Core, size: str, low: bool = False) -> None:
        settings, steps, optimiser = SIZES[size]
        torch.manual_seed(0)
        self.model = LanguageModel(core, VOCABULARY, settings)
        parameters = list(self.model.parameters())
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self.optimiser = kinds[optimiser](parameters, lr=0.001)
        self.low = low
        # Words are as frequent as in a text, so that the ranges of an adaptive softmax are too.
        ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
        drawn = torch.multinomial(1 / ranks, (steps + 1) * BATCH, replacement=True)
        self.columns = drawn.view(steps + 1, BATCH)
        self.state = self.model.start(BATCH)

    def step(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            features, _ = self.model(self.columns[:-1], self.state)
            total = self.model.output.loss(features.flatten(0, 1), self.columns[1:].flatten())
        self.optimiser.zero_grad(set_to_none=True)
        (total.float() / BATCH).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self.model.parameters()), 5.0)
        self.optimiser.step()


def compare(size: str, rounds: int, bf16: bool) -> None:
    """Print a row a model: tokens a second, and against nn.LSTM."""
    cell = load_cell("nascell")
    works = {"nn.LSTM": Work("lstm", size), "cell": Work(cell, size)}
    for name, core in (("nn.LSTM, bf16", "lstm"), ("cell, bf16", cell)) if bf16 else ():
        work = Work(core, size, low=True)
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


def compare_losses(rows: int, units: int, vocabulary: int, rounds: int) -> None:
    """Print the milliseconds of the output layer's loss both ways."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, units, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, units, generator=generator) / units).requires_grad_()
    bias = torch.zeros(vocabulary, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,), generator=generator)

    def whole(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")

    both = (whole, linear_cross_entropy)
    found = [
        torch.autograd.grad(loss(x, weight, bias, targets), (x, weight, bias)) for loss in both
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for loss, taken in zip(both, times, strict=True):
            started = time.process_time()
            torch.autograd.grad(loss(x, weight, bias, targets), (x, weight, bias))
            taken.append((time.process_time() - started) * 1e3)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    print(
        f"loss of {rows} rows, {units} units, {vocabulary:,} words: all logits "
        f"{statistics.median(times[0]):.1f} ms, chunks {statistics.median(times[1]):.1f} ms, "
        f"median ratio {statistics.median(ratios):.2f}",
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
    compare_losses(400, 80, 1002, 4 * args.rounds)
    compare_losses(700, 650, VOCABULARY, args.rounds)


if __name__ == "__main__":
    main()
