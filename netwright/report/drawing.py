"""Drawings of architectures: the network of a plan as SVG, other decisions as a table.

Layers stand in one column. What a layer gives to others than its neighbour runs in one lane beside
the column, the lane of its own colour, and enters each receiver at a port that bears the giver's
number: so a connection can be traced by lane, by colour and by number.
"""

from __future__ import annotations

from collections.abc import Mapping

from netwright.children.plan import Layer, Plan
from netwright.report.html import FONT, INK, LINE, MUTED, escape, shorten, svg_text, table
from netwright.report.layout import (
    POOL_GAP,
    POOL_LINE,
    Place,
    Row,
    edges_of,
    lanes_of,
    places_of,
    rises_of,
    rows_of,
)
from netwright.space import Value

FILLS = {
    "conv": ("#eaf1f9", "#9db8d6"),
    "max_pool": ("#e9f5ee", "#9cc7ac"),
    "avg_pool": ("#eef6e6", "#b0c894"),
    "lcn": ("#f3edf9", "#bfa8d9"),
    "batch_norm": ("#f1f2f4", "#b9bfc8"),
    "image": ("#ffffff", "#9aa3ae"),
    "classifier": ("#fbf3e4", "#d8b878"),
}
SOURCES = (
    "#2166ac",
    "#b8500f",
    "#1f7a4d",
    "#7b3fa8",
    "#8a6d00",
    "#b02a4c",
    "#0b7285",
    "#5b6470",
    "#a03c91",
    "#3f6212",
)
BOX, BLOCK = 276.0, 340.0
LANE, FIRST_LANE = 12.0, 22.0
HEAD, MARGIN = 62.0, 24.0


def draw_network(plan: Plan, title: str = "") -> str:
    """Return one stand-alone SVG of the network of `plan`, `title` above it.

    Elements bear data attributes: `data-layer` (a layer's label), and `data-from` and `data-to` for
    each connection: "image", the number of a layer or block, or "classifier".
    """
    rows = rows_of(plan)
    edges = edges_of(plan, rows)
    lanes = lanes_of(edges)
    places = places_of(rows, edges, lanes, HEAD if title else HEAD - 20)
    box = BLOCK if any(len(row.layers) > 1 for row in rows) else BOX
    reach = {
        side: FIRST_LANE + LANE * max((n + 1 for s, n in lanes.values() if s == side), default=0)
        for side in (-1, 1)
    }
    side_room = MARGIN + max(reach.values())
    note = _summary(plan)
    width = max(box + 2 * side_room, 7.2 * len(note) + 2 * MARGIN)
    height = places[-1].y + places[-1].height + MARGIN
    centre = width / 2
    shown = shorten(title, int((width - 2 * MARGIN) / 9))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nw-network" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(f"{title}: " if title else "")}{escape(note)}" '
        f'font-family="{FONT}" fill="{INK}">',
        "<style>.nw-lane:hover .nw-wire{stroke-width:3.4}</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        svg_text(centre, 26, shown, 16, weight=650),
        svg_text(centre, 26 if not shown else 45, note, 11, MUTED),
        *(
            _pool_bar(centre, box / 2 + max(reach.values()), places[r], row.pooled)
            for r, row in enumerate(rows)
            if row.pooled
        ),
        *_wires(rows, edges, lanes, places, centre, box / 2),
        *(_box(row, r, places[r], centre, box) for r, row in enumerate(rows)),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _summary(plan: Plan) -> str:
    channels, height, width = plan.image
    text = (
        f"{len(plan.layers)} layers · {plan.parameters:,} parameters · "
        f"{height}×{width}×{channels} image, {plan.classes} classes"
    )
    return text if plan.learning_rate is None else f"{text} · learning rate {plan.learning_rate:g}"


# --- how it is drawn ----------------------------------------------------------------------------


def _colour(row: int) -> str:
    return "#5b6470" if row == 0 else SOURCES[(row - 1) % len(SOURCES)]


