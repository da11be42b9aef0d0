"""Precision of language models: the compiled loss, the choice, and no perplexity lost."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor

from netwright.children import aligned, steps
from netwright.children.aligned import linear
from netwright.children.language import LanguageChildSettings, LanguageModel
from netwright.children.output import Output
from netwright.children.steps import fast_layer, plain_layer
from netwright.config import load_config
from netwright.errors import ConfigError
from netwright.training import numerics
from netwright.training.language import NARROW, PLAIN, LanguageRecipe, train
from netwright.training.language_numerics import chosen_for
from netwright.training.limits import no_denormals
from tests.strategies import PUBLISHED

CUTOFFS = [(), (20, 70)]


def _loss(output: Output, name: str, x: Tensor, targets: Tensor, low: bool) -> list[Tensor]:
    """Return a third of the loss and its gradients."""
    x = x.clone().requires_grad_()
    output.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        total = getattr(output, name)(x, targets)
    (total.float() / 3).backward()
    gradients = [x.grad, *(p.grad for p in output.parameters())]
    return [total.detach().float(), *(g.clone() for g in gradients if g is not None)]


@pytest.fixture(params=[False, True], ids=["vectors", "tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Lay bfloat16 out for a processor without tiles, and for one with them."""
    monkeypatch.setattr(aligned, "has_tiles", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("cutoffs", CUTOFFS)
@pytest.mark.parametrize("low", [False, True])
def test_the_compiled_loss_is_pytorchs(cutoffs: tuple[int, ...], low: bool, tiles: bool) -> None:
    torch.manual_seed(0)
    output = Output(150, 24, cutoffs)
    for parameter in output.parameters():
        torch.nn.init.normal_(parameter)
    x, targets = torch.randn(40, 24), torch.randint(150, (40,))
    expected = _loss(output, "plain_loss", x, targets, False)
    got = _loss(output, "loss", x, targets, low)
    assert len(got) == len(expected) == (6 if cutoffs else 4)
    for a, b in zip(got, expected, strict=True):
        near = (0.03 if low else 1e-5) * float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=near)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_lost_says_so(bad: float) -> None:
    output = Output(100, 4)
    torch.nn.init.ones_(output.weight)
    x = torch.ones(2, 4)
    x[1, 2] = bad
    assert not bool(torch.isfinite(output.loss(x, torch.tensor([1, 2]))))


def test_a_logit_far_below_is_worth_nothing_and_one_far_above_everything() -> None:
    output = Output(3, 1)
    with torch.no_grad():
        output.weight.copy_(torch.tensor([[0.0], [-500.0], [500.0]]))
    x = torch.ones(1, 1)  # the loss is 500 - the logit, the other words being worth nothing
    found = [float(output.loss(x, torch.tensor([k])).detach()) for k in range(3)]
    assert found == pytest.approx([500.0, 1000.0, 0.0])


@pytest.mark.parametrize("columns", [5, 32, 79])
def test_products_over_whole_tiles_are_those_of_torch(columns: int, tiles: bool) -> None:
    assert aligned.aligned(torch.ones(2, columns), torch.bfloat16).shape[1] == (
        aligned.whole(columns) if tiles else columns
    )
    torch.manual_seed(0)
    drawn = [torch.randn(20, columns), torch.randn(24, columns) / 9, torch.randn(24)]
    found = []
    for function in (torch.nn.functional.linear, linear):
        x, w, bias = (t.clone().requires_grad_() for t in drawn)
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x, w, bias)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([y.detach().float(), *(t.grad for t in (x, w, bias) if t.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=0.03, atol=0.03 * float(a.abs().max()))
    x, w, bias = drawn
    assert torch.equal(linear(x, w, bias), torch.nn.functional.linear(x, w, bias))


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_steps_are_near_the_plain_ones(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PACKED", 0 if packed else 1 << 60)
    torch.manual_seed(0)
    units, sizes = 79, (20, 20, 7)  # a step is several tiles, which end within rows
    drawn = [torch.randn(47, 8 * units), torch.randn(8 * units, units) / 9, torch.randn(20, units)]
    found = []
    for layer, kind in ((plain_layer, torch.float32), (fast_layer, torch.bfloat16)):
        z, u, h = (t.to(torch.bfloat16).to(kind).requires_grad_() for t in drawn)
        out, c = layer(PUBLISHED, z, u, None, h, h, sizes)
        (out.float().square().sum() + c.float().sum()).backward()  # type: ignore[no-untyped-call]
        found.append(
            [t.detach().float() for t in (out, c, z.grad, u.grad, h.grad) if t is not None]
        )
    for a, b in zip(*found, strict=True):  # on average: a relu near 0 may fall to the other side
        assert float((a - b).abs().mean()) < 0.02 * float(a.abs().mean())


def test_small_models_and_processors_without_bfloat16_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(numerics, "STEADY", math.inf)
    numerics._speeds.cache_clear()
    recipe, child = LanguageRecipe(batch=2, steps=2), LanguageChildSettings(budget=10_000)
    assert chosen_for(recipe, child, 100) == PLAIN
    assert chosen_for(recipe, child, 1_000) == PLAIN  # no width is that small
    assert chosen_for(LanguageRecipe(precision="bfloat16"), child, 100) == NARROW
    assert not list(tmp_path.rglob("*.json"))
    large = LanguageChildSettings(budget=40_000)  # as cell-demo's
    assert chosen_for(recipe, large, 60) in (PLAIN, NARROW)
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    assert len(list(tmp_path.rglob("numerics.json"))) == native


def test_precision_left_to_the_machine_is_no_part_of_a_study_and_is_noted() -> None:
    config = load_config("ptb-small")
    assert "precision" not in config.identity()["training"]
    assert config.settled().execution.numerics in (str(PLAIN), str(NARROW))
    fixed = load_config("ptb-small", ["training.precision=bfloat16"])
    assert fixed.identity()["training"]["precision"] == "bfloat16"
    assert fixed.settled().execution.numerics == str(NARROW)
    with pytest.raises(ConfigError, match=r"training.precision must be one of auto, float32"):
        load_config("ptb-small", ["training.precision=float8"])


def test_denormal_numbers_are_zero_inside_only() -> None:
    x = torch.tensor(1e-39)
    with no_denormals():
        assert float(x * 1) == 0
    assert float(x * 1) > 0


def test_bfloat16_reaches_the_perplexity_of_float32() -> None:
    """Over 3 seeds: the means differ by less than the spread of seeds in float32."""
    text = torch.arange(1200) * torch.arange(1200) // 7 % 23
    child = LanguageChildSettings(width=24, layers=1)
    recipe = LanguageRecipe(
        epochs=2, batch=4, steps=10, optimiser="adam", learning_rate=0.02, schedule="constant"
    )
    found: dict[str, list[float]] = {}
    for case in (PLAIN, NARROW):
        for seed in (1, 2, 3):
            torch.manual_seed(seed)
            model = LanguageModel(PUBLISHED, 23, child, scale=0.3)
            curve = train(model, text, text[:300], recipe, seed, numerics=case)
            found.setdefault(case.precision, []).append(curve[-1])
            assert all(p.dtype == torch.float32 for p in model.parameters())
    narrow, plain = found["bfloat16"], found["float32"]
    assert narrow != plain  # it was another arithmetic
    assert max(plain) < 20  # something was learned: a guess has 23
    assert abs(statistics.mean(narrow) - statistics.mean(plain)) < max(plain) - min(plain)
