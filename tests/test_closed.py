"""Configurations of tables and closed forms: presets, round trips, bad values."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from netwright.config import config_from_dict, load_config, to_toml
from netwright.errors import ConfigError, DataError, UsageError
from netwright.evaluators.table import test_accuracies as accuracies_of_test
from netwright.tasks.closed import ClosedConfig, SyntheticConfig, TableConfig
from tests.tables import write_table

PRESETS = {
    "nats": TableConfig,
    "synthetic-cell": SyntheticConfig,
    "synthetic-conv": SyntheticConfig,
}


def _closed(name: str, *settings: str) -> ClosedConfig:
    config = load_config(name, settings)
    assert isinstance(config, ClosedConfig)
    return config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_toml_and_plain_data(name: str, tmp_path: Path) -> None:
    config = _closed(name, "study.seed=3", "compare.at=[5, 7]")
    assert type(config) is PRESETS[name]
    assert (config.name, config.study.seed, config.compare.at) == (name, 3, (5, 7))
    path = tmp_path / "whole.toml"
    path.write_text(to_toml(config.to_dict()))
    assert load_config(path) == config == config_from_dict(config.to_dict(), "itself")
    assert "compare" not in config.identity()


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("synthetic-conv", "data.surrogate=tree", "data.surrogate must be one of conv, cell"),
        ("synthetic-conv", "data.layers=0", "data.layers must be 1 or more; got 0"),
        ("synthetic-conv", "data.landscape=-1", "data.landscape must be 0 or more; got -1"),
        ("synthetic-cell", "data.noise=-0.1", "data.noise must be 0 or more; got -0.1"),
        ("synthetic-cell", "data.noise=nan", "data.noise must be a number within 64 bits; got nan"),
        ("nats", "data.tabel=x", "did you mean table?"),
        ("nats", "tune.top=1", "'tune'"),
        ("nats", "study.depth.start=6", "study.depth must be left out for table"),
        ("synthetic-conv", "study.depth.last=20", "study.depth must be left out for synthetic"),
        ("synthetic-cell", "study.depth.every=9", "study.depth must be left out for synthetic"),
    ],
)
def test_a_bad_value_is_one_line(name: str, setting: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(name, [setting])
    text = str(caught.value)
    assert text.splitlines() == [text]
    assert says in text


def test_a_table_must_be_named() -> None:
    config = _closed("nats")
    with pytest.raises(ConfigError, match=r"use --set data\.table=FILE"):
        config.make_space()
    with pytest.raises(DataError, match=r"a readable CSV file; 'gone\.csv' is not"):
        _closed("nats", "data.table=gone.csv").make_space()


def test_a_table_is_judged_by_its_tests(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv")
    config = _closed("nats", f"data.table={path}")
    judge, tests = config.judge(), accuracies_of_test(path)
    assert (judge.name, judge.best) == ("test accuracy", max(tests.values()))
    assert all(judge.score(a) == worth for a, worth in tests.items())
    assert (config.metric.name, config.metric.lower) == ("accuracy", False)


@pytest.mark.parametrize(
    ("name", "score", "lower"),
    [("synthetic-conv", "accuracy", False), ("synthetic-cell", "perplexity", True)],
)
def test_a_closed_form_is_judged_without_noise(name: str, score: str, lower: bool) -> None:
    config = _closed(name, "data.layers=2", "data.landscape=3", "data.noise=0.5")
    judge, space = config.judge(), config.make_space()
    form = config.make_evaluator(space)
    assert (config.metric.name, config.metric.lower) == (score, lower)
    assert judge.name == f"{score} without noise"
    draws = random.Random(0)
    drawn = [space.sample(draws) for _ in range(20)]
    architecture = drawn[0]
    assert judge.score(architecture) != form.evaluate(architecture, 0, "cpu").score
    quiet = _closed(name, "data.layers=2", "data.landscape=3", "data.noise=0")
    plain = quiet.make_evaluator(quiet.make_space()).evaluate(architecture, 0, "cpu").score
    assert judge.score(architecture) == pytest.approx(plain, abs=1e-6)
    assert (judge.score(architecture) >= judge.best) == lower
    other = _closed(name, "data.layers=2", "data.landscape=4").judge()
    assert [other.score(a) for a in drawn] != [judge.score(a) for a in drawn]


def test_what_is_trained_is_not_theirs() -> None:
    config = _closed("synthetic-conv", "data.layers=2")
    space = config.make_space()
    with pytest.raises(UsageError, match=r"^tune needs children that are trained"):
        config.grid()
    with pytest.raises(UsageError, match=r"^train needs children that are trained"):
        _ = config.final_epochs
    architecture = space.sample(random.Random(0))
    with pytest.raises(UsageError, match=r"^a report needs children that are trained"):
        config.plan_of(space, architecture, None)
