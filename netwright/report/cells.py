"""The drawing of a recurrent cell: its tree from the leaves upward to h_t, as SVG.

A node has two halves: below what joins its inputs, above its activation. What leaves a node between
them is therefore drawn from its middle line: so c_t is. Where the last c comes in stands a small
node of its own above the node that it joins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from netwright.report.html import FONT, INK, LINE, MUTED, escape, shorten, svg_text
from netwright.spaces.recurrent import Cell

SIGNS = {"add": "+", "elem_mult": "×", "max": "max"}
FILLS = {
    "identity": ("#ffffff", "#9aa3ae"),
    "tanh": ("#f3edf9", "#bfa8d9"),
    "sigmoid": ("#eaf1f9", "#9db8d6"),
    "relu": ("#eef6e6", "#b0c894"),
    "sin": ("#fdeef0", "#d9a3ac"),
}
INJECT = ("#fbf3e4", "#d8b878")
INPUT, OUTPUT, STATE, WIRE = "#2166ac", "#1f7a4d", "#8a6d00", "#7d8794"

WIDE, HALF = 56.0, 22.0  # a node's width, and the height of each of its halves
TALL = 2 * HALF
GAP, CHANNEL = 46.0, 18.0  # between rows; from a node down to where its inputs turn
STEM = 20.0  # from a node up to the inject above it
STUB, BUBBLE, ROUND = 16.0, 46.0, 13.0  # the line to a bubble beside a node; the bubble
FEET, BAND = 26.0, 46.0  # arrows into the leaves; the band of the sources below them
HEAD, MARGIN, LEAST = 62.0, 24.0, 440.0


@dataclass(kw_only=True)
class _Frame:
    """Where the nodes stand: the middle of each, and the top of its box; the canvas."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    inject: float = 0.0  # the top of its box
    foot: float = 0.0  # the lower edge of the leaves
    ends: tuple[float, float] = (0.0, 0.0)  # of the leaves, left and right


def draw_cell(cell: Cell, title: str = "") -> str:
    """Return one stand-alone SVG of `cell`, `title` above it.

    Elements bear data attributes: `data-node` (a node's number, or "inject"), and `data-from` and
    `data-to` for each connection: a node's number, "inject", "x_t", "h_t-1", "c_t-1", "c_t", "h_t".
    """
    note = (
        f"{cell.base} leaves · {len(cell.nodes)} nodes · last c into node {cell.c_into} · "
        f"new c from node {cell.c_from}"
    )
    frame = _frame(cell, HEAD if title else HEAD - 20, 7.2 * len(note) + 2 * MARGIN)
    width, height = frame.width, frame.height
    shown = shorten(title, int((width - 2 * MARGIN) / 9))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nw-network nw-cell" viewBox="0 0 '
        f'{width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(f"{title}: " if title else "")}{escape(note)}" '
        f'font-family="{FONT}" fill="{INK}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        svg_text(width / 2, 26, shown, 16, weight=650),
        svg_text(width / 2, 26 if not shown else 45, note, 11, MUTED),
        _sources(cell, frame),
        *(_inputs(cell, frame, node) for node in range(cell.base, len(cell.nodes))),
        _output(cell, frame),
        _memory(cell, frame),
        *(_node(cell, frame, node) for node in range(len(cell.nodes))),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


# --- where everything stands --------------------------------------------------------------------


def _side(node: int) -> int:
    """Return where bubbles of a node go: away from its sibling, -1 left or 1 right."""
    return 1 if node % 2 else -1


def _leaves(cell: Cell, node: int) -> list[int]:
    """Return the leaves under a node, from left to right."""
    below = cell.children(node)
    return [leaf for child in below for leaf in _leaves(cell, child)] if below else [node]


