"""Rules on the settings of a section of the configuration; what breaks one is one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from netwright.errors import ConfigError, out_of_range


@dataclass(frozen=True)
class Section:
    """The settings of the section called `name`, as "controller"; rules raise `ConfigError`."""

    name: str
    settings: Any

    def at_least(self, least: int, *names: str) -> None:
        """Refuse each of the settings `names` that is not `least` or more."""
        for name in names:
            if not getattr(self.settings, name) >= least:
                self.refuse(name, f"must be {least} or more", least)

    def above(self, bound: float, *names: str) -> None:
        """Refuse each of the settings `names` that is not above `bound`."""
        for name in names:
            if not getattr(self.settings, name) > bound:
                self.refuse(name, f"must be above {bound}")

    def one_of(self, name: str, options: Sequence[str]) -> None:
        """Refuse the setting where it is none of `options`."""
        if getattr(self.settings, name) not in options:
            self.refuse(name, f"must be one of {', '.join(options)}", options[0])

    def refuse(self, name: str, rule: str, remedy: object = "...") -> NoReturn:
        """Raise the line on the setting that breaks `rule`."""
        value = getattr(self.settings, name)
        raise ConfigError(out_of_range(f"{self.name}.{name}", rule, value, remedy))
