from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from netwright.children.baselines import Vgg, vgg_of_size
from netwright.children.plan import ChildSettings
from netwright.controllers.random import RandomSearch
from netwright.data.images import DataSettings, ImageSet, Pipeline, Preprocess
from netwright.errors import ChildError, ConfigError, TimeLimitError
from netwright.evaluators.image import ImageEvaluator, train_final
from netwright.space import SearchSpace
from netwright.spaces import conv
from netwright.study import Study
from netwright.tasks.images import maker
from netwright.training.image import Recipe, evaluate, reward_of, train
from netwright.training.limits import Deadline, memory_limit
from netwright.training.schedules import step_rate
from netwright.training.seeded import seeded

SPACE = conv.space(
    "t", conv.ConvSettings(depths=(2,), heights=(3,), widths=(3,), filters=(8, 12), pools=(1,))
)
DATA = DataSettings(source="digits", train_limit=300, validation=0.3, whiten="channel")
ALL = DataSettings(source="digits", validation=0.3)
CHAIN = SPACE.architecture(
    {f"layer{i}.{what}": value for i in (1, 2) for what, value in (("height", 3), ("width", 3))}
    | {"layer1.filters": 12, "layer2.filters": 12}
    | {"layer1.inputs": [], "layer2.inputs": ["layer1"]}
)


def _evaluator(space: SearchSpace = SPACE, **recipe: object) -> ImageEvaluator:
    settings = {"epochs": 2, "batch": 32, "reward_epochs": 1, **recipe}
    return ImageEvaluator(space, DATA, Recipe(**settings), seed=4)  # type: ignore[arg-type]


def _pipeline(n: int = 40) -> Pipeline:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8)
    labels = (images[:, 0].float().mean((1, 2)) > 127).long()
    data = ImageSet(images, labels)
    settings = DataSettings()
    return Pipeline(data, Preprocess.fit(data, settings), settings)


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x.flatten(1))
        return out


