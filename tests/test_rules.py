"""Rules on settings: what each refuses, and the line it writes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from netwright.errors import ConfigError, SpaceError
from netwright.rules import Section


@dataclass(frozen=True)
class Settings:
    number: float = 0.5
    several: tuple[int, ...] = (1, 3)
    word: str = "a"


def check(settings: Settings) -> None:
    section = Section("part", settings)
    section.at_least(0, "number")
    section.at_least(1, "several")
    section.within("[0, 1)", "number")
    section.rising("several", "must rise to 9", 0, 10)
    section.one_of("word", ("a", "b"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"number": -1}, "number must be 0 or more; got -1; use --set part.number=0.5"),
        ({"number": math.nan}, "number must be 0 or more; got nan; use --set part.number=0.5"),
        ({"number": math.inf}, "number must be 0 or more; got inf; use --set part.number=0.5"),
        ({"number": 1.0}, "number must be in [0, 1); got 1.0; use --set part.number=0.5"),
        ({"several": (3, 0)}, "several must be 1 or more; got 0; use --set part.several='[1,3]'"),
        ({"several": (3, 3)}, "several must rise to 9; got [3, 3]; use --set part.several='[1,3]'"),
        (
            {"several": (3, 10)},
            "several must rise to 9; got [3, 10]; use --set part.several='[1,3]'",
        ),
        ({"word": "c"}, "word must be one of a, b; got 'c'; use --set part.word=a"),
    ],
)
def test_what_breaks_a_rule_is_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(replace(Settings(), **change))
    assert str(caught.value) == f"part.{line}"


@pytest.mark.parametrize("number", [0.0, 0.999])
def test_what_keeps_the_rules_is_let_through(number: float) -> None:
    check(Settings(number=number, several=(2, 5), word="b"))


@pytest.mark.parametrize(
    ("interval", "holds"),
    [("[0, 1]", [0, 0.5, 1]), ("(0, 1)", [0.5]), ("(0, 1]", [0.5, 1]), ("[0, 1)", [0, 0.5])],
)
def test_the_ends_of_an_interval(interval: str, holds: list[float]) -> None:
    def refused(number: float) -> bool:
        try:
            Section("part", Settings(number=number)).within(interval, "number")
        except ConfigError:
            return True
        return False

    assert [n for n in (-0.1, 0, 0.5, 1, 1.1, math.nan) if not refused(n)] == holds


def test_a_section_may_have_an_error_of_its_own() -> None:
    with pytest.raises(SpaceError, match=r"space\.number must be above 1; got 0\.5"):
        Section("space", Settings(), SpaceError).above(1, "number")
