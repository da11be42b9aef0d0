"""Training language models: the loop by hand, what it measures, what fails, and the final step."""

from __future__ import annotations

import math
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from netwright.children.language import Dropouts, LanguageChildSettings, LanguageModel
from netwright.data.text import TextSettings, load_final_text, load_search_text
from netwright.errors import ChildError, ConfigError, DataError, TimeLimitError
from netwright.evaluators import language
from netwright.evaluators.language import (
    FinalLanguage,
    LanguageEvaluator,
    core_of,
    score_of,
    train_final,
)
from netwright.spaces import gated, recurrent
from netwright.training.language import LanguageRecipe, perplexity, reward_of, train

SPACE = recurrent.space("t", recurrent.RecurrentSettings(base=2))
CHILD = LanguageChildSettings(width=8)
QUICK: dict[str, Any] = {
    "epochs": 3,
    "batch": 2,
    "steps": 10,
    "optimiser": "adam",
    "learning_rate": 0.05,
    "schedule": "constant",
    "scale": 0.3,
}


def model_of(vocabulary: int, core: Any = "lstm", scale: float = 0.3) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(core, vocabulary, CHILD, scale=scale)


@pytest.fixture
def text(tmp_path: Path) -> TextSettings:
    """Characters of a text with some order, in three files."""
    for name, seed, size in (("train", 1, 600), ("valid", 2, 120), ("test", 3, 130)):
        draw = random.Random(seed)
        words = (draw.choice(["abc ", "bad ", "cab\n"]) for _ in range(size // 4))
        (tmp_path / f"{name}.txt").write_text("".join(words))
    return TextSettings(source=str(tmp_path), unit="characters")


# --- rates --------------------------------------------------------------------------------------


def test_zarembas_medium_rates() -> None:
    """1 for 6 epochs, then divided by 1.2 each: 1/1.2, 1/1.44; 33 divisions at the 39th epoch."""
    recipe = LanguageRecipe(epochs=39)
    rates = [recipe.rate(epoch, 0.5) for epoch in range(39)]
    assert rates[:6] == [1.0] * 6
    assert rates[6:9] == pytest.approx([1 / 1.2, 1 / 1.44, 1 / 1.728])
    assert rates[38] == pytest.approx(1.2**-33)


def test_drops_and_cosine_and_constant_rates() -> None:
    drops = LanguageRecipe(
        epochs=8, schedule="drops", drops=(0.5, 0.75), decay_factor=0.1, learning_rate=2.0
    )
    expected = [2.0] * 4 + [0.2] * 2 + [0.02] * 2
    assert [drops.rate(epoch, 0.9) for epoch in range(8)] == pytest.approx(expected)
    # (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 1 of 4 epochs
    cosine = LanguageRecipe(epochs=4, schedule="cosine", learning_rate=2.0)
    found = [cosine.rate(0, 0), cosine.rate(1, 0), cosine.rate(1, 1.0), cosine.rate(3, 1.0)]
    assert found == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 0.0])
    constant = LanguageRecipe(epochs=4, schedule="constant", learning_rate=0.3)
    assert {constant.rate(epoch, 0.5) for epoch in range(4)} == {0.3}


# --- the loop -----------------------------------------------------------------------------------


