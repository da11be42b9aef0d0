"""What the report makes of recurrent cells: drawings, lines in tables, charts of the policy."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET

import pytest

from netwright.protocols import PolicySnapshot
from netwright.report import policy, tables
from netwright.report.cells import draw_cell
from netwright.space import Choice, SearchSpace
from netwright.spaces import recurrent
from netwright.spaces.recurrent import Cell, RecurrentSettings

SVG = "{http://www.w3.org/2000/svg}"
TOKENS = (
    "add sigmoid add relu add sigmoid elem_mult relu add tanh add sigmoid add tanh add sigmoid "
    "elem_mult tanh add tanh elem_mult tanh add sigmoid elem_mult identity add tanh elem_mult "
    "tanh add tanh"
)
PUBLISHED = recurrent.cell_from_tokens([*TOKENS.split(), 12, 8])
ALL = {"combinations": recurrent.COMBINATIONS, "activations": recurrent.ACTIVATIONS}


def space(base: int) -> SearchSpace:
    return recurrent.space("cells", RecurrentSettings(base=base, **ALL))


def edges(root: ET.Element) -> list[tuple[str | None, str | None]]:
    return [(e.get("data-from"), e.get("data-to")) for e in root.iter() if e.get("data-from")]


def words(element: ET.Element) -> list[str]:
    return ["".join(e.itertext()) for e in element.iter(f"{SVG}text")]


def box(group: ET.Element) -> tuple[float, float, float, float]:
    rect = group.find(f"{SVG}rect")
    assert rect is not None
    x, y, w, h = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def test_the_published_cell_by_hand() -> None:
    root = ET.fromstring(draw_cell(PUBLISHED, "<published>"))
    found = edges(root)
    assert len(found) == len(set(found)) == 8 * 2 + 7 * 2 + 1 + 2 + 1
    assert {("x_t", "0"), ("h_t-1", "0"), ("x_t", "7"), ("h_t-1", "7")} <= set(found)
    assert {("8", "inject"), ("c_t-1", "inject"), ("inject", "12")} <= set(found)
    assert {("9", "12"), ("12", "14"), ("13", "14"), ("14", "h_t"), ("12", "c_t")} <= set(found)
    assert ("8", "12") not in found

    groups = {g.get("data-node"): words(g) for g in root.iter() if g.get("data-node")}
    assert len(groups) == 16
    assert groups["3"] == ["relu", "×"]
    assert groups["12"] == ["identity", "×"]
    assert groups["14"] == ["tanh", "×"]
    assert groups["inject"] == ["tanh", "+"]
    texts = words(root)
    for name in ("xt", "ht−1", "ct−1", "ct", "ht", "<published>"):
        assert texts.count(name) == 1
    assert "8 leaves · 15 nodes · last c into node 8 · new c from node 12" in texts


def test_c_is_taken_below_the_activation() -> None:
    root = ET.fromstring(draw_cell(PUBLISHED))
    [taken] = [e for e in root.iter() if e.get("data-to") == "c_t"]
    [node] = [e for e in root.iter() if e.get("data-node") == "12"]
    _, top, _, bottom = box(node)
    path = taken.find(f"{SVG}path")
    assert path is not None
    start = re.match(r"M[\d.]+ ([\d.]+)H", path.get("d", ""))
    assert start is not None
    assert float(start[1]) == (top + bottom) / 2
    activation, sign = (float(e.get("y", "nan")) for e in node.iter(f"{SVG}text"))
    assert activation < float(start[1]) < sign


@pytest.mark.parametrize("base", range(2, 17))
def test_boxes_stay_apart_and_on_the_canvas(base: int) -> None:
    cells = space(base)
    for seed in range(12):
        cell = recurrent.cell_of(cells.sample(random.Random(seed)))
        root = ET.fromstring(draw_cell(cell))
        assert len(edges(root)) == 2 * base + 2 * (base - 1) + 4
        nodes = {g.get("data-node"): box(g) for g in root.iter() if g.get("data-node")}
        # Bubbles are the rounded rectangles with white letters in them.
        bubbles = []
        for rect in root.iter(f"{SVG}rect"):
            if rect.get("rx") == "13":
                x, y, w, h = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
                bubbles.append((x, y, x + w, y + h))
        assert len(bubbles) == 5
        places = [*nodes.values(), *bubbles]
        width, height = float(root.get("width", "0")), float(root.get("height", "0"))
        for i, (x, y, right, bottom) in enumerate(places):
            assert x >= 0
            assert y >= 0
            assert right <= width
            assert bottom <= height
            for a, b, c, d in places[:i]:
                assert right <= a or c <= x or bottom <= b or d <= y
        for node in range(base, 2 * base - 1):
            for child in cell.children(node):
                assert nodes[str(node)][3] < nodes[str(child)][1]


@pytest.mark.parametrize("base", [3, 7, 11, 16])
def test_wires_cross_no_box(base: int) -> None:
    cells = space(base)
    for seed in range(12):
        root = ET.fromstring(draw_cell(recurrent.cell_of(cells.sample(random.Random(100 + seed)))))
        boxes = [box(g) for g in root.iter() if g.get("data-node")]
        for edge in root.iter(f"{SVG}g"):
            wire = edge.find(f"{SVG}path")
            if edge.get("class") != "nw-edge" or wire is None or "q" not in wire.get("d", ""):
                continue
            bend = re.match(r"M([\d.]+) ([\d.]+)V([\d.]+)", wire.get("d", ""))
            assert bend is not None
            x, low, high = (float(part) for part in bend.groups())
            for left, top, right, bottom in boxes:
                assert not (left < x < right and top < low - 0.1 and bottom > high + 0.1)


def test_drawings_are_deterministic_and_take_any_title() -> None:
    assert draw_cell(PUBLISHED, "a") == draw_cell(PUBLISHED, "a")
    assert "&lt;b&gt;\ufffd" in draw_cell(PUBLISHED, "<b>\x00")
    assert "http" not in draw_cell(PUBLISHED).replace("http://www.w3.org/2000/svg", "")


# --- tables and charts --------------------------------------------------------------------------


def test_a_cell_in_one_line() -> None:
    cells = recurrent.space("cells")
    published = recurrent.architecture_of(cells, PUBLISHED)
    line = "σ+ r+ σ+ r× t+ σ+ t+ σ+ | t× t+ t× σ+ i× t+ t× | c→8 t+ 12→c"
    assert tables.describe(published) == line
    assert tables.describe(published, 50) == "σ+r+σ+r×t+σ+t+σ+ | t×t+t×σ+i×t+t× | c→8 t+ 12→c"
    assert tables.describe(published, 20) == "σ+r+σ+r×t+σ+t+σ+ |…"
    small = Cell(
        (("max", "sin"), ("elem_mult", "identity"), ("add", "relu")), ("max", "tanh"), 0, 2
    )
    assert tables.describe(recurrent.architecture_of(space(2), small)) == (
        "s∨ i× | r+ | c→2 t∨ 0→c"
    )


def test_every_sign_is_in_the_legend() -> None:
    assert set(tables.ACTIVATIONS) == set(recurrent.ACTIVATIONS)
    assert set(tables.SIGNS) == set(recurrent.COMBINATIONS)
    for name, letter in tables.ACTIVATIONS.items():
        assert f"{letter} {name}" in tables.CELL_LEGEND
    assert all(sign in tables.CELL_LEGEND for sign in tables.SIGNS.values())


def test_names_that_only_look_like_a_cell_are_told_plainly() -> None:
    odd = SearchSpace(
        "odd",
        [Choice("node0.combine", ("add",)), Choice("inject.combine", ("sum",))],
    )
    text = tables.describe(odd.sample(random.Random(0)))
    assert text == "node0.combine=add, inject.combine=sum"
    assert tables.cell_in(odd.sample(random.Random(0))) is None


def snapshot(cells: SearchSpace, lean: float) -> PolicySnapshot:
    options = {}
    for decision in cells.decisions:
        assert isinstance(decision, Choice)
        rest = (1 - lean) / (len(decision.options) - 1)
        options[decision.name] = (lean, *[rest] * (len(decision.options) - 1))
    return PolicySnapshot(entropy=1.0, options=options)


def test_indices_of_nodes_are_heat_maps_and_the_rest_is_stacked() -> None:
    cells = recurrent.space("cells")
    told = [(8 * k, snapshot(cells, lean)) for k, lean in enumerate((0.5, 0.5, 0.9))]
    [stacked] = policy.options(cells, told)
    many = policy.many_options(cells, told)
    in_stack = {e.get("id") for e in ET.fromstring(stacked).iter()}
    in_map = {e.get("id"): e for e in ET.fromstring(many).iter()}
    assert "optionsa-node14.activation=relu" in in_stack
    assert not any("cell." in (name or "") for name in in_stack)
    for name in ("cell.from", "cell.into"):
        for node in range(15):
            assert f"many-{name}={node}" in in_map
    # Node 0 keeps its shade for two snapshots and then changes it.
    assert len(list(in_map["many-cell.from=0"].iter(f"{SVG}path"))) == 2
    texts = words(ET.fromstring(many))
    assert {"cell.from", "cell.into", "trials told", "0", "14"} <= set(texts)


def test_small_cells_and_other_spaces_need_no_heat_map() -> None:
    small = space(3)
    assert policy.many_options(small, [(0, snapshot(small, 0.5))]) == ""
    assert policy.many_options(recurrent.space("cells"), []) == ""
    [chart] = policy.options(small, [(0, snapshot(small, 0.5))])
    assert "optionsa-cell.from=4" in chart


def test_one_snapshot_is_a_heat_map_too() -> None:
    cells = recurrent.space("cells")
    root = ET.fromstring(policy.many_options(cells, [(3, snapshot(cells, 0.2))]))
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
