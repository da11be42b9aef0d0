"""Configuration: TOML to frozen dataclasses, and the one place that ties names to classes."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from netwright.children.plan import ChildSettings
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.data.images import DataSettings
from netwright.depth import DepthSchedule
from netwright.errors import ConfigError, UsageError
from netwright.evaluators.image import ImageEvaluator
from netwright.protocols import Controller
from netwright.seeding import derive_seed
from netwright.space import SearchSpace
from netwright.spaces import conv
from netwright.study import Study
from netwright.training.image import Recipe

CONTROLLERS = ("policy_gradient", "random")


@dataclass(frozen=True, kw_only=True)
class ControllerSettings(PolicySettings):
    """Which controller, and the policy gradient's settings.

    name: "policy_gradient" (the paper's REINFORCE) or "random".
    """

    name: str = "policy_gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in CONTROLLERS:
            raise ConfigError(
                f"controller.name must be one of {', '.join(CONTROLLERS)}; got {self.name!r}; "
                f"use --set controller.name=policy_gradient"
            )


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The search itself.

    trials: finished trials to reach, >= 1. seed: >= 0; everything random comes from it.
    retrain_duplicates: train an architecture again though an equal one has completed.
    failure_reward: what the controller is told for a failed trial.
    depth: a schedule of depths, or none.
    """

    trials: int = 100
    seed: int = 0
    retrain_duplicates: bool = False
    failure_reward: float = 0.0
    depth: DepthSchedule | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"study.trials must be 1 or more; got {self.trials}; use --trials N")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"study.seed must be in [0, 2**63); got {self.seed}; use 0")
        if not abs(self.failure_reward) < float("inf"):
            raise ConfigError(
                f"study.failure_reward must be finite; got {self.failure_reward}; use 0.0"
            )


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The small grid after the search (paper, 4.1): every combination on the best few.

    top: architectures, >= 1. learning_rates, weight_decays, epsilons (of batch normalisation):
    > 0, the decay may be 0. drops: pairs as in training.drops.
    """

    top: int = 3
    learning_rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    weight_decays: tuple[float, ...] = (1e-4, 5e-4)
    epsilons: tuple[float, ...] = (1e-5, 1e-3)
    drops: tuple[tuple[float, ...], ...] = ((0.5, 0.75), (0.6, 0.8))

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"tune.top must be 1 or more; got {self.top}; use --set tune.top=1")
        rules: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
            ("learning_rates", "be above 0", lambda rate: 0 < rate < math.inf),
            ("weight_decays", "be 0 or more", lambda decay: 0 <= decay < math.inf),
            ("epsilons", "be above 0", lambda epsilon: 0 < epsilon < math.inf),
            ("drops", "rise within (0, 1)", _rise),
        )
        for name, rule, good in rules:
            if not getattr(self, name):
                raise ConfigError(f"tune.{name} must have a value; got none; list at least one")
            for value in getattr(self, name):
                if not good(value):
                    raise ConfigError(
                        f"each of tune.{name} must {rule}; got {value!r}; use --set tune.{name}=..."
                    )


def _rise(drops: tuple[float, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise((0, *drops, 1)))


@dataclass(frozen=True, kw_only=True)
class FinalSettings:
    """The final training on training and validation data.

    epochs: 0 takes training.epochs. widen: filters added to each layer, beyond child.widen.
    """

    epochs: int = 0
    widen: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "widen"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"final.{name} must be 0 or more; got {getattr(self, name)}; use 0"
                )


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """Where children run; no part of what a study is.

    device: a torch device. threads: of torch, 0 leaves its own number.
    """

    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"execution.threads must be 0 or more; got {self.threads}; use 0")
        try:
            torch.device(self.device)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"execution.device must be a torch device; got {self.device!r}; use cpu or cuda"
            ) from error

    def check_device(self) -> None:
        """Raise `ConfigError` where this machine has no such device."""
        try:
            torch.empty(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f"execution.device must be a device of this machine; {self.device!r} is not "
                f"({str(error).splitlines()[0][:80]}); use --set execution.device=cpu"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration; `name` is the study's and `about` says what it is for."""

    name: str = "study"
    about: str = ""
    space: conv.ConvSettings = field(default_factory=conv.ConvSettings)
    child: ChildSettings = field(default_factory=ChildSettings)
    controller: ControllerSettings = field(default_factory=ControllerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    training: Recipe = field(default_factory=Recipe)
    study: StudySettings = field(default_factory=StudySettings)
    tune: TuneSettings = field(default_factory=TuneSettings)
    final: FinalSettings = field(default_factory=FinalSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)

    def __post_init__(self) -> None:
        bad = set(self.name) & set('/\\:?"') or not self.name.isprintable()
        if not 0 < len(self.name) <= 60 or bad or self.name.startswith("."):
            raise ConfigError(
                f"name must be a plain file name; got {self.name!r}; use letters, digits and dashes"
            )
        schedule = self.study.depth
        if schedule is not None and (
            schedule.last != self.space.depths[-1] or self.space.depths != schedule.depths()
        ):
            raise ConfigError(
                f"space.depths must be the schedule's, from {schedule.start} to {schedule.last} "
                f"in steps of {schedule.step}; got {list(self.space.depths)}; set it to those, or "
                f"leave study.depth out"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `config_from_dict` takes."""
        data = dataclasses.asdict(self)
        if data["study"]["depth"] is None:
            del data["study"]["depth"]
        return data

    def identity(self) -> dict[str, Any]:
        """Return what makes a study what it is: all but its length and where it runs."""
        data = self.to_dict()
        del data["execution"], data["study"]["trials"], data["name"], data["about"]
        del data["tune"], data["final"]
        return data

    def check_same_search(self, other: Config) -> None:
        """Raise `ConfigError` where `other` would change the search or the split of its images."""
        split = ("validation", "test", "train_limit")
        pairs = [(n, getattr(self, n), getattr(other, n)) for n in ("space", "controller", "study")]
        pairs += [(f"data.{n}", getattr(self.data, n), getattr(other.data, n)) for n in split]
        for name, before, now in pairs:
            if before != now:
                raise ConfigError(
                    f"after a search only what comes after it may be set; --set changes {name}; "
                    f"leave it out, or search again with it"
                )

    # --- names to objects -------------------------------------------------------------------

    def make_space(self) -> SearchSpace:
        """Return the search space."""
        return conv.space(self.name, self.space)

    def make_controller(self, space: SearchSpace) -> Controller:
        """Return a new controller, seeded from the study's seed."""
        seed = derive_seed(self.study.seed, 0, "controller")
        if self.controller.name == "random":
            return RandomSearch(space, seed=seed, batch=self.controller.batch)
        fields = {f.name for f in dataclasses.fields(PolicySettings)}
        values = {n: v for n, v in vars(self.controller).items() if n in fields}
        return PolicyGradient(space, PolicySettings(**values), seed=seed)

    def make_evaluator(self, space: SearchSpace) -> ImageEvaluator:
        """Return the evaluator, which reads no data before it is used."""
        return ImageEvaluator(space, self.data, self.training, self.child, seed=self.study.seed)

    def make_study(self, storage: str, notes: Mapping[str, Any] | None = None) -> Study:
        """Return the study at `storage`, gone on with, or begun with `notes` beside its header."""
        space = self.make_space()
        return Study(
            space,
            self.make_controller(space),
            self.make_evaluator(space),
            storage,
            seed=self.study.seed,
            schedule=self.study.depth,
            retrain_duplicates=self.study.retrain_duplicates,
            failure_reward=self.study.failure_reward,
            config=self.identity(),
            notes=notes,
        )


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads; 0 leaves its own."""
    if config.execution.threads:
        torch.set_num_threads(config.execution.threads)


# --- reading ------------------------------------------------------------------------------------


def presets() -> dict[str, Path]:
    """Return the configurations that come with Netwright, by name."""
    folder = Path(str(resources.files("netwright"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_config(source: str | Path, settings: Sequence[str] = ()) -> Config:
    """Read a TOML file or a preset by its name, then apply `settings`, each "a.b=value".

    Raises `ConfigError`, one line, for anything that is not right.
    """
    path = presets().get(str(source), Path(source))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"a configuration must be a readable file or one of {', '.join(presets())}; got "
            f"{str(source)!r} ({error.strerror}); see netwright presets"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            _line(f"a configuration must be TOML; {str(source)!r} is not ({error}); mend it there")
        ) from error
    return config_from_dict(with_settings(data, settings), str(source))


def with_settings(data: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return `data` with each "a.b=value" set; values are TOML, or else plain text."""
    result = _copy(data)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise ConfigError(
                f"a setting must be key=value; got {setting!r}; write --set a.b=value"
            )
        *parents, last = key.strip().split(".")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError(
                    f"a setting must name a key in a section; got {setting!r}, where {parent!r} is "
                    f"no section; see the presets"
                )
        try:
            section[last] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            section[last] = text
    return result


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in data.items()}


def config_from_dict(data: Mapping[str, Any], where: str) -> Config:
    """Return the configuration of plain data; `where` is named in errors."""
    try:
        config: Config = _build(Config, data, "", where)
    except UsageError as error:
        text = str(error)
        raise ConfigError(_line(text if where in text else f"{text} (in {where})")) from error
    return config


def _build(cls: type, data: Any, path: str, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{path or 'a configuration'} must be a section; got {_short(data)} in {where}; write "
            f"[{path or 'section'}] and keys under it"
        )
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        full = f"{path}.{key}" if path else key
        if key not in hints:
            near = difflib.get_close_matches(str(key)[:80], hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys here are {', '.join(hints)}"
            raise ConfigError(f"a key must be known; got {_short(full)} in {where}; {hint}")
        values[key] = _convert(hints[key], value, full, where)
    return cls(**values)


def _convert(hint: Any, value: Any, path: str, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(path, "a list", value, where)
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{path}[{i}]", where) for i, v in enumerate(value))
    if hint is bool and isinstance(value, bool):
        return value
    number = int if hint is int else int | float
    if hint in (int, float) and isinstance(value, number) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise _wrong(path, "a number within 64 bits", value, where)
        return hint(value)
    if hint is str and isinstance(value, str):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise _wrong(path, names[hint], value, where)


def _wrong(path: str, what: str, value: Any, where: str) -> ConfigError:
    plain = path.partition("[")[0]
    return ConfigError(
        f"{path} must be {what}; got {_short(value)} in {where}; use --set {plain}=..."
    )


def _short(value: Any) -> str:
    """Return a value's repr, cut; some values have none."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _line(text: str) -> str:
    return " ".join(text.splitlines())


def to_toml(data: Mapping[str, Any], path: str = "") -> str:
    """Return plain data as TOML that `load_config` reads: values first, then sections."""
    plain = {key: value for key, value in data.items() if not isinstance(value, Mapping)}
    text = "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in plain.items()
    )
    for key, value in data.items():
        if isinstance(value, Mapping):
            full = f"{path}.{key}" if path else key
            text += f"\n[{full}]\n{to_toml(value, full)}"
    return text
