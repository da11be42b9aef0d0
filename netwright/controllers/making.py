"""Any controller by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from netwright.controllers.evolution import Evolution, EvolutionSettings
from netwright.controllers.guided import Guided, GuidedSettings
from netwright.controllers.local_search import LocalSearch, LocalSearchSettings
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.ppo import Ppo, PpoSettings
from netwright.controllers.random import RandomSearch
from netwright.controllers.tpe import Tpe, TpeSettings
from netwright.errors import ConfigError
from netwright.protocols import Controller
from netwright.space import SearchSpace

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class ControllerSettings(PpoSettings):
    """Which controller, and the settings of all of them.

    name: "policy_gradient" (the paper's REINFORCE), "guided" (a policy and a value model), "ppo",
    "random", "evolution" (regularised), "local_search" or "tpe" (Optuna's, extra `optuna`).
    guided: of guided alone, whose other settings have no effect on it.
    clip, epochs: of ppo, see `PpoSettings`. population, sample: of evolution, see
    `EvolutionSettings`. starts, move: of local_search, see `LocalSearchSettings`. startup: of tpe,
    see `TpeSettings`.
    """

    name: str = "policy_gradient"
    population: int = 30
    sample: int = 10
    starts: int = 5
    move: str = "first"
    startup: int = 10
    guided: GuidedSettings = field(default_factory=GuidedSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in (EvolutionSettings, LocalSearchSettings, TpeSettings):
            self.of(kind)
        if self.name not in CONTROLLERS:
            raise ConfigError(
                f"controller.name must be one of {', '.join(CONTROLLERS)}; got {self.name!r}; "
                f"use --set controller.name=policy_gradient"
            )

    def of(self, kind: type[S]) -> S:
        """Return the settings of one kind."""
        return kind(**{name: getattr(self, name) for name in _fields(kind)})


Make = Callable[[SearchSpace, ControllerSettings, int], Controller]


def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _with(controller: Any, kind: type[Any]) -> tuple[Make, tuple[str, ...]]:
    return lambda space, own, seed: controller(space, own.of(kind), seed=seed), _fields(kind)


# how each is made, and of which settings
CONTROLLERS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "policy_gradient": _with(PolicyGradient, PolicySettings),
    "guided": (lambda space, own, seed: Guided(space, own.guided, seed=seed), ("guided",)),
    "ppo": _with(Ppo, PpoSettings),
    "random": (
        lambda space, own, seed: RandomSearch(space, seed=seed, batch=own.batch),
        ("batch",),
    ),
    "evolution": _with(Evolution, EvolutionSettings),
    "local_search": _with(LocalSearch, LocalSearchSettings),
    "tpe": _with(Tpe, TpeSettings),
}


def make_controller(space: SearchSpace, settings: ControllerSettings, seed: int) -> Controller:
    """Return a new controller; raises `MissingExtraError` where it needs an extra."""
    return CONTROLLERS[settings.name][0](space, settings, seed)


def settings_of(name: str) -> tuple[str, ...]:
    """Return the settings that a controller is made of, its name among them."""
    return ("name", *CONTROLLERS[name][1])