def by_hand(model: LanguageModel, columns: Tensor, epochs: int, **values: float) -> None:
    """Truncated backpropagation in windows of 5 steps, SGD by hand with a cosine rate."""
    parameters = list(model.parameters())
    spans = [(0, 5), (5, 10), (10, 11)]  # 12 tokens a column are 11 inputs
    for epoch in range(epochs):
        state = model.start(columns.shape[1])
        for i, (a, b) in enumerate(spans):
            state = [(h.detach(), c.detach()) for h, c in state]
            features, state = model(columns[a:b], state)
            logits = features.flatten(0, 1) @ model.output.weight.T + model.output.bias
            loss = F.cross_entropy(logits, columns[a + 1 : b + 1].flatten(), reduction="sum")
            gradients = torch.autograd.grad(loss / columns.shape[1], parameters)
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
            factor = min(1.0, values["clip"] / norm)
            rate = values["rate"] * (1 + math.cos(math.pi * (epoch + i / 3) / epochs)) / 2
            with torch.no_grad():
                for p, g in zip(parameters, gradients, strict=True):
                    p.sub_(rate * (factor * g + values["decay"] * p))


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_the_loop_is_truncated_backpropagation_by_hand(clip: float) -> None:
    """26 tokens in 2 columns of 13, of which windows of 5, 5 and 2 inputs are made."""
    tokens = torch.randint(0, 4, (25,), generator=torch.Generator().manual_seed(1))
    columns = tokens[:24].view(2, 12).t()  # the last token is over
    recipe = LanguageRecipe(
        epochs=3,
        batch=2,
        steps=5,
        learning_rate=0.7,
        weight_decay=0.01,
        clip=clip,
        schedule="cosine",
    )
    model, expected = model_of(4), model_of(4)
    train(model, tokens, None, recipe, seed=1)
    by_hand(expected, columns, 3, rate=0.7, clip=clip, decay=0.01)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_repeated_text_is_learned_by_heart() -> None:
    tokens = torch.tensor([0, 1, 2, 3, 4] * 60)
    recipe = LanguageRecipe(**QUICK | {"epochs": 10})
    curve = train(model_of(5), tokens, tokens, recipe, seed=1)
    assert len(curve) == 10
    assert curve[0] < 5.5
    assert curve[-1] < 1.1


def test_what_stands_before_the_window_is_used() -> None:
    """In 0 0 1 1 0 0 1 1 ... the unit before last decides; the last one alone leaves even odds.

    So in windows of one step, a model without the state of before would stay at 2 or above.
    """
    tokens = torch.tensor([0, 0, 1, 1] * 60)
    recipe = LanguageRecipe(**QUICK | {"epochs": 8, "steps": 1})
    assert train(model_of(2), tokens, tokens, recipe, seed=1)[-1] < 1.2


