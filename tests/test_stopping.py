"""Stopping rules: cases worked out by hand, and what must hold of any."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.config import load_config
from netwright.errors import ConfigError
from netwright.stopping import Donor, Record, Rule, Rung, StoppingSettings, isotonic, rule_of

SETTINGS = StoppingSettings(method="halving", rungs=(1, 2), keep=0.5, warmup=4, window=50)


def whole(*curve: float, reward: float) -> Record:
    return Record(curve=curve, reward=reward, whole=True)


# By first score: .5 .4 .3 .2, whose rewards are 5, 3, 4 and 1.
FOUR = [
    whole(0.2, 0.3, 0.4, reward=1.0),
    whole(0.4, 0.7, 0.6, reward=3.0),
    whole(0.3, 0.5, 0.7, reward=4.0),
    whole(0.5, 0.6, 0.8, reward=5.0),
]


def test_the_threshold_is_what_the_best_half_reached_and_equal_scores_go_on() -> None:
    rule = rule_of(FOUR, [], SETTINGS, lower=False)
    assert rule is not None
    assert [(r.epoch, r.threshold) for r in rule.rungs] == [(1, 0.4), (2, 0.6)]
    assert rule.stops([0.39])
    assert not rule.stops([0.4])
    assert rule.stops([0.4, 0.59])
    assert not rule.stops([0.4, 0.6])
    assert not rule.stops([0.6, 0.1]), "the best score so far counts, one bad epoch does not"
    assert not rule.stops([0.0, 0.0, 0.0]), "epoch 3 is no rung"


def test_a_stopped_child_is_told_the_isotonic_reward_of_those_that_went_on() -> None:
    rule = rule_of(FOUR, [], SETTINGS, lower=False)
    assert rule is not None
    # Rung 1: (.3, 4) and (.4, 3) are one block, (.35, 3.5); the regression gives 4 at the threshold
    # of .4, and of those there or above the lowest reward is 3. So [1, 4] is squeezed to [1, 3].
    assert rule.rungs[0].scores == pytest.approx((0.2, 0.35, 0.4))
    assert rule.rungs[0].rewards == pytest.approx((1.0, 1 + 2.5 * 2 / 3, 3.0))
    assert rule.reward([0.275]) == pytest.approx(1 + 2.5 / 3)  # half way from .2 to .35
    assert rule.reward([0.1]) == 1.0
    assert rule.reward([0.35]) < rule.reward([0.39]) < 3.0
    # Rung 2: best so far .3, .5, .6 and .7, rewards 1, 4, 5 and 3; the last three are one block of
    # mean 4 at .6, the threshold, squeezed to the 3 of who passed.
    assert rule.rungs[1].scores == pytest.approx((0.3, 0.6))
    assert rule.rungs[1].rewards == pytest.approx((1.0, 3.0))
    with pytest.raises(ValueError, match="must have reached a rung"):
        rule.reward([])


def test_where_who_passed_did_worst_of_all_the_stopped_are_told_no_more() -> None:
    known = [*FOUR[:3], whole(0.5, 0.6, 0.8, reward=0.5)]
    rule = rule_of(known, [], SETTINGS, lower=False)
    assert rule is not None
    assert rule.reward([0.1]) == rule.reward([0.39]) == 0.5


def test_lower_scores_may_be_the_better_ones() -> None:
    mirrored = [whole(*(1 - s for s in r.curve), reward=r.reward) for r in FOUR]
    rule, plain = (rule_of(rs, [], SETTINGS, low) for rs, low in ((mirrored, True), (FOUR, False)))
    assert rule is not None
    assert plain is not None
    assert rule.stops([0.61])
    assert not rule.stops([0.6])
    assert rule.reward([1 - 0.275]) == pytest.approx(plain.reward([0.275]))


def test_a_rung_stops_nobody_before_enough_children_reached_it() -> None:
    assert rule_of(FOUR[:3], [], SETTINGS, lower=False) is None
    stopped = [Record(curve=(0.1,), reward=0.5, whole=False)] * 2
    rule = rule_of([*FOUR[:3], *stopped], [], SETTINGS, lower=False)
    assert rule is not None
    assert [r.epoch for r in rule.rungs] == [1]


def test_stopped_children_count_where_they_were_but_teach_nothing_of_what_follows() -> None:
    stopped = [Record(curve=(0.1,), reward=9.0, whole=False)] * 4
    rule = rule_of([*FOUR, *stopped], [], SETTINGS, lower=False)
    assert rule is not None
    assert rule.rungs[0].threshold == 0.2  # the best half of eight are the four
    assert max(rule.rungs[0].rewards) <= 5.0


def test_a_rung_whose_best_were_stopped_themselves_stops_as_before() -> None:
    stopped = [Record(curve=(score,), reward=0.5, whole=False) for score in (0.6, 0.7, 0.8, 0.9)]
    rule = rule_of([*FOUR, *stopped], [], SETTINGS, lower=False)
    assert rule is not None
    assert rule.rungs[0].threshold == 0.6
    assert rule.stops([0.59])
    assert not rule.stops([0.6])
    assert rule.reward([0.1]) == 1.0
    assert rule.reward([0.59]) == 5.0, "no more than the best of those that went on"


def test_the_first_trials_teach_what_a_bad_start_leads_to_and_set_no_threshold() -> None:
    first = [whole(0.05, 0.1, 0.1, reward=0.25)] * 20
    rule = rule_of(FOUR, first, SETTINGS, lower=False)
    assert rule is not None
    assert rule.rungs[0].threshold == 0.4
    assert rule.reward([0.05]) == 0.25


def test_scores_that_are_not_finite_are_left_out() -> None:
    rule = rule_of([*FOUR, whole(math.nan, 0.9, reward=9.0)], [], SETTINGS, lower=False)
    assert rule == rule_of(FOUR, [], SETTINGS, lower=False)


def test_none_stops_nobody() -> None:
    assert rule_of(FOUR, [], StoppingSettings(), lower=False) is None


def test_short_trainings_are_judged_by_their_one_score() -> None:
    settings = StoppingSettings(method="short", share=0.25, keep=0.5, warmup=4)
    first = rule_of(FOUR[:3], [], settings, lower=False)
    assert first == Rule(rungs=(), short=0.25), "too few to compare with: all are trained whole"
    assert not first.stops([0.0])
    shorts = [whole(r.curve[0], reward=r.reward) for r in FOUR]
    rule, plain = (
        rule_of(r, [], s, lower=False) for r, s in ((shorts, settings), (FOUR, SETTINGS))
    )
    assert rule is not None
    assert plain is not None
    assert rule == Rule(rungs=plain.rungs[:1], short=0.25)
    assert rule.stops([0.39])
    assert not rule.stops([0.4])
    assert rule.reward([0.275]) == pytest.approx(plain.reward([0.275]))


def test_where_none_is_to_go_on_every_child_has_a_short_training_alone() -> None:
    settings = StoppingSettings(method="short", share=0.25, keep=0.0, warmup=4)
    alone = Rule(rungs=(), lower=True, short=0.25, alone=True)
    for records in ([], FOUR):
        assert rule_of(records, FOUR, settings, lower=True) == alone
    assert Rule.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone
    old = {k: v for k, v in alone.to_dict().items() if k != "alone"}
    assert not Rule.from_dict(old).alone, "of before there was such a rule"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "halving"}, r"stopping.keep must be in \(0, 1\); got 0.0"),
        ({"method": "short", "keep": -0.1}, r"stopping.keep must be in \[0, 1\); got -0.1"),
        ({"method": "short", "donors": 2}, r"stopping.donors must be 0 with stopping.keep=0: no"),
    ],
)
def test_only_short_trainings_may_be_all_there_is(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StoppingSettings(**{"keep": 0.0, **wrong})


@pytest.mark.parametrize("preset", ["cifar10-small", "digits"])
def test_any_preset_can_be_searched_with_whole_trainings(preset: str) -> None:
    """What its other rules of stopping keep means nothing then."""
    stopping = load_config(preset, ["stopping.method=none"]).stopping
    assert rule_of(FOUR, FOUR, stopping, lower=False) is None


def test_the_first_that_were_trained_whole_are_donors_of_short_trainings() -> None:
    known = [
        Record(curve=(0.5,), reward=0.5, whole=i != 1, made=Donor(architecture=str(i), seed=i))
        for i in range(5)
    ]
    settings = StoppingSettings(method="short", donors=3, warmup=8, window=8)
    rule = rule_of(known[2:], known[:2], settings, False, known)
    assert rule is not None
    assert [donor.seed for donor in rule.donors] == [0, 2, 3]
    assert rule.wanted == 3
    assert Rule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    cold = rule_of(known, [], StoppingSettings(method="short"), lower=False)
    assert cold == Rule(rungs=(), short=0.125)


def test_a_rule_of_an_older_journal_has_no_short_training() -> None:
    rule = rule_of(FOUR, [], SETTINGS, lower=False)
    assert rule is not None
    older = {name: value for name, value in rule.to_dict().items() if name in ("rungs", "lower")}
    assert Rule.from_dict(older) == rule
    assert set(SETTINGS.to_dict()) == {"method", "rungs", "keep", "warmup", "window"}
    assert set(StoppingSettings(method="short").to_dict()) == {
        *("method", "share", "keep", "warmup", "window")
    }


def test_isotonic_regression_pools_what_falls() -> None:
    pairs = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0)]
    assert isotonic(pairs) == [(1.0, 1.0), (2.5, 2.5), (4.0, 4.0)]
    assert isotonic([(1.0, 2.0), (1.0, 4.0)]) == [(1.0, 3.0)]
    assert isotonic([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]) == [(2.0, 2.0)]


number = st.floats(0, 1)
records = st.lists(
    st.builds(
        lambda curve, reward, whole: Record(
            curve=(*curve, 0.5) if whole else curve[:1], reward=reward, whole=whole
        ),
        st.tuples(number, number),
        number,
        st.booleans(),
    ),
    min_size=4,
    max_size=40,
)


@given(records, st.floats(0.1, 0.9), st.booleans(), number, number)
def test_who_stops_is_never_told_more_than_who_is_known_to_have_passed(
    known: list[Record], keep: float, lower: bool, one: float, other: float
) -> None:
    settings = StoppingSettings(method="halving", rungs=(1, 2), keep=keep, warmup=4, window=50)
    rule = rule_of(known, known[:4], settings, lower)
    if rule is None:
        return
    for rung in rule.rungs:
        alone = Rule(rungs=(rung,), lower=lower)
        past = [r for r in known if len(r.curve) > rung.epoch]
        passed = [r.reward for r in past if not alone.stops(r.curve[: rung.epoch])]
        curves = [(score,) * rung.epoch for score in sorted((one, other), reverse=lower)]
        told = [alone.reward(curve) for curve in curves]
        assert told[0] <= told[1] + 1e-12, "a better score is never told less"
        assert max(told) <= min(passed, default=math.inf) + 1e-12
        assert max(told) <= max(r.reward for r in [*known[:4], *past]) + 1e-12


@given(records, st.booleans())
def test_a_rule_goes_through_json_unchanged(known: list[Record], lower: bool) -> None:
    rule = rule_of(known, [], SETTINGS, lower)
    if rule is not None:
        assert Rule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


def test_the_map_keeps_few_knots() -> None:
    known = [whole(i / 100, 0.0, 0.0, reward=i / 100) for i in range(100)]
    settings = StoppingSettings(method="halving", rungs=(1,))
    rule = rule_of(known, [], settings, lower=False)
    assert rule is not None
    rung: Rung = rule.rungs[0]
    assert len(rung.scores) == 9, "those of 16 below the threshold, and it"
    assert rung.scores[0] == 0.0
    assert rung.scores[-1] == rung.threshold


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "median"}, "stopping.method must be one of none, halving, short; got 'median'"),
        ({"rungs": ()}, "stopping.rungs must be epochs from 1 that rise"),
        ({"rungs": (2, 1)}, "stopping.rungs must be epochs from 1 that rise"),
        ({"rungs": (0, 1)}, "stopping.rungs must be epochs from 1 that rise"),
        ({"keep": 1.0}, r"stopping.keep must be in \[0, 1\); got 1.0"),
        ({"share": 0.0}, r"stopping.share must be in \(0, 1\); got 0.0"),
        ({"donors": -1}, "stopping.donors must be 0 or more"),
        ({"donors": 1, "method": "halving"}, "and 0 with stopping.method=halving; got 1"),
        ({"warmup": 1}, "stopping.warmup must be 2 or more"),
        ({"window": 5}, "stopping.window must be stopping.warmup=10 or more; got 5"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StoppingSettings(**wrong)  # type: ignore[arg-type]
