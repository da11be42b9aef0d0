"""The benchmarks: bad input in one line, no result of other settings, none lost or miscounted."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as every
from benchmarks import cells, economy, evidence, faults, landscapes, scale, shared, thrift
from netwright.config import load_config
from netwright.errors import StudyError, UsageError
from netwright.loop import Mode
from netwright.report.comparison import Measure
from netwright.showing import named
from netwright.stopping import Rule
from netwright.tasks import images
from netwright.tasks.images import ImageConfig
from netwright.workspace import Workspace

TINY = [
    "space.depths=[2]",
    "space.pools=[1]",
    "space.filters=[8]",
    "training.epochs=1",
    "training.reward_epochs=1",
    "study.trials=2",
    "execution.numerics=float32 contiguous",
]
POINT = {"learning_rate": 0.03, "weight_decay": 3e-4, "epsilon": 1e-3, "drops": [0.4, 0.9]}


# --- bad input ----------------------------------------------------------------------------------


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise StudyError("a rule;\na value")

    with pytest.raises(SystemExit) as ended:
        shared.run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "benchmarks: a rule; a value\n"


@pytest.mark.parametrize("text", ["0", "-1", "one", "1.5"])
def test_a_count_is_at_least_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"whole number >= 1; got {text!r}"):
        shared.count(text)


def test_only_arms_that_there_are_are_asked_for() -> None:
    assert list(economy.arms_of(["new=a.b=1"], ["new"])) == ["full", "new"]
    with pytest.raises(UsageError, match="--only must be arms; got 'guidd'"):
        economy.arms_of([], ["guidd"])


def test_a_mode_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale", "quality", "--modes", "queues"])
    with pytest.raises(SystemExit) as ended:
        scale.main()
    assert ended.value.code == 2
    assert "--modes: invalid choice: 'queues'" in capsys.readouterr().err


def test_only_images_have_the_hand_drawn_network() -> None:
    with pytest.raises(UsageError, match="needs a configuration of images; ptb-small has task"):
        shared.image_config("ptb-small", [])


# --- results of other settings ------------------------------------------------------------------


def test_a_search_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = load_config("digits", TINY)
    place = Workspace(tmp_path / "random-0")
    shared.check_same(place, config)  # there is none
    place.begin(config).store.close()
    shared.check_same(place, load_config("digits", [*TINY, "study.trials=9"]))
    for setting, section in (
        ("stopping.method=short", "stopping"),
        ("final.epochs=1", "final"),
        ("tune.top=1", "tune"),
    ):
        with pytest.raises(StudyError, match=f"section {section}; use --out"):
            shared.check_same(place, load_config("digits", [*TINY, setting]))


def test_evidence_refuses_an_earlier_control_before_it_begins(tmp_path: Path) -> None:
    stopped = load_config("digits", [*TINY, "controller.name=random", "stopping.method=short"])
    Workspace(tmp_path / "random-0").begin(stopped).store.close()
    with pytest.raises(StudyError, match="another section stopping; use --out"):
        evidence.begun(tmp_path, "digits", TINY, 0, ("guided", "random"))
    assert not (tmp_path / "guided-0").exists()


def test_evidence_computes_the_arms_of_a_seed_alike(tmp_path: Path) -> None:
    noted = [*TINY[:-1], "controller.name=random", "execution.numerics=bfloat16 contiguous"]
    Workspace(tmp_path / "random-0").begin(load_config("digits", noted)).store.close()
    found = evidence.begun(tmp_path, "digits", TINY[:-1], 0, ("guided", "random"))
    assert {c.execution.numerics for c in found.values()} == {"bfloat16 contiguous"}


def test_evidence_trains_for_good_where_and_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("digits", [*TINY, "execution.device=meta"])
    assert isinstance(config, ImageConfig)
    asked: dict[str, Any] = {}

    class Result:
        test_accuracy = 0.5

    def train(*_: object, **given: Any) -> Result:
        asked.update(given)
        return Result()

    monkeypatch.setattr(evidence, "train_final", train)
    seed = evidence.Seed(tmp_path, config, 0, {})
    made = config.training
    network = evidence.Network("net", lambda *_: None, made, None, 1, 0.0)  # type: ignore[arg-type]
    assert seed.tested(network, 0) == 0.5
    assert asked["device"] == "meta"
    assert str(asked["numerics"]) == "float32 contiguous"
    asked.clear()
    longer = evidence.Seed(tmp_path, load_config("digits", [*TINY, "final.epochs=2"]), 0, {})  # type: ignore[arg-type]
    longer.tested(network, 0)
    assert asked, "another final training must not get the earlier one's result"


@pytest.mark.parametrize("point", [None, POINT], ids=["its own", "of the grid"])
def test_evidence_trains_an_architecture_for_good_as_the_command_does(
    point: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wider by `final.widen`, and at the rate of its own token, before which a point's goes."""
    settings = [*TINY, "controller.name=random", "final.widen=3", "space.learning_rates=[0.02]"]
    config = load_config("digits", settings)
    assert isinstance(config, ImageConfig)
    study = Workspace(tmp_path / "random-0").begin(config)
    study.run(2)
    seed = evidence.Seed(tmp_path, config, 0, {"random": study})
    seen: list[tuple[Any, Any, list[int]]] = []

    class Trained(Exception):  # noqa: N818
        pass

    def train(make: Any, data: Any, recipe: Any, **_: Any) -> Any:
        module = make((1, 8, 8), 10)
        seen.append((data, recipe, [p.numel() for p in module.parameters()]))
        raise Trained

    monkeypatch.setattr(images, "train_final", train)
    monkeypatch.setattr(evidence, "train_final", train)
    best = study.best.architecture
    with pytest.raises(Trained):
        config.train_final(study.space, best, point=point, child_seed=1, opened=lambda: None)
    network = seed.winner("random", False) if point is None else None
    network = network or seed._designed("net", study.space, best, point, 0.0)
    with pytest.raises(Trained):
        seed.tested(network, 0)
    assert seen[0] == seen[1]
    assert seen[0][1].learning_rate == (0.03 if point else 0.02)
    assert network.parameters == sum(seen[0][2])
    assert study.best.evaluation is not None
    assert network.parameters > study.best.evaluation.parameters
    study.store.close()


