"""REINFORCE with a moving-average baseline: the paper's controller (3.2, 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from netwright.controllers.encoding import Encoding
from netwright.controllers.losses import ema, reinforce_loss
from netwright.controllers.policy import Policy, snapshot
from netwright.controllers.threads import single_thread
from netwright.protocols import PolicySnapshot
from netwright.rules import Section
from netwright.seeding import derive_seed
from netwright.space import Architecture, Option, SearchSpace
from netwright.trial import Trial


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """The policy gradient's settings; the defaults are the paper's where it states them.

    batch: m, children an update, >= 1 (8).
    learning_rate: Adam's, > 0 (0.0006).
    units, layers: of the LSTM, >= 1 (35, 2).
    scale: weights start uniform in [-scale, scale], > 0 (0.08).
    baseline_decay: of the moving average, in [0, 1) (unstated; 0.95).
    entropy: weight of an entropy bonus in nats, >= 0 (0: the paper has none).
    accumulate: n, gradients of `batch` children each, averaged for one step, >= 1 (10 for Penn
        Treebank, 1 for CIFAR-10).
    staleness: what to do for architectures that were proposed before the last step. "sampling":
        take their gradient at the parameters that sampled them (the paper's replicas);
        "importance": at the parameters of now, each weighted by the ratio of its probabilities now
        and then, at most `limit`; "none": ignore it.
    limit: of that weight, > 0 (2.0).
    heads: "decision" or "kind", see `Policy` (unstated).
    """

    batch: int = 8
    learning_rate: float = 0.0006
    units: int = 35
    layers: int = 2
    scale: float = 0.08
    baseline_decay: float = 0.95
    entropy: float = 0.0
    accumulate: int = 1
    staleness: str = "sampling"
    limit: float = 2.0
    heads: str = "decision"

    STALENESS: ClassVar[tuple[str, ...]] = ("sampling", "importance", "none")

    def __post_init__(self) -> None:
        section = Section("controller", self)
        section.at_least(1, "batch", "units", "layers", "accumulate")
        section.at_least(0, "entropy")
        section.above(0, "learning_rate", "scale", "limit")
        section.one_of("staleness", self.STALENESS)
        section.one_of("heads", ("decision", "kind"))
        if not 0 <= self.baseline_decay < 1:
            section.refuse("baseline_decay", "must be in [0, 1)")


FLYING = 5000  # proposals whose parameters are remembered


@dataclass(frozen=True, kw_only=True)
class Told:
    """A trial that waits for its update."""

    architecture: Architecture
    given: tuple[str, ...]
    reward: float
    batch: int
    log_prob: float | None


class PolicyGradient:
    """Proposes by sampling the policy; every `batch` trials told make one gradient.

    The baseline is an exponential moving average of earlier architectures' rewards, updated after
    the advantage is taken. Its first value is unstated in the paper: here the first batch only
    sets it, to the batch's mean, so that no advantage depends on its own reward.

    Proposals may be in flight together: the parameters that sampled each are kept until all of its
    trials are told. Trials name their proposal by `Trial.batch`, counted from 0.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: PolicySettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.space = space
        self.settings = settings or PolicySettings()
        self.batch = self.settings.batch
        self._seed = seed
        self._encoding = Encoding(space)
        self.policy = self._new_policy()
        self._scratch = self._new_policy()  # takes the parameters of an earlier proposal
        self._adam = torch.optim.Adam(
            self.policy.parameters(), lr=self.settings.learning_rate, fused=True
        )
        self._proposals = 0
        self._waiting: list[Told] = []
        self._flying: dict[int, int] = {}  # by proposal: its trials that are not learned from
        self._sampled_at: dict[int, Tensor] = {}  # its parameters, where they are not those of now
        self._gradients: list[Tensor] = []  # summed, of `_summed` of them
        self._summed = 0
        self.baseline: float | None = None

    def _new_policy(self) -> Policy:
        return Policy(
            self._encoding,
            units=self.settings.units,
            layers=self.settings.layers,
            scale=self.settings.scale,
            heads=self.settings.heads,
            seed=derive_seed(self._seed, 0, "policy"),
        )

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Sample n architectures; `given` fixes choices, on which nothing is learned."""
        return [architecture for architecture, _ in self.propose_scored(n, given)]

    def propose_scored(
        self, n: int, given: Mapping[str, Option] | None = None
    ) -> list[tuple[Architecture, float]]:
        """Sample n architectures, each with its log-probability in nats."""
        seed = derive_seed(self._seed, self._proposals, "propose")
        self.replay_propose(n, given)
        with single_thread():
            generator = torch.Generator().manual_seed(seed)
            encoded, log_prob = self.policy.sample(n, generator, given)
        return list(zip(self._encoding.decode(encoded), log_prob.tolist(), strict=True))

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._flying[self._proposals] = n
        self._proposals += 1
        if len(self._flying) > FLYING:  # abandoned ones must not fill the memory
            self._landed(next(iter(self._flying)))

    def _landed(self, proposal: int) -> None:
        self._flying.pop(proposal, None)
        self._sampled_at.pop(proposal, None)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take rewards in; learn once `batch` of them wait."""
        for trial in trials:
            if trial.reward is None:
                raise ValueError(f"trial {trial.number} was told without a reward")
            told = Told(
                architecture=trial.architecture,
                given=tuple(trial.given),
                reward=trial.reward,
                batch=trial.batch,
                log_prob=trial.log_prob,
            )
            self._waiting.append(told)
        while len(self._waiting) >= self.batch:
            now, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            self._learn(now)

    def _learn(self, batch: list[Told]) -> None:
        """Take the gradient of one batch, and a step where enough are accumulated."""
        rewards = [told.reward for told in batch]
        if self.baseline is None:
            self.baseline = sum(rewards) / len(rewards)
        else:
            with single_thread():
                self._add_gradient(batch, self.baseline)
            self.baseline = ema(self.baseline, rewards, self.settings.baseline_decay)
        for told in batch:
            if told.batch in self._flying:
                self._flying[told.batch] -= 1
                if self._flying[told.batch] <= 0:
                    self._landed(told.batch)
        if self._summed >= self.settings.accumulate:
            with single_thread():
                self._step()

    def _add_gradient(self, batch: list[Told], baseline: float) -> None:
        groups: dict[int | None, list[Told]] = {}
        for told in batch:
            old = self.settings.staleness == "sampling" and told.batch in self._sampled_at
            groups.setdefault(told.batch if old else None, []).append(told)
        for proposal, members in groups.items():
            policy = self.policy
            if proposal is not None:
                policy = self._scratch
                with torch.no_grad():
                    vector_to_parameters(self._sampled_at[proposal], policy.parameters())
            policy.zero_grad()
            loss = self._loss(policy, members, baseline) * (len(members) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            found = [_gradient(parameter) for parameter in policy.parameters()]
            if self._gradients:
                found = [a + b for a, b in zip(self._gradients, found, strict=True)]
            self._gradients = found
        self._summed += 1

    def _loss(self, policy: Policy, members: list[Told], baseline: float) -> Tensor:
        encoded = self._encoding.encode(
            [told.architecture for told in members], [told.given for told in members]
        )
        scores = policy.score(encoded)
        adv_k = torch.tensor([told.reward - baseline for told in members])
        adv_k = adv_k.to(scores.log_prob.dtype) * self._weights(scores.log_prob.detach(), members)
        loss = reinforce_loss(scores.log_prob, adv_k)
        return loss - self.settings.entropy * scores.entropy.mean()

    def _weights(self, now: Tensor, members: list[Told]) -> Tensor:
        """Return the truncated ratio of each architecture's probabilities now and when proposed.

        1 for what was proposed since the last step, or by a policy that is not known.
        """
        if self.settings.staleness != "importance":
            return torch.ones_like(now)
        then = [
            float(value) if told.log_prob is None or self._is_fresh(told) else told.log_prob
            for told, value in zip(members, now.tolist(), strict=True)
        ]
        return (now - torch.tensor(then, dtype=now.dtype)).exp().clamp(max=self.settings.limit)

    def _is_fresh(self, told: Told) -> bool:
        return told.batch in self._flying and told.batch not in self._sampled_at

    def _step(self) -> None:
        """Step by the mean of the accumulated gradients."""
        stale = [proposal for proposal in self._flying if proposal not in self._sampled_at]
        if stale:
            now = torch.empty(0)
            if self.settings.staleness == "sampling":
                now = parameters_to_vector(self.policy.parameters()).detach().clone()
            self._sampled_at.update(dict.fromkeys(stale, now))
        for parameter, gradient in zip(self.policy.parameters(), self._gradients, strict=True):
            parameter.grad = gradient / self._summed
        self._adam.step()
        self._gradients, self._summed = [], 0

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimiser, baseline, and what waits or is in flight."""
        return {
            "policy": self.policy.state_dict(),
            "adam": self._adam.state_dict(),
            "baseline": self.baseline,
            "proposals": self._proposals,
            "flying": dict(self._flying),
            "sampled_at": dict(self._sampled_at),
            "gradients": list(self._gradients),
            "summed": self._summed,
            "waiting": [
                {**asdict(told), "architecture": dict(told.architecture), "given": list(told.given)}
                for told in self._waiting
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self._adam.load_state_dict(state["adam"])
        self.baseline = state["baseline"]
        self._proposals = int(state["proposals"])
        self._flying = dict(state["flying"])
        self._sampled_at = dict(state["sampled_at"])
        self._gradients, self._summed = list(state["gradients"]), int(state["summed"])
        self._waiting = [
            Told(
                **{
                    **told,
                    "architecture": self.space.architecture(told["architecture"]),
                    "given": tuple(told["given"]),
                }
            )
            for told in state["waiting"]
        ]

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Average the probabilities of each decision over `samples` drawn architectures."""
        return snapshot(self.policy, seed, samples, given)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
