"""The report: one HTML page that stands by itself, without JavaScript."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from netwright.children.plan import Plan
from netwright.protocols import Event, PolicySnapshot
from netwright.report import plots, tables
from netwright.report.cells import draw_cell
from netwright.report.drawing import draw_decisions, draw_network
from netwright.report.html import details, duration, escape, figure, number, section, table
from netwright.report.learned import learned_section
from netwright.report.record import (
    configuration,
    finish_section,
    go_on_section,
    results_on_test,
    timeline,
)
from netwright.report.style import CSS
from netwright.report.tables import ACCURACY, metric_name
from netwright.space import SearchSpace
from netwright.spaces.recurrent import Cell
from netwright.trial import Metric, Trial, TrialState
from netwright.writing import write_whole

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
MARGIN = 5e-5  # scores nearer than this look equal in the tables


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that the page shows.

    header: of the journal: "seed", "config" (nested), "versions" (name to version), "created"
        (seconds since the epoch), and where they are known "command" and "status".
    snapshots: (trials told, what the controller would draw then), in that order.
    plans: networks or cells by trial number; empty for spaces that are neither.
    control: trials of `control_name` on the same space, evaluator and budget.
    final: the record of the final training, empty before it.
    metric: what the scores are.
    commands: that are worth giving now, and what each does.
    """

    name: str
    space: SearchSpace
    trials: Sequence[Trial]
    header: Mapping[str, Any]
    events: Sequence[Event]
    snapshots: Sequence[tuple[int, PolicySnapshot]]
    plans: Mapping[int, Plan | Cell]
    control: Sequence[Trial] = ()
    control_name: str = "random search"
    final: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = ACCURACY
    commands: Sequence[tuple[str, str]] = ()