def test_a_cells_journal_is_of_one_cell_and_one_recipe(tmp_path: Path) -> None:
    sets = ["data.source=text", "execution.numerics=float32 contiguous"]
    config, place = load_config("chars-small", sets), tmp_path / "a.db"
    _, space, lstm = named("lstm", config)
    cells.journal(config, space, lstm, place).close()
    cells.journal(config, space, lstm, place).close()
    _, other, nascell = named("nascell", config)
    with pytest.raises(StudyError, match="another space, architecture; use --out"):
        cells.journal(config, other, nascell, place)
    longer = load_config("chars-small", [*sets, "final.epochs=9"])
    with pytest.raises(StudyError, match="another config; use --out"):
        cells.journal(longer, space, lstm, place)


def test_finals_refuses_two_cells_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="different names"):
        cells.finals("chars-small", [], ["lstm", "lstm"], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cache_keeps_what_another_process_wrote_meanwhile(tmp_path: Path) -> None:
    cache = tmp_path / "finals.json"

    def make() -> float:
        cache.write_text(json.dumps({"theirs": 0.25}))
        return 0.5

    assert shared.kept(cache, "ours", make) == 0.5
    assert json.loads(cache.read_text()) == {"theirs": 0.25, "ours": 0.5}
    assert shared.kept(cache, "theirs", make) == 0.25


# --- what is told ---------------------------------------------------------------------------------


def test_a_search_that_never_gets_there_is_a_bound() -> None:
    base = scale.Needed([1000, 1200], 8000)
    assert base.told(base).split() == ["1100", "±", "100", "+0.0%", "2", "of", "2"]
    lost = scale.Needed([1000, None], 8000)
    assert lost.told(base).split() == [">=4500", "±", "3500", ">=+309.1%", "1", "of", "2"]
    assert "-" in base.told(lost).split()


def test_what_does_not_reach_the_level_needed_nothing_known() -> None:
    given = argparse.Namespace(rate=0.003, limit=2.0, level=2.0)
    assert scale._evaluations("one", 1, Mode(), 0, given, 16) is None
    given.level = 0.0
    assert scale._evaluations("one", 1, Mode(), 0, given, 16) is not None


def test_a_table_of_landscapes_looks_no_further_than_it_has_trials() -> None:
    rows = np.arange(8.0).reshape(2, 4)
    measure = Measure(name="score", lower=True, values={"a": rows, "b": rows + 1})
    found = landscapes.table(measure, [2, 50], 4)
    assert "mean over landscapes" in found
    assert "seeds" not in found
    assert "| controller | 2 trials | 4 trials |" in found


def test_no_postgresql_ends_no_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(_: float) -> None:
        pytest.skip("no PostgreSQL here")

    monkeypatch.setattr(faults, "outage", none)
    monkeypatch.setattr(sys, "argv", ["faults", "--kills", "0", "--each", "0", "--orphans", "0"])
    faults.main()
    assert "not measured, no PostgreSQL here" in capsys.readouterr().out


def test_every_measurement_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No study of an earlier `make bench` is gone on with."""
    places: list[str] = []
    parts = "startup controller overhead cell children words scale workers faults"
    for name in parts.split():
        monkeypatch.setattr(getattr(every, name), "main", lambda: None)
    monkeypatch.setattr(every, "compare", lambda _, folder, **given: places.append(str(folder)))
    monkeypatch.setattr(evidence, "main", lambda: places.append(sys.argv[-1]))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)
    every.main()
    every.main()
    assert len(set(places)) == 4
    assert not any(Path(place).exists() for place in places)


# --- early stopping on a closed form ------------------------------------------------------------


def test_a_landscape_tells_the_worth_of_networks_with_the_error_of_a_training() -> None:
    config = shared.image_config("cifar10-small", [])
    space = config.make_space()
    sound = thrift.Noisy(space, 3, epochs=8, spread=0.02, noise=0.0, short=0.0)
    drawn = [space.sample(random.Random(seed)) for seed in range(300)]
    worth = [sound.worth(architecture) for architecture in drawn]
    assert np.std(worth) == pytest.approx(0.02, rel=0.2)
    assert abs(np.mean(worth)) < 0.006
    whole = sound.evaluate(drawn[0], 1, "cpu")
    assert whole.curve == (worth[0],) * 8
    short = Rule(rungs=(), short=0.25, alone=True)
    assert sound.evaluate_until(drawn[0], 1, "cpu", short).score == worth[0] - 0.1
    noisy = thrift.Noisy(space, 3, epochs=8, spread=0.02, noise=0.01, short=0.03)
    told = {"whole": None, "short": short}
    for name, rule in told.items():
        errors = [noisy.evaluate_until(drawn[0], seed, "cpu", rule).score for seed in range(300)]
        expected = 0.01 if name == "whole" else 0.03
        assert np.std(errors) == pytest.approx(expected, rel=0.2), name


def test_arms_stand_beside_the_reference_on_the_same_landscapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = "a quarter=stopping.method=short;stopping.keep=0;stopping.share=0.25"
    words = ["--landscapes", "2", "--arm", arm, "--set", "study.trials=8", "--noise", "0"]
    monkeypatch.setattr(sys, "argv", ["thrift", *words, "--short-noise", "0"])
    thrift.main()
    lines = capsys.readouterr().out.splitlines()
    equal = "+0.0000 [+0.0000, +0.0000]"
    assert lines[2:] == [f"| full | {equal} | 1.000 |", f"| a quarter | {equal} | 0.250 |"]
