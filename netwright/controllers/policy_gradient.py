"""REINFORCE with a moving-average baseline: the paper's controller (3.2, 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from netwright.controllers.encoding import Encoding
from netwright.controllers.losses import ema, reinforce_loss
from netwright.controllers.policy import Policy
from netwright.controllers.threads import single_thread
from netwright.errors import ConfigError, out_of_range
from netwright.protocols import PolicySnapshot
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
    heads: "decision" or "kind", see `Policy` (unstated).
    """

    batch: int = 8
    learning_rate: float = 0.0006
    units: int = 35
    layers: int = 2
    scale: float = 0.08
    baseline_decay: float = 0.95
    entropy: float = 0.0
    heads: str = "decision"

    def __post_init__(self) -> None:
        for name in ("batch", "units", "layers"):
            if getattr(self, name) < 1:
                _refuse(name, "must be 1 or more", getattr(self, name))
        for name in ("learning_rate", "scale"):
            if not getattr(self, name) > 0:
                _refuse(name, "must be above 0", getattr(self, name))
        if not 0 <= self.baseline_decay < 1:
            _refuse("baseline_decay", "must be in [0, 1)", self.baseline_decay)
        if not self.entropy >= 0:
            _refuse("entropy", "must be 0 or more", self.entropy)
        if self.heads not in ("decision", "kind"):
            _refuse("heads", "must be decision or kind", self.heads)


def _refuse(name: str, rule: str, value: object) -> None:
    raise ConfigError(out_of_range(f"controller.{name}", rule, value))


class PolicyGradient:
    """Proposes by sampling the policy; every `batch` trials told make one update.

    The baseline is an exponential moving average of earlier architectures' rewards, updated after
    the advantage is taken. Its first value is unstated in the paper: here the first batch only
    sets it, to the batch's mean, so that no advantage depends on its own reward.
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
        self.policy = Policy(
            self._encoding,
            units=self.settings.units,
            layers=self.settings.layers,
            scale=self.settings.scale,
            heads=self.settings.heads,
            seed=derive_seed(seed, 0, "policy"),
        )
        self._adam = torch.optim.Adam(self.policy.parameters(), lr=self.settings.learning_rate)
        self._proposals = 0
        self._waiting: list[tuple[Architecture, tuple[str, ...], float]] = []
        self.baseline: float | None = None

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Sample n architectures; `given` fixes choices, on which nothing is learned."""
        seed = derive_seed(self._seed, self._proposals, "propose")
        self.replay_propose(n, given)
        with single_thread():
            encoded, _ = self.policy.sample(n, torch.Generator().manual_seed(seed), given)
        return self._encoding.decode(encoded)

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._proposals += 1

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take rewards in; update once `batch` of them wait."""
        for trial in trials:
            if trial.reward is None:
                raise ValueError(f"trial {trial.number} was told without a reward")
            self._waiting.append((trial.architecture, tuple(trial.given), trial.reward))
        while len(self._waiting) >= self.batch:
            now, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            self._update(now)

    def _update(self, batch: list[tuple[Architecture, tuple[str, ...], float]]) -> None:
        rewards = [reward for _, _, reward in batch]
        if self.baseline is None:
            self.baseline = sum(rewards) / len(rewards)
            return
        encoded = self._encoding.encode([a for a, _, _ in batch], [given for _, given, _ in batch])
        adv_k = torch.tensor([reward - self.baseline for reward in rewards])
        with single_thread():
            scores = self.policy.score(encoded)
            loss = reinforce_loss(scores.log_prob, adv_k.to(scores.log_prob.dtype))
            loss = loss - self.settings.entropy * scores.entropy.mean()
            self._adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._adam.step()
        self.baseline = ema(self.baseline, rewards, self.settings.baseline_decay)

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimiser, baseline, waiting rewards and the count of proposals."""
        return {
            "policy": self.policy.state_dict(),
            "adam": self._adam.state_dict(),
            "baseline": self.baseline,
            "proposals": self._proposals,
            "waiting": [
                {"values": dict(a), "given": list(given), "reward": reward}
                for a, given, reward in self._waiting
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self._adam.load_state_dict(state["adam"])
        self.baseline = state["baseline"]
        self._proposals = int(state["proposals"])
        self._waiting = [
            (self.space.architecture(w["values"]), tuple(w["given"]), float(w["reward"]))
            for w in state["waiting"]
        ]

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Average the probabilities of each decision over `samples` drawn architectures."""
        with single_thread(), torch.no_grad():
            generator = torch.Generator().manual_seed(derive_seed(seed, 0, "snapshot"))
            encoded, _ = self.policy.sample(samples, generator, given)
            scores = self.policy.score(encoded)
        options, connections = {}, {}
        for d, choice in self._encoding.choices:
            holds = encoded.active[:, d]
            if not bool(holds.any()):
                continue
            width = len(choice.options)
            p = scores.options[holds, d, :width].exp().mean(0)
            if given and choice.name in given:
                p = torch.tensor([float(o == given[choice.name]) for o in choice.options])
            options[choice.name] = tuple(p.tolist())
        for d, connection in self._encoding.connections:
            holds = encoded.active[:, d]
            i = self._encoding.anchor[connection.anchor]
            if bool(holds.any()):
                p = scores.links[holds, i][:, self._encoding.sources[i]].mean(0)
                connections[connection.name] = tuple(p.tolist())
        return PolicySnapshot(
            entropy=float(scores.entropy.mean()), options=options, connections=connections
        )