def test_each_epoch_is_reported_with_its_validation() -> None:
    told: list[tuple[int, float | None]] = []
    tokens = torch.tensor([0, 1, 2] * 20)
    recipe = LanguageRecipe(**QUICK)
    curve = train(
        model_of(3), tokens, tokens, recipe, 1, on_epoch=lambda e, value: told.append((e, value))
    )
    assert told == list(zip([1, 2, 3], curve, strict=True))
    assert train(model_of(3), tokens, None, recipe, 1) == []


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [2, 50])
def test_a_uniform_guess_has_the_vocabularys_perplexity(vocabulary: int) -> None:
    model = model_of(vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    tokens = torch.randint(0, vocabulary, (101,))
    assert perplexity(model, tokens, LanguageRecipe()) == pytest.approx(vocabulary, rel=1e-5)


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_the_perplexity_of_windows_is_that_of_one_long_window(core: str) -> None:
    model, tokens = model_of(6, core, scale=1.0), torch.randint(0, 6, (40,))
    model.dropouts = Dropouts(output=0.5, recurrent=0.5)  # must not act here
    model.train()
    found = [
        perplexity(model, tokens, LanguageRecipe(steps=steps, eval_batch=2)) for steps in (1, 7, 99)
    ]
    columns = tokens.view(2, 20).t()
    features, _ = model.eval()(columns[:-1], model.start(2))
    logits = features.flatten(0, 1) @ model.output.weight.T + model.output.bias
    expected = math.exp(float(F.cross_entropy(logits, columns[1:].flatten()).detach()))
    assert found == pytest.approx([expected] * 3, rel=1e-4)


def test_the_losses_of_windows_are_read_at_once_and_added_up_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, tokens = model_of(6, scale=1.0), torch.randint(0, 6, (400,))
    losses: list[Tensor] = []
    real = model.output.loss

    def noted(features: Tensor, targets: Tensor) -> Tensor:
        losses.append(real(features, targets))
        return losses[-1]

    monkeypatch.setattr(model.output, "loss", noted)
    monkeypatch.setattr(Tensor, "__float__", None)
    found = perplexity(model, tokens, LanguageRecipe(steps=3, eval_batch=2))
    monkeypatch.undo()
    total = 0.0
    for loss in losses:
        total += float(loss)
    assert len(losses) > 60
    assert found == math.exp(total / 398)


def test_a_text_shorter_than_the_columns_is_measured_in_fewer() -> None:
    assert perplexity(model_of(3), torch.tensor([0, 1, 2]), LanguageRecipe(eval_batch=10)) < 10


def test_scores_and_rewards() -> None:
    """8 equal choices are 3 bits; 80 / 4^2 = 5."""
    assert score_of(8.0, "characters") == 3.0
    assert score_of(8.0, "words") == 8.0
    assert reward_of(4.0, LanguageRecipe()) == 5.0
    assert reward_of(4.0, LanguageRecipe(reward_scale=32.0)) == 2.0


def test_training_may_begin_at_the_frequencies() -> None:
    """0 stands 5 times, 1 once, 2 never, plus one each: shares 6/9, 2/9, 1/9.

    Validation text 0 0 1: its targets 0 and 1 have perplexity (6/9 x 2/9) ^ -1/2 = 2.598.
    """
    tokens, valid = torch.tensor([0, 0, 0, 1, 0, 0]), torch.tensor([0, 0, 1])
    still = {"epochs": 1, "batch": 1, "learning_rate": 1e-12, "eval_batch": 1}
    for begun, expected in ((True, math.sqrt(81 / 12)), (False, 3.0)):
        recipe = LanguageRecipe(**still, frequency_bias=begun)  # type: ignore[arg-type]
        found = train(model_of(3, scale=1e-6), tokens, valid, recipe, 1)
        assert found == pytest.approx([expected], rel=1e-4)


# --- the evaluator ------------------------------------------------------------------------------


def evaluator(text: TextSettings, space: Any = SPACE, **recipe: Any) -> LanguageEvaluator:
    return LanguageEvaluator(space, text, LanguageRecipe(**QUICK | recipe), CHILD)


def learns() -> Any:
    """Return a cell of base 2 all of whose parts are at work."""
    cell = recurrent.Cell((("add", "tanh"),) * 3, ("add", "tanh"), 1, 0)
    return recurrent.architecture_of(SPACE, cell)


def test_a_seed_fixes_a_child_to_the_bit(text: TextSettings) -> None:
    made = evaluator(text, hidden_dropout=0.3, recurrent_dropout=0.3)
    before = torch.random.get_rng_state()
    one, two = (made.evaluate(learns(), 5, "cpu") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.curve == two.curve
    assert made.evaluate(learns(), 6, "cpu").curve != one.curve


def test_the_seed_of_a_training_draws_its_dropout() -> None:
    tokens = torch.tensor([0, 1, 2] * 20)
    curves = []
    for seed in (1, 1, 2):
        model = model_of(3)
        model.dropouts = Dropouts(output=0.5)
        curves.append(train(model, tokens, tokens, LanguageRecipe(**QUICK), seed))
    assert curves[0] == curves[1] != curves[2]


def test_an_evaluation_is_of_the_best_epoch(text: TextSettings) -> None:
    """c / perplexity^2, and perplexity = 2^bits."""
    found = evaluator(text).evaluate(learns(), 1, "cpu")
    assert len(found.curve) == 3
    assert found.score == min(found.curve)
    assert found.reward == pytest.approx(80 / 4**found.score)
    assert found.details == {"width": 8}
    # 7 units: 2 layers x 2 x 8 x 16 + 7 x 8 + 7 x 9
    assert found.parameters == 631
    assert found.score < math.log2(7)


def test_the_best_epoch_need_not_be_the_last(tmp_path: Path) -> None:
    """What is learned of "abab" makes a validation text of another kind ever less likely."""
    for name, content in (("train", "ab" * 300 + "c"), ("valid", "aabbc" * 20)):
        (tmp_path / f"{name}.txt").write_text(content)
    made = evaluator(TextSettings(source=str(tmp_path), unit="characters"), learning_rate=0.003)
    found = made.evaluate(learns(), 1, "cpu")
    assert found.score == min(found.curve) < found.curve[-1]
    assert found.reward == pytest.approx(80 / 4**found.score)


@pytest.mark.parametrize("layer", gated.LAYERS)
def test_hand_designed_layers_go_the_same_way(layer: str, text: TextSettings) -> None:
    space, architecture = gated.architecture(layer)
    assert core_of(space, architecture) == layer
    found = evaluator(text, space).evaluate(architecture, 1, "cpu")
    assert found.score < math.log2(7)


def test_an_evaluator_is_picklable_without_its_text(text: TextSettings) -> None:
    made = evaluator(text)
    result = made.evaluate(learns(), 5, "cpu")
    packed = pickle.dumps(made)
    assert len(packed) < len(pickle.dumps(made.data))
    assert b"netwright.data.text" not in packed
    assert pickle.loads(packed).evaluate(learns(), 5, "cpu").curve == result.curve


def test_a_limit_is_of_the_training_text_alone(text: TextSettings) -> None:
    made = evaluator(text)
    assert made.limited(0) is made
    less = made.limited(50)
    assert torch.equal(less.data.train, made.data.train[:50])
    assert torch.equal(less.data.valid, made.data.valid)
    assert less.data.vocabulary == made.data.vocabulary


def test_the_evaluator_never_touches_the_test_text(text: TextSettings) -> None:
    first = evaluator(text).evaluate(learns(), 5, "cpu")
    (Path(text.source) / "test.txt").write_bytes(b"\xff\xfe garbage \x00")
    made = evaluator(text)
    assert made.evaluate(learns(), 5, "cpu").curve == first.curve
    shutil.rmtree(text.source)
    assert made.evaluate(learns(), 5, "cpu").curve == first.curve


# --- failures -----------------------------------------------------------------------------------


def test_a_diverging_child_is_given_up_long_before_its_end(text: TextSettings) -> None:
    """600 / 2 columns in windows of 1: 299 steps an epoch, and looks at steps 50, 100, ..."""
    epochs: list[int] = []
    seen = load_search_text(text)
    recipe = LanguageRecipe(**QUICK | {"steps": 1, "optimiser": "sgd", "learning_rate": 1e6})
    with pytest.raises(ChildError, match=r"diverged.* by step 50, the limit"):
        train(
            model_of(len(seen.vocabulary)),
            seen.train,
            seen.valid,
            recipe,
            seed=1,
            on_epoch=lambda epoch, _: epochs.append(epoch),
        )
    assert epochs == []


def test_an_epoch_ends_with_a_look(text: TextSettings) -> None:
    """600 / 2 columns in windows of 10 are 30 steps, fewer than those between looks."""
    with pytest.raises(ChildError, match=r"diverged.* by step 30"):
        evaluator(text, optimiser="sgd", learning_rate=1e6).evaluate(learns(), 1, "cpu")


def test_the_limit_is_a_multiple_of_a_uniform_guess(text: TextSettings) -> None:
    """The loss begins near ln 7 nats, above 1.0001 x 0.5 ln 7 but not above twice it."""
    slow = {"learning_rate": 1e-9, "scale": 1e-6}
    evaluator(text, **slow, give_up=1.01).evaluate(learns(), 1, "cpu")
    with pytest.raises(ConfigError, match="give_up must be above 1"):
        LanguageRecipe(give_up=1.0)


def test_a_loss_that_is_no_number_fails_the_child() -> None:
    model = model_of(3)
    with torch.no_grad():
        model.output.bias.fill_(math.nan)
    with pytest.raises(ChildError, match="loss on a text was not finite"):
        perplexity(model, torch.tensor([0, 1, 2, 0]), LanguageRecipe())
    with pytest.raises(ChildError, match=r"diverged: nan"):
        train(model, torch.tensor([0, 1, 2] * 9), None, LanguageRecipe(**QUICK), 1)


def test_the_time_limit_fails_the_child(text: TextSettings) -> None:
    with pytest.raises(TimeLimitError, match=r"past its time limit of 0.05 s"):
        evaluator(text, epochs=300, time_limit=0.05).evaluate(learns(), 1, "cpu")
    recipe = LanguageRecipe(**QUICK | {"steps": 1, "time_limit": 0.01})
    with pytest.raises(TimeLimitError):  # within an epoch, not only while validating
        train(model_of(3), torch.tensor([0, 1, 2] * 400), None, recipe, 1)


BAD: dict[str, Any] = {
    "epochs": 0, "batch": 0, "steps": 0, "eval_batch": 0, "learning_rate": math.nan, "clip": 0.0,
    "scale": math.inf, "reward_scale": -1.0, "weight_decay": -1.0, "time_limit": math.nan,
    "decay_after": -1, "decay_factor": 0.0, "hidden_dropout": 1.0, "recurrent_dropout": -0.1,
    "embedding_dropout": math.nan, "optimiser": "adamw", "schedule": "linear", "drops": (0.7, 0.5),
    "give_up": math.nan,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_bad_recipes_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"training.{name} must") as caught:
        LanguageRecipe(**{name: value})
    assert len(str(caught.value).splitlines()) == 1


# --- the final step -----------------------------------------------------------------------------


def finish(text: TextSettings, opened: Callable[[], None], told: list[Any]) -> FinalLanguage:
    recipe = LanguageRecipe(**QUICK | {"epochs": 6, "learning_rate": 0.1})
    return train_final(
        "lstm",
        text,
        recipe,
        CHILD,
        seed=3,
        opened=opened,
        on_epoch=lambda epoch, value: told.append((epoch, value)),
    )


def test_the_final_step_keeps_the_best_epoch_and_tests_it_once(tmp_path: Path) -> None:
    """What is learned of "abab" makes a validation text of another kind ever less likely."""
    (tmp_path / "train.txt").write_text("ab" * 300 + "c")
    (tmp_path / "valid.txt").write_text("aabbc" * 20)
    (tmp_path / "test.txt").write_text("bbaac" * 20)
    text = TextSettings(source=str(tmp_path), unit="characters")
    told: list[Any] = []
    opened: list[int] = []
    found = finish(text, lambda: opened.append(len(told)), told)
    assert opened == [0]  # a test text that is bad costs no training
    assert told == list(zip(range(1, 7), found.curve, strict=True))
    assert found.valid_score == min(found.curve) < found.curve[-1]
    parts = load_final_text(text, lambda: None)
    for score, part in ((found.valid_score, parts.valid), (found.test_score, parts.test)):
        measured = math.log2(perplexity(found.model, part, LanguageRecipe(**QUICK)))
        assert measured == pytest.approx(score)
    assert found.vocabulary == parts.vocabulary
    assert found.unit == "characters"
    assert found.seconds > 0
    assert found.stopped == ""


def test_the_final_step_says_so_before_it_opens_the_test_text(
    text: TextSettings, tmp_path: Path
) -> None:
    test = tmp_path / "test.txt"
    content = test.read_text()
    told: list[Any] = []
    test.write_bytes(b"\xff\xfe garbage \x00")
    found = finish(text, lambda: told.append(test.write_text(content)), told)
    assert 0 < found.test_score < math.log2(7)


def test_a_final_training_that_is_lost_keeps_the_epochs_before(text: TextSettings) -> None:
    """What comes after the third epoch is lost; what is lost in the first fails.

    So it is with cells whose state overflows once they are trained enough.
    """

    def lost(epoch: int, _: float | None) -> None:
        if epoch == 3:
            raise ChildError("lost")

    recipe = LanguageRecipe(**QUICK | {"epochs": 9})
    found = train_final("lstm", text, recipe, CHILD, seed=3, opened=lambda: None, on_epoch=lost)
    assert len(found.curve) == 3
    assert found.valid_score == min(found.curve)
    assert found.stopped == "lost"
    opened: list[int] = []
    recipe = LanguageRecipe(**QUICK | {"optimiser": "sgd", "learning_rate": 1e6})
    with pytest.raises(ChildError, match=r"loss diverged: .* nats a unit by step"):
        train_final("lstm", text, recipe, CHILD, seed=3, opened=lambda: opened.append(1))
    assert opened == [1]


def test_a_bad_test_text_is_refused_before_the_training(text: TextSettings, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes(b"caf\xe9 " * 50)
    told: list[Any] = []
    with pytest.raises(DataError, match=r"must be in UTF-8; .*test\.txt is not"):
        finish(text, lambda: None, told)
    assert told == []


def test_a_model_that_is_lost_on_the_test_text_is_kept(
    text: TextSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> float:
        raise ChildError("the loss on a text was not finite or absurd: nan nats a unit")

    monkeypatch.setattr(language, "perplexity", lost)
    found = finish(text, lambda: None, [])
    assert found.test_score == math.inf
    assert found.stopped.startswith("on the test text the loss")
    assert math.isfinite(found.valid_score)
