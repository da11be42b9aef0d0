"""Real children that a rule stops: pictures and text."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from netwright.children.language import LanguageChildSettings
from netwright.config import load_config
from netwright.data.images import DataSettings
from netwright.data.text import TextSettings
from netwright.evaluators.image import ImageEvaluator
from netwright.evaluators.language import LanguageEvaluator
from netwright.spaces import conv, recurrent
from netwright.stopping import Rule, Rung, StoppingSettings
from netwright.training.image import Recipe
from netwright.training.language import LanguageRecipe
from netwright.trial import SHORT, STOPPED


def _rule(threshold: float, lower: bool) -> Rule:
    rung = Rung(epoch=2, threshold=threshold, scores=(0.5,), rewards=(0.1,))
    return Rule(rungs=(rung,), lower=lower)


@pytest.fixture
def images() -> ImageEvaluator:
    space = conv.space(
        "t", conv.ConvSettings(depths=(2,), heights=(3,), widths=(3,), filters=(8,), pools=(1,))
    )
    data = DataSettings(source="digits", train_limit=200, validation=0.3)
    recipe = Recipe(epochs=3, batch=32, precision="float32")
    return ImageEvaluator(space, data, recipe)


@pytest.fixture
def words(tmp_path: Path) -> LanguageEvaluator:
    for name, seed, size in (("train", 1, 600), ("valid", 2, 120), ("test", 3, 120)):
        draw = random.Random(seed)
        text = "".join(draw.choice(["abc ", "bad ", "cab\n"]) for _ in range(size // 4))
        (tmp_path / f"{name}.txt").write_text(text)
    recipe = LanguageRecipe(
        epochs=3, batch=2, steps=10, optimiser="adam", learning_rate=0.05, schedule="constant"
    )
    return LanguageEvaluator(
        recurrent.space("t", recurrent.RecurrentSettings(base=2)),
        TextSettings(source=str(tmp_path), unit="characters"),
        recipe,
        LanguageChildSettings(width=8),
    )


@pytest.fixture(params=["images", "words"])
def evaluator(request: pytest.FixtureRequest) -> ImageEvaluator | LanguageEvaluator:
    found: ImageEvaluator | LanguageEvaluator = request.getfixturevalue(request.param)
    return found


def test_a_stopped_child_is_the_beginning_of_a_whole_one(
    evaluator: ImageEvaluator | LanguageEvaluator,
) -> None:
    lower = isinstance(evaluator, LanguageEvaluator)
    architecture = evaluator.space.sample(random.Random(0))
    whole = evaluator.evaluate(architecture, 5, "cpu")
    best = min(whole.curve[:2]) if lower else max(whole.curve[:2])
    assert len(whole.curve) == 3
    assert STOPPED not in whole.details
    worse = best + 1e-6 if not lower else best - 1e-6  # a threshold that it does not reach
    stopped = evaluator.evaluate_until(architecture, 5, "cpu", _rule(worse, lower))
    assert stopped.curve == whole.curve[:2]
    assert stopped.score == best
    assert stopped.details == {**whole.details, STOPPED: 2}
    went_on = evaluator.evaluate_until(architecture, 5, "cpu", _rule(best, lower))
    assert replace(went_on, cost=0.0) == replace(whole, cost=0.0)


def test_a_child_is_shortly_trained_then_anew_as_if_it_had_not_been(
    evaluator: ImageEvaluator | LanguageEvaluator,
) -> None:
    lower = isinstance(evaluator, LanguageEvaluator)
    architecture = evaluator.space.sample(random.Random(0))
    whole = evaluator.evaluate(architecture, 5, "cpu")
    passing = Rule(rungs=(), lower=lower, short=0.4)
    found = evaluator.evaluate_until(architecture, 5, "cpu", passing)
    score = float(found.details[SHORT])
    assert score != whole.score
    assert found.details == {**whole.details, SHORT: score}
    assert replace(found, cost=0.0, details=whole.details) == replace(whole, cost=0.0)
    worse = math.nextafter(score, -math.inf if lower else math.inf)
    rung = Rung(epoch=1, threshold=worse, scores=(0.5,), rewards=(0.1,))
    stopped = evaluator.evaluate_until(architecture, 5, "cpu", replace(passing, rungs=(rung,)))
    assert (stopped.curve, stopped.score) == ((), score)
    assert stopped.parameters == whole.parameters
    assert stopped.details == {**found.details, STOPPED: 0}


def test_a_short_training_alone_is_the_one_before_a_whole_one(
    evaluator: ImageEvaluator | LanguageEvaluator,
) -> None:
    lower = isinstance(evaluator, LanguageEvaluator)
    architecture = evaluator.space.sample(random.Random(0))
    rule = Rule(rungs=(), lower=lower, short=0.4)
    whole = evaluator.evaluate_until(architecture, 5, "cpu", rule)
    alone = evaluator.evaluate_until(architecture, 5, "cpu", replace(rule, alone=True))
    assert (alone.curve, alone.details) == ((), whole.details)
    assert alone.score == alone.details[SHORT] != whole.score
    assert alone.short
    assert not whole.short


def test_a_short_training_has_the_whole_schedule_in_a_share_of_the_steps(
    images: ImageEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noted(optimiser: torch.optim.SGD) -> None:
        rates.append(optimiser.param_groups[0]["lr"])
        step(optimiser)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    images.recipe = replace(images.recipe, epochs=4)
    rung = Rung(epoch=1, threshold=2.0, scores=(0.5,), rewards=(0.1,))
    images.evaluate_until(
        images.space.sample(random.Random(0)), 5, "cpu", Rule(rungs=(rung,), short=0.4)
    )
    # 140 training images are 5 batches of up to 32 an epoch, of which 2 are trained.
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_a_rung_at_the_last_epoch_stops_nothing(images: ImageEvaluator) -> None:
    images.recipe = replace(images.recipe, epochs=2)
    found = images.evaluate_until(
        images.space.sample(random.Random(0)), 5, "cpu", _rule(2.0, lower=False)
    )
    assert len(found.curve) == 2
    assert STOPPED not in found.details


def test_the_section_is_part_of_a_study_only_where_it_stops_children() -> None:
    plain = load_config("digits")
    assert plain.stopping == StoppingSettings()
    assert "stopping" not in plain.identity()
    halving = load_config("digits", ["stopping.method=halving", "stopping.rungs=[1,3]"])
    assert halving.identity()["stopping"]["rungs"] == (1, 3)
    assert halving.make_study("sqlite://").store.header()["stopping"]["lower"] is False
    cells = load_config("cell-demo", ["stopping.method=halving"])
    assert cells.make_study("sqlite://").store.header()["stopping"]["lower"] is True


@pytest.mark.parametrize("method", ["halving", "short"])
def test_a_search_on_pictures_marks_who_was_stopped(method: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from netwright.cli import app

    def run(*command: str) -> str:
        result = CliRunner().invoke(app, [*command])
        assert result.exit_code == 0, result.output
        return result.output

    folder = str(tmp_path / "s")
    settings = {
        "stopping.method": method,
        "stopping.rungs": "[1]",
        "stopping.warmup": "2",
        "training.epochs": "2",
        "data.train_limit": "200",
        "space.depths": "[2]",
        "space.pools": "[1]",
        "space.filters": "[4,8]",
        "controller.name": "random",
        "controller.batch": "2",
        "study.trials": "8",
        "execution.numerics": "float32 channels_last",
    }
    chosen = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    said = run("search", "digits", "--study", folder, *chosen)
    assert "stopped early" in said
    shown = json.loads(run("top", folder, "--json"))
    assert shown["stopped"]
    assert not shown["failed"]
    assert all(row["stopped_after"] is None for row in shown["top"])
    one = shown["stopped"][0]
    assert one["stopped_after"] == len(one["curve"]) == (1 if method == "halving" else 0)
    after = "epoch 1" if method == "halving" else "its short training"
    assert f"when it was stopped after {after}" in run("show", folder, str(one["trial"]))
    assert json.loads(run("status", folder, "--json"))["stopped"] == len(shown["stopped"])