def _wires(
    rows: list[Row],
    edges: list[tuple[int, int]],
    lanes: Mapping[int, tuple[int, int]],
    places: list[Place],
    centre: float,
    half: float,
) -> list[str]:
    """Return one group a source, long lanes first: halos, then wires with their heads."""
    groups = []
    order = sorted({a for a, _ in edges}, key=lambda a: -lanes.get(a, (0, -1))[1])
    for a in order:
        halos, wires = [], []
        for b in (b for start, b in edges if start == a):
            if b == a + 1:
                path, head = _straight(places[a], places[b], centre)
            else:
                path, head = _bend(places, a, b, lanes[a], centre, half)
            halos.append(f'<path d="{path}" fill="none" stroke="#ffffff" stroke-width="4.4"/>')
            ends = f"{rows[a].key} → {rows[b].key}"
            wires.append(
                f'<g class="nw-edge" data-from="{escape(rows[a].key)}" '
                f'data-to="{escape(rows[b].key)}"><title>{escape(ends)}</title>'
                f'<path class="nw-wire" d="{path}" fill="none" stroke="{_colour(a)}" '
                f'stroke-width="1.7"/><path d="{head}" fill="{_colour(a)}"/></g>'
            )
        groups.append(f'<g class="nw-lane">{"".join(halos)}{"".join(wires)}</g>')
    return groups


def _straight(above: Place, below: Place, x: float) -> tuple[str, str]:
    start, end = above.y + above.height, below.y
    head = f"M{x:.1f} {end:.1f}l-4 -7h8z"
    return f"M{x:.1f} {start:.1f}V{end - 6:.1f}", head


def _bend(
    places: list[Place],
    a: int,
    b: int,
    lane: tuple[int, int],
    centre: float,
    half: float,
) -> tuple[str, str]:
    side, n = lane
    edge = centre + side * half
    x = edge + side * (FIRST_LANE + LANE * n)
    start = places[a].port(side, len(places[a].incoming[side]))
    end = places[b].port(side, places[b].incoming[side].index((n, a)))
    r = min(10.0, (end - start) / 2)
    s = side * r
    path = (
        f"M{edge:.1f} {start:.1f}H{x - s:.1f}q{s:.1f} 0 {s:.1f} {r:.1f}"
        f"V{end - r:.1f}q0 {r:.1f} {-s:.1f} {r:.1f}H{edge + side * 5:.1f}"
    )
    return path, f"M{edge:.1f} {end:.1f}l{side * 6.5:.1f} -3.2v6.4z"


def _pool_bar(centre: float, reach: float, below: Place, times: int) -> str:
    y = below.y - POOL_GAP / 2
    return _bar(centre - reach, centre + reach, y, times) + svg_text(
        centre + 12, y - 4, _pool_text(times), 9.5, MUTED, anchor="start"
    )


def _pool_text(times: int) -> str:
    return "2×2 max pooling" + (f", {times} times" if times > 1 else "")


def _bar(left: float, right: float, y: float, times: int) -> str:
    return (
        f'<path class="nw-pool" data-times="{times}" d="M{left:.1f} {y:.1f}H{right:.1f}" '
        f'stroke="#7d8794" stroke-width="1.2" stroke-dasharray="5 4"/>'
    )


