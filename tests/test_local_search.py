"""Local search: how many evaluations a climb takes, and that nothing is proposed twice."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.controllers.local_search import START, LocalSearch, LocalSearchSettings
from netwright.controllers.neighbours import changed, changes
from netwright.errors import ConfigError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.space import Architecture, Choice, SearchSpace
from netwright.spaces import conv
from netwright.trial import Trial
from tests.strategies import CONV_SPACES, small_space


def _trial(architecture: Architecture, reward: float) -> Trial:
    return Trial(number=0, batch=0, architecture=architecture, seed=0, reward=reward)


def _walk(controller: LocalSearch, task: Additive, n: int) -> list[Architecture]:
    seen = []
    for _ in range(n):
        (drawn,) = controller.propose(1)
        controller.tell([_trial(drawn, task.expected(drawn))])
        seen.append(drawn)
    return seen


def _apart(a: Architecture, b: Architecture) -> int:
    return sum(a[name] != b[name] for name in a)


@pytest.mark.parametrize("seed", range(5))
def test_a_climb_to_the_best_neighbour_takes_17_evaluations(seed: int) -> None:
    """Three decisions of three options whose rewards add up, from a start that has none right.

    Write o for the best option, s for the start's, t for the third; the first decision is the one
    that is mended first. The start and its neighbours: 1 + 6. At oss the changes of the first
    decision are known: 4. At oos, sos is known, tos is not, oss and ots are known, and ooo and oot
    are not: 3, and the optimum is among them. At ooo: soo, too and oto are not known: 3. Then the
    climb is over, and the 18th is drawn at random.
    """
    space = choices_space(3, 3)
    task = Additive(space, seed=seed)
    best = space.architecture(task.optimum)
    own = LocalSearchSettings(starts=1, move="best")
    makes = (LocalSearch(space, own, seed=k) for k in range(100))
    controller = next(c for c in makes if _apart(c.propose(1)[0], best) == 3)
    controller = LocalSearch(space, own, seed=controller._seed)
    seen = _walk(controller, task, 17)
    assert _apart(seen[0], best) == 3
    assert best in seen[11:14]
    assert best not in seen[:11]
    assert controller._at == (best, 1.0)
    assert len(set(seen)) == 17
    assert _apart(seen[-1], best) == 1
    controller.propose(1)
    assert list(controller._out.values()) == [START]


def test_the_first_better_neighbour_is_moved_to_at_once() -> None:
    space = choices_space(4, 3)
    controller = LocalSearch(space, LocalSearchSettings(starts=1), seed=3)
    (start,) = controller.propose(1)
    controller.tell([_trial(start, 1.0)])
    worse, better = controller.propose(2)
    assert _apart(worse, start) == _apart(better, start) == 1
    controller.tell([_trial(worse, 0.5), _trial(better, 2.0)])
    (after,) = controller.propose(1)
    assert _apart(after, better) == 1


def test_late_results_move_the_climb_and_those_of_an_ended_one_do_not() -> None:
    space = choices_space(1, 3)
    controller = LocalSearch(space, LocalSearchSettings(starts=1), seed=0)
    (start,) = controller.propose(1)
    controller.tell([_trial(start, 1.0)])
    first, second = controller.propose(2)
    controller.tell([_trial(second, 3.0)])
    assert controller._at == (second, 3.0)
    controller.tell([_trial(first, 2.0)])
    assert controller._at == (second, 3.0)

    space = choices_space(2, 3)
    controller = LocalSearch(space, LocalSearchSettings(starts=1), seed=0)
    controller.tell([_trial(controller.propose(1)[0], 1.0)])
    *told, late = controller.propose(4)
    controller.tell([_trial(a, 0.0) for a in told])
    starts = controller.propose(2)
    controller.tell([_trial(starts[0], 0.0)])  # one more is waited for in the place of `late`
    assert controller._climb == 1
    controller.tell([_trial(starts[1], 0.5)])
    assert controller._climb == 2
    assert controller._at == (starts[1], 0.5)
    controller.tell([_trial(late, 5.0)])
    assert controller._at == (starts[1], 0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["first", "best"]), st.integers(1, 4))
def test_nothing_is_proposed_twice_until_the_space_is_spent(
    seed: int, move: str, starts: int
) -> None:
    """All 28, five at a time, told late and in any order."""
    space = small_space()
    generator = random.Random(seed)
    controller = LocalSearch(space, LocalSearchSettings(move=move, starts=starts), seed=seed)
    out: list[Architecture] = []
    seen: list[Architecture] = []
    while len(seen) < 28:
        drawn = controller.propose(min(5, 28 - len(seen)))
        seen += drawn
        out += drawn
        generator.shuffle(out)
        told, out = out[: len(out) // 2], out[len(out) // 2 :]
        controller.tell([_trial(a, generator.random()) for a in told])
    assert set(seen) == set(space.enumerate())
    assert len(controller.propose(3)) == 3  # and goes on, with what was proposed


def test_large_spaces_with_connections_and_a_depth_schedule() -> None:
    """15 layers have 1 + 2 + ... + 14 = 105 possible connections."""
    space = conv.v1(15)
    controller = LocalSearch(space, LocalSearchSettings(starts=1, batch=40), seed=0)
    (start,) = controller.propose(1)
    controller.tell([_trial(start, 1.0)])
    options = sum(len(d.options) - 1 for d in space.decisions if isinstance(d, Choice))
    around = [a for _ in range(6) for a in controller.propose(40)][: options + 105]
    assert len(set(around)) == options + 105
    for neighbour in around:
        different = [name for name in start if start[name] != neighbour[name]]
        assert len(different) == 1
        if not isinstance(space[different[0]], Choice):
            taken = set(start[different[0]]) ^ set(neighbour[different[0]])  # type: ignore[arg-type]
            assert len(taken) == 1

    types = CONV_SPACES["types"]
    controller = LocalSearch(types, LocalSearchSettings(starts=1), seed=0)
    for depth in (2, 3, 5):
        for reward in range(10):
            (drawn,) = controller.propose(1, {"depth": depth})
            assert drawn["depth"] == depth
            controller.tell([_trial(drawn, float(reward))])


def test_what_comes_to_hold_is_drawn_from_all_of_its_options() -> None:
    space = SearchSpace("s", [Choice("a", (0, 1)), Choice("b", (0, 1, 2), {"a": 1})])
    parent = space.architecture({"a": 0})
    assert changes(space, parent) == [("a", 1)]
    drawn = {changed(space, parent, "a", 1, random.Random(k))["b"] for k in range(50)}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"starts": 0}, "controller.starts must be 1 or more; got 0"),
        ({"move": "down"}, "controller.move must be one of first, best; got 'down'"),
    ],
)
def test_bad_settings_are_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LocalSearchSettings(**values)  # type: ignore[arg-type]


def test_a_space_whose_every_form_is_known_is_looked_through_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = conv.space("s", conv.ConvSettings(depths=(4,), heights=(1,), widths=(1,), filters=(4,)))
    search = LocalSearch(space, LocalSearchSettings(batch=1), seed=0)
    forms = len({space.form(a) for a in space.enumerate()})
    looks: list[int] = []
    plain = space.enumerate

    def counted() -> Iterator[Architecture]:
        looks.append(1)
        return plain()

    monkeypatch.setattr(space, "enumerate", counted)
    for _ in range(forms + 5):
        (found,) = search.propose(1)
        search.tell([_trial(found, 0.0)])
    assert search._spent
    before = len(looks)
    search.propose(1)
    assert len(looks) == before
    assert forms < space.size()
