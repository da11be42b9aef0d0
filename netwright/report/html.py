"""Text made safe for HTML and SVG, and the few HTML shapes that the page repeats."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# What XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, LINE = "#1b2430", "#566273", "#d5dbe3"
ACCENT, CONTRAST, ALARM = "#215c98", "#9a5b13", "#b3261e"


def clean(text: object) -> str:
    """Return str(text) with characters that XML cannot hold replaced by U+FFFD."""
    return _ILLEGAL.sub("\ufffd", str(text))


def escape(text: object) -> str:
    """Return str(text) safe in element content and in quoted attributes."""
    return html.escape(clean(text), quote=True)


def shorten(text: object, length: int) -> str:
    """Return the text in one line of at most `length` characters, cut with an ellipsis."""
    line = " ".join(clean(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def number(value: float | int | None, digits: int = 4) -> str:
    """Return a number for people: whole ones with separators, others with `digits` decimals."""
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value != 0 and (abs(value) < 10**-digits or abs(value) >= 1e9):
        return f"{value:.3g}"
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return seconds as "12.3 s", "4 min 10 s" or "3 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    numeric: Iterable[int] = (),
) -> str:
    """Return an HTML table, every cell escaped; columns in `numeric` are set to the right."""
    right = set(numeric)

    def cells(values: Sequence[object], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        marks = [' class="num"' if i in right else "" for i in range(len(values))]
        return "".join(
            f"<{tag}{scope}{mark}>{escape(value)}</{tag}>"
            for mark, value in zip(marks, values, strict=True)
        )

    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table>{top}<thead><tr>{cells(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def svg_text(
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = INK,
    *,
    anchor: str = "middle",
    weight: int = 400,
    below: str = "",
) -> str:
    """Return an SVG text, escaped, with `below` as its subscript; "" for an empty one."""
    if not text:
        return ""
    index = ""
    if below:
        drop = 0.26 * size
        index = f'<tspan dy="{drop:.1f}" font-size="{0.74 * size:.1f}">{escape(below)}</tspan>'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" font-weight="{weight}" '
        f'fill="{colour}" text-anchor="{anchor}">{escape(text)}{index}</text>'
    )


def figure(svg: str, caption: str = "") -> str:
    """Return a figure around an SVG text; the caption is escaped."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"


def details(summary: str, body: str) -> str:
    """Return a part that opens on a click; the summary is escaped."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def section(title: str, *parts: str) -> str:
    """Return a section of the page: its heading, and those parts that are not empty."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{chr(10).join(p for p in parts if p)}\n</section>"
