"""Warm starts: what a child takes over, and searches whose short trainings begin so."""

from __future__ import annotations

import itertools
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.children.conv import ConvNet, build
from netwright.children.inherit import inherit, likest
from netwright.children.plan import ChildSettings, compile_plan
from netwright.config import load_config
from netwright.controllers.random import RandomSearch
from netwright.data.images import DataSettings
from netwright.errors import ConfigError
from netwright.evaluators import image
from netwright.evaluators.image import ImageEvaluator
from netwright.executors.processes import Processes
from netwright.space import Architecture
from netwright.spaces import conv
from netwright.stopping import Donor, Rule, StoppingSettings
from netwright.store import sqlite_url
from netwright.study import Study
from netwright.training.image import Recipe
from netwright.trial import SHORT, Evaluation, trained
from tests.equal import outcome
from tests.strategies import small_space

SPACE = conv.space(
    "t",
    conv.ConvSettings(depths=(3,), heights=(1, 3), widths=(3, 5), filters=(4, 8), pools=(1,)),
)
IMAGE = (1, 8, 8)


def _net(architecture: Architecture, seed: int, settings: ChildSettings | None = None) -> ConvNet:
    torch.manual_seed(seed)
    return build(SPACE, architecture, IMAGE, 10, settings)


def _values(**changes: object) -> Architecture:
    values: dict[str, object] = {}
    for i in (1, 2, 3):
        values |= {f"layer{i}.height": 3, f"layer{i}.width": 3, f"layer{i}.filters": 8}
        values[f"layer{i}.inputs"] = [f"layer{i - 1}"] if i > 1 else []
    return SPACE.architecture({**values, **changes})


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.booleans())
def test_a_child_of_the_same_architecture_becomes_the_donor(seed: int, norm: bool) -> None:
    child_settings = ChildSettings(batch_norm=norm)
    architecture = SPACE.sample(random.Random(seed))
    child, donor = (_net(architecture, k, child_settings) for k in (1, 2))
    images = torch.rand(4, *IMAGE)
    donor(images)  # moves the moments
    inherit(child, donor)
    with torch.no_grad():
        assert torch.equal(child.eval()(images), donor.eval()(images))


def test_what_the_donor_lacks_stays_and_the_rest_goes_to_its_place() -> None:
    plain = _values()
    changed = {"layer2.filters": 4, "layer2.height": 1, "layer3.inputs": ["layer1", "layer2"]}
    child, donor = _net(_values(**changed), 1), _net(plain, 2)
    drawn = [layer[0].weight.clone() for layer in child.layers]  # type: ignore[index]
    inherit(child, donor)
    one, other = ([layer[0].weight for layer in net.layers] for net in (child, donor))  # type: ignore[index]
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1][:4, :, 1:2]), "four filters, the middle row of pixels"
    assert torch.equal(one[2][:, :8], drawn[2][:, :8]), "layer 1 did not feed layer 3"
    assert torch.equal(one[2][:, 8:], other[2][:, :4])
    assert torch.equal(child.classifier.weight, donor.classifier.weight)


def test_the_likest_gives_the_most_weights_and_the_first_of_equals() -> None:
    full, fewer, loose = (
        _values(),
        _values(**{"layer1.filters": 4}),
        _values(**{"layer3.inputs": []}),
    )
    plans = [compile_plan(SPACE, one, IMAGE, 10) for one in (fewer, full, loose, full)]
    assert likest(plans[1], plans) == 1
    assert likest(plans[1], plans[::2]) == 0
    assert likest(plans[0], plans[:1]) == 0


@pytest.fixture
def evaluator() -> ImageEvaluator:
    data = DataSettings(source="digits", train_limit=500, validation=0.3)
    return ImageEvaluator(
        SPACE, data, Recipe(epochs=3, batch=16, learning_rate=0.05, precision="float32")
    )


def test_a_donor_trained_again_elsewhere_gives_the_same_child(evaluator: ImageEvaluator) -> None:
    first, second = (SPACE.sample(random.Random(k)) for k in (1, 2))
    cold = Rule(rungs=(), short=0.5, wanted=1)
    evaluator.evaluate_until(first, 7, "cpu", cold)
    other = pickle.loads(pickle.dumps(evaluator))
    rule = replace(cold, donors=(Donor(architecture=first.to_json(), seed=7),))
    here, there = (e.evaluate_until(second, 8, "cpu", rule) for e in (evaluator, other))
    assert replace(here, cost=0.0) == replace(there, cost=0.0)
    without = evaluator.evaluate_until(second, 8, "cpu", cold)
    assert here.details[SHORT] != without.details[SHORT]
    assert here.curve == without.curve, "a whole training inherits nothing"


