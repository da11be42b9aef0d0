"""Drawings, tables and charts of the report."""

from __future__ import annotations

import io
import random
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from rich.console import Console

from netwright.children.plan import IMAGE, Plan, compile_plan
from netwright.config import config_from_dict, task_of
from netwright.protocols import PolicySnapshot
from netwright.report import plots, policy, tables
from netwright.report.drawing import draw_decisions, draw_network
from netwright.space import Choice, Connections, SearchSpace
from netwright.spaces import conv, load_architecture
from netwright.trial import Evaluation, Trial, TrialState

SVG = "{http://www.w3.org/2000/svg}"
WORDS = SearchSpace("words", [Choice("word", ("a", "b", "c", "d", "e")), Choice("n", (1, 2))])


def trial(number: int, score: float | None, word: str = "a", n: int = 1, **other: object) -> Trial:
    """Return a finished trial of `WORDS`; None for a failed one."""
    fields: dict[str, object] = {
        "number": number,
        "batch": 0,
        "seed": number,
        "architecture": WORDS.architecture({"word": word, "n": n}),
        "state": TrialState.FAILED if score is None else TrialState.COMPLETED,
        "reward": 0.0 if score is None else score**3,
    }
    if score is None:
        fields["failure"] = "out of memory"
    else:
        fields["evaluation"] = Evaluation(
            reward=score**3, score=score, cost=10.0, parameters=1234, curve=(score / 2, score)
        )
    return Trial(**{**fields, **other})  # type: ignore[arg-type]


# --- drawing ------------------------------------------------------------------------------------


def row_name(plan: Plan, j: int) -> str:
    return "image" if j == IMAGE else plan.layers[j].label.split(".")[0]


def expected_connections(plan: Plan) -> set[tuple[str, str]]:
    pairs = {
        (row_name(plan, j), row_name(plan, i))
        for i, layer in enumerate(plan.layers)
        for j in layer.inputs
    }
    pairs |= {(row_name(plan, i), "classifier") for i in plan.outputs}
    return {(a, b) for a, b in pairs if a != b}


def plans() -> Iterator[tuple[str, Plan]]:
    space, architecture = load_architecture("v1")
    yield "figure7", compile_plan(space, architecture, (3, 32, 32), 10)
    v3 = conv.v3()
    yield "v3", compile_plan(v3, v3.sample(random.Random(3)), (3, 32, 32), 10)
    mixed = conv.space(
        "mixed",
        conv.ConvSettings(
            depths=(7,),
            layer_types=conv.LAYER_TYPES,
            strides=(1, 2),
            learning_rates=(0.1,),
            pools=(2, 5),
        ),
    )
    for seed in range(4):
        yield f"mixed{seed}", compile_plan(mixed, mixed.sample(random.Random(seed)), (1, 8, 8), 3)
    one = conv.space("one", conv.ConvSettings(depths=(1,)))
    yield "one", compile_plan(one, one.sample(random.Random(0)), (1, 8, 8), 2)