def _frame(cell: Cell, head: float, least: float) -> _Frame:
    count = len(cell.nodes)
    pitch = 66.0 if cell.base <= 8 else 62.0
    frame = _Frame(x=[0.0] * count, y=[0.0] * count)
    at = 0.0
    for leaf in _leaves(cell, count - 1):
        room = 66.0 if leaf in (cell.c_from, cell.c_into) else 0.0
        at += room if _side(leaf) < 0 else 0.0
        frame.x[leaf] = at
        at += pitch + (room if _side(leaf) > 0 else 0.0)
    level = [0] * count
    for node in range(cell.base, count):
        left, right = cell.children(node)
        level[node] = 1 + max(level[left], level[right])
        frame.x[node] = (frame.x[left] + frame.x[right]) / 2
    reach = WIDE / 2 + STUB + BUBBLE
    spots = [x + side * WIDE / 2 for x in frame.x for side in (-1, 1)]
    spots += [frame.x[node] + _side(node) * reach for node in (cell.c_from, cell.c_into)]
    spread = max(spots) - min(spots)
    frame.width = max(spread + 2 * MARGIN, least, LEAST)
    shift = (frame.width - spread) / 2 - min(spots)
    frame.x = [x + shift for x in frame.x]
    frame.ends = (min(frame.x) - WIDE / 2, max(frame.x) + WIDE / 2)

    rise = [TALL]
    for row in range(level[-1]):
        more = STEM + TALL if level[cell.c_into] == row else 0.0
        rise.append(rise[-1] + GAP + TALL + more)
    over = STEM + TALL if cell.c_into == count - 1 else 0.0
    frame.foot = head + 2 * ROUND + STEM + 6 + over + rise[-1]
    frame.y = [frame.foot - rise[row] for row in level]
    frame.inject = frame.y[cell.c_into] - STEM - TALL
    frame.height = frame.foot + FEET + BAND + 30 + MARGIN / 2
    return frame


def _top(cell: Cell, frame: _Frame, node: int) -> tuple[str, float]:
    """Return what stands for a node's output, the inject where there is one, and its top."""
    return ("inject", frame.inject) if node == cell.c_into else (str(node), frame.y[node])


# --- how it is drawn ----------------------------------------------------------------------------


def _edge(start: str, end: str, path: str, tip: tuple[float, float], colour: str, to: str) -> str:
    """Return a connection that ends at `tip` with an arrow pointing up, left or right."""
    turn = {"up": "l-3.6 6.5h7.2z", "left": "l6.5 -3.6v7.2z", "right": "l-6.5 -3.6v7.2z"}[to]
    return (
        f'<g class="nw-edge" data-from="{start}" data-to="{end}">'
        f'<path class="nw-wire" d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        f'<path d="M{tip[0]:.1f} {tip[1]:.1f}{turn}" fill="{colour}"/></g>'
    )


def _bubble(x: float, y: float, name: str, below: str, colour: str) -> str:
    left, top = x - BUBBLE / 2, y - ROUND
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{BUBBLE:g}" height="{2 * ROUND:g}" '
        f'rx="{ROUND:g}" fill="{colour}"/>'
        + svg_text(x, y + 3.5, name, 13.5, "#ffffff", weight=600, below=below)
    )


def _sources(cell: Cell, frame: _Frame) -> str:
    """Return the band of x_t and the last h, and from it two short arrows into each leaf."""
    left, right = frame.ends
    top = frame.foot + FEET
    middle = (left + right) / 2
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{BAND:g}" rx="8" '
        f'fill="#f6f8fa" stroke="{LINE}"/>',
        _bubble(middle - 29, top + BAND / 2, "x", "t", INPUT),
        _bubble(middle + 29, top + BAND / 2, "h", "t−1", OUTPUT),
        svg_text(
            middle,
            top + BAND + 20,
            "each leaf takes both, through weights of its own",
            11.5,
            MUTED,
        ),
    ]
    for leaf in range(cell.base):
        for name, shift, colour in (("x_t", -9, INPUT), ("h_t-1", 9, OUTPUT)):
            x = frame.x[leaf] + shift
            path = f"M{x:.1f} {top:.1f}V{frame.foot + 5:.1f}"
            parts.append(_edge(name, str(leaf), path, (x, frame.foot), colour, "up"))
    return "".join(parts)


