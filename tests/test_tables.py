"""Tables of trained cells, and regularised evolution on them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.controllers.evolution import Evolution, EvolutionSettings
from netwright.controllers.neighbours import mutate
from netwright.errors import ConfigError, DataError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.evaluators.table import TableEvaluator, table_space
from netwright.evaluators.table import test_accuracies as accuracies_of_test
from netwright.space import Choice, SearchSpace
from netwright.trial import Trial
from tests.strategies import CONV_SPACES, small_space

HEAD = "architecture,valid_accuracy,test_accuracy"


def _write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


def _rows() -> list[str]:
    cells = itertools.product("ab", "ab", "ab")
    return [f"|{x}~0|+|{y}~0|{z}~1|,{50 + i},{60 + i}" for i, (x, y, z) in enumerate(cells)]


def test_a_table_is_a_space_and_its_validation_accuracies(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.csv", _rows())
    task = TableEvaluator(path)
    assert [d.name for d in task.space.decisions] == ["node1.from0", "node2.from0", "node2.from1"]
    assert task.space.size() == 8
    assert task.space.fingerprint == table_space(path).fingerprint
    cell = task.space.architecture({"node1.from0": "a", "node2.from0": "b", "node2.from1": "a"})
    assert task.evaluate(cell, 0, "cpu").score == 0.52
    assert accuracies_of_test(path)[cell] == 0.62
    assert "test" not in " ".join(vars(task))  # out of a search's reach


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no rows"),
        (["no cell,50,60"], r"must be written \|op~0\|.*; got 'no cell' in line 2"),
        (["|a~0|,many,60"], "valid_accuracy must be a percentage.*got 'many' in line 2"),
        (["|a~0|,500,60"], "valid_accuracy must be a percentage.*got '500' in line 2"),
        (["|a~0|,50,60", "|a~0|+|a~0|a~1|,50,60"], "the same edges, node1.from0; line 3"),
        (_rows()[:-1], "each of its 8 cells once; .* has 7 rows and 7"),
        ([*_rows()[:-1], _rows()[0]], "has 8 rows and 7 different"),
        (["x|a~0|y,50,60"], r"got 'x\|a~0\|y' in line 2"),
        (["|a~0|+JUNK|a~0|,50,60"], "must be written .*JUNK.* in line 2"),
        (["|a~7|,50,60"], r"takes earlier ones, each once; got '\|a~7\|' in line 2"),
        (["|a~0|+|a~2|,50,60"], "takes earlier ones"),
        (["|a~0|b~0|,50,60"], r"each once; got '\|a~0\|b~0\|' in line 2 of .*t\.csv"),
        (["|a~\u0663|,50,60"], "must be written"),
        ([f"|a~{'9' * 5000}|,50,60"], "must be written"),
        (["", "", "|a~0|,50,60", "", "|b~0|,many,60"], "got 'many' in line 6"),
        (["", "|a~0|,50,60", "", "|a~0|+|a~0|,50,60"], "the same edges, .*; line 5"),
        (["|a~0|,0.5,60", "|b~0|,1,60"], "valid_accuracy must be percentages; all of .*fractions"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, rows: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        TableEvaluator(_write(tmp_path / "t.csv", rows))
    assert "\n" not in str(caught.value)


def test_a_mark_of_utf_8_blank_lines_and_blanks_are_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [HEAD, "", *(row.replace(",", " ,", 1) for row in _rows()), ""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    plain = TableEvaluator(_write(tmp_path / "plain.csv", _rows()))
    assert TableEvaluator(path)._scores == plain._scores
    path.write_text(f"{HEAD},extra\n" + "".join(f"{row},7\n" for row in _rows()))
    assert TableEvaluator(path)._scores == plain._scores


def test_one_percent_among_others_is_no_fraction(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.csv", ["|a~0|,0.5,60", "|b~0|,50,60"])
    assert sorted(TableEvaluator(path)._scores.values()) == [0.005, 0.5]
    _write(path, ["|a~0|,50,0.5", "|b~0|,50,0.6"])
    with pytest.raises(DataError, match="test_accuracy must be percentages"):
        accuracies_of_test(path)


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "a\nb"])
def test_a_path_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(DataError, match="must be a readable CSV file") as caught:
        TableEvaluator(name)
    assert str(caught.value).isprintable()


def test_other_columns_and_no_file_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="must have rows and the columns architecture"):
        TableEvaluator(path)
    path.write_text(f"{HEAD},valid_accuracy\n|a~0|,1,2,50\n")
    with pytest.raises(DataError, match=r"each once; .*test_accuracy, valid_accuracy; mend"):
        TableEvaluator(path)
    with pytest.raises(DataError, match="must be a readable CSV file"):
        TableEvaluator(tmp_path / "none.csv")


@given(st.integers(0, 10**6), st.sampled_from(["small", *CONV_SPACES]))
def test_a_mutation_changes_one_decision_and_stays_in_the_space(seed: int, name: str) -> None:
    space = small_space() if name == "small" else CONV_SPACES[name]
    generator = random.Random(seed)
    parent = space.sample(generator)
    child = mutate(space, parent, generator)
    assert space.architecture(dict(child)) == child
    assert child != parent
    both = [n for n in parent if n in child and parent[n] != child[n]]
    first = next(n for n in parent if n not in child or parent[n] != child[n])
    assert first in both
    if isinstance(space[first], Choice) and list(parent) == list(child):
        assert both == [first]


def test_what_is_given_is_not_mutated() -> None:
    space = CONV_SPACES["types"]
    generator = random.Random(0)
    fixed = {"depth": 2, "learning_rate": 0.01}
    parent = space.sample(generator, fixed)
    for _ in range(50):
        child = mutate(space, parent, generator, fixed)
        assert (child["depth"], child["learning_rate"]) == (2, 0.01)


def test_what_is_given_holds_where_nothing_else_can_change() -> None:
    generator = random.Random(0)
    only = SearchSpace("only", [Choice("depth", (1, 2)), Choice("one", ("x",))])
    parent = only.architecture({"depth": 1, "one": "x"})
    assert mutate(only, parent, generator, {"depth": 2})["depth"] == 2
    assert mutate(only, parent, generator, {"depth": 1}) == parent
    one = SearchSpace("one", [Choice("one", ("x",))])
    assert mutate(one, one.sample(generator), generator) == one.sample(generator)


def test_evolution_beats_its_random_beginning() -> None:
    space = choices_space(12, 4)
    task = Additive(space)
    controller = Evolution(space, EvolutionSettings(population=20, sample=5), seed=1)
    rewards = []
    for number in range(300):
        (drawn,) = controller.propose(1)
        rewards.append(task.expected(drawn))
        told = Trial(number=number, batch=number, architecture=drawn, seed=0, reward=rewards[-1])
        controller.tell([told])
    assert max(rewards[-50:]) > max(rewards[:20]) + 0.1
    assert max(rewards) > 0.95


def test_the_oldest_leaves_however_good_it_is() -> None:
    space = choices_space(4, 3)
    controller = Evolution(space, EvolutionSettings(population=2, sample=1), seed=1)
    drawn = controller.propose(3)
    for number, (architecture, reward) in enumerate(zip(drawn, (9.0, 1.0, 1.0), strict=True)):
        told = Trial(number=number, batch=0, architecture=architecture, seed=0, reward=reward)
        controller.tell([told])
    assert [reward for _, reward in controller._alive] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"population": 0}, "controller.population must be 1 or more"),
        ({"sample": 31}, r"controller.sample must be at most controller.population \(30\)"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        EvolutionSettings(**settings)
