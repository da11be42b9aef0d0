"""Plain data to frozen dataclasses and back: sections, tuples, numbers, texts and `X | None`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import shlex
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from netwright.errors import ConfigError

T = TypeVar("T")


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


def build(cls: type[T], data: Any, where: str, path: str = "") -> T:
    """Return the dataclass `cls` of plain data; raises `ConfigError` for what does not fit it.

    where: names the data in errors. path: the section that `data` is, as "study.depth".
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{path or 'a configuration'} must be a section; got {short(data)} in {where}; write "
            f"[{path or 'section'}] and keys under it"
        )
    hints = typing.get_type_hints(cls)
    defaults = {field.name: field.default for field in dataclasses.fields(typing.cast(Any, cls))}
    known = list(defaults)
    values = {}
    for key, value in data.items():
        full = f"{path}.{key}" if path else key
        if key not in known:
            near = difflib.get_close_matches(str(key)[:80], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys here are {', '.join(known)}"
            raise ConfigError(f"a key must be known; got {short(full)} in {where}; {hint}")
        try:
            values[key] = _convert(hints[key], value, full, where)
        except _KindError as error:
            raise ConfigError(f"{error}; {_remedy(full, defaults[key])}") from error
    return cls(**values)


def _convert(hint: Any, value: Any, path: str, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, path)
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


class _KindError(Exception):
    """A value that is not of its field's type."""


def _wrong(path: str, what: str, value: Any, where: str) -> _KindError:
    return _KindError(f"{path} must be {what}; got {short(value)} in {where}")


def _remedy(path: str, default: Any) -> str:
    """Return a setting that would do."""
    if default in (None, (), dataclasses.MISSING):
        return f"see netwright config for the key {path}"
    return f"use one such as --set {path}={in_shell(default)}"


def in_shell(value: Any) -> str:
    """Return a value as `--set` takes it in a shell."""
    if isinstance(value, str):
        return shlex.quote(value)
    return shlex.quote(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def short(value: Any) -> str:
    """Return a value's repr, cut; some values have none."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 80 else f"{text[:79]}…"


def one_line(text: str) -> str:
    """Return a text without its line breaks."""
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
