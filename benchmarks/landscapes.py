"""Controllers on many landscapes of a closed form, where one landscape may suit one by chance.

    python -m benchmarks.landscapes synthetic-cell --first 200 --landscapes 30 --seeds 5

One comparison of `netwright compare` a landscape, each in a folder of --out, gone on with where it
is there. Tables as that command's; a landscape counts once, with the mean of its seeds, so that
intervals are of landscapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks import shared
from benchmarks.shared import count
from netwright.comparing import Comparison, check_entries
from netwright.config import load_config, set_threads
from netwright.report.comparison import Measure, markdown


def measured(source: str, settings: list[str], landscape: int, out: Path) -> list[Measure]:
    """Return what one landscape's comparison measures, one row a controller."""
    config = load_config(source, [*settings, f"data.landscape={landscape}"])
    set_threads(config)
    check_entries(config)
    comparison = Comparison(config, out / str(landscape))
    comparison.begin()
    for run in comparison.go_on(print):
        print(f"landscape {landscape}: {run.name}", flush=True)
    return [
        Measure(
            name=measure.name,
            lower=measure.lower,
            values={entry: rows.mean(0, keepdims=True) for entry, rows in measure.values.items()},
        )
        for measure in comparison.measured()[0]
    ]


def joined(parts: list[Measure]) -> Measure:
    """Return one measure whose rows are those of all parts."""
    first = parts[0]
    values = {entry: np.concatenate([p.values[entry] for p in parts]) for entry in first.values}
    return Measure(name=first.name, lower=first.lower, values=values)


def table(measure: Measure, at: Iterable[int], trials: int) -> str:
    """Return the table of a comparison, whose rows are landscapes, at most after all `trials`."""
    text = markdown(measure, sorted({n for n in at if n < trials} | {trials}))
    text = text.replace("mean over seeds", "mean over landscapes", 1)
    return text.replace("on the same seeds", "on the same landscapes", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("config", help="synthetic-conv or synthetic-cell")
    parser.add_argument("--first", type=int, default=200)
    parser.add_argument("--landscapes", type=count, default=30)
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument("--trials", type=count, default=200)
    parser.add_argument("--at", type=count, nargs="+", default=[50, 100])
    parser.add_argument("--controllers", nargs="+", default=["guided", "local_search"])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path, help="runs/landscapes-CONFIG")
    args = parser.parse_args()
    out = args.out or Path("runs") / f"landscapes-{Path(args.config).stem}"
    entries = ", ".join(f'"{entry}"' for entry in args.controllers)
    settings = [
        *args.settings,
        f"study.trials={args.trials}",
        f"compare.seeds={args.seeds}",
        f"compare.controllers=[{entries}]",
    ]
    found = [
        measured(args.config, settings, landscape, out)
        for landscape in range(args.first, args.first + args.landscapes)
    ]
    print(f"\n{args.config}: {args.landscapes} landscapes, mean of {args.seeds} seeds on each\n")
    for parts in zip(*found, strict=True):
        print(table(joined(list(parts)), args.at, args.trials))


if __name__ == "__main__":
    shared.run(main)
