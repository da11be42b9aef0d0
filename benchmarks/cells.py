"""Does the cell search beat random search, and do its cells beat an LSTM of the same size?

    python -m benchmarks.cells searches RL_STUDY RANDOM_STUDY
    python -m benchmarks.cells finals CONFIG --cells STUDY:best nascell lstm --seeds 3 --out DIR

`searches` prints the paper's Figure 6 of two studies that `netwright search` made (the second with
controller.name=random): every 20 children the best, and the means of the 5 and the 15 best unique
ones, of each. `finals` takes each cell through the grid of CONFIG's tune section (validation only,
once, at study seed 0), then trains it for good with the best point at each seed and tests it once.
Journals stay in --out and are gone on with, so a run may be cut off and several may share the
cells; one of another cell or of other settings is refused. The lines of docs/results/ptb-small.md
come from here.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared import count, made_of, run
from netwright.config import load_config, set_threads
from netwright.errors import NetwrightError, StudyError, UsageError
from netwright.finishing import train_architecture
from netwright.seeding import derive_seed
from netwright.showing import named
from netwright.space import Architecture, SearchSpace
from netwright.spaces import digest
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.tasks.base import Config
from netwright.trial import Trial
from netwright.tuning import best_run, tune_architecture
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
    set_threads(config)
    lines = [
        f"| {config.name} | parameters | width | grid's best | validation "
        f"| test {config.metric.name} | trainings | seconds each |",
        "|---" * 8 + "|",
    ]
    found = [named(cell, config) for cell in cells]
    if len({name for name, _, _ in found}) < len(found):
        raise UsageError(
            f"--cells must have different names, which their journals have; got {' '.join(cells)}; "
            f"use --out with another folder for one of them, or rename a file"
        )
    for name, space, architecture in found:  # all before the first is trained
        place = out / f"{config.name}-{name}.db"
        if place.exists():
            journal(config, space, architecture, place).close()
    out.mkdir(parents=True, exist_ok=True)
    for name, space, architecture in found:
        place = out / f"{config.name}-{name}.db"
        with closing(journal(config, space, architecture, place)) as store:
            lines.append(_finals(config, store, name, space, architecture, seeds))
    return lines


def journal(
    config: Config, space: SearchSpace, architecture: Architecture, place: Path
) -> SqlStore:
    """Return the journal of a cell's trainings; raises `StudyError` for one of anything else."""
    header = {
        "space": space.to_dict(),
        "architecture": digest(space, architecture),
        "seed": config.study.seed,
        "config": made_of(config),
    }
    store = SqlStore(sqlite_url(place))
    if not store.exists():
        store.create({**header, "notes": {"numerics": config.settled().execution.numerics}})
        return store
    held = store.header()
    others = [key for key in header if held.get(key) != json.loads(json.dumps(header[key]))]
    if others:
        store.close()
        raise StudyError(
            f"a journal goes on only with the cell and the settings that it began with; {place} "
            f"holds another {', '.join(others)}; use --out with another folder, or --set name=NAME"
        )
    return store


def _finals(
    config: Config,
    store: SqlStore,
    name: str,
    space: SearchSpace,
    architecture: Architecture,
    seeds: int,
) -> str:
    config = config.settled(str(store.header().get("notes", {}).get("numerics", "")))
    records = []
    for record in tune_architecture(config, store, space, architecture):
        records.append(record)
        print(f"{name} {record['setting']}: {record['score']}", flush=True)
    best = best_run(records)
    if best is None:
        raise NetwrightError(f"all {len(records)} runs of the grid failed for {name}")
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
    return _row(name, point, [known[seed] for seed in range(seeds)])


def _say(name: str, epoch: int, score: float | None) -> None:
    print(f"{name} epoch {epoch}: {score}", flush=True)


def _row(name: str, point: Mapping[str, Any] | None, records: Sequence[Any]) -> str:
    keys = [
        next(key for key in records[0] if key.startswith(start))
        for start in ("final_validation_", "test_")
    ]
    cells = [name, f"{records[0]['parameters']:,}", str(records[0]["width"])]
    cells.append(", ".join(f"{key} {value}" for key, value in (point or {}).items()) or "–")
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
    one.add_argument("--every", type=count, default=20)
    two = commands.add_parser("finals")
    two.add_argument("config")
    two.add_argument("--cells", nargs="+", required=True)
    two.add_argument("--seeds", type=count, default=3)
    two.add_argument("--set", action="append", default=[], dest="settings")
    two.add_argument("--out", type=Path, default=Path("runs/finals"))
    args = parser.parse_args()
    if args.command == "searches":
        lines = searches(args.studies[0], args.studies[1], args.every)
    else:
        lines = finals(args.config, args.settings, args.cells, args.seeds, args.out)
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
