"""Language models: the output layer, the width that a budget gives, and what dropout drops."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netwright.children.language import (
    Core,
    Dropouts,
    LanguageChildSettings,
    LanguageModel,
    Layer,
    parameters_at,
    solve_width,
)
from netwright.children.output import Output
from netwright.errors import ConfigError
from netwright.spaces.recurrent import Cell, RecurrentSettings, cell_of, space

TANH = Cell((("add", "tanh"),) * 7, ("add", "tanh"), 5, 1)  # base 4, nothing that stays at zero


def refused(call: Any, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    text = str(caught.value)
    assert text.splitlines() == [text]
    assert text.count("; ") >= 2, text  # rule; value; remedy
    for word in words:
        assert word in text


# --- the output layer ---------------------------------------------------------------------------


def filled(vocabulary: int, units: int, cutoffs: tuple[int, ...], seed: int) -> Output:
    output = Output(vocabulary, units, cutoffs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in output.parameters():
            parameter.normal_(0, 2, generator=generator)
    return output


@st.composite
def outputs(draw: st.DrawFn, most: int = 4) -> tuple[Output, Tensor, Tensor]:
    """Return an output layer, features and targets among which every unit may be."""
    vocabulary = draw(st.integers(2, 30))
    places = st.lists(st.integers(1, vocabulary - 1), max_size=most, unique=True)
    output = filled(vocabulary, 3, tuple(sorted(draw(places))), draw(st.integers(0, 99)))
    targets = draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=12))
    return output, torch.randn(len(targets), 3), torch.tensor(targets)


@given(outputs())
def test_the_probabilities_of_all_units_sum_to_one(made: tuple[Output, Tensor, Tensor]) -> None:
    output, features, targets = made
    probabilities = output.log_probabilities(features).exp()
    assert probabilities.shape == (len(targets), len(output.bias))
    assert torch.allclose(probabilities.sum(1), torch.ones(len(targets)), atol=1e-5)


@given(outputs())
def test_the_loss_is_what_the_probabilities_say(made: tuple[Output, Tensor, Tensor]) -> None:
    output, features, targets = made
    expected = -output.log_probabilities(features).gather(1, targets[:, None]).sum()
    assert torch.allclose(output.loss(features, targets), expected, rtol=1e-4, atol=1e-4)


@given(outputs(most=0))
def test_without_cutoffs_it_is_a_softmax(made: tuple[Output, Tensor, Tensor]) -> None:
    output, features, targets = made
    logits = features @ output.weight.T + output.bias
    expected = F.cross_entropy(logits, targets, reduction="sum")
    assert torch.allclose(output.loss(features, targets), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(output.log_probabilities(features), logits.log_softmax(1), atol=1e-5)


@given(outputs(), st.data(), st.booleans())
def test_targets_that_are_left_out_are_in_neither_loss_nor_gradient(
    made: tuple[Output, Tensor, Tensor], data: st.DataObject, narrow: bool
) -> None:
    output, features, targets = made
    out = data.draw(st.lists(st.booleans(), min_size=len(targets), max_size=len(targets)))
    targets = torch.where(torch.tensor(out), -100, targets)
    features.requires_grad_()
    found = []
    for loss in (output.loss, output.plain_loss):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            total = loss(features, targets)
        gradients = torch.autograd.grad(total, [features, *output.parameters()])
        assert not gradients[0][torch.tensor(out)].any()
        found.append([total, *gradients])
    bound = 0.1 if narrow else 1e-4
    torch.testing.assert_close(*found, rtol=bound, atol=bound, check_dtype=not narrow)


@pytest.mark.parametrize("cutoffs", [(), (4,)])
@pytest.mark.parametrize(
    ("targets", "kind", "says"),
    [
        ([1, 10], IndexError, r"in \[0, 10\), the vocabulary, or -100 .*; got 10$"),
        ([1 << 32, 1], IndexError, "got 4294967296$"),
        ([-100, -1], IndexError, "got -1$"),
        ([-101, 10], IndexError, "got -101$"),
        ([1], ValueError, r"int64 \[2\], one for each row of features; got int64 \[1\]$"),
        ([[1, 2]], ValueError, r"got int64 \[1, 2\]$"),
        ([1.0, 2.0], ValueError, r"got float32 \[2\]$"),
    ],
)
def test_targets_that_are_none_are_refused(
    cutoffs: tuple[int, ...], targets: Any, kind: type[Exception], says: str
) -> None:
    output = filled(10, 3, cutoffs, 0)
    with pytest.raises(kind, match=says):
        output.loss(torch.randn(2, 3), torch.tensor(targets))


def test_a_loss_of_no_rows_is_0() -> None:
    assert filled(10, 3, (4,), 0).loss(torch.randn(0, 3), torch.randint(10, (0,))) == 0


@pytest.mark.parametrize("cutoffs", [(), (4, 7)])
def test_torchs_default_device_is_no_matter(cutoffs: tuple[int, ...]) -> None:
    output, features, targets = filled(9, 3, cutoffs, 0), torch.randn(9, 3), torch.arange(9)

    def gradients() -> list[Tensor]:
        loss = output.loss(features, targets)
        return [loss, *torch.autograd.grad(loss, list(output.parameters()))]

    expected = gradients()
    with torch.device("meta"):
        got = gradients()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_range_has_a_token_and_a_softmax_of_its_own() -> None:
    """Zero features leave the biases: the head (0, ln 3) gives unit 0 a share of 1 / (1 + 3).

    The range of units 1 and 2 has 3/4; its biases (ln 3, 0) part that as 3 to 1.
    """
    output = filled(3, 2, (1,), 0)
    assert output.ranges is not None
    with torch.no_grad():
        output.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))
        output.bias[1:] = output.bias[1:].log()
        output.ranges.bias.fill_(3.0).log_()
    shares = output.log_probabilities(torch.zeros(1, 2)).exp()
    assert torch.allclose(shares, torch.tensor([[1 / 4, 9 / 16, 3 / 16]]))


@pytest.mark.parametrize("cutoffs", [(), (2,), (1, 3), (1, 2, 3)])
def test_it_starts_from_the_frequencies(cutoffs: tuple[int, ...]) -> None:
    """Counts (5, 2, 1, 0), plus one each: (6, 3, 2, 1) of 12."""
    output = filled(4, 3, cutoffs, 1)
    output.start_from(torch.tensor([5, 2, 1, 0]))
    shares = output.log_probabilities(torch.zeros(2, 3)).exp()
    assert torch.allclose(shares, torch.tensor([[1 / 2, 1 / 4, 1 / 6, 1 / 12]] * 2))


@pytest.mark.parametrize("cutoffs", [(0,), (-1,), (9,), (4,), (3, 2), (2, 2), (1, 4)])
def test_cutoffs_out_of_order_or_beyond_the_vocabulary_are_refused(cutoffs: Any) -> None:
    refused(lambda: Output(4, 2, cutoffs), "child.cutoffs must rise within (0, 4)")
    chosen = LanguageChildSettings(cutoffs=cutoffs)
    refused(lambda: solve_width("lstm", 4, chosen), f"got {list(cutoffs)}")


# --- size ---------------------------------------------------------------------------------------


def cell(base: int, seed: int) -> Cell:
    found = space("c", RecurrentSettings(base=base))
    return cell_of(found.sample(random.Random(seed)))


def test_parameters_by_hand() -> None:
    """LSTM, width 4, embedding 3, biases, 10 units, a cutoff.

    Layer 1: 4 gates x 4 x (3 + 4) = 112, and two biases of 16; layer 2: 16 x (4 + 4) = 128, and 32;
    embedding 10 x 3; output 10 x (4 + 1); the range's token 4 + 1: 144 + 160 + 30 + 50 + 5.
    """
    chosen = LanguageChildSettings(embedding=3, bias=True, cutoffs=(5,))
    assert parameters_at("lstm", 10, chosen, 4) == 389


@settings(max_examples=40)
@given(
    core=st.sampled_from(["lstm", "gru"]) | st.builds(cell, st.integers(2, 8), st.just(1)),
    vocabulary=st.integers(6, 40),
    width=st.integers(1, 9),
    layers=st.integers(1, 3),
    embedding=st.sampled_from([0, 3]),
    bias=st.booleans(),
    shared=st.booleans(),
    cutoffs=st.sampled_from([(), (2,), (1, 5)]),
)
def test_parameters_are_those_of_the_built_model(
    core: Core, vocabulary: int, width: int, embedding: int, shared: bool, **values: Any
) -> None:
    embedding = 0 if shared else embedding
    chosen = LanguageChildSettings(width=width, embedding=embedding, shared=shared, **values)
    model = LanguageModel(core, vocabulary, chosen)
    assert model.width == width
    counted = sum(p.numel() for p in model.parameters())
    assert parameters_at(core, vocabulary, chosen, width) == counted
    if isinstance(core, Cell):
        assert parameters_at(core.base, vocabulary, chosen, width) == counted


SIZES = [
    (8, 10_000, {"budget": 20_000_000}),
    ("lstm", 10_000, {"budget": 20_000_000}),
    (8, 10_000, {"budget": 32_000_000}),
    (8, 10_000, {"budget": 25_000_000, "shared": True}),
    (8, 10_000, {"budget": 54_000_000, "shared": True}),
    (8, 50, {"budget": 6_570_000, "embedding": 128}),
    ("lstm", 50, {"budget": 6_570_000, "embedding": 128}),
    (8, 50, {"budget": 16_280_000, "embedding": 128}),
]


@pytest.mark.parametrize(("core", "vocabulary", "values"), SIZES)
def test_the_published_budgets_are_met(core: Any, vocabulary: int, values: Any) -> None:
    chosen = LanguageChildSettings(**values)
    width = solve_width(core, vocabulary, chosen)
    found = parameters_at(core, vocabulary, chosen, width)
    assert abs(found / chosen.budget - 1) < 0.01


def test_the_papers_character_model_is_800_wide() -> None:
    """8 x 800 x (128 + 800) + 8 x 800 x 1600 + 50 x 128 + 50 x 801 = 16,225,650, its 16.28M.

    One unit more gives about 8 x (928 + 800 + 2 x 1600) = 39,424 more, so that 16.28M itself is
    met from 801.
    """
    chosen = LanguageChildSettings(embedding=128, budget=16_225_650)
    assert parameters_at(8, 50, chosen, 800) == 16_225_650
    assert solve_width(8, 50, chosen) == 800
    assert solve_width(8, 50, LanguageChildSettings(embedding=128, budget=16_280_000)) == 801


def test_zarembas_medium_lstm_has_650_units() -> None:
    """2 x 4 x 650 x (1300 + 2) + 10,000 x 650 + 10,000 x 651 = 19,780,400."""
    chosen = LanguageChildSettings(bias=True, budget=19_780_400)
    assert solve_width("lstm", 10_000, chosen) == 650


@given(st.integers(1, 64), st.integers(2, 2000), st.integers(20_000, 10**8), st.booleans())
def test_no_width_comes_nearer_to_the_budget(b: int, vocabulary: int, budget: int, s: bool) -> None:
    chosen = LanguageChildSettings(budget=budget, shared=s, layers=1)
    if parameters_at(b, vocabulary, chosen, 8) > budget:
        refused(lambda: solve_width(b, vocabulary, chosen), "child.budget")
        return
    width = solve_width(b, vocabulary, chosen)

    def miss(at: int) -> int:
        return abs(parameters_at(b, vocabulary, chosen, at) - budget)

    assert width >= 8
    assert miss(width) <= miss(width + 1)
    assert width == 8 or miss(width) <= miss(width - 1)


def test_a_budget_too_small_for_the_vocabulary_is_refused() -> None:
    """Width 8, base 8, 1,000 units: 2 x 8 x 8 x 16 + 1000 x 8 + 1000 x 9 = 19,048."""
    chosen = LanguageChildSettings(budget=19_047)
    refused(lambda: solve_width(8, 1000, chosen), "19,048", "1,000", "19,047", "budget=19048")
    assert solve_width(8, 1000, LanguageChildSettings(budget=19_048)) == 8


def test_shared_weights_are_one_and_all_start_in_the_scale() -> None:
    model = LanguageModel("lstm", 30, LanguageChildSettings(width=6, shared=True), scale=0.01)
    assert model.output.weight is model.embedding.weight
    largest = max(float(p.detach().abs().max()) for p in model.parameters())
    assert 0.008 < largest <= 0.01
    assert not model.output.bias.any()
    apart = LanguageModel("lstm", 30, LanguageChildSettings(width=6))
    assert apart.output.weight is not apart.embedding.weight


# --- dropout ------------------------------------------------------------------------------------


def model_of(core: Core = "lstm", vocabulary: int = 40, **rates: Any) -> LanguageModel:
    torch.manual_seed(0)
    chosen = LanguageChildSettings(width=16)
    return LanguageModel(core, vocabulary, chosen, Dropouts(**rates), scale=0.5)


def seen(model: LanguageModel, inputs: Tensor) -> dict[str, Tensor]:
    """Return what goes into each layer and to the output, [T, N, 16]."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, layer in zip(("input", "hidden"), model.layers, strict=True):

        def keep(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            found[name] = args[0]

        hooks.append(layer.register_forward_pre_hook(keep))
    found["output"] = model(inputs, model.start(inputs.shape[1]))[0]
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("variational", [True, False])
@pytest.mark.parametrize("place", ["input", "hidden", "output"])
def test_a_variational_mask_holds_for_all_steps_and_another_does_not(
    place: str, variational: bool
) -> None:
    inputs = torch.randint(0, 40, (6, 3))
    whole = seen(model_of().eval(), inputs)[place]
    rates: dict[str, Any] = {"variational": variational, place: 0.75}
    found = seen(model_of(**rates).train(), inputs)[place]
    kept = found != 0
    assert torch.allclose(found[kept], 4 * whole[kept], rtol=1e-4, atol=1e-6)  # 1 / (1 - 0.75)
    assert 0.1 < float(kept.float().mean()) < 0.45
    assert bool((kept == kept[0]).all()) is variational
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_only_the_place_that_is_named_is_dropped() -> None:
    inputs = torch.randint(0, 40, (6, 3))
    found = seen(model_of(hidden=0.5).train(), inputs)
    assert (found["input"] != 0).all()
    assert (found["hidden"] == 0).any()
    assert (found["output"] != 0).all()


def test_embedding_dropout_drops_whole_words() -> None:
    inputs = torch.arange(40).repeat(3)[:, None].expand(-1, 2)  # each word 3 times in 2 columns
    whole = seen(model_of().eval(), inputs)["input"]
    found = seen(model_of(embedding=0.5).train(), inputs)["input"].view(3, 40, 2, 16)
    dropped = (found == 0).all(-1)
    assert torch.equal(dropped, dropped[:1, :, :1].expand(3, -1, 2))
    assert 8 < int(dropped[0, :, 0].sum()) < 32
    kept = ~dropped
    assert torch.allclose(found[kept], 2 * whole.view(3, 40, 2, 16)[kept])


@pytest.mark.parametrize("core", ["lstm", "gru", TANH], ids=["lstm", "gru", "cell"])
def test_recurrent_dropout_drops_the_same_units_at_every_step(core: Core) -> None:
    """A unit that no step lets through has a column of W_hh without gradient."""
    torch.manual_seed(0)
    layer = Layer(core, 8, 64, bias=False).train()
    state = (torch.randn(1, 64), torch.randn(1, 64))
    out, _ = layer(torch.randn(12, 1, 8), state, 0.5)
    out.sum().backward()
    weights = layer.cell.get_parameter("weight_hh_l0")
    assert weights.grad is not None
    dropped = int((weights.grad == 0).all(0).sum())
    assert 16 < dropped < 48


@pytest.mark.parametrize("core", ["lstm", "gru", TANH], ids=["lstm", "gru", "cell"])
def test_nothing_is_dropped_in_evaluation(core: Core) -> None:
    rates: dict[str, Any] = {
        "embedding": 0.5,
        "input": 0.5,
        "hidden": 0.5,
        "output": 0.5,
        "recurrent": 0.5,
    }
    model, plain = model_of(core, **rates), model_of(core)
    inputs = torch.randint(0, 40, (6, 3))
    expected = plain(inputs, plain.start(3))[0]
    assert torch.equal(model.eval()(inputs, model.start(3))[0], expected)
    assert not torch.equal(model.train()(inputs, model.start(3))[0], expected)


# --- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_step_by_step_a_gated_layer_is_pytorchs(core: str, bias: bool) -> None:
    torch.manual_seed(2)
    layer = Layer(core, 5, 7, bias)
    x, h, c = torch.randn(4, 3, 5), torch.randn(3, 7), torch.randn(3, 7)
    expected, (h_n, c_n) = layer(x, (h, c))
    found, after = layer._gated(x, h, c, torch.ones_like(h))
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(after[0], h_n, atol=1e-6)
    assert torch.allclose(after[1], c_n, atol=1e-6)


def test_a_masked_unit_is_no_input_of_an_lstm_and_stays_one_of_a_grus_update() -> None:
    """With all of h_(t-1) dropped each step is PyTorch's own from h = 0.

    A GRU's h_t = (1 - u) n + u h_(t-1) has the whole h_(t-1), so u h_(t-1) comes on top: from
    h = 0 a step gives (1 - u) n.
    """
    torch.manual_seed(3)
    x, h, c = torch.randn(1, 3, 5), torch.randn(3, 7), torch.randn(3, 7)
    zero = torch.zeros_like(h)
    lstm = Layer("lstm", 5, 7, bias=False)
    expected, (_, c_n) = lstm(x, (zero, c))
    found, after = lstm._gated(x, h, c, zero)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(after[1], c_n, atol=1e-6)
    gru = Layer("gru", 5, 7, bias=False)
    u = (x[0] @ gru.cell.get_parameter("weight_ih_l0")[7:14].T).sigmoid()
    expected = gru(x, (zero, c))[0] + u * h
    assert torch.allclose(gru._gated(x, h, c, zero)[0], expected, atol=1e-6)


@pytest.mark.parametrize("core", ["lstm", "gru", TANH], ids=["lstm", "gru", "cell"])
def test_two_windows_are_one_long_window(core: Core) -> None:
    model = model_of(core).eval()
    inputs = torch.randint(0, 40, (9, 2))
    whole, end = model(inputs, model.start(2))
    first, between = model(inputs[:4], model.start(2))
    second, after = model(inputs[4:], between)
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-5)
    for pair, expected in zip(after, end, strict=True):
        for one, other in zip(pair, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
