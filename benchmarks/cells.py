"""Does the cell search beat random search, and do its cells beat an LSTM of the same size?

    python -m benchmarks.cells searches RL_STUDY RANDOM_STUDY
    python -m benchmarks.cells finals CONFIG --cells STUDY:best nascell lstm --seeds 3 --out DIR

`searches` prints the paper's Figure 6 of two studies that `netwright search` made (the second with
controller.name=random): every 20 children the best, and the means of the 5 and the 15 best unique
ones, of each. `finals` takes each cell through the grid of CONFIG's tune section (validation only,
once, at study seed 0), then trains it for good with the best point at each seed and tests it once.
Journals stay in --out and are gone on with, so a run may be cut off and several may share the
cells. The lines of docs/results/ptb-small.md come from here.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from netwright.config import load_config
from netwright.finishing import best_run, train_architecture, tune_architecture
from netwright.seeding import derive_seed
from netwright.showing import named
from netwright.space import Architecture
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.trial import Trial
from netwright.workspace import Workspace


def unique_best(study: Study, trials: Sequence[Trial]) -> list[float]:
    """Return the scores of completed trials, the best reward first, each cell once."""
    seen: set[Architecture] = set()
    scores = []
    for trial in sorted(trials, key=lambda t: (-(t.reward or 0.0), t.number)):
        form = study.space.canonical(trial.architecture)
        if trial.completed and form not in seen:
            seen.add(form)
            scores.append(trial.score or 0.0)
    return scores


def searches(ours: Path, control: Path, every: int) -> list[str]:
    """Return the rows of Figure 6, for as many children as both studies have."""
    studies = [Workspace(folder).open()[1] for folder in (ours, control)]
    count = min(len(study.trials) for study in studies)
    lines = [
        "| children | best: RL | random | mean of best 5: RL | random | mean of best 15: RL "
        "| random | failed: RL | random | median of the last 20: RL | random |",
        "|---" * 11 + "|",
    ]
    for n in range(every, count + 1, every):
        cells = [str(n)]
        for k in (1, 5, 15):
            for study in studies:
                best = unique_best(study, study.trials[:n])[:k]
                cells.append(f"{statistics.mean(best):.1f}" if len(best) == k else "–")
        for study in studies:
            cells.append(str(sum(not t.completed for t in study.trials[:n])))
        for study in studies:
            last = [t.score for t in study.trials[n - every : n] if t.score is not None]
            cells.append(f"{statistics.median(last):.1f}" if last else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def finals(
    source: str, settings: Sequence[str], cells: Sequence[str], seeds: int, out: Path
) -> list[str]:
    """Return a row a cell: the grid's best point, and the tests of the final trainings."""
    config = load_config(source, settings)
    if config.execution.threads:
        torch.set_num_threads(config.execution.threads)
    lines = [
        f"| {config.name} | parameters | width | grid's best | validation "
        f"| test {config.metric.name} | trainings | seconds each |",
        "|---" * 8 + "|",
    ]
    out.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        name, space, architecture = named(cell)
        with closing(SqlStore(sqlite_url(out / f"{config.name}-{name}.db"))) as store:
            if not store.exists():
                store.create({"space": space.to_dict(), "seed": 0, "config": config.to_dict()})
            records = []
            for record in tune_architecture(config, store, space, architecture):
                records.append(record)
                print(f"{name} {record['setting']}: {record['score']}", flush=True)
            best = best_run(records)
            assert best is not None, f"every point failed for {name}"
            point = best["setting"]
            known = {e.payload["seed"]: e.payload for e in store.events("train")}
            for seed in range(seeds):
                if seed in known:
                    continue
                finished = train_architecture(
                    replace(config, study=replace(config.study, seed=seed)),
                    space,
                    architecture,
                    point=point,
                    journal=store.add_event,
                    extra={"architecture": name, "seed": seed, "point": point},
                    child_seed=derive_seed(seed, 0, "final"),
                    on_epoch=partial(_say, name),
                )
                known[seed] = finished.record
                print(f"{name} seed {seed}: {config.summary(finished.record)}", flush=True)
        lines.append(_row(name, point, [known[seed] for seed in range(seeds)]))
    return lines


def _say(name: str, epoch: int, score: float | None) -> None:
    print(f"{name} epoch {epoch}: {score}", flush=True)


def _row(name: str, point: dict[str, Any], records: Sequence[Any]) -> str:
    keys = [
        next(key for key in records[0] if key.startswith(start))
        for start in ("final_validation_", "test_")
    ]
    cells = [name, f"{records[0]['parameters']:,}", str(records[0]["width"])]
    cells.append(", ".join(f"{key} {value}" for key, value in point.items()))
    for key in keys:
        values = [float(record[key]) for record in records]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.3f}{spread}")
    cells.append(str(len(records)))
    cells.append(f"{statistics.mean(record['seconds'] for record in records):.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("searches")
    one.add_argument("studies", type=Path, nargs=2)
    one.add_argument("--every", type=int, default=20)
    two = commands.add_parser("finals")
    two.add_argument("config")
    two.add_argument("--cells", nargs="+", required=True)
    two.add_argument("--seeds", type=int, default=3)
    two.add_argument("--set", action="append", default=[], dest="settings")
    two.add_argument("--out", type=Path, default=Path("runs/finals"))
    args = parser.parse_args()
    if args.command == "searches":
        lines = searches(args.studies[0], args.studies[1], args.every)
    else:
        lines = finals(args.config, args.settings, args.cells, args.seeds, args.out)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
