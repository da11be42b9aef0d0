"""The page's account of the study: final training, events, configuration, commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from netwright.protocols import Event
from netwright.report.html import details, duration, escape, number, section, shorten, table
from netwright.report.tables import ACCURACY, metric_name
from netwright.trial import Metric

SHOWN = ("open_test", "tune", "train")
FEW = 3  # values that a card has room for


def moment(seconds: float) -> str:
    """Return seconds since the epoch as UTC, to the second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return str(seconds)


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) or value is None:
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(_say(v) for v in value)
    return str(value)


def _exact(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def results_on_test(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record of training holds of test data, by what people call it."""
    return {
        str(key).replace("_", " "): value
        for key, value in record.items()
        if str(key).startswith("test_")
    }


def finish_section(final: Mapping[str, Any]) -> str:
    """Return the section on the final training, "" before it."""
    if not final:
        return ""
    cards, parts = [], []
    for key, value in final.items():
        label = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            rows = [(k, _exact(v)) for k, v in value.items()]
            parts.append(details(label, table(("setting", "value"), rows)))
        elif isinstance(value, list | tuple) and len(value) > FEW:
            parts.append(details(label, f"<p>{escape(_say(value))}</p>"))
        elif value not in ("", [], ()):
            text = _say(value)
            if key == "seconds" and isinstance(value, int | float):
                label, text = "time", duration(value)
            cards.append(f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>")
    shown = f'<dl class="cards">{"".join(cards)}</dl>' if cards else ""
    return section("Final training", shown, *parts)


def timeline(events: Sequence[Event], header: Mapping[str, Any], metric: Metric = ACCURACY) -> str:
    """Return when the study began, tuned, opened its test data and trained.

    Runs of one tuning grid that follow each other are one entry; scores of grids that were trained
    differently are not set against each other.
    """
    opened = sum(event.kind == "open_test" for event in events)
    items = []
    created = header.get("created")
    if isinstance(created, int | float):
        items.append(_item(created, "begun", "study begun"))
    shown = [event for event in events if event.kind in SHOWN]
    numbers = iter(range(1, opened + 1))
    again = _noted_again(shown)
    for (kind, _), group in groupby(shown, key=lambda e: (e.kind, _how(e))):
        run = list(group)
        if kind == "tune":
            items.append(_item(run[0].time, kind, _tuned(run, again, metric)))
            continue
        for event in run:
            text = _told(event)
            if kind == "open_test":
                text = f"test data opened, time {next(numbers)}{text}"
            else:
                text = f"final training done{text}"
            items.append(_item(event.time, kind, text))
    times = {0: "never opened", 1: "opened once"}.get(opened, f"opened {opened} times")
    said = f"The test data was {times} by this study."
    listed = f'<ol class="timeline">{"".join(items)}</ol>' if items else ""
    note = ""
    if len({_how(event) for event in shown if event.kind == "tune"} - {None}) > 1:
        note = (
            '<p class="note">Tuning runs of different entries were trained in different ways; '
            "their scores are not to be compared.</p>"
        )
    return section("Timeline", f"<p>{said}</p>", listed, note)


def _item(seconds: float, kind: str, text: str) -> str:
    return (
        f'<li class="{kind}"><time>{escape(moment(seconds))}</time>'
        f"{escape(shorten(text, 300))}</li>"
    )


def _how(event: Event) -> str | None:
    """Return what tells the grids apart that a run may be of, None where it was not noted."""
    how = event.payload.get("how") if event.kind == "tune" else None
    return None if how is None else str(how)


def _noted_again(events: Sequence[Event]) -> set[int]:
    """Return the sequence numbers of tuning runs that repeat an earlier one of their grid."""
    seen: set[tuple[str, str | None]] = set()
    again = set()
    for event in events:
        if event.kind != "tune":
            continue
        rest = {k: v for k, v in event.payload.items() if k != "how"}
        text, how = json.dumps(rest, sort_keys=True, default=str), _how(event)
        if (text, how) in seen or (text, None) in seen:
            again.add(event.sequence)
        seen.add((text, how))
    return again


def _tuned(run: Sequence[Event], again: Container[int], metric: Metric) -> str:
    """Tell of the runs of one grid; `again` has the sequence numbers of those of before."""
    scores = [e.payload.get("score") for e in run]
    known = [float(s) for s in scores if isinstance(s, int | float)]
    old = sum(e.sequence in again for e in run)
    new = len(run) - old
    text = f"{new} tuning run{'' if new == 1 else 's'}" if new or not old else ""
    if old:
        text += " and " if text else ""
        text += f"{old} earlier run{'' if old == 1 else 's'} noted again"
    if known:
        best = min(known) if metric.lower else max(known)
        text += f", best validation {metric_name(metric)} {best:.4f}"
    failed = len(run) - len(known)
    return f"{text}, {failed} failed" if failed else text


def _told(event: Event) -> str:
    known = {
        key.replace("_", " "): event.payload[key]
        for key in ("by", "trial", "validation_score")
        if key in event.payload
    }
    known |= results_on_test(event.payload)
    told = [f"{name} {_say(value)}" for name, value in known.items()]
    return f": {', '.join(told)}" if told else ""


def toml_text(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested values in the shape of TOML, plain ones first; nothing stands for None."""
    lines, below = [], []
    for key, value in values.items():
        if isinstance(value, Mapping):
            name = f"{prefix}.{key}" if prefix else str(key)
            below.append(f"[{name}]\n{toml_text(value, name)}".rstrip())
        elif value is not None:
            lines.append(f"{key} = {_toml(value)}")
    return "\n\n".join(part for part in ("\n".join(lines), *below) if part)


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k} = {_toml(v)}' for k, v in value.items())}}}"
    return json.dumps(str(value), ensure_ascii=False)


def configuration(header: Mapping[str, Any]) -> str:
    """Return the configuration, the versions and the seed."""
    parts = []
    config = header.get("config")
    if isinstance(config, Mapping) and config:
        parts.append(details("Configuration", f"<pre>{escape(toml_text(config))}</pre>"))
    rows = [("seed", _exact(header["seed"]))] if "seed" in header else []
    if isinstance(header.get("created"), int | float):
        rows.append(("created", moment(header["created"])))
    if header.get("command"):
        command = header["command"]
        rows.append(("command", command if isinstance(command, str) else shlex.join(command)))
    versions = header.get("versions")
    if isinstance(versions, Mapping):
        rows += [(str(name), str(version)) for name, version in versions.items()]
    if rows:
        parts.append(table(("", "value"), rows, caption="Seed and versions"))
    return section("Configuration", *parts) if parts else ""


def go_on_section(commands: Sequence[tuple[str, str]]) -> str:
    """Return the commands that take the study further, each with what it does, "" without any."""
    if not commands:
        return ""
    width = max(len(command) for command, _ in commands)
    lines = [f"{command:<{width}}    # {what}" for command, what in commands]
    return section(
        "How to go on",
        "<p>The journal holds the configuration and the seed, so these commands need no "
        "others.</p>",
        f"<pre>{escape(chr(10).join(lines))}</pre>",
    )
