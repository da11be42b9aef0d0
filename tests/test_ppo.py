"""PPO: its loss by hand, its first step, and results that come late."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from netwright.controllers.losses import clipped_loss
from netwright.controllers.ppo import Ppo, PpoSettings
from netwright.errors import ConfigError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.space import Architecture
from netwright.trial import Trial
from tests.strategies import small_space


def _trial(architecture: Architecture, reward: float, log_prob: float | None = None) -> Trial:
    return Trial(
        number=0, batch=0, architecture=architecture, seed=0, reward=reward, log_prob=log_prob
    )


def test_the_clipped_loss_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5 and 1.1; advantages 2, -2, 2, -2 and 2; clip 0.2.

    min(3, 2.4) + min(-3, -2.4) + min(1, 1.6) + min(-1, -1.6) + 2.2 = 2.4 - 3 + 1 - 1.6 + 2.2 = 1.
    The first and the fourth are clipped and have no gradient; that of another is -r A / 5.
    """
    then = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0], dtype=torch.float64)
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], dtype=torch.float64)
    now = (then + ratio.log()).requires_grad_()
    adv = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0], dtype=torch.float64)
    loss = clipped_loss(now, then, adv, 0.2)
    assert float(loss.detach()) == pytest.approx(-1 / 5)
    (gradient,) = torch.autograd.grad(loss, now)
    assert gradient.tolist() == pytest.approx([0.0, 0.6, -0.2, 0.0, -0.44])


def test_a_single_step_on_fresh_results_is_reinforce() -> None:
    controller = Ppo(small_space(), PpoSettings(batch=2, epochs=1), seed=2)
    controller.baseline = 0.5
    drawn = controller.propose_scored(2)
    encoded = controller.policy.encoding.encode([architecture for architecture, _ in drawn])
    log_p = controller.policy.score(encoded).log_prob
    by_hand = (log_p[0] * -0.3 + log_p[1] * 0.4) / 2
    expected = torch.autograd.grad(by_hand, list(controller.policy.parameters()), allow_unused=True)
    rewards = (0.2, 0.9)
    controller.tell([_trial(a, r, p) for (a, p), r in zip(drawn, rewards, strict=True)])
    assert controller.baseline == pytest.approx(0.95 * (0.95 * 0.5 + 0.05 * 0.2) + 0.05 * 0.9)
    for parameter, e in zip(controller.policy.parameters(), expected, strict=True):
        if e is not None:
            assert parameter.grad is not None
            assert torch.allclose(-parameter.grad, e, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("then", "moves"), [(2.0, False), (-2.0, True), (0.0, True)])
def test_a_late_result_whose_ratio_has_gone_too_far_teaches_nothing(
    then: float, moves: bool
) -> None:
    """A good architecture that is e^2 times as likely as when it was proposed: clipped away."""
    controller = Ppo(small_space(), PpoSettings(batch=1, epochs=1), seed=2)
    controller.baseline = 0.0
    before = [p.detach().clone() for p in controller.policy.parameters()]
    ((architecture, log_prob),) = controller.propose_scored(1)
    controller.tell([_trial(architecture, 1.0, log_prob - then)])
    same = all(map(torch.equal, before, controller.policy.parameters()))
    assert same is not moves


def test_given_choices_are_not_learned() -> None:
    """The probability of the given option itself gets no gradient."""
    controller = Ppo(small_space(), PpoSettings(batch=4), seed=2)
    controller.baseline = 0.0
    drawn = controller.propose(4, {"type": "a"})
    controller.tell([replace(_trial(a, 1.0), given={"type": "a"}) for a in drawn])
    gradient = controller.policy.head_weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient.any()


def test_it_learns_what_adds_up() -> None:
    space = choices_space(10, 4)
    task = Additive(space, seed=1)
    controller = Ppo(space, PpoSettings(batch=8, learning_rate=0.01, entropy=0.001), seed=1)
    for _ in range(60):
        drawn = controller.propose_scored(8)
        controller.tell([_trial(a, task.expected(a), p) for a, p in drawn])
    mean = sum(task.expected(a) for a in controller.propose(32)) / 32
    assert mean > 0.9
    assert controller.snapshot(0, 16).entropy < 10 * math.log(4) / 2


@pytest.mark.parametrize(("name", "value"), [("clip", 0.0), ("epochs", 0), ("batch", 0)])
def test_bad_settings_are_one_line(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"controller.{name} must be"):
        PpoSettings(**{name: value})  # type: ignore[arg-type]