@pytest.mark.parametrize(
    ("name", "plan"), list(plans()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_drawing_holds_every_layer_and_every_connection_once(name: str, plan: Plan) -> None:
    root = ET.fromstring(draw_network(plan, name))

    labels = [e.get("data-layer") for e in root.iter() if e.get("data-layer")]
    wanted = [layer.label for layer in plan.layers]
    assert [label for label in labels if label not in ("image", "classifier")] == wanted

    edges = [(e.get("data-from"), e.get("data-to")) for e in root.iter() if e.get("data-from")]
    assert len(edges) == len(set(edges))
    assert set(edges) == expected_connections(plan)

    texts = [e.text for e in root.iter(f"{SVG}text")]
    for layer in plan.layers:
        assert texts.count(layer.describe()) >= 1
    # Every receiver of a far connection names the giver at the port.
    rows = ["image", *dict.fromkeys(row_name(plan, i) for i in range(len(plan.layers)))]
    rows.append("classifier")
    far = sum(rows.index(b) - rows.index(a) > 1 for a, b in expected_connections(plan))
    assert sum(e.get("font-size") == "8.5" for e in root.iter(f"{SVG}text")) == far


@pytest.mark.parametrize(
    ("name", "plan"), list(plans()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_drawing_stays_on_its_canvas_and_boxes_do_not_overlap(name: str, plan: Plan) -> None:
    root = ET.fromstring(draw_network(plan, name))
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    bottom = 0.0
    for box in root.iter(f"{SVG}g"):
        if box.get("class") == "nw-box":
            rect = box.find(f"{SVG}rect")
            assert rect is not None
            x, y, w, h = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
            assert y >= bottom
            assert x >= 0
            assert x + w <= width
            bottom = y + h
    assert bottom <= height


def test_poolings_are_drawn_where_the_level_rises() -> None:
    settings = conv.ConvSettings(depths=(4,), pools=(1, 1, 3), skips=False)
    space = conv.space("pools", settings)
    plan = compile_plan(space, space.sample(random.Random(0)), (1, 16, 16), 2)
    root = ET.fromstring(draw_network(plan))
    bars = [e.get("data-times") for e in root.iter() if e.get("class") == "nw-pool"]
    assert bars == ["2", "1"]


def test_drawing_escapes_its_title() -> None:
    plan = next(plans())[1]
    root = ET.fromstring(draw_network(plan, '<b>&"\x00'))
    assert any(e.text == '<b>&"\ufffd' for e in root.iter(f"{SVG}text"))


def test_decisions_are_a_table_with_layers_as_rows() -> None:
    space = SearchSpace(
        "dense",
        [
            Choice("rate", (0.1, 0.2)),
            Choice("layer1.units", (8, 16)),
            Connections("layer1.inputs", "layer1"),
            Choice("layer2.units", (8, 16)),
            Choice("layer2.word", ("<i>", "b")),
            Connections("layer2.inputs", "layer2", ("layer1",)),
        ],
    )
    values = {
        "rate": 0.2,
        "layer1.units": 16,
        "layer1.inputs": [],
        "layer2.units": 8,
        "layer2.word": "<i>",
        "layer2.inputs": ["layer1"],
    }
    root = ET.fromstring(draw_decisions(space.architecture(values)))
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert rows == [
        ["decision", "value"],
        ["rate", "0.2"],
        ["", "units", "inputs", "word"],
        ["layer1", "16", "none", ""],
        ["layer2", "8", "layer1", "<i>"],
    ]


# --- tables -------------------------------------------------------------------------------------


def test_top_rows_sorts_by_reward_then_number_each_architecture_once() -> None:
    trials = [
        trial(0, 0.5, "a"),
        trial(1, 0.9, "b"),
        trial(2, None, "c"),
        trial(3, 0.9, "d"),
        trial(4, 0.9, "b", duplicate_of=1),
        trial(5, 0.7, "a"),  # trained again: the better result counts
        trial(6, 0.9, "e", duplicate_of=3),  # another text, the same child
        trial(7, float("nan"), "e", n=2),
    ]
    assert [t.number for t in tables.top_rows(trials, 10)] == [1, 3, 5]
    assert [t.number for t in tables.top_rows(list(reversed(trials)), 2)] == [1, 3]
    assert tables.top_rows(trials, 0) == []
    assert tables.top_rows([], 3) == []


def test_a_duplicate_without_its_original_is_listed() -> None:
    assert [t.number for t in tables.top_rows([trial(4, 0.9, "b", duplicate_of=1)], 3)] == [4]


def test_summary_by_hand() -> None:
    trials = [
        trial(0, 0.5, "a"),
        trial(1, None),
        trial(2, 0.8, "b"),
        trial(3, 0.8, "b", duplicate_of=2),
        trial(4, 0.6, "c"),
    ]
    total = tables.summary(trials)
    assert total["best"] == 0.8
    assert total["mean_top_5"] == pytest.approx((0.8 + 0.6 + 0.5) / 3)
    assert total["mean"] == pytest.approx((0.5 + 0.8 + 0.8 + 0.6) / 4)
    assert total["mean_last_quarter"] == pytest.approx(0.6)
    assert (total["trials"], total["completed"], total["failed"]) == (5, 4, 1)
    assert total["duplicates"] == 1
    assert total["cost"] == 30.0


def test_failed_and_stopped_children_cost_what_they_took() -> None:
    trials = [
        trial(0, 0.5, "a"),  # 10 s
        trial(1, None, started=100.0, finished=107.5),
        trial(2, 0.3, "b", state=TrialState.STOPPED),  # 10 s
        trial(3, 0.5, "a", duplicate_of=0),
        trial(4, None),  # nobody knows how long
        trial(5, None, started=9.0, finished=8.0),  # a clock that was set back
        trial(6, None, state=TrialState.RUNNING, started=5.0),
    ]
    assert tables.summary(trials)["cost"] == 27.5


def test_failures_are_counted_by_reason() -> None:
    trials = [
        trial(0, None, failure="slow"),
        trial(1, None, failure="big"),
        trial(2, None, failure="slow"),
        trial(3, None, failure=None),
        trial(4, 0.3),
    ]
    assert tables.failure_counts(trials) == [("slow", 2), ("big", 1), ("no reason given", 1)]


def test_terminal_table_shows_the_best_and_takes_no_markup() -> None:
    space = SearchSpace("markup", [Choice("colour", ("[red]x[/red]", "y"))])
    odd = trial(3, 0.75, architecture=space.architecture({"colour": "[red]x[/red]"}))
    buffer = io.StringIO()
    Console(file=buffer, width=120, color_system=None).print(
        tables.top_table([trial(1, 0.5), odd], 1)
    )
    lines = buffer.getvalue().splitlines()
    assert lines[0].split() == ["trial", "score", "reward", "parameters", "cost", "architecture"]
    assert lines[1].split() == [
        "3",
        "0.7500",
        "0.4219",
        "1,234",
        "10.0",
        "s",
        "colour=[red]x[/red]",
    ]
    assert len(lines) == 2


def test_a_table_for_a_file_cuts_nothing_and_one_for_a_terminal_no_number() -> None:
    _, architecture = load_architecture("v1")
    whole = tables.describe(architecture, 10**6)
    assert len(whole) > 80
    for width in (1, 40, 60, 120, None):
        buffer = io.StringIO()
        console = Console(file=buffer, width=width or 80, color_system=None, soft_wrap=True)
        console.print(tables.top_table([trial(1, 0.5, architecture=architecture)], 1, width))
        head, line = buffer.getvalue().splitlines()
        assert head.split() == [*tables.HEAD]
        assert line.split()[:6] == ["1", "0.5000", "0.1250", "1,234", "10.0", "s"]
        # 5 + 6 + 6 + 10 + 6 of numbers, 12 of the last heading, 5 gaps of a column
        assert len(line) <= max(width, 50) if width else line.endswith(f"  {whole}")


@pytest.mark.parametrize("name", ["v1", "nascell"])
def test_what_is_shown_is_no_markup(name: str) -> None:
    space, architecture = load_architecture(name)
    config = config_from_dict({"task": task_of(space)}, "test")
    buffer = io.StringIO()
    shown = config.show("[bold]x [/red]", space, architecture, None)
    Console(file=buffer, width=120, color_system=None).print(shown.table())
    assert buffer.getvalue().splitlines()[0].rstrip() == "[bold]x [/red]"


def test_descriptions_are_short_and_tell_layers() -> None:
    _, architecture = load_architecture("v1")
    text = tables.describe(architecture)
    connections = sum(len(v) for v in architecture.values() if isinstance(v, tuple))
    assert text.startswith(f"15 layers, {connections} connections, 3x3·36 3x3·48 3x3·36 5x5·36")
    assert len(text) <= 72
    assert tables.describe(WORDS.architecture({"word": "c", "n": 2})) == "word=c, n=2"


# --- charts -------------------------------------------------------------------------------------


def groups(svg: str, identity: str) -> int:
    """Return how many marks the group of this id holds."""
    for element in ET.fromstring(svg).iter():
        if element.get("id") == identity:
            uses = list(element.iter(f"{SVG}use"))
            return len(uses) or 1
    return 0


def test_running_best_by_hand() -> None:
    trials = [
        trial(4, 0.6),
        trial(0, 0.3),
        trial(1, None),
        trial(2, 0.2),
        trial(3, 0.5),
        trial(5, 0.6),
    ]
    assert plots.running_best(trials) == [(0, 0.3), (2, 0.3), (3, 0.5), (4, 0.6), (5, 0.6)]
    assert plots.running_best([]) == []


def test_rewards_draw_every_kind_of_trial_apart() -> None:
    trials = [trial(0, 0.3), trial(1, 0.4), trial(2, None), trial(3, 0.4, duplicate_of=1)]
    svg = plots.rewards(trials, [trial(0, 0.2)], "a <control> $x$")
    assert groups(svg, "rewards-search-trial") == 2
    assert groups(svg, "rewards-search-duplicate") == 1
    assert groups(svg, "rewards-failed") == 1
    assert groups(svg, "rewards-control-trial") == 1
    assert groups(svg, "rewards-control-best") == 1
    texts = ["".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")]
    assert "a <control> $x$: trial" in texts
    alone = plots.rewards(trials)
    assert groups(alone, "rewards-control-trial") == 0


@pytest.mark.parametrize("trials", [[], [trial(0, None)], [trial(0, float("inf"))]])
def test_rewards_without_a_score_are_still_a_chart(trials: list[Trial]) -> None:
    assert ET.fromstring(plots.rewards(trials)).tag == f"{SVG}svg"


def test_many_trials_are_thinned_evenly() -> None:
    assert plots.thinned([*range(10)], 5) == [0, 2, 4, 6, 8]
    assert plots.thinned([*range(11)], 5) == [0, 3, 6, 9]
    assert plots.thinned([*range(3)], 5) == [0, 1, 2]


def test_curves_are_those_of_the_best_five() -> None:
    trials = [trial(i, 0.1 * i + 0.1, word) for i, word in enumerate("abcde")]
    trials.append(trial(9, 0.05, "a", n=2))
    svg = plots.curves(trials)
    assert [groups(svg, f"curves-curve-{i}") for i in (0, 1, 2, 3, 4, 9)] == [2, 2, 2, 2, 2, 0]
    assert plots.curves([trial(0, None)]) == ""


SPACE = conv.space("x", conv.ConvSettings(depths=(4,), layer_types=("conv", "max_pool")))


def snapshot(lean: float) -> PolicySnapshot:
    options: dict[str, tuple[float, ...]] = {}
    connections: dict[str, tuple[float, ...]] = {}
    for decision in SPACE.decisions:
        if isinstance(decision, Choice):
            rest = (1 - lean) / (len(decision.options) - 1)
            options[decision.name] = (lean, *[rest] * (len(decision.options) - 1))
        else:
            connections[decision.name] = (lean,) * len(decision.sources)
    return PolicySnapshot(entropy=9.0 - lean, options=options, connections=connections)


def test_options_have_an_area_for_each_option_and_its_share() -> None:
    [svg] = policy.options(SPACE, [(0, snapshot(0.5)), (8, snapshot(0.9))])
    ids = {e.get("id") for e in ET.fromstring(svg).iter()}
    for decision in SPACE.decisions:
        if isinstance(decision, Choice):
            for option in decision.options:
                assert f"optionsa-{decision.name}={option}" in ids


def test_options_of_one_snapshot_of_many_columns_and_of_none() -> None:
    deep = conv.space("deep", conv.ConvSettings(depths=(23,), skips=False))
    even = {d.name: (0.25,) * 4 for d in deep.decisions}
    charts = policy.options(deep, [(3, PolicySnapshot(entropy=1.0, options=even))])
    assert len(charts) == 2
    assert policy.options(deep, [(3, PolicySnapshot(entropy=1.0))]) == []
    assert policy.options(deep, []) == []


def test_connection_matrix_by_hand() -> None:
    taken = [("layer2.inputs", (0.2,)), ("layer4.inputs", (0.1, 0.5, 0.9))]
    anchors, matrix = policy.connection_matrix(SPACE, taken)
    assert anchors == ["layer1", "layer2", "layer3", "layer4"]
    known = {(i, j): v for i, row in enumerate(matrix) for j, v in enumerate(row) if v == v}
    assert known == {(1, 0): 0.2, (3, 0): 0.1, (3, 1): 0.5, (3, 2): 0.9}


@pytest.mark.parametrize("leans", [(0.5,), (0.5, 0.5), (0.5, 0.6, 0.9)])
def test_policy_charts_are_well_formed_with_unique_ids(leans: tuple[float, ...]) -> None:
    snapshots = [(8 * k, snapshot(lean)) for k, lean in enumerate(leans)]
    charts = [
        *policy.options(SPACE, snapshots),
        policy.connections(SPACE, snapshots),
        plots.entropy(snapshots),
    ]
    ids = [e.get("id") for c in charts for e in ET.fromstring(c).iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert all("<image" not in chart for chart in charts)


def test_no_snapshots_no_charts() -> None:
    assert plots.entropy([]) == ""
    assert policy.connections(SPACE, []) == ""


def test_letters_that_no_font_has_are_no_warning() -> None:
    space = SearchSpace("字", [Choice("字.$x$", ("層", "<b>"), kind="種類")])
    told = PolicySnapshot(entropy=0.1, options={"字.$x$": (0.3, 0.7)})
    [svg] = policy.options(space, [(0, told), (4, told)])
    texts = ["".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"層", "<b>", "種類"} <= set(texts)


def test_option_colours_differ() -> None:
    for options in ((1, 3, 5, 7), ("a", "b", "c"), (0.5,)):
        assert len(set(policy.option_colours(options))) == len(options)
