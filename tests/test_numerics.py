"""Layout and precision: measured, kept, noted; and no accuracy lost."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netwright.children.conv import LocalContrastNorm, build
from netwright.config import load_config
from netwright.data.images import DataSettings, ImageSet, Pipeline, Preprocess
from netwright.errors import ConfigError
from netwright.evaluators.image import ImageEvaluator
from netwright.space import Architecture
from netwright.spaces import conv
from netwright.tasks import images
from netwright.tasks.images import ImageConfig
from netwright.training import numerics
from netwright.training.image import Recipe, train
from netwright.training.numerics import CASES, Numerics, Speeds, chosen, race
from netwright.workspace import Workspace

PLAIN, CONTIGUOUS, NARROW = CASES
SPACE = conv.space(
    "n", conv.ConvSettings(depths=(2,), heights=(3,), widths=(3,), filters=(12,), pools=(1,))
)


def _child() -> Architecture:
    values: dict[str, object] = {"layer1.inputs": [], "layer2.inputs": ["layer1"]}
    for i in (1, 2):
        values |= {f"layer{i}.height": 3, f"layer{i}.width": 3, f"layer{i}.filters": 12}
    return SPACE.architecture(values)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    numerics._speeds.cache_clear()
    return tmp_path / "netwright" / "numerics.json"


@pytest.mark.parametrize(
    ("speeds", "best"),
    [
        ([10.0, 8.0, 35.0], NARROW),
        ([10.0, 8.0, 1.0], PLAIN),
        ([10.0, 8.0, 0.0], PLAIN),  # cannot be run
        ([10.0, 11.0, 11.4], PLAIN),  # not worth it
        ([10.0, 14.0, 2.0], CONTIGUOUS),
        ([10.0, 14.0, 15.0], NARROW),
    ],
)
@pytest.mark.usefixtures("cache")
def test_the_fastest_is_chosen_where_it_is_clearly_faster(
    speeds: list[float], best: Numerics
) -> None:
    assert chosen(measure=lambda device: Speeds(speeds)) == best


def test_a_measurement_is_kept_and_a_fixed_precision_is_kept_to(cache: Path) -> None:
    asked: list[str] = []

    def measure(device: str) -> Speeds:
        asked.append(device)
        return Speeds([10.0, 14.0, 35.0])

    assert chosen("bfloat16", measure=measure) == NARROW
    assert asked == []  # there is nothing to choose
    assert chosen(measure=measure) == NARROW
    assert chosen("float32", measure=measure) == CONTIGUOUS
    assert asked == ["cpu"]
    assert list(json.loads(cache.read_text()).values()) == [[10.0, 14.0, 35.0]]
    numerics._speeds.cache_clear()  # as in another process
    assert chosen(measure=measure) == NARROW
    assert asked == ["cpu"]
    cache.write_text("not json")
    numerics._speeds.cache_clear()
    assert chosen(measure=measure) == NARROW
    assert asked == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("costs", "steady"),
    [
        ([1.0] * 12, True),
        ([9.0, 1.0, 5.0, 1.0, 7.0, 1.0, 1.0, 3.0, 2.0, 4.0, 1.0, 1.0], True),  # now and then
        ([*[1.9] * 11, 1.0], False),  # nearly all of the time
    ],
)
def test_an_answer_that_a_busy_machine_spoilt_is_not_kept(
    costs: list[float], steady: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain step of 2 s, and another whose seconds round by round are `costs`."""
    left = iter([8.0, *costs])  # the first round warms up
    monkeypatch.setattr(numerics, "_timed", lambda step, device: step())
    found = race([lambda: 2.0, lambda: next(left), lambda: 1.0], "cpu")
    assert (list(found.each), found.steady) == ([0.5, 1.0, 1.0], steady)
    numerics._speeds.cache_clear()
    assert chosen(measure=lambda device: found) == CONTIGUOUS
    assert cache.exists() == steady


def test_a_step_that_is_hopeless_is_taken_three_times() -> None:
    runs: list[int] = []
    found = race([lambda: None, lambda: runs.append(sum(range(300_000)))], "cpu")
    assert len(runs) == 3
    assert found.each[0] > found.each[1]


def test_a_real_measurement_leaves_randomness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "SECONDS", 0.0)
    before = torch.random.get_rng_state()
    speeds = numerics.measured("cpu").each
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(speeds) == len(CASES)
    assert min(speeds[:2]) > 0  # bfloat16 may be refused by a processor


def test_a_step_ends_when_its_own_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device=None: waited.append(device))
    numerics._timed(lambda: None, "cuda:1")
    numerics._timed(lambda: None, "cpu")
    assert waited == ["cuda:1"]


