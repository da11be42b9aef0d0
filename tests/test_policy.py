"""The controller's mathematics: exact on spaces small enough to enumerate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netwright.controllers.encoding import Encoding
from netwright.controllers.losses import ema, reinforce_loss
from netwright.controllers.policy import Policy
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.errors import ConfigError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.space import SearchSpace
from netwright.spaces import conv
from netwright.trial import Trial
from tests.strategies import CONV_SPACES, small_space, spaces


def _policy(space: SearchSpace, scale: float = 1.0, heads: str = "decision") -> Policy:
    """Return a double-precision policy far from uniform."""
    return Policy(Encoding(space), units=7, scale=scale, heads=heads, seed=5).double()


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_probabilities_of_a_space_sum_to_1(space: SearchSpace) -> None:
    policy = _policy(space)
    log_p = policy.score(policy.encoding.encode(list(space.enumerate()))).log_prob
    assert float(log_p.detach().exp().sum()) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 1000), st.sampled_from(["decision", "kind"]))
def test_sampled_log_probabilities_equal_teacher_forced_ones(
    space: SearchSpace, seed: int, heads: str
) -> None:
    policy = _policy(space, heads=heads)
    encoded, log_p = policy.sample(9, torch.Generator().manual_seed(seed))
    architectures = policy.encoding.decode(encoded)
    again = policy.encoding.encode(architectures)
    for name in ("active", "learned", "choice", "links", "open"):
        assert torch.equal(getattr(encoded, name), getattr(again, name)), name
    assert torch.allclose(policy.score(again).log_prob, log_p, rtol=0, atol=1e-12)
    assert all(space.architecture(dict(a)) == a for a in architectures)


@pytest.mark.parametrize("name", sorted(CONV_SPACES))
def test_the_same_on_convolutional_spaces(name: str) -> None:
    policy = _policy(CONV_SPACES[name], heads="kind")
    fixed = {"depth": 3} if "depth" in policy.encoding.index else {}
    encoded, log_p = policy.sample(16, torch.Generator().manual_seed(1), fixed)
    architectures = policy.encoding.decode(encoded)
    again = policy.encoding.encode(architectures, [tuple(fixed)] * 16)
    assert torch.allclose(policy.score(again).log_prob, log_p, rtol=0, atol=1e-11)
    for a in architectures:
        assert CONV_SPACES[name].architecture(dict(a)) == a


def test_sampling_follows_the_probabilities() -> None:
    space = small_space()
    policy = _policy(space)
    n = 40_000
    encoded, _ = policy.sample(n, torch.Generator().manual_seed(3))
    drawn = policy.encoding.decode(encoded)
    everything = list(space.enumerate())
    probabilities = policy.score(policy.encoding.encode(everything)).log_prob.exp().tolist()
    for architecture, p in zip(everything, probabilities, strict=True):
        # five standard deviations of a binomial count
        assert abs(drawn.count(architecture) - n * p) < 5 * math.sqrt(n * p * (1 - p)) + 1


def test_reinforce_gradient_averaged_over_a_space_is_that_of_the_expected_reward() -> None:
    """Sum over all a of P(a) grad log P(a) (R(a) - b) = grad of sum over all a of P(a) R(a)."""
    space = small_space()
    policy = _policy(space)
    everything = list(space.enumerate())
    encoded = policy.encoding.encode(everything)
    reward = torch.linspace(-1, 2, len(everything), dtype=torch.float64).sin()

    expected = (policy.score(encoded).log_prob.exp() * reward).sum()
    exact = torch.autograd.grad(expected, list(policy.parameters()), allow_unused=True)

    log_p = policy.score(encoded).log_prob
    p, baseline, m = log_p.detach().exp(), 0.37, len(everything)
    # reinforce_loss is a mean over m draws: weighting draw k by m p_k makes it the expectation
    loss = reinforce_loss(log_p, (reward - baseline) * p * m)
    estimate = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)

    compared = 0
    for e, g in zip(exact, estimate, strict=True):
        assert (e is None) == (g is None)
        if e is not None and g is not None:
            assert torch.allclose(-g, e, rtol=0, atol=1e-12)
            compared += int(e.abs().max() > 1e-6)
    assert compared >= 10  # the gradient is not zero: the comparison means something


def test_the_controllers_update_follows_the_gradient_of_its_batch() -> None:
    """One SGD-like look at Adam's input: the gradient left behind is the paper's estimate."""
    space = small_space()
    controller = PolicyGradient(space, PolicySettings(batch=3), seed=2)
    controller.baseline = 0.5
    drawn = controller.propose(3)
    encoded = controller.policy.encoding.encode(drawn)
    rewards = [0.2, 0.9, 0.4]
    log_p = controller.policy.score(encoded).log_prob
    # (1/m) sum_k grad log P_k (R_k - b), ascended
    by_hand = (log_p[0] * -0.3 + log_p[1] * 0.4 + log_p[2] * -0.1) / 3
    expected = torch.autograd.grad(by_hand, list(controller.policy.parameters()), allow_unused=True)
    controller.tell([_trial(a, r) for a, r in zip(drawn, rewards, strict=True)])
    for parameter, e in zip(controller.policy.parameters(), expected, strict=True):
        if e is not None:
            assert parameter.grad is not None
            assert torch.allclose(-parameter.grad, e, rtol=1e-4, atol=1e-8)


def _trial(architecture: object, reward: float) -> Trial:
    return Trial(number=0, batch=0, architecture=architecture, seed=0, reward=reward)  # type: ignore[arg-type]


def test_the_baseline_is_updated_after_the_advantage() -> None:
    controller = PolicyGradient(small_space(), PolicySettings(batch=2, baseline_decay=0.9), seed=1)
    before = [p.clone() for p in controller.policy.parameters()]
    drawn = controller.propose(2)
    controller.tell([_trial(drawn[0], 0.2), _trial(drawn[1], 0.6)])
    assert controller.baseline == pytest.approx(0.4)  # the first batch only sets it
    assert all(
        torch.equal(a, b) for a, b in zip(before, controller.policy.parameters(), strict=True)
    )
    drawn = controller.propose(2)
    # both advantages are taken against 0.4, so equal rewards of 0.4 leave no gradient
    controller.tell([_trial(drawn[0], 0.4), _trial(drawn[1], 0.4)])
    assert all(p.grad is None or not p.grad.any() for p in controller.policy.parameters())
    # 0.4 -> 0.9 * 0.4 + 0.1 * 1 = 0.46 -> 0.9 * 0.46 + 0.1 * 0 = 0.414
    assert ema(0.4, [1.0, 0.0], 0.9) == pytest.approx(0.414)


def test_given_choices_are_not_learned() -> None:
    space = small_space()
    policy = _policy(space)
    drawn = policy.encoding.decode(policy.sample(4, torch.Generator(), {"type": "a"})[0])
    assert all(a["type"] == "a" for a in drawn)
    free = policy.score(policy.encoding.encode(drawn)).log_prob
    fixed = policy.score(policy.encoding.encode(drawn, [("type",)] * 4)).log_prob
    options = policy.score(policy.encoding.encode(drawn)).options[:, 0, 0]
    assert torch.allclose(free - fixed, options)


def test_the_papers_shape_and_start() -> None:
    policy = PolicyGradient(conv.v1(15)).policy
    assert (policy.lstm.hidden_size, policy.lstm.num_layers) == (35, 2)
    largest = max(float(p.detach().abs().max()) for p in policy.parameters())
    assert 0.079 < largest <= 0.08
    assert sum(p.numel() for p in policy.parameters()) < 40_000


def test_entropy_of_a_uniform_policy_by_hand() -> None:
    controller = PolicyGradient(conv.v1(3), PolicySettings(scale=1e-9))
    # 3 layers of (4, 4, 4) options and 0 + 1 + 2 fair coins
    by_hand = 9 * math.log(4) + 3 * math.log(2)
    assert controller.snapshot(0, 5).entropy == pytest.approx(by_hand, rel=1e-5)
    assert RandomSearch(conv.v1(3)).snapshot(0, 5).entropy == pytest.approx(by_hand, rel=1e-9)


def test_policies_reach_95_percent_of_the_best_and_random_search_does_not() -> None:
    """40 decisions of 4 options with a known optimum, 20 seeds, 960 evaluations each."""
    space = choices_space(40, 4)
    reached, reached_random = 0, 0
    for seed in range(20):
        task = Additive(space, seed=seed, noise=0.01)
        controllers = (
            PolicyGradient(space, PolicySettings(batch=16, learning_rate=0.01), seed=seed),
            RandomSearch(space, seed=seed, batch=16),
        )
        for controller in controllers:
            best = 0.0
            for _ in range(60):
                drawn = controller.propose(16)
                rewards = [task.evaluate(a, seed, "cpu").reward for a in drawn]
                best = max([best, *(task.expected(a) for a in drawn)])
                controller.tell([_trial(a, r) for a, r in zip(drawn, rewards, strict=True)])
            if isinstance(controller, PolicyGradient):
                drawn = controller.propose(64)
                mean = sum(task.expected(a) for a in drawn) / 64
                reached += mean >= 0.95
            else:
                reached_random += best >= 0.95  # even its best of all draws
    assert reached >= 19
    assert reached_random == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("learning_rate", 0.0),
        ("baseline_decay", 1.0),
        ("entropy", -1.0),
        ("heads", "x"),
    ],
)
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"controller.{field} must be"):
        PolicySettings(**{field: value})  # type: ignore[arg-type]