def test_rates_drop_at_half_and_three_quarters() -> None:
    rates = [step_rate(0.1, epoch, 8, (0.5, 0.75), 0.1) for epoch in range(8)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_reward_is_the_cube_of_the_best_of_the_last_5_epochs() -> None:
    curve = [0.9, 0.1, 0.5, 0.6, 0.2, 0.3]
    assert reward_of(curve, Recipe()) == pytest.approx((0.6, 0.216))
    assert reward_of(curve, Recipe(reward_epochs=2, reward_power=1.0)) == (0.3, 0.3)


def test_one_epoch_is_nesterov_with_weight_decay_by_hand() -> None:
    """The loop against the equations v = 0.9 v + g; w -= rate (g + 0.9 v), g with decay."""
    pipeline, recipe = (
        _pipeline(),
        Recipe(epochs=2, batch=16, learning_rate=0.2, weight_decay=0.01, precision="float32"),
    )
    torch.manual_seed(1)
    model, reference = _Linear(), _Linear()
    reference.load_state_dict(model.state_dict())
    train(model, pipeline, None, recipe, seed=3)

    generator = torch.Generator().manual_seed(3)
    velocity = {p: torch.zeros_like(p) for p in reference.parameters()}
    for epoch in range(2):
        rate = 0.2 * (0.1 if epoch == 1 else 1.0)  # half of 2 epochs is 1; 3/4 rounds to 2
        for images, labels in pipeline.train_batches(16, generator):
            reference.zero_grad()
            nn.functional.cross_entropy(reference(images), labels).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for p in reference.parameters():
                    assert p.grad is not None
                    g = p.grad + 0.01 * p
                    velocity[p] = 0.9 * velocity[p] + g
                    p.sub_(rate * (g + 0.9 * velocity[p]))
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_accuracy_is_counted_over_every_image() -> None:
    pipeline, model = _pipeline(41), _Linear()
    with torch.no_grad():
        right = (
            model(pipeline.preprocess.framed(pipeline.images)).argmax(1) == pipeline.labels
        ).sum()
    assert evaluate(model, pipeline) == int(right) / 41


def test_the_same_seed_trains_the_same_child_and_another_does_not() -> None:
    evaluator = _evaluator()
    a = SPACE.sample(random.Random(0))
    before = torch.random.get_rng_state()
    one, two = (evaluator.evaluate(a, 5, "cpu") for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.curve == two.curve
    assert _evaluator().evaluate(a, 5, "cpu").curve == one.curve
    assert evaluator.evaluate(a, 6, "cpu").curve != one.curve
    assert one.score == max(one.curve[-1:])
    assert one.reward == pytest.approx(one.score**3)
    assert one.parameters > 0


def test_a_seed_touches_no_device_but_the_childs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def state(device: object) -> torch.Tensor:
        asked.append(str(device))
        return torch.zeros(1)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda to, device: asked.append(str(device)))
    before = torch.get_rng_state()
    with seeded(3):
        one = torch.rand(4)
    assert asked == []
    with seeded(3, "cuda:5"):
        other = torch.rand(4)
    assert asked == ["cuda:5", "cuda:5"]
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_children_learn_digits() -> None:
    evaluator = ImageEvaluator(SPACE, ALL, Recipe(epochs=5, batch=16, reward_epochs=3))
    score = evaluator.evaluate(CHAIN, 1, "cpu")
    assert score.score > 0.6  # chance is 0.1
    assert score.curve[-1] > score.curve[0]


def test_evaluators_are_picklable_without_their_data() -> None:
    evaluator = _evaluator()
    a = SPACE.sample(random.Random(0))
    result = evaluator.evaluate(a, 5, "cpu")
    packed = pickle.dumps(evaluator)
    assert len(packed) < 20_000
    assert pickle.loads(packed).evaluate(a, 5, "cpu").curve == result.curve


def test_the_learning_rate_token_is_the_childs_rate() -> None:
    settings = conv.ConvSettings(depths=(1,), filters=(8,), learning_rates=(1e-12, 0.1))
    space = conv.space("rate", settings)
    a = space.architecture(
        {
            "learning_rate": 1e-12,
            "layer1.height": 3,
            "layer1.width": 3,
            "layer1.filters": 8,
            "layer1.inputs": [],
        }
    )
    still = _evaluator(space, epochs=3).evaluate(a, 1, "cpu")
    assert still.score < 0.4  # at such a rate nothing is learned


# --- failures -------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_child_at_once() -> None:
    with pytest.raises(ChildError, match=r"not finite in epoch 1 \(rate 1e\+30\)"):
        _evaluator(learning_rate=1e30).evaluate(SPACE.sample(random.Random(0)), 1, "cpu")


def test_the_time_limit_fails_the_child() -> None:
    with pytest.raises(TimeLimitError, match=r"past its time limit of 0.05 s"):
        _evaluator(epochs=10_000, time_limit=0.05).evaluate(
            SPACE.sample(random.Random(0)), 1, "cpu"
        )
    Deadline(0).check()


def test_the_memory_limit_fails_the_child_and_leaves_the_process_whole() -> None:
    with pytest.raises(ChildError, match="out of memory"), memory_limit(0.125):
        torch.empty(2**27, dtype=torch.float32)
    with pytest.raises(ChildError, match="out of memory"), memory_limit(0.125):
        bytearray(2**29)
    assert torch.zeros(2**27, dtype=torch.uint8).sum() == 0


def test_a_child_has_the_memory_of_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process holds unused already is no part of the limit, so it is only looked for."""
    asked: list[float] = []

    @contextmanager
    def limit(gigabytes: float) -> Iterator[None]:
        asked.append(gigabytes)
        yield

    monkeypatch.setattr("netwright.evaluators.image.memory_limit", limit)
    _evaluator(epochs=1, memory_limit=2.5).evaluate(SPACE.sample(random.Random(0)), 1, "cpu")
    assert asked == [2.5]


def test_other_errors_are_not_called_memory() -> None:
    with pytest.raises(RuntimeError, match="something else"), memory_limit(1.0):
        raise RuntimeError("something else")


def test_failing_children_do_not_stop_a_search() -> None:
    space = conv.space("rates", replace_settings(learning_rates=(1e30, 0.1)))
    study = Study(space, RandomSearch(space, seed=1), _evaluator(space, epochs=1))
    study.run(8)
    failed = [t for t in study.trials if not t.completed]
    assert {t.architecture["learning_rate"] for t in failed} == {1e30}
    assert all("not finite" in str(t.failure) and t.reward == 0.0 for t in failed)
    assert 0 < len(failed) < 8


def replace_settings(**changes: object) -> conv.ConvSettings:
    base = conv.ConvSettings(depths=(1,), heights=(3,), widths=(3,), filters=(8,))
    return replace(base, **changes)  # type: ignore[arg-type]


# --- the final step -------------------------------------------------------------------------


def test_the_final_step_says_that_it_opens_the_test_set_and_trains_on_the_rest() -> None:
    opened: list[int] = []
    epochs: list[int] = []
    result = train_final(
        maker(SPACE, CHAIN, ChildSettings()),
        ALL,
        Recipe(epochs=5, batch=16),
        seed=4,
        child_seed=9,
        opened=lambda: opened.append(1),
        on_epoch=lambda epoch, accuracy: epochs.append(epoch),
    )
    assert opened == [1]
    assert epochs == [1, 2, 3, 4, 5]
    assert 0.5 < result.test_accuracy <= 1.0
    assert (result.shape, len(result.classes)) == ((1, 8, 8), 10)


def test_hand_drawn_networks_have_the_size_asked_for() -> None:
    for size in (20_000, 150_000):
        network = vgg_of_size((3, 16, 16), 10, size)
        assert abs(sum(p.numel() for p in network.parameters()) - size) < 0.15 * size
        assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    # 3x3x1x2 + 3x3x2x2, two batch norms of 2, and a linear layer from 2 to 4
    assert sum(p.numel() for p in Vgg((1, 8, 8), 4, 2, pairs=1).parameters()) == 18 + 36 + 8 + 12


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 1),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("drops", (0.7, 0.5)),
        ("drop_factor", 0.0),
        ("reward_power", 0.0),
        ("memory_limit", math.inf),
        ("precision", "float16"),
    ],
)
def test_bad_recipes_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"training.{field} must"):
        Recipe(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "rates"), [(1, [1.0]), (4, [1.0, 1.0, 0.1, 0.01])])
def test_the_first_epoch_has_the_whole_rate(epochs: int, rates: list[float]) -> None:
    found = [step_rate(1.0, epoch, epochs, (0.5, 0.75), 0.1) for epoch in range(epochs)]
    assert found == pytest.approx(rates)


def test_a_final_training_has_no_limits_of_a_child() -> None:
    recipe = Recipe(epochs=1, time_limit=1e-6, memory_limit=1e-6)
    data = DataSettings(source="digits", train_limit=60)

    def make(image: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    found = train_final(make, data, recipe, seed=0, child_seed=0, opened=lambda: None)
    assert 0 <= found.test_accuracy <= 1