def render(data: ReportData) -> str:
    """Return the page; it asks nothing of any network."""
    sections = [
        _head(data),
        _rewards(data),
        _control(data) if data.control else "",
        learned_section(data.space, data.snapshots, _section_of(data, "controller")),
        _best(data),
        _failures(data),
        finish_section(data.final),
        timeline(data.events, data.header, data.metric),
        configuration(data.header),
        go_on_section(data.commands),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(data.name)} · Netwright report</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join(part for part in sections if part)}\n</main>\n</body>\n"
        "</html>\n"
    )


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to `path`, whole or not at all; folders are made."""
    text = render(data)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


# --- sections -----------------------------------------------------------------------------------


def _paragraph(text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(text)}</p>"


def _card(label: str, value: str, small: str = "", lead: bool = False) -> str:
    below = f'<span class="small">{escape(small)}</span>' if small else ""
    mark = ' class="lead"' if lead else ""
    return f"<div{mark}><dt>{escape(label)}</dt><dd>{escape(value)}{below}</dd></div>"


def _short(trial: Trial) -> str:
    alone = trial.evaluation is not None and trial.evaluation.short
    return ", after a short training" if alone else ""


def _head(data: ReportData) -> str:
    total = tables.summary(data.trials, data.space)
    best = tables.top_rows(data.trials, 1)
    running = sum(t.state is TrialState.RUNNING for t in data.trials)
    opened = sum(event.kind == "open_test" for event in data.events)
    counts = f"{total['failed']} failed, {total['duplicates']} duplicates"
    if total["stopped"]:
        counts = f"{total['stopped']} stopped early, {counts}"
    better = ", lower is better" if data.metric.lower else ""
    cards = [
        _card(
            f"best validation {metric_name(data.metric)}",
            number(total["best"]),
            f"trial {best[0].number}{_short(best[0])}{better}"
            if best
            else "no trial has completed",
            lead=True,
        )
    ]
    cards += [
        _card(name, _any_number(value), lead=True)
        for name, value in results_on_test(data.final).items()
    ]
    cards += [
        _card(
            "trials completed",
            number(total["completed"]),
            counts + (f", {running} running" if running else ""),
        ),
        _card("parameters (best)", _parameters(data, best)),
        _card("training of children", duration(total["cost"]), _costing(total)),
        _card("test data opened", f"{opened} time{'' if opened == 1 else 's'}", "by this study"),
    ]
    about = (
        f"Space {data.space.name}: {len(data.space)} decisions, {_size(data.space)} architectures."
    )
    status = data.header.get("status")
    return (
        f"<header>\n<h1>{escape(data.name)}</h1>\n"
        + _paragraph(f"{about} Status: {status}." if status else about, "note")
        + f'<dl class="cards">{"".join(cards)}</dl>\n</header>'
    )


def _costing(total: Mapping[str, Any]) -> str:
    kinds = [kind for kind in ("stopped", "failed") if total[kind]]
    free = ["duplicates cost nothing"] if total["duplicates"] else []
    return "; ".join(([f"{' and '.join(kinds)} ones too"] if kinds else []) + free)


def _any_number(value: object) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def _size(space: SearchSpace) -> str:
    size = space.size()
    if size < 10**7:
        return f"{size:,}"
    power = Decimal(size).adjusted()
    return f"{size // 10 ** (power - 1) / 10:.1f}·10{str(power).translate(RAISED)}"


def _parameters(data: ReportData, best: Sequence[Trial]) -> str:
    if not best:
        return "–"
    plan, result = data.plans.get(best[0].number), best[0].evaluation
    known = result.parameters if result else 0
    if isinstance(plan, Plan):
        known = plan.parameters
    return number(known) if known else "–"


def _rewards(data: ReportData) -> str:
    if not data.trials:
        return section("Trials", _paragraph("No trial has been proposed yet.", "note"))
    caption = f"Points are trials, the steps the best {metric_name(data.metric)} so far"
    caption += "; hollow points share the result of an equal architecture; crosses failed."
    most = max(len(data.trials), len(data.control))
    if most > plots.MOST_POINTS:
        caption += f" At most {plots.MOST_POINTS:,} points are drawn of each; the steps hold all."
    curves = plots.curves(data.trials, metric=data.metric, space=data.space)
    chart = plots.rewards(data.trials, data.control, data.control_name, data.metric)
    return section(
        "Trials",
        figure(chart, caption),
        f"<h3>{_curves_title(data)}</h3>{figure(curves)}" if curves else "",
    )


def _curves_title(data: ReportData) -> str:
    n = len(tables.top_rows(data.trials, 5, data.space))
    return f"Learning curves of the best {n}" if n > 1 else "Learning curve of the best"


def verdict(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    name: str,
    metric: Metric = ACCURACY,
) -> str:
    """Say in one sentence which of two `tables.summary` has the better best score."""
    a, b = ours["best"], theirs["best"]
    if a is None or b is None:
        missing = "Neither" if a is None and b is None else "This search" if a is None else name
        verb = "has" if missing == "Neither" else "has not"
        return f"{missing} {verb} completed a trial, so there is nothing to compare."
    if abs(a - b) < MARGIN:
        return f"This search and {name} are level: both found {a:.4f}."
    what = f" {metric_name(metric)}" if metric.lower else ""
    note = " (lower is better)" if metric.lower else ""
    if (a < b) == metric.lower:
        return (
            f"This search is ahead in this one run: its best{what} is {a:.4f}, that of {name} "
            f"{b:.4f}{note}."
        )
    return (
        f"{name[:1].upper()}{name[1:]} is ahead in this one run: its best{what} is {b:.4f}, that "
        f"of this search {a:.4f}{note}."
    )


def _ahead(a: float | None, b: float | None, name: str, metric: Metric) -> str:
    if a is None or b is None:
        return "–"
    return "level" if abs(a - b) < MARGIN else "this search" if (a < b) == metric.lower else name


def _control(data: ReportData) -> str:
    ours, theirs = (tables.summary(them, data.space) for them in (data.trials, data.control))
    name = data.control_name
    rows = []
    for key, label in (
        ("best", f"best {metric_name(data.metric)}"),
        ("mean_top_5", "mean of the best 5"),
        ("mean", "mean of all completed"),
        ("mean_last_quarter", "mean of the last quarter"),
    ):
        a, b = ours[key], theirs[key]
        gap = "–" if a is None or b is None else f"{a - b:+.4f}"
        rows.append((label, number(a), number(b), gap, _ahead(a, b, name, data.metric)))
    early = ("stopped",) if ours["stopped"] or theirs["stopped"] else ()
    for key in ("trials", "completed", *early, "failed", "duplicates"):
        rows.append((key, number(ours[key]), number(theirs[key]), "", ""))
    rows.append(("training", duration(ours["cost"]), duration(theirs["cost"]), "", ""))
    unequal = ""
    if ours["trials"] != theirs["trials"]:
        unequal = (
            f"The budgets differ: {ours['trials']:,} trials against {theirs['trials']:,}; more "
            f"trials favour the best."
        )
    return section(
        f"Against {name}",
        _paragraph(verdict(ours, theirs, name, data.metric), "verdict"),
        _paragraph(unequal) if unequal else "",
        table(("", "this search", name, "difference", "ahead"), rows, numeric=(1, 2, 3)),
        _paragraph("One run of each; differences may be chance.", "note"),
    )


def _section_of(data: ReportData, name: str) -> Mapping[str, Any]:
    config = data.header.get("config")
    found = config.get(name) if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _best(data: ReportData) -> str:
    best = tables.top_rows(data.trials, 20, data.space)
    if not best:
        return section(
            "Best architectures", _paragraph("No trial has completed with a score.", "note")
        )
    drawings = []
    name = metric_name(data.metric)
    for k, trial in enumerate(best[:3]):
        title = f"Trial {trial.number}, {name} {number(trial.score)}"
        drawing = _drawing(data, trial)
        drawings.append(f"<h3>{title}</h3>{drawing}" if k == 0 else details(title, drawing))
    legend = _trainings(data, best)
    if any(tables.cell_in(trial.architecture) for trial in best):
        legend += f". {tables.CELL_LEGEND}"
    return section(
        "Best architectures",
        table(
            [name if column == "score" else column for column in tables.HEAD],
            tables.html_rows(best, 84),
            caption=f"The best {len(best)}, each architecture once{legend}",
            numeric=tables.NUMERIC,
        ),
        *drawings,
    )


def _trainings(data: ReportData, best: Sequence[Trial]) -> str:
    """Say which of the best were trained several times; each stands with its best training."""
    if not _section_of(data, "study").get("retrain_duplicates"):
        return ""
    done = [t for t in tables.scored(data.trials) if t.duplicate_of is None]
    counts = Counter(data.space.canonical(t.architecture) for t in done)
    told = [
        f"trial {t.number} of {n}"
        for t in best
        if (n := counts[data.space.canonical(t.architecture)]) > 1
    ]
    return f"; the best of several trainings: {', '.join(told)}" if told else ""


def _drawing(data: ReportData, trial: Trial) -> str:
    plan = data.plans.get(trial.number)
    if plan is None:
        return draw_decisions(trial.architecture)
    if isinstance(plan, Cell):
        drawn = figure(
            draw_cell(plan),
            "A node joins what comes from below and applies its activation, written above; the "
            "line at a node's middle takes c before the activation.",
        )
        return f"{drawn}<pre>{escape(chr(10).join(plan.equations()))}</pre>"
    return figure(
        draw_network(plan),
        "A layer's colour and number mark its output. What skips a layer runs beside the column "
        "and enters where its number stands.",
    )


def _failures(data: ReportData) -> str:
    counts = tables.failure_counts(data.trials)
    if not counts:
        return ""
    return section("Failures", table(("reason", "trials"), counts, numeric=(1,)))