def test_a_donor_trained_again_is_in_the_cost_of_the_child_that_asked_for_it(
    evaluator: ImageEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(image, "clock", lambda device: lambda: float(next(ticks)))
    first, second, third = (SPACE.sample(random.Random(k)) for k in (1, 2, 3))
    rule = Rule(
        rungs=(), short=0.5, wanted=1, donors=(Donor(architecture=first.to_json(), seed=7),)
    )
    costs = [evaluator.evaluate_until(a, 8, "cpu", rule).cost for a in (second, third)]
    assert costs == [2.0, 1.0], "a training is a tick"


def _study(evaluator: ImageEvaluator, url: str = "sqlite://") -> Study:
    stopping = StoppingSettings(method="short", share=0.5, donors=2, keep=0.3, warmup=3, window=9)
    controller = RandomSearch(SPACE, batch=2, seed=1)
    return Study(SPACE, controller, evaluator, url, seed=1, stopping=stopping)


def test_donors_are_the_first_whole_children_however_long_the_search(tmp_path: Path) -> None:
    """Those compared with move on, and stopped ones come between; resumed or not."""
    stopping = StoppingSettings(method="short", share=0.5, donors=4, keep=0.3, warmup=3, window=9)
    space, url = small_space(), sqlite_url(tmp_path / "s.db")

    class Learning:
        def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
            return self.evaluate_until(architecture, seed, device, None)

        def evaluate_until(
            self, architecture: Architecture, seed: int, device: str, rule: Rule | None
        ) -> Evaluation:
            score = random.Random(seed).random()
            curve, judged, details = trained(lambda share, stop: [score], rule, 1)
            return Evaluation(reward=judged[0], score=judged[0], curve=curve, details=details)

    def search(storage: str) -> Study:
        controller = RandomSearch(space, batch=2, seed=1)
        return Study(
            space,
            controller,
            Learning(),
            storage,
            seed=1,
            stopping=stopping,
            retrain_duplicates=True,
        )

    whole, part = search("sqlite://"), search(url)
    whole.run(60)
    for trials in (7, 30, 60):
        part.run(trials)
        if trials < 60:
            part = search(url)
    first = [trial.seed for trial in whole.trials if trial.completed][:4]
    for study in (whole, part):
        rules = [event.payload["rule"] for event in study.events("propose")]
        named = [[donor["seed"] for donor in rule["donors"]] for rule in rules]
        assert all(seeds == first[: len(seeds)] for seeds in named)
        assert named[-1] == first


def test_going_on_elsewhere_and_two_workers_give_the_same_search(
    evaluator: ImageEvaluator, tmp_path: Path
) -> None:
    whole = _study(evaluator)
    whole.run(12)
    rules = [event.payload["rule"] for event in whole.events("propose")]
    assert [len(rule["donors"]) for rule in rules] == [0, 2, 2, 2, 2, 2]
    assert any(trial.stopped == 0 for trial in whole.trials)
    for trials in (3, 12):
        part = _study(pickle.loads(pickle.dumps(evaluator)), sqlite_url(tmp_path / "s.db"))
        part.run(trials)
    two, executor = _study(evaluator), Processes(2)
    try:
        two.run(12, executor)
    finally:
        executor.shutdown()

    def outcomes(study: Study) -> list[object]:
        return [outcome(trial) for trial in study.trials]

    assert outcomes(part) == outcomes(whole)
    assert outcomes(two) == outcomes(whole)


def test_donors_are_named_in_a_study_only_where_there_are_any() -> None:
    cold, warm = (
        load_config("digits", ["stopping.method=short", f"stopping.donors={n}"]) for n in (0, 5)
    )
    assert "donors" not in cold.identity()["stopping"]
    assert warm.identity()["stopping"]["donors"] == 5


def test_cells_inherit_nothing() -> None:
    said = "stopping.donors must be 0 for language, whose children inherit nothing; got 5"
    with pytest.raises(ConfigError, match=said):
        load_config("cell-demo", ["stopping.method=short", "stopping.donors=5"])
