"""What the scripts share: bad input in one line, the settings of earlier searches, kept results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from netwright.config import load_config
from netwright.errors import NetwrightError, StudyError, UsageError
from netwright.tasks.base import Config
from netwright.tasks.images import ImageConfig
from netwright.tuning import digest_of
from netwright.workspace import Workspace
from netwright.writing import write_whole

T = TypeVar("T")


def run(main: Callable[[], None]) -> None:
    """Run a script; bad input ends it with one line and exit code 2, a failure with 1."""
    try:
        main()
    except NetwrightError as error:
        print(" ".join(f"benchmarks: {error}".splitlines()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def count(text: str) -> int:
    """Return a number of at least 1; a type for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1; got {text!r}")
    return int(text)


def image_config(source: str, settings: Iterable[str]) -> ImageConfig:
    """Return a configuration of images; raises `ConfigError`, and `UsageError` for another task."""
    config = load_config(source, list(settings))
    if not isinstance(config, ImageConfig):
        raise UsageError(
            f"this benchmark needs a configuration of images; {source} has task {config.task!r}; "
            f"use digits or cifar10-small"
        )
    return config


def made_of(config: Config) -> dict[str, Any]:
    """Return, as plain data, what a search and what comes after it are made of."""
    after = {name: config.to_dict().get(name) for name in ("tune", "final")}
    found: dict[str, Any] = json.loads(json.dumps({**config.identity(), **after}))
    return found


def check_same(place: Workspace, config: Config) -> None:
    """Raise `StudyError` where `place` holds a search of other settings than `config`."""
    if not place.exists():
        return
    asked, held = made_of(config), made_of(place.config())
    others = sorted(name for name in {*asked, *held} if asked.get(name) != held.get(name))
    if others:
        raise StudyError(
            f"a search goes on only with the settings that it began with; {place.folder} holds one "
            f"with another section {', '.join(others)}; use --out with another folder"
        )


def recipe_digest(config: Config) -> str:
    """Return 16 hex digits over what trains a network for good: data, training, child, final."""
    data = config.to_dict()
    parts = {name: data.get(name) for name in ("data", "training", "child", "final")}
    return digest_of(parts)


def kept(cache: Path, key: str, make: Callable[[], T]) -> T:
    """Return what `cache` has under `key`, made and written where it has nothing."""
    known = _read(cache)
    if key not in known:
        made = make()
        known = _read(cache)  # again: making took long, and others may have written
        known.setdefault(key, made)
        write_whole(cache, json.dumps(known, indent=1))
        print(f"{cache.stem} {key}: {known[key]}", flush=True)
    found: T = known[key]
    return found


def _read(cache: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
    return found
