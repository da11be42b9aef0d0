"""The report of scores of which less is better: bests, axes, words."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from netwright.protocols import Event
from netwright.report import plots, tables
from netwright.report.page import ReportData, render, verdict
from netwright.report.record import finish_section, timeline
from netwright.spaces import recurrent
from netwright.trial import Evaluation, Metric, Trial, TrialState

PERPLEXITY = Metric("perplexity", lower=True)
SPACE = recurrent.space("cells")
SVG = "{http://www.w3.org/2000/svg}"


def trial(number: int, score: float, curve: tuple[float, ...] = ()) -> Trial:
    """Return a completed trial whose reward is 80 / score²."""
    reward = 80 / score**2
    return Trial(
        number=number,
        batch=0,
        seed=0,
        architecture=SPACE.sample(random.Random(number)),
        state=TrialState.COMPLETED,
        reward=reward,
        evaluation=Evaluation(reward=reward, score=score, curve=curve, cost=1.0),
    )


def trials(*scores: float) -> list[Trial]:
    return [trial(i, score) for i, score in enumerate(scores)]


def groups(svg: str, identity: str) -> int:
    """Return how many marks the group of this id holds."""
    for element in ET.fromstring(svg).iter():
        if element.get("id") == identity:
            return len(list(element.iter(f"{SVG}use"))) or 1
    return 0


def words(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")]


def test_bests_go_by_the_reward() -> None:
    done = trials(120.0, 4000.0, 95.0, 100.0, 130.0, 110.0, 105.0)
    assert [t.number for t in tables.top_rows(done, 3)] == [2, 3, 6]
    total = tables.summary(done)
    assert total["best"] == 95.0
    assert total["mean_top_5"] == pytest.approx((95 + 100 + 105 + 110 + 120) / 5)
    assert total["mean"] == pytest.approx((120 + 4000 + 95 + 100 + 130 + 110 + 105) / 7)
    assert total["mean_last_quarter"] == 105.0


def test_the_best_so_far_only_falls() -> None:
    done = trials(120.0, 4000.0, 95.0, 100.0, 90.0)
    assert plots.running_best(done) == [(0, 120.0), (1, 120.0), (2, 95.0), (3, 95.0), (4, 90.0)]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (
            90.0,
            100.0,
            "This search is ahead in this one run: its best perplexity is 90.0000, that of chance "
            "100.0000 (lower is better).",
        ),
        (
            100.0,
            90.0,
            "Chance is ahead in this one run: its best perplexity is 90.0000, that of this search "
            "100.0000 (lower is better).",
        ),
        (90.0, 90.0, "This search and chance are level: both found 90.0000."),
    ],
)
def test_the_lower_one_is_ahead(ours: float, theirs: float, said: str) -> None:
    a, b = trials(ours, 200.0), trials(theirs, 200.0)
    assert verdict(tables.summary(a), tables.summary(b), "chance", PERPLEXITY) == said
    page = render(replace(report(a), control=b, control_name="chance"))
    assert said in page
    leader = "level" if ours == theirs else "this search" if ours < theirs else "chance"
    row = rf"<td>best perplexity</td>.*{re.escape(f'{ours - theirs:+.4f}')}</td><td>{leader}<"
    assert re.search(row, page)


# --- axes ---------------------------------------------------------------------------------------


def test_limit_by_hand() -> None:
    calm = [100.0] * 9
    assert plots.limit([*calm, 5000.0], PERPLEXITY) == pytest.approx(108.0)
    assert plots.limit([*calm, 290.0, 5000.0], PERPLEXITY) == pytest.approx(290 * 1.08)
    assert plots.limit([*calm, 1900.0], PERPLEXITY) is None  # a spread of 19 can be shown
    assert plots.limit([*calm, *[5000.0] * 6], PERPLEXITY) is None  # too many to leave out
    assert plots.limit([*calm, 4.0], PERPLEXITY) is None  # nothing is far above
    assert plots.limit([0.001, 0.9, 0.9], Metric()) is None
    assert plots.limit([], PERPLEXITY) is None
    assert plots.limit([0.0, 5.0], PERPLEXITY) is None


def test_few_wild_scores_are_marked_at_the_edge() -> None:
    done = trials(*[100.0 + i for i in range(18)], 5000.0, 8123.0)
    svg = plots.rewards(done, metric=PERPLEXITY)
    assert groups(svg, "rewards-outside") == 2
    assert "▲ 2 trials lie above, up to 8,123" in words(svg)
    assert {"validation perplexity", "(lower is better)"} <= set(words(svg))
    assert "Validation perplexity over trials" in svg
    one = plots.rewards(done[:19], metric=PERPLEXITY)
    assert "▲ 1 trial lies above, up to 5,000" in words(one)
    # The control's wild ones count too.
    both = plots.rewards(done, trials(*[100.0] * 9, 6000.0), metric=PERPLEXITY)
    assert groups(both, "rewards-outside") == 3


def test_many_wild_scores_make_the_axis_logarithmic() -> None:
    svg = plots.rewards(trials(100.0, 110.0, 5000.0, 6000.0), metric=PERPLEXITY)
    assert groups(svg, "rewards-outside") == 0
    assert "(lower is better, log scale)" in words(svg)
    assert {"100", "1,000", "5,000"} <= set(words(svg))


def test_where_higher_is_better_nothing_is_left_out() -> None:
    svg = plots.rewards(trials(0.01, 0.9, 0.9, 0.9, 0.9))
    assert groups(svg, "rewards-outside") == 0
    assert "validation accuracy" in words(svg)
    assert not any("lower" in text for text in words(svg))


def test_curves_of_perplexity() -> None:
    wide = [trial(0, 95.0, (600.0, 150.0, 95.0)), trial(1, 90.0, (float("inf"), 200.0, 90.0))]
    svg = plots.curves(wide, metric=PERPLEXITY)
    assert "(lower is better, log scale)" in words(svg)
    assert "epoch" in words(svg)
    assert [text for text in words(svg) if text.startswith("trial")] == ["trial 1", "trial 0"]
    assert plots.curves([trial(0, 95.0, (95.0,))], metric=PERPLEXITY) == ""
    narrow = plots.curves([trial(0, 95.0, (200.0, 95.0))], metric=PERPLEXITY)
    assert "(lower is better)" in words(narrow)
    bits = plots.curves([trial(0, 1.3, (2.0, 1.3))], metric=Metric("bits_per_character", True))
    assert "validation bits per character" in words(bits)


# --- the page -----------------------------------------------------------------------------------


class Nesting(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(done: list[Trial]) -> ReportData:
    return ReportData(
        name="words",
        space=SPACE,
        trials=done,
        header={},
        events=(
            Event(sequence=1, kind="tune", payload={"score": 99.0}, time=1.0),
            Event(sequence=2, kind="tune", payload={"score": 88.5}, time=2.0),
            Event(sequence=3, kind="train", payload={"test_perplexity": 85.25}, time=3.0),
        ),
        snapshots=(),
        plans={t.number: recurrent.cell_of(t.architecture) for t in done},
        final={"test_perplexity": 85.25, "metric": "perplexity", "seconds": 61.0},
        metric=PERPLEXITY,
    )


def test_the_page_of_cells() -> None:
    done = trials(120.0, 95.0, 4000.0)
    text = render(report(done))
    page = Nesting(text)
    assert len(page.ids) == len(set(page.ids))
    assert re.search(
        r"best validation perplexity</dt><dd>95\.0000<span[^>]*>trial 1, lower is better<", text
    )
    assert text.count("<dt>test perplexity</dt><dd>85.2500") == 2
    assert "test accuracy" not in text
    assert '<th scope="col" class="num">perplexity</th>' in text
    assert "the steps the best perplexity so far" in text
    assert "Trial 1, perplexity 95.0000" in text
    assert text.count('class="nw-network nw-cell"') == 3
    assert "h_t = n14" in text
    assert text.index("Trial 1,") < text.index("Trial 0,") < text.index("Trial 2,")
    assert "c→8 t+ joins the last c to node 8" in text
    assert "best validation perplexity 88.5000" in text
    assert "final training done: test perplexity 85.2500" in text


def test_equations_stand_beneath_the_drawing() -> None:
    done = trials(95.0)
    cell = recurrent.cell_of(done[0].architecture)
    text = render(report(done))
    block = re.search(r"</figure><pre>(n0 = .*?)</pre>", text, flags=re.DOTALL)
    assert block is not None
    assert block[1].replace("&#x27;", "'").split("\n") == cell.equations()


def test_any_test_result_is_shown() -> None:
    bits = {"test_bits_per_character": 1.25, "metric": "bits per character"}
    assert "test bits per character</dt><dd>1.2500" in finish_section(bits)
    page = render(replace(report(trials(1.5)), final=bits))
    assert page.count("test bits per character</dt><dd>1.2500") == 2
    event = Event(sequence=1, kind="train", payload=bits, time=0.0)
    assert "test bits per character 1.2500" in timeline([event], {}, PERPLEXITY)
