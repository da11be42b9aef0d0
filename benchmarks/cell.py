"""What a recurrent cell costs beside nn.LSTM: time per step and parameter, forward and backward.

    python -m benchmarks.cell [--sizes 128 256 512] [--sampled 20] [--bf16]

Batch 20, 35 steps, one layer without biases, one thread. Ratios in one run, cell and LSTM by
turns, the best of several: (time of the cell / its parameters) / (time of nn.LSTM / its
parameters). Also the plain per-step loop, and the cell's matrix products alone, which nothing can
go under. bf16 tells little where the processor has no bf16 products; the first line says what it
has. "New cell" is how much longer the first run of a cell takes than its best one, the worst of the
sampled cells: what a cell costs to compile.

Last result (AVX-512 and AMX, torch 2.13.0, an idle machine, --rounds 3 --sampled 6), at 128 / 256 /
512: float32, published cell .88 / .96 / .91, sampled median .97 / .99 / .94, worst 1.24 / 1.06 /
.96; bf16 .74 / .81 / .64, .77 / .84 / .65, .82 / .89 / .66; a new cell 120 to 270 ms. Before, on
AVX2, float32: 1.15 / 1.10 / 1.19, and 10 to 38 ms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import shared
from benchmarks.shared import count
from netwright.children.steps import fast_layer, plain_layer
from netwright.nn import load_cell
from netwright.seeding import rng
from netwright.spaces.recurrent import Cell, cell_of, space

STEPS, BATCH = 35, 20


def timed(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the best seconds of each, run by turns."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


class Work:
    """One layer of `cell` at a size, as functions to time."""

    def __init__(self, cell: Cell, units: int, dtype: torch.dtype) -> None:
        def draw(*shape: int) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            values: Tensor = torch.randn(*shape, generator=generator) / units**0.5
            return values.to(dtype).requires_grad_()

        self.cell, self.units = cell, units
        self.x = torch.randn(STEPS * BATCH, units).to(dtype).requires_grad_()
        self.w, self.u = draw(cell.base * units, units), draw(cell.base * units, units)
        self.zero = torch.zeros(BATCH, units, dtype=dtype)
        self.parameters = self.w.numel() + self.u.numel()
        self.g = torch.randn(STEPS * BATCH, cell.base * units).to(dtype)

    def run(self, layer: Callable[..., tuple[Tensor, Tensor]]) -> None:
        """Run all steps forward and backward."""
        z = self.x @ self.w.t()
        out, _ = layer(self.cell, z, self.u, None, self.zero, self.zero, (BATCH,) * STEPS)
        out.sum().backward()  # type: ignore[no-untyped-call]

    def products(self) -> None:
        """Run the matrix products of `run` alone."""
        with torch.no_grad():
            _ = self.x @ self.w.t(), self.g @ self.w, self.g.t() @ self.x, self.g.t() @ self.x
            for t in range(STEPS):
                _ = self.zero @ self.u.t(), self.g[t * BATCH : (t + 1) * BATCH] @ self.u


def compare(units: int, dtype: torch.dtype, sampled: int, rounds: int) -> None:
    cells = [load_cell("nascell")]
    paper = space("paper")
    cells += [cell_of(paper.sample(rng(0, i, "benchmark cell"))) for i in range(sampled)]
    lstm = nn.LSTM(units, units, bias=False).to(dtype)
    x = torch.randn(STEPS, BATCH, units).to(dtype).requires_grad_()

    def reference() -> None:
        lstm(x)[0].sum().backward()

    ratios: list[float] = []
    fresh: list[float] = []
    extra = ""
    for i, cell in enumerate(cells):
        work = Work(cell, units, dtype)
        functions: dict[str, Callable[[], object]] = {
            "lstm": reference,
            "fast": lambda work=work: work.run(fast_layer),  # type: ignore[misc]
        }
        if i == 0:
            functions["plain"] = lambda work=work: work.run(plain_layer)  # type: ignore[misc]
            functions["products"] = work.products
        first = timed(functions, 1)["fast"]
        best = timed(functions, rounds)
        unit = best["lstm"] / sum(p.numel() for p in lstm.parameters()) * work.parameters
        ratios.append(best["fast"] / unit)
        fresh.append(first - best["fast"])
        if i == 0:
            extra = (
                f"plain loop {best['plain'] / unit:.2f}, products alone "
                f"{best['products'] / unit:.2f}, nn.LSTM {best['lstm'] * 1e3:.1f} ms"
            )
    others = f"; {sampled} sampled: median {statistics.median(ratios[1:]):.2f}, " if sampled else ""
    others += f"worst {max(ratios[1:]):.2f}" if sampled else ""
    others += f"; new cell {max(fresh[1:]) * 1e3:.1f} ms" if sampled else ""
    head = f"{str(dtype).removeprefix('torch.')} {units}: published cell {ratios[0]:.2f}"
    print(f"{head}{others}; {extra}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=count, nargs="+", default=[128, 256, 512])
    parser.add_argument("--sampled", type=int, default=20)
    parser.add_argument("--rounds", type=count, default=8)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 too, native or not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    print(f"{torch.backends.cpu.get_cpu_capability()}, bf16 products native: {native}")
    for dtype in (torch.float32, torch.bfloat16) if args.bf16 or native else (torch.float32,):
        for units in args.sizes:
            compare(units, dtype, args.sampled, args.rounds)


if __name__ == "__main__":
    shared.run(main)
