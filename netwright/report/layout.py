"""Where everything in the drawing of a network stands: boxes, lanes and ports, in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netwright.children.plan import IMAGE, Layer, Plan

PORT, GAP, POOL_GAP, POOL_LINE = 10.0, 24.0, 40.0, 16.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A box: `key` is what connections call it; `pooled` poolings stand before it."""

    key: str
    title: str
    note: str
    kind: str
    layers: tuple[Layer, ...] = ()
    pooled: int = 0


@dataclass(kw_only=True)
class Place:
    """Where a row's box is, and the ports at its sides (-1 left, 1 right): (lane, source row)."""

    y: float = 0.0
    height: float = 0.0
    incoming: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: {-1: [], 1: []})
    leaves: int = 0

    def port(self, side: int, k: int) -> float:
        """Return the y of port k of a side, counted from the top; the last one is for leaving."""
        n = len(self.incoming[side]) + (self.leaves == side)
        return self.y + self.height / 2 + (k - (n - 1) / 2) * PORT


def rows_of(plan: Plan) -> list[Row]:
    """Return the boxes from the image to the classifier; a block is one box."""
    channels, height, width = plan.image
    last = plan.layers[-1]
    rows = [
        Row(
            key="image",
            title="image",
            note=f"{height}×{width} · {channels} channel{'s' if channels > 1 else ''}",
            kind="image",
        )
    ]
    blocks: dict[str, list[Layer]] = {}
    for layer in plan.layers:
        blocks.setdefault(layer.label.split(".")[0], []).append(layer)
    level = 0
    for key, layers in blocks.items():
        first = layers[0]
        rows.append(
            Row(
                key=key,
                title=first.describe(),
                note=_note(first),
                kind=first.kind,
                layers=tuple(layers),
                pooled=first.level - level,
            )
        )
        level = layers[-1].level
    rows.append(
        Row(
            key="classifier",
            title=f"average pooling, linear to {plan.classes}",
            note=f"{plan.features} channels of {len(plan.outputs)} "
            f"layer{'s' if len(plan.outputs) > 1 else ''} · softmax",
            kind="classifier",
            pooled=plan.level - last.level,
        )
    )
    return rows


def _note(layer: Layer) -> str:
    height, width = layer.size
    return f"{height}×{width} · {layer.in_channels} → {layer.channels} channels"


def edges_of(plan: Plan, rows: list[Row]) -> list[tuple[int, int]]:
    """Return the connections as (giving row, receiving row), each once, those in blocks left out.

    A block's inputs are those of its first layer; later layers only add their own block.
    """
    of_label = {layer.label: r for r, row in enumerate(rows) for layer in row.layers}
    row_of = [of_label[layer.label] for layer in plan.layers]
    pairs = {
        (0 if j == IMAGE else row_of[j], row_of[i])
        for i, layer in enumerate(plan.layers)
        for j in layer.inputs
    }
    pairs |= {(row_of[i], len(rows) - 1) for i in plan.outputs}
    return sorted(pair for pair in pairs if pair[0] != pair[1])


def lanes_of(edges: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Give each row with far receivers a (side, lane): short spans inside, sides in balance."""
    spans: dict[int, int] = {}
    for a, b in edges:
        if b > a + 1:
            spans[a] = max(b, spans.get(a, b))
    taken: dict[int, list[tuple[int, int, int]]] = {-1: [], 1: []}
    result = {}
    for a, b in sorted(spans.items(), key=lambda span: (span[1] - span[0], span[0])):
        free = {
            side: max((n + 1 for n, c, d in taken[side] if a <= d and c <= b), default=0)
            for side in taken
        }
        side = min(taken, key=lambda side: (free[side], len(taken[side])))
        taken[side].append((free[side], a, b))
        result[a] = (side, free[side])
    return result


def places_of(
    rows: list[Row], edges: list[tuple[int, int]], lanes: Mapping[int, tuple[int, int]], y: float
) -> list[Place]:
    """Stack the boxes from `y` downwards, each tall enough for its text and its ports."""
    places = [Place() for _ in rows]
    for a, (side, _) in lanes.items():
        places[a].leaves = side
    for a, b in edges:
        if b > a + 1:
            places[b].incoming[lanes[a][0]].append((lanes[a][1], a))
    for row, place in zip(rows, places, strict=True):
        for ports in place.incoming.values():
            ports.sort()
        most = max(len(place.incoming[s]) + (place.leaves == s) for s in (-1, 1))
        text = 44.0
        if len(row.layers) > 1:
            text = 12.0 + 18 * len(row.layers) + POOL_LINE * len(rises_of(row))
        if row.key != "image":
            y += POOL_GAP if row.pooled else GAP
        place.y, place.height = y, max(text, most * PORT + 6)
        y += place.height
    return places


def rises_of(row: Row) -> set[int]:
    """Return the positions in a block before which a pooling stands."""
    levels = [layer.level for layer in row.layers]
    return {k for k in range(1, len(levels)) if levels[k] > levels[k - 1]}
