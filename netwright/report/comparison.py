"""Tables and plots of a comparison of controllers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netwright.report.plots import LINES, new_figure, plain, to_svg
from netwright.report.statistics import Interval, interval, paired_p

Array = NDArray[Any]
NONE = "a seed has no score yet"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One quantity of the best so far, for every controller.

    name: what it is, with its unit. lower: whether less is better. values: by controller, float
    [seeds, trials], of the best by reward after so many finished trials, NaN where that one failed.
    """

    name: str
    lower: bool
    values: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A controller at one budget.

    ahead: mean of the paired differences of the first controller to this one, positive where the
    first is better; p: of a paired permutation test; None for the first itself.
    """

    value: Interval
    ahead: Interval | None
    p: float | None


def cells(measure: Measure, at: Sequence[int]) -> dict[str, list[Cell]]:
    """Return, by controller, a cell for each number of trials in `at`."""
    first = next(iter(measure.values))
    found: dict[str, list[Cell]] = {}
    for name, values in measure.values.items():
        found[name] = []
        for n in at:
            here, leader = values[:, n - 1], measure.values[first][:, n - 1]
            ahead = p = None
            if name != first:
                difference = here - leader if measure.lower else leader - here
                ahead, p = interval(difference), paired_p(difference)
            found[name].append(Cell(value=interval(here), ahead=ahead, p=p))
    return found


def markdown(
    measure: Measure,
    at: Sequence[int],
    digits: int | None = None,
    labels: Sequence[str] | None = None,
) -> str:
    """Return a table: mean and 95% interval, and how far the first controller is ahead.

    digits: behind the point; by default 4, or fewer so that the largest mean has 4 in all.
    labels: of the columns; "N trials" by default.
    """
    first, *others = measure.values
    heads = labels or [f"{n} trials" for n in at]
    found = cells(measure, at)
    digits = _digits(found) if digits is None else digits
    better = "lower" if measure.lower else "higher"
    lines = [
        f"{measure.name} of the best so far ({better} is better): mean over seeds, 95% interval",
        "",
        "| controller | " + " | ".join(heads) + " |",
        "|---" * (len(at) + 1) + "|",
    ]
    for name, row in found.items():
        said = [
            f"{c.value.mean:.{digits}f} ({c.value.low:.{digits}f} to {c.value.high:.{digits}f})"
            if math.isfinite(c.value.mean)
            else NONE
            for c in row
        ]
        lines.append(f"| {name} | " + " | ".join(said) + " |")
    if others:
        lines += [
            "",
            f"How far {first} is ahead on the same seeds: mean difference, 95% interval, p of a "
            f"paired permutation test",
            "",
            f"| {first} against | " + " | ".join(heads) + " |",
            "|---" * (len(at) + 1) + "|",
        ]
    for name in others:
        said = []
        for cell in found[name]:
            a = cell.ahead
            assert a is not None
            if not math.isfinite(a.mean):
                said.append(NONE)
                continue
            span = f"({a.low:+.{digits}f} to {a.high:+.{digits}f})"
            said.append(f"{a.mean:+.{digits}f} {span}, p {cell.p:.4f}")
        lines.append(f"| {name} | " + " | ".join(said) + " |")
    return "\n".join(lines) + "\n"


def _digits(found: Mapping[str, Sequence[Cell]]) -> int:
    means = [abs(cell.value.mean) for row in found.values() for cell in row]
    largest = max((mean for mean in means if math.isfinite(mean)), default=0.0)
    return 4 - min(4, len(str(int(largest)))) if largest >= 1 else 4


def plot(measure: Measure, costs: Mapping[str, Array] | None = None) -> str:
    """Return an SVG of the mean best so far with its 95% band against trials, or against cost.

    costs: by controller, float [seeds, trials], seconds of training spent so far.
    """
    figure = new_figure(760, 380)
    axes = figure.subplots()
    for i, (name, values) in enumerate(measure.values.items()):
        colour = LINES[i % len(LINES)]
        style = ("-", "--", ":")[i // len(LINES) % 3]
        if costs is None:
            x, curves = np.arange(1, values.shape[1] + 1), values
        else:
            x, curves = _on_costs(values, costs[name])
        keep = np.unique(np.linspace(0, len(x) - 1, 200).astype(int))
        spans = [interval(curves[:, k]) for k in keep]
        axes.plot(x[keep], [s.mean for s in spans], style, color=colour, label=name, linewidth=1.6)
        low, high = [s.low for s in spans], [s.high for s in spans]
        axes.fill_between(x[keep], low, high, color=colour, alpha=0.15, linewidth=0)
    every = np.concatenate(
        [v[:, min(4, v.shape[1] - 1) :].ravel() for v in measure.values.values()]
    )
    every = every[np.isfinite(every)]
    if len(every):
        low_, high_ = np.quantile(every, [0.0, 0.98] if measure.lower else [0.02, 1.0])
        margin = 0.04 * (high_ - low_) or 0.01
        axes.set_ylim(low_ - margin, high_ + margin)
    plain(axes, "finished trials" if costs is None else "seconds of training", measure.name)
    axes.legend(frameon=False, fontsize=8)
    kind = "trials" if costs is None else "cost"
    return to_svg(figure, f"compare{kind}", f"{measure.name} of the best so far against {kind}")


def _on_costs(values: Array, costs: Array) -> tuple[Array, Array]:
    """Return 200 costs that every seed reached, and what each seed's best was by then."""
    low, high = float(costs[:, 0].max()), float(costs[:, -1].min())
    x = np.linspace(low, max(high, low), 200)
    return x, _by_then(values, costs, np.tile(x, (len(values), 1)))


def _by_then(values: Array, costs: Array, x: Array) -> Array:
    """Return each seed's best when it had cost `x` [seeds, k]; its first where it cost more."""
    rows = [
        own[np.searchsorted(cost, at, side="right").clip(1) - 1]
        for own, cost, at in zip(values, costs, x, strict=True)
    ]
    return np.array(rows)


def at_equal_cost(measure: Measure, costs: Mapping[str, Array]) -> tuple[Measure, list[str]]:
    """Return the measure at quarters of the cost that all searches of a seed reached, and names.

    A seed's searches are compared with each other alone, so each seed has a cost of its own, that
    of its cheapest search; the names have the mean over seeds.
    """
    whole = np.min([cost[:, -1] for cost in costs.values()], axis=0)
    x = np.array([0.25, 0.5, 0.75, 1.0]) * whole[:, None]
    values = {name: _by_then(own, costs[name], x) for name, own in measure.values.items()}
    seconds = x.mean(0)
    places = max(0, 1 - math.floor(math.log10(seconds[0]))) if seconds[0] > 0 else 0
    return replace(measure, values=values), [f"{s:.{places}f} s of training" for s in seconds]
