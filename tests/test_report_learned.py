"""What the page says of the controller is true of the study's own."""

from __future__ import annotations

import pytest

from netwright.protocols import PolicySnapshot
from netwright.report.learned import learned_section
from netwright.report.page import render
from netwright.space import Choice, SearchSpace
from tests.test_report_page import report

SPACE = SearchSpace("two", [Choice("layer0.units", (1, 2))])
SEEN = [(0, PolicySnapshot(entropy=3.25, options={"layer0.units": (0.5, 0.5)}))]


def section(**controller: object) -> str:
    return learned_section(SPACE, SEEN, controller)


@pytest.mark.parametrize("name", ["policy_gradient", "ppo"])
def test_a_policy_that_proposes_has_its_entropy(name: str) -> None:
    text = section(name=name)
    assert "A policy proposes every child" in text
    assert "<h3>Entropy of the policy</h3>" in text
    assert "Probability of each option" in text
    assert "value model" not in text


def test_guided_says_who_picks_and_that_the_policy_is_one_source() -> None:
    text = section(name="guided", guided={"sampled": 128})
    assert "A value model, taught by the ranks of past rewards, picks each child" in text
    assert "the policy, which is one source of these candidates" in text
    assert "A policy proposes every child" not in text
    assert "gives no candidates" in section(name="guided", guided={"sampled": 0})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("evolution", "shares of the options in its population"),
        ("local_search", "neighbours of the architecture where it stands"),
        ("tpe", "best tenth of the trials told"),
        ("random", "Random search learns nothing"),
    ],
)
def test_without_a_policy_there_are_shares_and_no_entropy(name: str, said: str) -> None:
    text = section(name=name)
    assert said in text
    assert "ntropy" not in text
    assert "the policy" not in text
    assert "robabilit" not in text
    assert "Share of each option" in text


def test_the_page_goes_by_the_study_s_controller() -> None:
    data = {"controller": {"name": "evolution"}}
    page = render(report(space=SPACE, snapshots=SEEN, header={"config": data}))
    assert "Evolution has no policy." in page
    assert "<h3>Entropy" not in page
