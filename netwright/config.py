"""Configurations: from TOML to the frozen dataclasses of the task that they name."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from netwright.errors import ConfigError, UsageError
from netwright.journal.database import hidden
from netwright.space import SearchSpace
from netwright.tasks.base import Config
from netwright.tasks.closed import SyntheticConfig, TableConfig
from netwright.tasks.images import ImageConfig
from netwright.tasks.language import LanguageConfig
from netwright.toml import build, one_line, short, to_toml, with_settings

__all__ = [
    "TASKS",
    "Config",
    "config_from_dict",
    "load_config",
    "presets",
    "set_threads",
    "task_of",
    "to_toml",
    "with_settings",
]

TASKS: dict[str, type[Config]] = {
    "images": ImageConfig,
    "language": LanguageConfig,
    "table": TableConfig,
    "synthetic": SyntheticConfig,
}


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads; 0 leaves its own."""
    if config.execution.threads:
        torch.set_num_threads(config.execution.threads)


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
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"a configuration must be a readable file or one of {', '.join(presets())}; got "
            f"{hidden(str(source))!r} ({error.strerror}); {_near(str(source))}see netwright presets"
        ) from error
    except (ValueError, RecursionError) as error:
        text = f"a configuration must be TOML; {str(source)!r} is not ({error}); mend it there"
        raise ConfigError(one_line(text)) from error
    return config_from_dict(with_settings(data, settings), str(source))


def _near(name: str) -> str:
    found = difflib.get_close_matches(name[:80], presets(), 1)
    return f"did you mean {found[0]}? " if found else ""


def config_from_dict(data: Mapping[str, Any], where: str) -> Config:
    """Return the configuration of plain data, of images where it names no task.

    `where` is named in errors.
    """
    task = data.get("task", "images") if isinstance(data, Mapping) else "images"
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(
            f"task must be one of {', '.join(TASKS)}; got {short(task)} in {where}; use language "
            f"for text, images for pictures"
        )
    try:
        return build(TASKS[task], data, where)
    except UsageError as error:
        text = f"{error}{_foreign(data, task)}"
        raise ConfigError(one_line(text if where in text else f"{text} (in {where})")) from error


def _foreign(data: Mapping[str, Any], task: str) -> str:
    """Return a hint on a key that `task` does not have and another task has, "" without one."""
    own = _keys(TASKS[task](task=task).to_dict())
    for name, other in TASKS.items():
        lost = sorted((_keys(data) - own) & _keys(other(task=name).to_dict()))
        if lost:
            return f'; {lost[0]} is a key of task = "{name}"'
    return ""


def _keys(data: Any) -> set[str]:
    """Return the keys in the sections of plain data, as "section.key"."""
    if not isinstance(data, Mapping):
        return set()
    sections = {name: keys for name, keys in data.items() if isinstance(keys, Mapping)}
    return {f"{name}.{key}" for name, keys in sections.items() for key in keys}


def task_of(space: SearchSpace) -> str:
    """Return the task that searches or compares such spaces; images for a kind that none does."""
    kind = "recurrent" if space.kind == "gated" else space.kind
    return next((task for task, cls in TASKS.items() if cls.kind == kind), "images")
