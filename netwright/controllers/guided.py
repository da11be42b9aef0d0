"""A recurrent policy guided by a learned value model: few children, each chosen with care.

The paper's policy writes candidates, beside mutations of the best trials and uniform draws; a value
model taught by all past trials picks among thousands of them what is proposed. The policy is taught
by the same trials: it is drawn towards them by the rank of their reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from netwright.controllers import likeness
from netwright.controllers.attempts import Attempts
from netwright.controllers.designs import Catalogue, Designs, joined
from netwright.controllers.encoding import Encoding
from netwright.controllers.likeness import Features
from netwright.controllers.policy import Policy, snapshot
from netwright.controllers.probing import Probes
from netwright.controllers.threads import single_thread
from netwright.controllers.value import ValueModel, normal_ranks, taught_by
from netwright.protocols import PolicySnapshot
from netwright.rules import Section
from netwright.seeding import derive_seed
from netwright.space import Architecture, Option, SearchSpace
from netwright.trial import Trial

Worth = Callable[[Features], NDArray[Any]]
LEAST = 0.05  # expected improvement, in standard deviations of all rewards, worth a child
LEAST_NOISE = 1e-4  # of the value model: what keeps its covariances solvable
AT_ONCE = 8  # candidates that are written out together; the first is mostly new


@dataclass(frozen=True, kw_only=True)
class GuidedSettings:
    """The guided controller's settings.

    batch: architectures a proposal, >= 1 (1). start: trials before the value model picks, drawn at
    random, >= 1 (10). patience: trials without a better one, after which the search begins anew
    with as many random ones, and learns from what comes then, >= 1 (100).
    sampled, mutants, uniform: candidates for each pick, from the policy, from the best trials and
    from the whole space, >= 0, together >= 1.
    parents: best trials that are mutated, >= 1. rounds: how often the best `survivors` candidates
    are mutated, `offspring` times each, and join them, >= 0, >= 1, >= 1.
    acquisition: "thompson" (each pick is the best in one world drawn from the value model),
    "improvement" (expected), or "both": every second pick by expected improvement, as long as there
    is some to be expected.
    probes: how much of every second pick is left to single changes of the best trial, at random,
    see `Probes`, >= 0; 0: none (1).
    pairs, local: of the value model, see `ValueModel`; each pick draws one of each, for no single
    guess is right. shared, noise (>= 0.0001; more where scores differ from training to training),
    ranked: of it too.
    learning_rate, units, layers, scale: of the policy, as the policy gradient's. replay: trials in
    a step of the policy, >= 1. temperature: of the ranks that weigh them, > 0. entropy: weight of a
    bonus in nats a decision, >= 0.
    """

    batch: int = 1
    start: int = 10
    patience: int = 100
    sampled: int = 128
    mutants: int = 384
    uniform: int = 256
    parents: int = 10
    rounds: int = 3
    survivors: int = 32
    offspring: int = 8
    acquisition: str = "both"
    probes: float = 1.0
    pairs: tuple[float, ...] = (0.2, 0.5, 0.8)
    shared: float = 0.3
    noise: float = 0.02
    local: tuple[float, ...] = (0.3, 0.6)
    ranked: bool = True
    learning_rate: float = 0.005
    units: int = 35
    layers: int = 2
    scale: float = 0.08
    replay: int = 16
    temperature: float = 0.5
    entropy: float = 0.1

    ACQUISITIONS: ClassVar[tuple[str, ...]] = ("thompson", "improvement", "both")

    def __post_init__(self) -> None:
        section = Section("controller.guided", self)
        section.at_least(1, "batch", "start", "patience", "parents", "survivors", "offspring")
        section.at_least(1, "replay", "units", "layers")
        section.at_least(0, "sampled", "mutants", "uniform", "rounds", "probes", "entropy")
        section.above(0, "learning_rate", "scale", "temperature")
        if not self.noise >= LEAST_NOISE:
            section.refuse("noise", f"must be {LEAST_NOISE} or more", LEAST_NOISE)
        for name in ("pairs", "local"):
            shares = tuple(getattr(self, name))
            object.__setattr__(self, name, shares)
            if not shares or not all(0 <= share <= 1 for share in shares):
                section.refuse(name, "must be shares in [0, 1], at least one")
        if not 0 <= self.shared <= 1:
            section.refuse("shared", "must be a share in [0, 1]")
        if self.sampled + self.mutants + self.uniform < 1:
            section.refuse("uniform", "must be 1 or more where there are no other candidates", 1)
        section.one_of("acquisition", self.ACQUISITIONS)


class Guided:
    """Draws `start` trials at random, then picks among candidates by its value model.

    Where nothing gets better for `patience` trials it does so again, from those alone that follow:
    hills that several decisions make together are not left one decision at a time.
    What was told is never proposed again, nor is what shares its canonical form, nor what was
    proposed and not told of yet, unless a thousand candidates are all known.
    """

    @single_thread()
    def __init__(
        self, space: SearchSpace, settings: GuidedSettings | None = None, *, seed: int = 0
    ) -> None:
        self.space = space
        self.settings = settings or GuidedSettings()
        self.batch = self.settings.batch
        self._seed = seed
        self._encoding = Encoding(space)
        self._catalogue = Catalogue(self._encoding)
        self._likeness = likeness.Likeness(self._catalogue)
        self._probes = Probes(self._catalogue)
        self.policy = Policy(
            self._encoding,
            units=self.settings.units,
            layers=self.settings.layers,
            scale=self.settings.scale,
            seed=derive_seed(seed, 0, "policy"),
        )
        self._adam = torch.optim.Adam(
            self.policy.parameters(), lr=self.settings.learning_rate, fused=True
        )
        self._proposals = 0
        self.proposed = 0
        self._out: list[tuple[Architecture, Architecture]] = []  # and forms, not told yet
        self._steps = 0
        self._untaught = 0
        self._told: list[tuple[Architecture, tuple[str, ...], float]] = []
        self._forget()

    def _forget(self) -> None:
        """Begin without what is worked out from the trials told."""
        self._designs = self._catalogue.read([])
        self._features = self._likeness.of(self._designs)
        self._rewards = np.zeros(0)
        self._attempts = Attempts(self.settings.patience, self.settings.start)
        self._known: set[bytes] = set()
        self._forms: set[Architecture] = set()
        self._draws: tuple[object, Designs] | None = None

    # --- proposing --------------------------------------------------------------------------

    @single_thread()
    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Return n architectures; `given` fixes choices."""
        generator = np.random.default_rng(derive_seed(self._seed, self._proposals, "propose"))
        first = self._proposals * self.batch
        self.replay_propose(n, given)
        picked: list[Architecture] = []
        pool: tuple[Designs, Features | None] | None = None
        for turn in range(first, first + n):
            new = self._probed(generator, given, turn)
            if new is None:
                pool = pool or self._pool(generator, given)
                new = self._chosen(*pool, generator, given, turn)
            picked.append(new)
            self.remember(picked[-1:])
        return picked

    @property
    def _taught(self) -> bool:
        """Whether the attempt has its random trials."""
        return len(self._told) - self._attempts.first >= self.settings.start

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._proposals += 1
        self.proposed += n

    def remember(self, architectures: Sequence[Architecture]) -> None:
        """Take what the last proposal returned: until it is told it is not proposed again."""
        self._out += [(found, self.space.canonical(found)) for found in architectures]

    def _probed(
        self, generator: np.random.Generator, given: Mapping[str, Option] | None, turn: int
    ) -> Architecture | None:
        """Return a change of the best trial, where it is a probe's turn and one is new."""
        if turn % 2 or not self.settings.probes or not self._taught:
            return None
        best, told = self._designs[self._best(1)], self._designs[self._attempts.first :]
        probes = self._probes.of(best, told, self.settings.probes, generator, given)
        return self._first_new(probes, np.arange(len(probes)))

    def _chosen(
        self,
        pool: Designs,
        features: Features | None,
        generator: np.random.Generator,
        given: Mapping[str, Option] | None,
        turn: int,
    ) -> Architecture:
        """Return the best new one of the candidates, by the value model once it is taught."""
        order = np.arange(len(pool))
        if features is not None:
            ranked_by, worth = self._worth(features, generator, turn)
            pool, order = self._climbed(pool, worth, ranked_by, generator, given)
        return self._first_new(pool, order) or self._catalogue.written(pool[order[:1]])[0]

    def _worth(
        self, features: Features, generator: np.random.Generator, turn: int
    ) -> tuple[Worth, NDArray[Any]]:
        """Return what candidates are ranked by for one pick, and what those of the pool get."""
        model = self._model(generator)
        kind = self.settings.acquisition
        if kind == "improvement" or (kind == "both" and turn % 2):
            worth = model.improvement(features)
            if kind == "improvement" or worth.max() >= LEAST:
                return model.improvement, worth
        world = model.world(generator)
        return world, world(features)

    def _climbed(
        self,
        pool: Designs,
        worth: NDArray[Any],
        ranked_by: Worth,
        generator: np.random.Generator,
        given: Mapping[str, Option] | None,
    ) -> tuple[Designs, NDArray[Any]]:
        """Mutate the best candidates again and again; return all, and their order, best first."""
        own = self.settings
        for _ in range(own.rounds):
            best = np.argsort(-worth, kind="stable")[: own.survivors]
            parents = pool[np.repeat(best, own.offspring)]
            changes = np.minimum(generator.geometric(0.7, len(parents)), 4)
            new = self._catalogue.mutated(parents, changes, generator, given)
            pool = joined([pool, new])
            worth = np.concatenate([worth, ranked_by(self._likeness.of(new))])
        return pool, np.argsort(-worth, kind="stable")

    def _first_new(self, pool: Designs, order: NDArray[Any]) -> Architecture | None:
        """Return the first candidate in `order` that was not proposed before, in any form."""
        taken = {form for _, form in self._out}
        for first in range(0, min(len(order), 1000), AT_ONCE):
            for found in self._catalogue.written(pool[order[first : first + AT_ONCE]]):
                form = self.space.canonical(found)
                if form not in self._forms and form not in taken:
                    return found
        return None

    def _pool(
        self, generator: np.random.Generator, given: Mapping[str, Option] | None
    ) -> tuple[Designs, Features | None]:
        """Return candidates that were not told, all where every one was; features once taught."""
        own, catalogue = self.settings, self._catalogue
        if not self._taught:
            pool = catalogue.random(max(own.uniform, 100), generator, given)
        else:
            parts = [catalogue.random(own.uniform, generator, given)]
            if own.sampled:
                parts.append(self._written(given))
            if own.mutants:
                parts.append(self._mutants(generator, given))
            pool = joined(parts)
        pool = pool.without(self._known)
        return pool, self._likeness.of(pool) if self._taught else None

    def _written(self, given: Mapping[str, Option] | None) -> Designs:
        """Return what the policy writes; the same until its next step."""
        key = (self._steps, tuple(sorted((given or {}).items())))
        if self._draws is None or self._draws[0] != key:
            torch_generator = torch.Generator()
            torch_generator.manual_seed(derive_seed(self._seed, self._steps, "sample"))
            drawn, _ = self.policy.sample(self.settings.sampled, torch_generator, given)
            self._draws = (key, self._catalogue.of(drawn))
        return self._draws[1]

    def _best(self, n: int) -> NDArray[Any]:
        """Return the numbers of the attempt's best trials, at most n, best first."""
        first = self._attempts.first
        return first + np.argsort(-self._rewards[first:], kind="stable")[:n]

    def _mutants(
        self, generator: np.random.Generator, given: Mapping[str, Option] | None
    ) -> Designs:
        """Return mutations of the best trials, the better the more; half of one decision."""
        n = self.settings.mutants
        best = self._best(self.settings.parents)
        share = 1.0 / np.arange(1, len(best) + 1)
        parents = generator.choice(best, n, p=share / share.sum())
        changes = np.minimum(generator.geometric(0.5, n), 8)
        return self._catalogue.mutated(self._designs[parents], changes, generator, given)

    def _model(self, generator: np.random.Generator) -> ValueModel:
        kept = taught_by(self._rewards, self._attempts.first)
        return ValueModel(
            self._features[kept],
            self._rewards[kept],
            pairs=float(generator.choice(self.settings.pairs)),
            shared=self.settings.shared,
            noise=self.settings.noise,
            local=float(generator.choice(self.settings.local)),
            ranked=self.settings.ranked,
        )

    # --- learning ---------------------------------------------------------------------------

    @single_thread()
    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials in; a step of the policy for each `replay` / 4 of them."""
        for trial in trials:
            if trial.reward is None:
                raise ValueError(f"trial {trial.number} was told without a reward")
            worth = trial.standing if self.settings.ranked else trial.reward
            self._told.append((trial.architecture, tuple(trial.given), worth))
            out = [architecture for architecture, _ in self._out]
            if trial.architecture in out:
                del self._out[out.index(trial.architecture)]
        self._take_in(len(trials))
        self._untaught += len(trials)
        every = max(1, self.settings.replay // 4)
        while self._untaught >= every:
            self._untaught -= every
            if len(self._told) >= self.settings.start and self.settings.sampled:
                self._learn()

    def _take_in(self, n: int) -> None:
        """Work out what is needed of the last n trials."""
        if n == 0:
            return
        last = self._told[-n:]
        new = self._catalogue.read([architecture for architecture, _, _ in last])
        self._designs = joined([self._designs, new])
        self._features = likeness.joined([self._features, self._likeness.of(new)])
        self._known.update(new.keys())
        self._rewards = np.append(self._rewards, [reward for _, _, reward in last])
        for _, _, reward in last:
            self._attempts.take(reward)
        self._forms.update(self.space.canonical(architecture) for architecture, _, _ in last)

    def _learn(self) -> None:
        """Take one step towards past trials, drawn by the rank of their reward."""
        generator = np.random.default_rng(derive_seed(self._seed, self._steps, "replay"))
        self._steps += 1
        targets = normal_ranks(self._rewards)
        weights = np.exp((targets - targets.max()) / self.settings.temperature)
        drawn = generator.choice(len(weights), self.settings.replay, p=weights / weights.sum())
        encoded = self._encoding.encode(
            [self._told[i][0] for i in drawn], [self._told[i][1] for i in drawn]
        )
        scores = self.policy.score(encoded)
        loss = -scores.log_prob.mean() - self.settings.entropy * scores.entropy.mean()
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()

    # --- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the policy, its optimiser, the counts and the trials told."""
        return {
            "policy": self.policy.state_dict(),
            "adam": self._adam.state_dict(),
            "proposals": self._proposals,
            "proposed": self.proposed,
            "out": [dict(architecture) for architecture, _ in self._out],
            "steps": self._steps,
            "untaught": self._untaught,
            "told": [
                {"values": dict(a), "given": list(given), "reward": reward}
                for a, given, reward in self._told
            ],
        }

    @single_thread()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self._adam.load_state_dict(state["adam"])
        self._proposals, self._steps = int(state["proposals"]), int(state["steps"])
        self.proposed = int(state["proposed"])
        self._out = []
        self.remember([self.space.architecture(values) for values in state["out"]])
        self._untaught = int(state["untaught"])
        self._told = [
            (self.space.architecture(told["values"]), tuple(told["given"]), float(told["reward"]))
            for told in state["told"]
        ]
        self._forget()
        self._take_in(len(self._told))

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Average the probabilities of each decision over `samples` drawn architectures."""
        return snapshot(self.policy, seed, samples, given)