def _box(row: Row, r: int, place: Place, centre: float, width: float) -> str:
    fill, stroke = FILLS[row.kind]
    left, middle = centre - width / 2, place.y + place.height / 2
    parts = [
        f'<rect x="{left:.1f}" y="{place.y:.1f}" width="{width:.1f}" '
        f'height="{place.height:.1f}" rx="8" fill="{fill}" stroke="{stroke}"/>'
    ]
    for side, ports in place.incoming.items():
        for k, (_, a) in enumerate(ports):
            x = centre + side * (width / 2 - 5)
            label = str(a) if a else "in"
            anchor = "start" if side < 0 else "end"
            y = place.port(side, k) + 3
            parts.append(svg_text(x, y, label, 8.5, _colour(a), anchor=anchor, weight=600))
    if row.layers:
        parts.append(_badge(left + 38, middle, row.key, _colour(r)))
    if len(row.layers) > 1:
        parts.append(_block_lines(row, place, left + 66, left + width - 24))
    else:
        x, anchor = (left + 62, "start") if row.layers else (centre, "middle")
        parts.append(svg_text(x, middle - 3, row.title, 13, anchor=anchor, weight=600))
        parts.append(svg_text(x, middle + 13, row.note, 10, MUTED, anchor=anchor))
        if row.layers and row.layers[0].kind != "batch_norm":
            parts.append(_window(row.layers[0], left + width - 40, middle))
    name = row.layers[0].label if len(row.layers) == 1 else row.key
    mark = "data-block" if len(row.layers) > 1 else "data-layer"
    return f'<g class="nw-box" {mark}="{escape(name)}">{"".join(parts)}</g>'


def _badge(x: float, y: float, text: str, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="12" fill="{colour}"/>' + svg_text(
        x, y + 4, text, 11.5, "#ffffff", weight=650
    )


def _block_lines(row: Row, place: Place, left: float, right: float) -> str:
    rises = rises_of(row)
    y = place.y + place.height / 2 - (18 * len(row.layers) + POOL_LINE * len(rises)) / 2 + 13
    parts = []
    for k, layer in enumerate(row.layers):
        if k in rises:
            times = layer.level - row.layers[k - 1].level
            parts.append(_bar(left + 92, right, y - 5, times))
            parts.append(svg_text(left, y - 2, _pool_text(times), 9.5, MUTED, anchor="start"))
            y += POOL_LINE
        size = f"{layer.size[0]}×{layer.size[1]} · {layer.in_channels} → {layer.channels}"
        parts.append(
            f'<g data-layer="{escape(layer.label)}">'
            + svg_text(left, y, layer.label, 9, MUTED, anchor="start")
            + svg_text(left + 30, y, layer.describe(), 12, weight=600, anchor="start")
            + svg_text(right, y, size, 10, MUTED, anchor="end")
            + "</g>"
        )
        y += 18
    return "".join(parts)


def _window(layer: Layer, x: float, y: float) -> str:
    """Return the kernel to scale, one cell a pixel."""
    high, wide = layer.kernel
    cell = min(3.4, 26 / max(high, wide))
    left, top = x - wide * cell / 2, y - high * cell / 2
    lines = "".join(f"M{left:.1f} {top + k * cell:.1f}h{wide * cell:.1f}" for k in range(1, high))
    lines += "".join(f"M{left + k * cell:.1f} {top:.1f}v{high * cell:.1f}" for k in range(1, wide))
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide * cell:.1f}" '
        f'height="{high * cell:.1f}" fill="{FILLS[layer.kind][1]}"/>'
        f'<path d="{lines}" stroke="#ffffff" stroke-width="0.6"/>'
    )


# --- other spaces -------------------------------------------------------------------------------


def draw_decisions(values: Mapping[str, Value]) -> str:
    """Return an HTML table of an architecture's values.

    Names such as "layer1.units" make a row a layer and a column a decision; others stand singly.
    """
    single = {name: value for name, value in values.items() if "." not in name}
    grouped: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        if "." in name:
            head, what = name.rsplit(".", 1)
            grouped.setdefault(head, {})[what] = value
    parts = []
    if single:
        parts.append(table(("decision", "value"), [(n, _say(v)) for n, v in single.items()]))
    if grouped:
        columns = list(dict.fromkeys(what for group in grouped.values() for what in group))
        rows = [
            (head, *(_say(group[c]) if c in group else "" for c in columns))
            for head, group in grouped.items()
        ]
        parts.append(table(("", *columns), rows))
    return f'<div class="decisions" style="border-color:{LINE}">{"".join(parts)}</div>'


def _say(value: Value) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)
