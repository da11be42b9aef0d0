"""Closed forms with a known optimum: the fakes that tests, examples and benchmarks share.

They are documented as synthetic: their numbers say how a controller searches, nothing of networks.
"""

from __future__ import annotations

import random

from netwright.seeding import rng
from netwright.space import Architecture, Choice, SearchSpace
from netwright.stopping import Rule
from netwright.trial import Evaluation, Stop, trained


class Additive:
    """Reward: the mean, over all decisions, of a table of option values in [0, 1].

    Every decision has one option worth 1; the others are drawn below 1 from `seed` with values
    spread uniformly. For spaces of choices alone; the optimum is 1. `noise` is the standard
    deviation of a Gaussian that depends on the trial's seed.
    """

    def __init__(self, space: SearchSpace, seed: int = 0, noise: float = 0.0) -> None:
        self.noise = noise
        self.values: dict[str, dict[object, float]] = {}
        for i, decision in enumerate(space.decisions):
            assert isinstance(decision, Choice), "Additive takes spaces of choices alone"
            generator = rng(seed, i, "additive")
            values = [generator.random() for _ in decision.options]
            values[generator.randrange(len(values))] = 1.0
            self.values[decision.name] = dict(zip(decision.options, values, strict=True))
        self.optimum = {
            name: max(table, key=lambda option: table[option])
            for name, table in self.values.items()
        }

    def expected(self, architecture: Architecture) -> float:
        """Return the reward without noise."""
        return sum(self.values[n][v] for n, v in architecture.items()) / len(architecture)

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Return the reward."""
        value = self.expected(architecture)
        if self.noise:
            value += random.Random(seed).gauss(0.0, self.noise)
        return Evaluation(reward=value, score=value)


class Learning(Additive):
    """`Additive` with a learning curve of `epochs`, >= 1, whose last score is Additive's.

    The score after epoch e of E is the final value v less `gap` (1 - e / E), with a Gaussian error
    of `noise` that fades as (1 - e / E) and depends on the trial's seed; a short training ends with
    such a score, too. The cost is a second an epoch.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int = 0,
        noise: float = 0.0,
        *,
        epochs: int = 8,
        gap: float = 0.3,
    ) -> None:
        super().__init__(space, seed)
        self.curve_noise, self.epochs, self.gap = noise, epochs, gap

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Return the reward after all epochs."""
        return self.evaluate_until(architecture, seed, device, None)

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        """Return the reward, or what there was when `rule` stopped it."""
        value, epochs = self.expected(architecture), 0.0

        def fit(share: float, stop: Stop | None) -> list[float]:
            nonlocal epochs
            draws = random.Random(seed)
            epochs += share * self.epochs
            if share < 1:
                return [value - (1 - share) * (self.gap + draws.gauss(0.0, self.curve_noise))]
            curve: list[float] = []
            for epoch in range(1, self.epochs + 1):
                left = 1 - epoch / self.epochs
                curve.append(value - left * (self.gap + draws.gauss(0.0, self.curve_noise)))
                if stop is not None and stop(curve):
                    epochs -= self.epochs - epoch
                    break
            return curve

        curve, judged, details = trained(fit, rule, self.epochs)
        return Evaluation(
            reward=judged[-1], score=judged[-1], curve=curve, cost=epochs, details=details
        )


def choices_space(decisions: int = 40, options: int = 4) -> SearchSpace:
    """Return a space of independent choices."""
    return SearchSpace(
        f"choices-{decisions}x{options}",
        [Choice(f"d{i}", tuple(range(options))) for i in range(decisions)],
    )