def test_a_case_that_cannot_be_run_has_speed_0(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numerics.child_step

    def refuse() -> None:
        raise RuntimeError("no such type here")

    monkeypatch.setattr(numerics, "SECONDS", 0.0)
    monkeypatch.setattr(
        numerics,
        "child_step",
        lambda case, device: refuse if case == NARROW else real(case, device),
    )
    speeds = numerics.measured("cpu").each
    assert speeds[2] == 0.0
    assert min(speeds[:2]) > 0


def test_a_study_goes_on_with_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("digits", ["data.train_limit=200"])
    assert isinstance(config, ImageConfig)
    monkeypatch.setattr(images, "chosen", lambda precision, device: NARROW)
    study = Workspace(tmp_path / "s").begin(config)
    assert isinstance(study.evaluator, ImageEvaluator)
    assert study.evaluator.numerics == NARROW
    study.store.close()
    monkeypatch.setattr(images, "chosen", lambda precision, device: PLAIN)
    found, study = Workspace(tmp_path / "s").open()
    assert isinstance(found, ImageConfig)
    assert isinstance(study.evaluator, ImageEvaluator)
    assert study.evaluator.numerics == NARROW
    assert found.numerics(found.training) == NARROW
    assert found.identity() == config.identity()
    study.store.close()


def test_a_fixed_precision_is_part_of_what_a_study_is_and_goes_first() -> None:
    config = load_config("digits")
    fixed = load_config("digits", ["training.precision=float32"])
    assert isinstance(fixed, ImageConfig)
    assert "precision" not in config.identity()["training"]
    assert fixed.identity()["training"]["precision"] == "float32"
    noted = replace(fixed, execution=replace(fixed.execution, numerics=str(NARROW)))
    assert noted.numerics(noted.training) is None  # measured, at float32
    with pytest.raises(ConfigError, match=r"execution.numerics must be one of float32 channels_la"):
        load_config("digits", ["execution.numerics=float8"])


def test_bfloat16_gives_the_same_bits_again_and_keeps_weights_in_float32() -> None:
    data = DataSettings(source="digits", train_limit=150, validation=0.3)
    recipe = Recipe(epochs=1, batch=32, precision="bfloat16")
    evaluator = ImageEvaluator(SPACE, data, recipe)
    weights = []
    for _ in range(2):
        torch.manual_seed(1)
        model = build(SPACE, _child(), (1, 8, 8), 10)
        train(model, evaluator.pipelines("cpu")[0], None, recipe, 3)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert weights[0].dtype == torch.float32
    assert torch.equal(weights[0], weights[1])


def test_bfloat16_is_as_accurate_as_float32_on_digits() -> None:
    """Paired over 3 seeds: the mean difference is below the spread of seeds in float32."""
    data = DataSettings(source="digits", train_limit=900, validation=0.3)
    scores: dict[str, list[float]] = {}
    for precision in ("float32", "bfloat16"):
        recipe = Recipe(epochs=4, batch=32, reward_epochs=2, precision=precision)
        evaluator = ImageEvaluator(SPACE, data, recipe)
        scores[precision] = [evaluator.evaluate(_child(), s, "cpu").score for s in (1, 2, 3)]
    narrow, plain = scores["bfloat16"], scores["float32"]
    assert min(plain) > 0.5  # something was learned; chance is 0.1
    assert abs(statistics.mean(narrow) - statistics.mean(plain)) < max(plain) - min(plain) + 0.02


def test_logits_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    model = build(SPACE, _child(), (1, 8, 8), 10).eval()
    x = torch.randn(4, 1, 8, 8)
    with NARROW.cast("cpu"):
        narrow = model(NARROW.images(x))
    plain = model(x)
    assert narrow.dtype == torch.float32
    assert not torch.equal(narrow, plain)  # it was another arithmetic
    assert torch.allclose(narrow, plain, atol=0.02 * float(plain.detach().abs().max()) + 0.02)


def test_contrast_normalisation_of_bfloat16_sums_in_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8).bfloat16()
    found = LocalContrastNorm(3)(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, LocalContrastNorm(3)(x.float()).bfloat16())


def test_the_optimiser_steps_weights_of_any_layout_alike() -> None:
    """Fused steps read memory as it lies: gradients must lie as the weights do."""
    torch.manual_seed(0)
    data = ImageSet(
        torch.randint(0, 256, (32, 3, 6, 6), dtype=torch.uint8), torch.randint(2, (32,))
    )
    settings = DataSettings()
    pipeline = Pipeline(data, Preprocess.fit(data, settings), settings)

    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, (1, 3)), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )  # fmt: skip

    recipe = Recipe(epochs=2, batch=16, learning_rate=0.05)
    reference = network()
    optimiser = torch.optim.SGD(
        reference.parameters(), 0.05, momentum=0.9, weight_decay=1e-4, nesterov=True, foreach=False
    )
    generator = torch.Generator().manual_seed(7)
    for epoch in range(2):
        optimiser.param_groups[0]["lr"] = 0.05 * (0.1 if epoch else 1.0)
        for x, labels in pipeline.train_batches(16, generator):
            optimiser.zero_grad()
            F.cross_entropy(reference(x), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    for case in (PLAIN, CONTIGUOUS):
        model = network()
        train(model, pipeline, None, recipe, 7, numerics=case)
        for a, b in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_enlarged_validation_images_are_framed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageSet(torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8), torch.zeros(9).long())
    settings = DataSettings(upsample=10)
    pipeline = Pipeline(data, Preprocess.fit(data, settings), settings)
    calls: list[int] = []
    real = pipeline.preprocess.framed

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return real(x)

    monkeypatch.setattr(pipeline.preprocess, "framed", counted)
    first = torch.cat([x for x, _ in pipeline.eval_batches(4)])
    again = torch.cat([x for x, _ in pipeline.eval_batches(4)])
    assert calls == [4, 4, 1]
    assert torch.equal(first, real(pipeline.images))
    assert torch.equal(first, again)