def _inputs(cell: Cell, frame: _Frame, node: int) -> str:
    """Return the two connections into an inner node, bent where they turn towards it."""
    end = frame.y[node] + TALL
    turn = end + CHANNEL
    parts = []
    for side, child in zip((-1, 1), cell.children(node), strict=True):
        name, start = _top(cell, frame, child)
        x, port = frame.x[child], frame.x[node] + side * 10
        r = -side * min(9.0, abs(port - x) / 2)
        up = abs(r)
        path = (
            f"M{x:.1f} {start:.1f}V{turn + up:.1f}q0 {-up:.1f} {r:.1f} {-up:.1f}"
            f"H{port - r:.1f}q{r:.1f} 0 {r:.1f} {-up:.1f}V{end + 5:.1f}"
        )
        parts.append(_edge(name, str(node), path, (port, end), WIRE, "up"))
    return "".join(parts)


def _output(cell: Cell, frame: _Frame) -> str:
    root = len(cell.nodes) - 1
    name, start = _top(cell, frame, root)
    x, end = frame.x[root], start - STEM - 6
    path = f"M{x:.1f} {start:.1f}V{end + 5:.1f}"
    return _edge(name, "h_t", path, (x, end), OUTPUT, "up") + _bubble(
        x, end - ROUND, "h", "t", OUTPUT
    )


def _memory(cell: Cell, frame: _Frame) -> str:
    """Return where the last c comes in, with its small node, and where the new c is taken."""
    x, side = frame.x[cell.c_into], _side(cell.c_into)
    foot = frame.inject + TALL
    y = foot - HALF / 2
    edge = x + side * WIDE / 2
    start = edge + side * STUB
    stem = f"M{x:.1f} {frame.y[cell.c_into]:.1f}V{foot + 5:.1f}"
    parts = [
        _edge(str(cell.c_into), "inject", stem, (x, foot), WIRE, "up"),
        _edge(
            "c_t-1",
            "inject",
            f"M{start:.1f} {y:.1f}H{edge + side * 5:.1f}",
            (edge, y),
            STATE,
            "left" if side > 0 else "right",
        ),
        _bubble(start + side * BUBBLE / 2, y, "c", "t−1", STATE),
        _box(x, frame.inject, *cell.inject, INJECT, "inject"),
    ]
    side = _side(cell.c_from)
    y = frame.y[cell.c_from] + HALF
    edge = frame.x[cell.c_from] + side * WIDE / 2
    end = edge + side * STUB
    parts += [
        _edge(
            str(cell.c_from),
            "c_t",
            f"M{edge:.1f} {y:.1f}H{end - side * 5:.1f}",
            (end, y),
            STATE,
            "right" if side > 0 else "left",
        ),
        _bubble(end + side * BUBBLE / 2, y, "c", "t", STATE),
    ]
    return "".join(parts)


def _node(cell: Cell, frame: _Frame, node: int) -> str:
    combine, activation = cell.nodes[node]
    x, y = frame.x[node], frame.y[node]
    taken = ""
    if node == cell.c_from:
        half = WIDE / 2
        taken = f'<path d="M{x - half:.1f} {y + HALF:.1f}h{WIDE:g}" stroke="{STATE}" '
        taken += 'stroke-width="2"/>'
    number = svg_text(x + 5, y - 5, str(node), 10.5, MUTED, anchor="start")
    return _box(x, y, combine, activation, FILLS[activation], str(node)) + taken + number


def _box(
    x: float, y: float, combine: str, activation: str, fill: tuple[str, str], name: str
) -> str:
    left, right = x - WIDE / 2, x + WIDE / 2
    sign = SIGNS[combine]
    size, drop = (13, 4.5) if combine == "max" else (18, 6)
    return (
        f'<g class="nw-box" data-node="{name}">'
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{WIDE:g}" height="{TALL:g}" rx="8" '
        f'fill="#ffffff" stroke="{fill[1]}"/>'
        f'<path d="M{left:.1f} {y + HALF:.1f}v{8 - HALF:g}q0 -8 8 -8H{right - 8:.1f}q8 0 8 8'
        f'v{HALF - 8:g}z" fill="{fill[0]}" stroke="{fill[1]}"/>'
        + svg_text(x, y + HALF / 2 + 4, activation, 11, weight=600)
        + svg_text(x, y + 1.5 * HALF + drop, sign, size)
        + "</g>"
    )
