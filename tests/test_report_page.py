"""The page: self-contained, escaped, honest, and there for every study."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from netwright.children.plan import Plan, compile_plan
from netwright.protocols import Event, PolicySnapshot
from netwright.report.page import ReportData, render, verdict, write_report
from netwright.report.record import finish_section, moment, timeline, toml_text
from netwright.report.tables import summary, top_rows
from netwright.space import Choice, SearchSpace, Value
from netwright.spaces import conv
from netwright.trial import Evaluation, Trial, TrialState

SPACE = conv.space("x", conv.ConvSettings(depths=(4,)))
ATTACK = "<script>alert('x')</script>&\"$\x01"
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers headings, text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.unlabelled = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if "id" in given:
            self.ids.append(str(given["id"]))
        self.links += [
            str(v) for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action")
        ]
        if tag == "svg" and not (given.get("aria-label") and given.get("role") == "img"):
            self.unlabelled += 1
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


def trials(n: int, seed: int = 0, lift: float = 0.0, space: SearchSpace = SPACE) -> list[Trial]:
    rng = random.Random(seed)
    result = []
    for i in range(n):
        score = 0.5 + lift + 0.01 * i
        result.append(
            Trial(
                number=i,
                batch=i // 4,
                seed=i,
                architecture=space.sample(rng),
                state=TrialState.COMPLETED,
                reward=score**3,
                evaluation=Evaluation(
                    reward=score**3, score=score, curve=(0.1, score), cost=2.0, parameters=99
                ),
            )
        )
    return result


def failed(number: int, reason: str) -> Trial:
    return Trial(
        number=number,
        batch=0,
        seed=0,
        architecture=SPACE.sample(random.Random(number)),
        state=TrialState.FAILED,
        reward=0.0,
        failure=reason,
    )


def snapshot(space: SearchSpace, entropy: float) -> PolicySnapshot:
    choices = [d for d in space.decisions if isinstance(d, Choice)]
    return PolicySnapshot(
        entropy=entropy,
        options={d.name: (1 / len(d.options),) * len(d.options) for d in choices},
        connections={d.name: (0.5,) * len(d.sources) for d in space.anchors.values()},
    )


def report(done: Sequence[Trial] = (), **other: object) -> ReportData:
    fields: dict[str, object] = {
        "name": "a study",
        "space": SPACE,
        "trials": done,
        "header": {"seed": 3, "config": {}, "versions": {}, "created": 0.0},
        "events": (),
        "snapshots": (),
        "plans": {},
    }
    return ReportData(**{**fields, **other})  # type: ignore[arg-type]


@cache
def full_page() -> str:
    return render(full())


def full() -> ReportData:
    done = [*trials(8), failed(8, ATTACK), failed(9, ATTACK)]
    return report(
        done,
        name=f"study {ATTACK}",
        header={
            "seed": 3,
            "created": 86_400.0,
            "config": {"name": ATTACK, "training": {"epochs": 5, ATTACK: [1, ATTACK]}},
            "versions": {"torch": ATTACK},
            "command": ["netwright", "search", ATTACK],
            "status": ATTACK,
        },
        events=(
            Event(sequence=1, kind="tune", payload={"trial": 7, "score": 0.61}, time=90_000.0),
            Event(sequence=2, kind="tune", payload={"trial": 7, "score": None}, time=90_001.0),
            Event(sequence=3, kind="propose", payload={"n": 4}, time=90_002.0),
            Event(sequence=4, kind="open_test", payload={"by": ATTACK}, time=90_003.0),
            Event(sequence=5, kind="train", payload={"test_accuracy": 0.625}, time=90_004.0),
        ),
        snapshots=[(0, snapshot(SPACE, 9.0)), (8, snapshot(SPACE, 5.0))],
        plans={
            t.number: compile_plan(SPACE, t.architecture, (3, 32, 32), 10)
            for t in top_rows(done, 20)
        },
        control=trials(8, seed=1, lift=-0.02),
        control_name=f"control {ATTACK}",
        final={"test_accuracy": 0.625, "tuned": True, "note": ATTACK, "recipe": {ATTACK: ATTACK}},
    )


def test_the_full_page_is_self_contained_escaped_and_labelled() -> None:
    text = full_page()
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert "\x01" not in text
    assert text.count("&lt;script&gt;") >= 8
    without = re.sub(r"http://www\.w3\.org/(2000/svg|1999/xlink)", "", text)
    assert "http:" not in without
    assert "https:" not in without
    assert "@import" not in text
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert {m for m in re.findall(r"url\(([^)]*)\)", text) if not m.startswith("#")} == set()
    assert len(page.ids) == len(set(page.ids))
    assert page.unlabelled == 0
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    steps = [b - a for a, b in zip(page.headings, page.headings[1:], strict=False)]
    assert max(steps) <= 1
    assert page.tags.count("svg") == 1 + 1 + 3 + 3  # rewards, curves, policy, drawings


def test_headline_cards() -> None:
    text = full_page()
    assert re.search(r"best validation accuracy</dt><dd>0\.5700<span[^>]*>trial 7<", text)
    assert re.search(r"trials completed</dt><dd>8<span[^>]*>2 failed, 0 duplicates<", text)
    assert 'test data opened</dt><dd>1 time<span class="small">by this study<' in text
    assert 'training of children</dt><dd>16.0 s<span class="small">failed ones too<' in text
    assert text.count("<dt>test accuracy</dt><dd>0.6250") == 2
    plan = full().plans[7]
    assert isinstance(plan, Plan)
    assert f"parameters (best)</dt><dd>{plan.parameters:,}" in text
    assert "<dt>test accuracy" not in render(replace(full(), final={}))


def test_timeline_counts_openings_and_gathers_tuning() -> None:
    text = full_page()
    assert "The test data was opened once by this study." in text
    assert "2 tuning runs, best validation accuracy 0.6100, 1 failed" in text
    assert "1970-01-02 01:00:03 UTC</time>test data opened, time 1: by &lt;script" in text
    assert "final training done: test accuracy 0.6250" in text
    assert "The test data was never opened by this study." in render(report())
    assert moment(1e30) == "1e+30"


def test_tuning_is_told_grid_by_grid_and_each_run_once() -> None:
    def event(n: int, how: str | None, trial: int, score: float | None) -> Event:
        noted = {} if how is None else {"how": how}
        payload = {"trial": trial, "setting": None, "score": score, "cost": 1.5 * trial, **noted}
        return Event(sequence=n, kind="tune", payload=payload, time=90_000.0 + n)

    events = [
        event(1, None, 1, 0.5),
        event(2, "a", 1, 0.5),  # the first run, noted again under the name of its grid
        event(3, "a", 2, 0.6),
        event(4, "b", 1, 0.9),  # trained longer
        event(5, "a", 1, 0.5),
        event(6, "a", 2, 0.6),
    ]
    text = timeline(events, {})
    assert re.findall(r"</time>([^<]*)<", text) == [
        "1 tuning run, best validation accuracy 0.5000",
        "1 tuning run and 1 earlier run noted again, best validation accuracy 0.6000",
        "1 tuning run, best validation accuracy 0.9000",
        "2 earlier runs noted again, best validation accuracy 0.6000",
    ]
    assert "their scores are not to be compared" in text
    assert "not to be compared" not in timeline(events[:3], {})


def test_lists_of_the_final_training_are_rounded_and_nothing_empty_is_shown() -> None:
    text = finish_section(
        {"curve": [3.123456789, 2.5, 2.25, 2.0], "stopped": "", "few": [0.123456, 2], "width": 0}
    )
    assert "<summary>curve</summary><p>3.1235, 2.5000, 2.2500, 2.0000</p>" in text
    assert "<dt>few</dt><dd>0.1235, 2</dd>" in text
    assert "<dt>width</dt><dd>0</dd>" in text
    assert "stopped" not in text
    assert "<dt>stopped</dt><dd>not finite</dd>" in finish_section({"stopped": "not finite"})


def test_a_unit_stands_once() -> None:
    text = finish_section({"seconds": 4.0, "epochs": 3})
    assert "<dt>time</dt><dd>4.0 s</dd>" in text
    assert "<dt>epochs</dt><dd>3</dd>" in text
    assert "seconds" not in text


def test_commands_stand_in_columns() -> None:
    commands = [("netwright top 'a b'", "list <them>"), ("netwright show x", "show it")]
    text = render(report(commands=commands))
    assert "<h2>How to go on</h2>" in text
    assert "netwright top &#x27;a b&#x27;    # list &lt;them&gt;\n" in text
    assert "netwright show x       # show it</pre>" in text
    assert "How to go on" not in render(report())


@pytest.mark.parametrize(
    ("lift", "said"),
    [
        (
            0.1,
            "Random search is ahead in this one run: its best is 0.6300, "
            "that of this search 0.5300.",
        ),
        (
            -0.1,
            "This search is ahead in this one run: its best is 0.5300, "
            "that of random search 0.4300.",
        ),
        (0.0, "This search and random search are level: both found 0.5300."),
    ],
)
def test_the_page_says_who_is_ahead(lift: float, said: str) -> None:
    text = render(report(trials(4), control=trials(4, seed=2, lift=lift)))
    assert said in text
    gap = f"{-lift:+.4f}" if lift else "+0.0000"
    ahead = "random search" if lift > 0 else "this search" if lift < 0 else "level"
    row = rf"<td>best accuracy</td>.*{re.escape(gap)}</td><td>{ahead}</td></tr>"
    assert re.search(row, text)
    assert "The budgets differ" not in text


def test_comparison_by_hand_when_each_leads_somewhere() -> None:
    # 0.9, 0.1 against 0.7, 0.7: ahead on the best, behind on the mean.
    ours, theirs = trials(2), trials(3, seed=5)
    for group, scores in ((ours, (0.9, 0.1)), (theirs, (0.7, 0.7, 0.7))):
        for i, score in enumerate(scores):
            group[i] = replace(group[i], evaluation=Evaluation(reward=score, score=score))
    text = render(report(ours, control=theirs, control_name="chance"))
    assert "This search is ahead" in text
    assert re.search(r"mean of all completed</td>.*0\.5000.*0\.7000.*-0\.2000.*<td>chance<", text)
    assert "The budgets differ: 2 trials against 3" in text


def test_verdict_without_scores() -> None:
    none, some = summary([failed(0, "x")]), summary(trials(1))
    assert verdict(none, some, "chance").startswith("This search has not completed a trial")
    assert verdict(some, none, "chance").startswith("chance has not completed a trial")
    assert verdict(none, none, "chance").startswith("Neither has completed a trial")


@pytest.mark.parametrize(
    "data",
    [
        report(),
        report(header={}),
        report([failed(0, "out of memory"), failed(1, "out of memory")]),
        report([failed(0, "x")], control=[failed(0, "y")]),
        report([replace(trials(1)[0], state=TrialState.RUNNING, evaluation=None, reward=None)]),
        report(trials(3), snapshots=[(0, PolicySnapshot(entropy=1.0))]),
        report((), control=trials(2), snapshots=[(0, snapshot(SPACE, 3.0))]),
    ],
    ids=["nothing", "no-header", "all-failed", "both-failed", "running", "bare", "control-only"],
)
def test_every_study_has_a_page(data: ReportData) -> None:
    page = Page(render(data))
    assert page.headings[0] == 1
    assert page.unlabelled == 0


def test_failures_are_counted_on_the_page() -> None:
    text = render(report([failed(0, "big"), failed(1, "big"), failed(2, "slow")]))
    assert '<td>big</td><td class="num">2</td>' in text
    assert "No trial has completed with a score." in text
    assert "Failures" not in render(report(trials(2)))


def test_spaces_without_plans_show_their_decisions() -> None:
    space = SearchSpace("mine", [Choice("units", (8, 16)), Choice("act", ("relu", "<tanh>"))])
    text = render(
        report(trials(6, space=space), space=space, snapshots=[(0, snapshot(space, 1.0))])
    )
    page = Page(text)
    assert "nw-network" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert 'class="decisions"' in text
    assert "<td>units</td>" in text
    assert page.tags.count("svg") == 4  # rewards, curves, entropy, options


def test_configuration_reads_as_toml() -> None:
    config = {"seed": 1, "a": {"on": True, "none": None, "b": {"x": [1, 2.5, "t"]}}, "name": 'q"'}
    assert toml_text(config) == (
        'seed = 1\nname = "q\\""\n\n[a]\non = true\n\n[a.b]\nx = [1, 2.5, "t"]'
    )


def test_write_report_replaces_whole_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(path, report())
    first = path.read_text(encoding="utf-8")
    assert first == render(report())

    def broken(self: Path, target: Path) -> Path:
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(OSError, match="disk"):
            write_report(path, report(trials(2)))
    assert path.read_text(encoding="utf-8") == first
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_same_data_gives_the_same_page() -> None:
    assert render(full()) == full_page()


def test_an_architecture_that_was_trained_twice_stands_once_with_its_best() -> None:
    def swapped(space: SearchSpace, values: Mapping[str, Value]) -> dict[str, Value]:
        return dict(zip(values, sorted(values.values(), key=str), strict=True))

    space = SearchSpace("pair", [Choice("a", (1, 2)), Choice("b", (1, 2))], canonical=swapped)
    done = [
        replace(trial, architecture=space.architecture(dict(zip("ab", values, strict=True))))
        for trial, values in zip(
            trials(4, space=space), [(1, 1), (1, 2), (2, 1), (2, 2)], strict=True
        )
    ]
    assert [t.number for t in top_rows(done, 4, space)] == [3, 2, 0]
    config = {"study": {"retrain_duplicates": True}}
    text = render(report(done, space=space, header={"config": config}))
    assert (
        "The best 3, each architecture once; the best of several trainings: trial 2 of 2<" in text
    )
    assert summary(done, space)["mean_top_5"] == pytest.approx((0.53 + 0.52 + 0.5) / 3)


@pytest.mark.parametrize(("n", "said"), [(1, "curve of the best"), (3, "curves of the best 3")])
def test_curves_are_as_many_as_they_are_said_to_be(n: int, said: str) -> None:
    assert f"<h3>Learning {said}</h3>" in render(report(trials(n)))
