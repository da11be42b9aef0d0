"""Proximal policy optimisation (Schulman et al. 2017) of the paper's controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from netwright.controllers.losses import clipped_loss, ema
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings, Told
from netwright.controllers.threads import single_thread
from netwright.rules import Section
from netwright.space import Option, SearchSpace


@dataclass(frozen=True, kw_only=True)
class PpoSettings(PolicySettings):
    """The policy gradient's settings, of which accumulate, staleness and limit do nothing, and:

    clip: how far a ratio may go from 1 before its gradient ends, > 0 (0.2). epochs: steps on each
    batch, >= 1 (4).
    """

    clip: float = 0.2
    epochs: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        Section("controller", self).at_least(1, "epochs")
        Section("controller", self).above(0, "clip")


class Ppo(PolicyGradient):
    """Proposes as `PolicyGradient`; takes `epochs` clipped steps on every `batch` trials told.

    The ratio is that of the whole architecture's probabilities now and when it was proposed: an
    architecture has one reward, so it is one action, and its probability then is what the journal
    keeps, so results may come late. A trial without one (`Trial.log_prob`) counts as proposed by
    the policy as it is. The baseline is `PolicyGradient`'s.
    """

    settings: PpoSettings

    def __init__(
        self, space: SearchSpace, settings: PpoSettings | None = None, *, seed: int = 0
    ) -> None:
        super().__init__(space, settings or PpoSettings(), seed=seed)

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._proposals += 1

    def _learn(self, batch: list[Told]) -> None:
        rewards = [told.reward for told in batch]
        if self.baseline is None:
            self.baseline = sum(rewards) / len(rewards)
            return
        with single_thread():
            self._steps(batch, self.baseline)
        self.baseline = ema(self.baseline, rewards, self.settings.baseline_decay)

    def _steps(self, batch: list[Told], baseline: float) -> None:
        encoded = self._encoding.encode(
            [told.architecture for told in batch], [told.given for told in batch]
        )
        with torch.no_grad():
            now = self.policy.score(encoded).log_prob
        then = [
            value if told.log_prob is None else told.log_prob
            for told, value in zip(batch, now.tolist(), strict=True)
        ]
        then_k = torch.tensor(then, dtype=now.dtype)
        adv_k = torch.tensor([told.reward - baseline for told in batch], dtype=now.dtype)
        for _ in range(self.settings.epochs):
            self._adam.zero_grad()
            scores = self.policy.score(encoded)
            loss = clipped_loss(scores.log_prob, then_k, adv_k, self.settings.clip)
            loss = loss - self.settings.entropy * scores.entropy.mean()
            loss.backward()  # type: ignore[no-untyped-call]
            self._adam.step()
