"""The best trials and the failures as rows, for the terminal and for the page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from netwright.errors import SpaceError
from netwright.report.html import duration, number, shorten
from netwright.space import Architecture, SearchSpace, Value
from netwright.spaces.recurrent import Cell, cell_of
from netwright.trial import Metric, Trial, TrialState, cost_of

ACCURACY = Metric()
HEAD = ("trial", "score", "reward", "parameters", "cost", "architecture")
NUMERIC = (0, 1, 2, 3, 4)
GAP = 2  # columns between those of the terminal's table
UNCUT = 10**6
ACTIVATIONS = {"identity": "i", "tanh": "t", "sigmoid": "σ", "relu": "r", "sin": "s"}
SIGNS = {"add": "+", "elem_mult": "×", "max": "∨"}
CELL_LEGEND = (
    "A cell is told as leaves | inner nodes up to the root | c. Each node is its activation "
    "(i identity, t tanh, σ sigmoid, r relu, s sin) and what joins its inputs (+, × or ∨, the "
    "larger); c→8 t+ joins the last c to node 8 by +, then tanh; 12→c takes the new c from node 12."
)
_LAYER = re.compile(r"layer(\d+)\.(\w+)")


def metric_name(metric: Metric) -> str:
    """Return what people call the metric."""
    return metric.name.replace("_", " ")


def scored(trials: Sequence[Trial]) -> list[Trial]:
    """Return the completed trials whose score and reward are finite, in the order given."""
    return [t for t in trials if t.completed and t.evaluation is not None and t.evaluation.finite]


def reward_of(trial: Trial) -> float:
    """Return the reward that a completed trial ranks by."""
    return trial.evaluation.reward if trial.evaluation is not None else float("-inf")


def top_rows(trials: Sequence[Trial], n: int, space: SearchSpace | None = None) -> list[Trial]:
    """Return the best n completed trials by reward, then by number; each architecture once.

    A duplicate of another completed trial in `trials` is left out. space: theirs; with it an
    architecture is its canonical form, as for `Study.top`. Of several trainings the best stands.
    """
    done = scored(trials)
    numbers = {trial.number for trial in done}
    seen: set[Architecture] = set()
    best: list[Trial] = []
    for trial in sorted(done, key=lambda t: (-reward_of(t), t.number)):
        if len(best) >= n:
            break
        if trial.duplicate_of in numbers:
            continue
        form = trial.architecture if space is None else space.canonical(trial.architecture)
        if form not in seen:
            seen.add(form)
            best.append(trial)
    return best


def describe(architecture: Architecture, length: int = 72) -> str:
    """Return an architecture in one line of at most `length` characters.

    Layers named as those of convolutional spaces are told layer by layer, recurrent cells as
    `CELL_LEGEND` says, other decisions as name=value.
    """
    cell = cell_in(architecture)
    if cell is not None:
        return shorten(_cell(cell, length), length)
    layers: dict[int, dict[str, Value]] = {}
    others = []
    for name, value in architecture.items():
        match = _LAYER.fullmatch(name)
        if match:
            layers.setdefault(int(match[1]), {})[match[2]] = value
        elif name != "depth":
            others.append(f"{name}={','.join(value) if isinstance(value, tuple) else value}")
    if layers:
        links = [values.get("inputs") for values in layers.values()]
        count = sum(len(taken) for taken in links if isinstance(taken, tuple))
        head = f"{len(layers)} layers, "
        if any(isinstance(taken, tuple) for taken in links):
            head += f"{count} connections, "
        others.insert(0, head + " ".join(_layer(values) for values in layers.values()))
    return shorten(", ".join(others), length)


def cell_in(values: Mapping[str, Any]) -> Cell | None:
    """Return the recurrent cell that an architecture is, None where it is none."""
    try:
        return cell_of(values)
    except (KeyError, TypeError, ValueError, SpaceError):
        return None


def _cell(cell: Cell, length: int) -> str:
    told = [ACTIVATIONS[activation] + SIGNS[combine] for combine, activation in cell.nodes]
    joined = ACTIVATIONS[cell.inject[1]] + SIGNS[cell.inject[0]]
    memory = f"c→{cell.c_into} {joined} {cell.c_from}→c"

    def line(space: str) -> str:
        parts = (space.join(told[: cell.base]), space.join(told[cell.base :]), memory)
        return " | ".join(parts)

    return line(" ") if len(line(" ")) <= length else line("")


def _layer(values: Mapping[str, Value]) -> str:
    if "height" in values and "width" in values:
        text = f"{values['height']}x{values['width']}"
        return f"{text}·{values['filters']}" if "filters" in values else text
    if "type" in values:
        return str(values["type"])
    return "/".join(str(v) for v in values.values() if not isinstance(v, tuple))


def html_rows(trials: Sequence[Trial], length: int = 72) -> list[tuple[str, ...]]:
    """Return the cells under `HEAD` for each trial, not yet escaped."""
    rows: list[tuple[str, ...]] = []
    for trial in trials:
        result = trial.evaluation
        rows.append(
            (
                str(trial.number),
                number(trial.score),
                number(trial.reward),
                number(result.parameters) if result and result.parameters else "–",
                duration(result.cost) if result else "–",
                describe(trial.architecture, length),
            )
        )
    return rows


def top_table(trials: Sequence[Trial], n: int = 10, width: int | None = None) -> Table:
    """Return the table of `top_rows` for a terminal of `width` columns, or for a file.

    Only architectures are cut to fit, to the width of their heading at least; in a file nothing is.
    """
    best = top_rows(trials, n)
    numbers = [HEAD[:-1], *(row[:-1] for row in html_rows(best))]
    widths = [max(map(cell_len, column)) for column in zip(*numbers, strict=True)]
    least = cell_len(HEAD[-1])
    room = UNCUT if width is None else width - sum(widths) - GAP * len(widths)
    gap, room = (GAP, room) if room >= least else (1, least)
    told = [describe(trial.architecture, room) for trial in best]
    widths.append(min(room, max(map(cell_len, [HEAD[-1], *told]))))
    shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    shown.width = sum(widths) + gap * len(numbers[0])
    for name, taken in zip(HEAD, widths, strict=True):
        side: Literal["left", "right"] = "left" if name == HEAD[-1] else "right"
        shown.add_column(Text(name), justify=side, width=taken, no_wrap=True)
    for row, architecture in zip(numbers[1:], told, strict=True):
        shown.add_row(*map(Text, row), Text(architecture, no_wrap=True, overflow="ellipsis"))
    return shown


def failure_counts(trials: Sequence[Trial]) -> list[tuple[str, int]]:
    """Return (reason, how often) of the failed trials, the most frequent first."""
    reasons = Counter(
        trial.failure or "no reason given" for trial in trials if trial.state is TrialState.FAILED
    )
    return sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))


def summary(trials: Sequence[Trial], space: SearchSpace | None = None) -> dict[str, Any]:
    """Return what a search amounts to.

    best (of the highest reward), mean_top_5 (of the five highest, each architecture once, as in
    `top_rows`), mean, mean_last_quarter: scores, None without a completed trial.
    trials, completed, stopped, failed, duplicates: counts. cost: `child_seconds`.
    """
    done = scored(trials)
    scores = [t.score or 0.0 for t in sorted(done, key=lambda t: t.number)]
    top = [t.score or 0.0 for t in top_rows(trials, 5, space)]
    return {
        "best": top[0] if top else None,
        "mean_top_5": _mean(top),
        "mean": _mean(scores),
        "mean_last_quarter": _mean(scores[-max(1, len(scores) // 4) :]),
        "trials": len(trials),
        "completed": sum(t.completed for t in trials),
        "stopped": sum(t.state is TrialState.STOPPED for t in trials),
        "failed": sum(t.state is TrialState.FAILED for t in trials),
        "duplicates": sum(t.duplicate_of is not None for t in trials),
        "cost": child_seconds(trials),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def child_seconds(trials: Sequence[Trial]) -> float:
    """Return the seconds that the children took, failed and stopped ones too.

    Of a failed one they are those between its start and its end; a duplicate cost nothing.
    """
    return sum(cost_of(trial) for trial in trials if trial.duplicate_of is None)
