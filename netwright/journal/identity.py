"""What a study is, as its journal's header says it."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from typing import Any, SupportsFloat, SupportsIndex

from netwright.errors import UsageError
from netwright.protocols import Controller
from netwright.stopping import StoppingSettings
from netwright.toml import one_line, short

CONTROLLER_SEED = "controller_seed"  # of the header; journals begun before it was kept lack it


def whole(name: str, value: SupportsIndex) -> int:
    """Return a number of Python's own; raises `UsageError` for what is no whole number."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise UsageError(
            f"{name} must be a whole number; got {one_line(short(value))}; use such as 0"
        ) from error


def finite(name: str, value: SupportsFloat) -> float:
    """Return a number of Python's own; raises `UsageError` for what is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    raise UsageError(f"{name} must be finite; got {one_line(short(value))}; use such as 0.0")


def of_controller(controller: Controller) -> dict[str, Any]:
    """Return what a header says of a controller: its seed too, where it has one."""
    settings = getattr(controller, "settings", None)
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = dataclasses.asdict(settings)
    own: dict[str, Any] = {
        "controller": {
            "name": type(controller).__name__,
            "batch": controller.batch,
            "settings": dict(settings) if isinstance(settings, Mapping) else {},
        }
    }
    seed = getattr(controller, "seed", getattr(controller, "_seed", None))
    if isinstance(seed, SupportsIndex):
        own[CONTROLLER_SEED] = operator.index(seed)
    return own


def of_stopping(stopping: StoppingSettings | None, lower: bool) -> dict[str, Any] | None:
    """Return what a header says of early stopping; None, as in older journals, without it."""
    if stopping is None or stopping.method == "none":
        return None
    return {**stopping.to_dict(), "lower": lower}


def plain(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header as its journal gives it back; raises `UsageError` for what none can hold."""
    found = {}
    for key, value in header.items():
        try:
            found[key] = json.loads(json.dumps(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"{key} of a study must be of numbers, texts, lists and mappings; got another "
                f"({one_line(str(error))[:200]}); write it as a number or a text"
            ) from error
    return found


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return where a header first differs from what a study is now, "" where it does not."""
    for key, value in now.items():
        if key == CONTROLLER_SEED and key not in before:
            continue
        if before.get(key) != value:
            return f"{key} {_difference(before.get(key), value)}"
    return ""


def _difference(before: Any, now: Any, path: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            if one != other:
                return _difference(one, other, f"{path}[{i}]")
    return f"{path + ' ' if path else ''}was {str(before)[:60]!r} and is {str(now)[:60]!r}"
