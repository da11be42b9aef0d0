"""Optuna's tree-structured Parzen estimator behind the protocol (extra `optuna`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netwright.controllers.neighbours import shares
from netwright.controllers.random import RandomSearch
from netwright.errors import MissingExtraError
from netwright.protocols import PolicySnapshot
from netwright.rules import Section
from netwright.seeding import derive_seed
from netwright.space import Architecture, Choice, Option, SearchSpace, Value
from netwright.trial import Trial


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "optuna", 'controller.name = "tpe"') from error
    return optuna


@dataclass(frozen=True, kw_only=True)
class TpeSettings:
    """Its settings.

    startup: trials told before it models anything, drawn at random, >= 1 (10). batch: >= 1 (1).
    """

    startup: int = 10
    batch: int = 1

    def __post_init__(self) -> None:
        Section("controller", self).at_least(1, "startup", "batch")


class Tpe:
    """Asks Optuna's multivariate `TPESampler` (Bergstra et al. 2011; Falkner et al. 2018).

    A choice is a categorical parameter, a connection decision one boolean for each source; what is
    given is none. Where decisions have conditions, those that hold together are modelled together
    (`group`). Of one proposal, architectures drawn earlier count as bad ones for those drawn after
    (`constant_liar`); those of other proposals that are still out are not known to it.

    Raises `MissingExtraError` without Optuna. A proposal takes time in proportion to the trials
    told.
    """

    def __init__(
        self, space: SearchSpace, settings: TpeSettings | None = None, *, seed: int = 0
    ) -> None:
        self.space = space
        self.settings = settings or TpeSettings()
        self.batch = self.settings.batch
        self._seed = seed
        self._group = any(decision.when for decision in space.decisions)
        self._proposals = 0
        self._told: list[tuple[Architecture, tuple[str, ...], float]] = []  # with what was given
        distribution = _optuna().distributions.CategoricalDistribution
        self._parameters: dict[str, Any] = {}
        for decision in space.decisions:
            if isinstance(decision, Choice):
                indices = tuple(range(len(decision.options)))
                self._parameters[decision.name] = distribution(indices)
                continue
            for source in decision.sources:
                self._parameters[_link(decision.name, source)] = distribution((False, True))
        self._study = self._new_study()

    def _new_study(self) -> Any:
        optuna = _optuna()
        with _Quiet(optuna):
            storage = optuna.storages.InMemoryStorage()
            return optuna.create_study(storage=storage, direction="maximize")

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Return n architectures; `given` fixes choices, of which nothing is learned."""
        seed = derive_seed(self._seed, self._proposals, "propose") % 2**32
        self.replay_propose(n, given)
        optuna = _optuna()
        with _Quiet(optuna):
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.settings.startup,
                multivariate=True,
                group=self._group,
                constant_liar=True,
                seed=seed,
            )
            asked = [self._study.ask() for _ in range(n)]
            found = [self._drawn(trial, given or {}) for trial in asked]
            failed = optuna.trial.TrialState.FAIL
            for trial in asked:  # from now on nothing to the sampler: results come as new trials
                self._study.tell(trial, state=failed)
        return found

    def _drawn(self, trial: Any, given: Mapping[str, Option]) -> Architecture:
        chosen: dict[str, Value] = {}
        for decision in self.space.decisions:
            name = decision.name
            if not self.space.holds(decision, chosen):
                continue
            if name in given:
                chosen[name] = given[name]
            elif isinstance(decision, Choice):
                chosen[name] = decision.options[self._suggested(trial, name)]
            else:
                sources = self.space.sources(decision, chosen)
                taken = [s for s in sources if self._suggested(trial, _link(name, s))]
                chosen[name] = tuple(taken)
        return self.space.architecture(chosen)

    def _suggested(self, trial: Any, parameter: str) -> int:
        choices = self._parameters[parameter].choices
        return int(trial.suggest_categorical(parameter, choices))

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Count a proposal without drawing it."""
        self._proposals += 1

    def tell(self, trials: Sequence[Trial]) -> None:
        """Add the trials to what the sampler knows."""
        for trial in trials:
            self._add(trial.architecture, tuple(trial.given), trial.standing)

    def _add(self, architecture: Architecture, given: tuple[str, ...], reward: float) -> None:
        self._told.append((architecture, given, reward))
        params: dict[str, Any] = {}
        for name, value in architecture.items():
            decision = self.space[name]
            if name in given:
                continue
            if isinstance(decision, Choice):
                params[name] = decision.options.index(value)
                continue
            for source in self.space.sources(decision, architecture):
                params[_link(name, source)] = source in value  # type: ignore[operator]
        optuna = _optuna()
        with _Quiet(optuna):
            known = {name: self._parameters[name] for name in params}
            self._study.add_trial(
                optuna.trial.create_trial(params=params, distributions=known, value=reward)
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the number of proposals and all that was told."""
        told = [
            {"values": dict(architecture), "given": list(given), "reward": reward}
            for architecture, given, reward in self._told
        ]
        return {"proposals": self._proposals, "told": told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self._proposals = int(state["proposals"])
        self._told, self._study = [], self._new_study()
        for told in state["told"]:
            values = self.space.architecture(told["values"])
            self._add(values, tuple(told["given"]), float(told["reward"]))

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Return the shares of options in the best tenth of what was told (25 at most).

        That is what its density of good architectures is made of; uniform ones while nothing is
        modelled. entropy: of the uniform distribution, an upper bound.
        """
        found = RandomSearch(self.space).snapshot(seed, samples, given)
        if len(self._told) < self.settings.startup:
            return found
        best = sorted(self._told, key=lambda told: -told[2])[: min(-(-len(self._told) // 10), 25)]
        return shares(self.space, [architecture for architecture, _, _ in best], found, given)


def _link(name: str, source: str) -> str:
    return f"{name}\0{source}"  # no decision has such a name


class _Quiet:
    """Keeps Optuna's log and warnings (its experimental parts) off the terminal, inside a block."""

    def __init__(self, optuna: Any) -> None:
        self._logging = optuna.logging
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._before = self._logging.get_verbosity()
        self._logging.set_verbosity(self._logging.ERROR)
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *raised: object) -> None:
        self._warnings.__exit__(None, None, None)
        self._logging.set_verbosity(self._before)
