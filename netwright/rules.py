"""Rules on the settings of a section of the configuration; what breaks one is one clear line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from netwright.errors import ConfigError, UsageError, out_of_range
from netwright.toml import in_shell


@dataclass(frozen=True)
class Section:
    """The settings, a dataclass, of the section called `name`, as "controller".

    Rules raise `error`. A rule on a number is one on each number of a setting that is a list.
    """

    name: str
    settings: Any
    error: type[UsageError] = ConfigError

    def at_least(self, least: int, *names: str) -> None:
        """Refuse each of the settings `names` that is not `least` or more, and finite."""
        self._each(names, f"must be {least} or more", lambda x: least <= x < math.inf)

    def above(self, bound: float, *names: str) -> None:
        """Refuse each of the settings `names` that is not above `bound`, and finite."""
        self._each(names, f"must be above {bound}", lambda x: bound < x < math.inf)

    def within(self, interval: str, *names: str) -> None:
        """Refuse each of the settings `names` that is not in `interval`, such as "[0, 1)"."""
        low, high = map(float, interval[1:-1].split(","))
        ends = {low} if interval[0] == "[" else set()
        ends |= {high} if interval[-1] == "]" else set()
        self._each(names, f"must be in {interval}", lambda x: low < x < high or x in ends)

    def _each(self, names: Sequence[str], rule: str, holds: Callable[[Any], bool]) -> None:
        for name in names:
            value = getattr(self.settings, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not holds(number):
                    self.refuse(name, rule, value=number)

    def rising(self, name: str, rule: str, low: float = -math.inf, high: float = math.inf) -> None:
        """Refuse the list where it does not rise from above `low` to below `high`."""
        values = getattr(self.settings, name)
        if list(values) != sorted({x for x in values if low < x < high}):
            self.refuse(name, rule)

    def one_of(self, name: str, options: Sequence[str]) -> None:
        """Refuse the setting where it is none of `options`."""
        if getattr(self.settings, name) not in options:
            self.refuse(name, f"must be one of {', '.join(options)}")

    def refuse(self, name: str, rule: str, remedy: object = None, value: object = None) -> NoReturn:
        """Raise the line on the setting that breaks `rule`.

        remedy: a value that would do, by default the setting's own default. value: what is wrong of
        the setting, by default all of it.
        """
        if value is None:
            value = getattr(self.settings, name)
        if remedy is None:
            defaults = {field.name: field.default for field in dataclasses.fields(self.settings)}
            remedy = defaults[name]
        key = f"{self.name}.{name}"
        raise self.error(out_of_range(key, rule, _listed(value), in_shell(remedy)))


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
