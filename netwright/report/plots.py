"""Charts as inline SVG, through matplotlib's objects and never its global state."""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from netwright.protocols import PolicySnapshot
from netwright.report.html import ACCENT, ALARM, CONTRAST, FONT, INK, LINE, MUTED, clean, escape
from netwright.report.tables import ACCURACY, metric_name, reward_of, scored, top_rows
from netwright.space import SearchSpace
from netwright.trial import Metric, Trial, TrialState

Snapshots = Sequence[tuple[int, PolicySnapshot]]
MOST_POINTS = 3000
WIDE_SPREAD, WIDE_CURVES, FAR, FEW = 20.0, 4.0, 3.0, 1 / 3
T = TypeVar("T")
LINES = (ACCENT, "#b8500f", "#1f7a4d", "#7b3fa8", "#8a6d00")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` pixels (96 a CSS inch)."""
    figure = Figure(figsize=(width / 96, height / 96), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as an SVG element; `name` must differ between figures of one page.

    name: prefix of all element ids, letters only. label: what a screen reader says.
    """
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name}
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(settings), warnings.catch_warnings():
        # Users' names may hold letters that matplotlib cannot measure; browsers draw them.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([^;\"]*?)(\d[\d.]*px) [^;\"]*", rf"font: \1\2 {FONT}", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1).strip()


def plain(axes: Axes, xlabel: str = "", ylabel: str = "") -> None:
    """Take away what a chart does not need and set its labels."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa3ae")
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(clean(xlabel), color=MUTED, fontsize=9.5, parse_math=False)
    axes.set_ylabel(clean(ylabel), color=MUTED, fontsize=9.5, parse_math=False)


def _legend(axes: Axes, **place: Any) -> None:
    legend = axes.legend(frameon=False, fontsize=9, labelcolor=INK, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


# --- rewards ------------------------------------------------------------------------------------


def running_best(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """Return (number, score of the highest reward so far) for each completed trial, by number."""
    result: list[tuple[int, float]] = []
    best: Trial | None = None
    for trial in sorted(scored(trials), key=lambda t: t.number):
        if best is None or reward_of(trial) > reward_of(best):
            best = trial
        result.append((trial.number, best.score or 0.0))
    return result


def axis_label(metric: Metric, log: bool = False) -> str:
    """Return what stands beside an axis of validation scores."""
    notes = [*(["lower is better"] if metric.lower else []), *(["log scale"] if log else [])]
    told = f"\n({', '.join(notes)})" if notes else ""
    return f"validation {metric_name(metric)}{told}"


def limit(values: Sequence[float], metric: Metric) -> float | None:
    """Return where an axis of scores ends if few lie so far off that the rest would be flat.

    None keeps all in view: always where higher is better, as no score runs off downwards.
    """
    if not spread(values, metric):
        return None
    far = FAR * statistics.median(values)
    inside = [v for v in values if v <= far]
    outside = len(values) - len(inside)
    return max(inside) * 1.08 if 0 < outside <= FEW * len(values) else None


def spread(values: Sequence[float], metric: Metric, most: float = WIDE_SPREAD) -> bool:
    """Say whether lower-is-better scores span more than a linear axis can show."""
    if not metric.lower or not values or min(values) <= 0:
        return False
    return max(values) / min(values) > most


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def thinned(items: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """Return at most `most` items, evenly spread."""
    step = -(-len(items) // most) if items else 1
    return list(items)[::step]


def _stopped(axes: Axes, trials: Sequence[Trial]) -> None:
    """Mark the children that were stopped early, at the score they had then."""
    found = thinned([t for t in trials if t.state is TrialState.STOPPED])
    if found:
        axes.plot(
            [t.number for t in found],
            [t.score or 0.0 for t in found],
            "v",
            color="none",
            markeredgecolor=MUTED,
            markersize=4,
            label="stopped early, score so far",
            gid="stopped",
        )


def rewards(
    trials: Sequence[Trial],
    control: Sequence[Trial] = (),
    control_name: str = "random search",
    metric: Metric = ACCURACY,
) -> str:
    """Return the scores over the trials, with the running best, and those of the control.

    Failed trials are crosses on the axis, duplicates are hollow. Children stopped early are
    grey triangles at the score they had then. Above 3,000 points every k-th is
    drawn; the lines always hold all. Lower-is-better scores that span too much are cut off above
    where they are few (carets at the edge, a note says how many), else the axis is logarithmic.
    """
    figure = new_figure(1040, 410)
    axes = figure.add_subplot()
    if control:
        _scores(axes, control, "#c9a36f", CONTRAST, clean(control_name), light=True)
    _scores(axes, trials, "#6f9cc9", ACCENT, "this search")
    failed = thinned([t.number for t in trials if t.state is TrialState.FAILED])
    if failed:
        axes.plot(
            failed,
            [0.015] * len(failed),
            "x",
            color=ALARM,
            markersize=5,
            transform=axes.get_xaxis_transform(),
            label="failed",
            gid="failed",
        )
    _stopped(axes, trials)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axes, "trial", axis_label(metric, _fit(axes, trials, control, metric)))
    marks = list(zip(*axes.get_legend_handles_labels(), strict=True))
    if marks:
        marks.sort(key=lambda mark: not mark[1].startswith("this search"))
        handles, labels = zip(*marks, strict=True)
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 4}
        _legend(axes, handles=handles, labels=labels, **place)
    label = f"Validation {metric_name(metric)} over trials, with the best so far"
    return to_svg(figure, "rewards", label)


def _fit(axes: Axes, trials: Sequence[Trial], control: Sequence[Trial], metric: Metric) -> bool:
    """Keep the scores' axis readable; say whether it became logarithmic."""
    done = [*scored(trials), *scored(control)]
    values = [t.score or 0.0 for t in done]
    top = limit(values, metric)
    if top is None:
        log = spread(values, metric)
        if log:
            _log_axis(axes)
        return log
    low = min(values)
    axes.set_ylim(max(0.0, low - 0.08 * (top - low)), top)
    outside = [t for t in done if (t.score or 0.0) > top]
    axes.plot(
        [t.number for t in outside],
        [0.985] * len(outside),
        "^",
        color=MUTED,
        markersize=5,
        transform=axes.get_xaxis_transform(),
        gid="outside",
    )
    count = "1 trial lies" if len(outside) == 1 else f"{len(outside):,} trials lie"
    axes.annotate(
        f"▲ {count} above, up to {max(values):,.0f}",
        (1.0, 0.0),
        xycoords="axes fraction",
        xytext=(0, -22),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=MUTED,
    )
    return False


def _scores(
    axes: Axes, trials: Sequence[Trial], light_colour: str, colour: str, name: str, **how: bool
) -> None:
    alpha = 0.55 if how.get("light") else 0.85
    part = "control" if how.get("light") else "search"
    done = scored(trials)
    own = thinned([t for t in done if t.duplicate_of is None])
    same = thinned([t for t in done if t.duplicate_of is not None])
    for chosen, face, what in ((own, light_colour, "trial"), (same, "none", "duplicate")):
        if chosen:
            axes.plot(
                [t.number for t in chosen],
                [t.score or 0.0 for t in chosen],
                "o",
                markersize=4,
                markerfacecolor=face,
                markeredgecolor=light_colour if face != "none" else colour,
                markeredgewidth=0.8,
                alpha=alpha,
                label=f"{name}: {what}",
                gid=f"{part}-{what}",
            )
    best = running_best(trials)
    if best:
        end = max(t.number for t in trials)
        axes.step(
            [n for n, _ in best] + [end],
            [s for _, s in best] + [best[-1][1]],
            where="post",
            color=colour,
            linewidth=2,
            linestyle="--" if how.get("light") else "-",
            label=f"{name}: best so far",
            gid=f"{part}-best",
        )


def curves(
    trials: Sequence[Trial],
    n: int = 5,
    metric: Metric = ACCURACY,
    space: SearchSpace | None = None,
) -> str:
    """Return the learning curves of the n best `top_rows`, "" where none has two epochs."""
    best = [
        t for t in top_rows(trials, n, space) if t.evaluation is not None and t.evaluation.curve
    ]
    if not any(t.evaluation is not None and len(t.evaluation.curve) > 1 for t in best):
        return ""
    figure = new_figure(1040, 320)
    axes = figure.add_subplot()
    for k, trial in enumerate(best):
        assert trial.evaluation is not None
        curve = trial.evaluation.curve
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            color=LINES[k % len(LINES)],
            linewidth=1.8,
            marker="o" if len(curve) <= 30 else None,
            markersize=3.5,
            label=f"trial {trial.number}",
            gid=f"curve-{trial.number}",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = [v for t in best if t.evaluation for v in t.evaluation.curve if math.isfinite(v)]
    log = spread(values, metric, WIDE_CURVES)
    if log:
        _log_axis(axes)
    plain(axes, "epoch", axis_label(metric, log))
    _legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return to_svg(figure, "curves", f"Learning curves of the best {len(best)} trials")


def entropy(snapshots: Snapshots) -> str:
    """Return the policy's entropy (nats) over the trials told, "" without snapshots."""
    if not snapshots:
        return ""
    figure = new_figure(1040, 230)
    axes = figure.add_subplot()
    axes.plot(
        [n for n, _ in snapshots],
        [s.entropy for _, s in snapshots],
        color=ACCENT,
        linewidth=2,
        marker="o" if len(snapshots) <= 40 else None,
        markersize=4,
        gid="entropy",
    )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axes, "trials told", "entropy, nats")
    return to_svg(figure, "entropy", "Entropy of the policy over trials")
