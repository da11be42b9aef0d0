"""What a space is made of: choices and connections, under conditions (Zoph & Le 2017, 3.1, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netwright.errors import SpaceError

Option = int | float | str
Value = Option | tuple[str, ...]
Conditions = tuple[tuple[str, tuple[Option, ...]], ...]
When = Mapping[str, Option | Sequence[Option]] | Conditions


def _conditions(when: When, owner: str) -> Conditions:
    pairs = when.items() if isinstance(when, Mapping) else when
    result = []
    for name, options in pairs:
        allowed = (options,) if isinstance(options, str | int | float) else tuple(options)
        if not allowed:
            raise SpaceError(f"a condition needs options; got none for {name!r} at {owner!r}")
        result.append((str(name), allowed))
    return tuple(result)


@dataclass(frozen=True, init=False)
class Choice:
    """One of n options.

    `when` maps names of earlier choices to the option or options under which this decision holds;
    all must be met. A decision that does not hold has no value in the architecture. `kind` names
    decisions of one meaning in different layers ("filters"); it defaults to the part after the
    last dot. Raises `SpaceError` without options, or for options that are equal or no plain values.
    """

    name: str
    options: tuple[Option, ...]
    when: Conditions
    kind: str

    def __init__(
        self, name: str, options: Sequence[Option], when: When = (), kind: str = ""
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "when", _conditions(when, name))
        object.__setattr__(self, "kind", kind or name.rsplit(".", 1)[-1])
        if not self.options:
            raise SpaceError(f"a choice needs at least one option; {name!r} has none")
        for option in self.options:
            if isinstance(option, bool) or not isinstance(option, int | float | str):
                raise SpaceError(
                    f"an option must be a whole number, a number or a text; got {option!r} "
                    f"at {name!r}"
                )
        if len(set(self.options)) < len(self.options):
            raise SpaceError(f"the options of {name!r} must differ; got {self.options!r}")


@dataclass(frozen=True, init=False)
class Connections:
    """A subset of earlier anchor points, each taken or left by itself (paper, 3.3).

    The decision is made at an anchor point of its own, called `anchor`; `sources` are the anchors
    of earlier `Connections` it may take. With no sources it only sets the anchor point. The value
    is the tuple of the taken sources in the order of `sources`. `when` as in `Choice`.
    """

    name: str
    anchor: str
    sources: tuple[str, ...]
    when: Conditions

    def __init__(
        self, name: str, anchor: str, sources: Sequence[str] = (), when: When = ()
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "anchor", anchor)
        object.__setattr__(self, "sources", tuple(sources))
        object.__setattr__(self, "when", _conditions(when, name))
        if len(set(self.sources)) < len(self.sources):
            raise SpaceError(f"the sources of {name!r} must differ; got {self.sources!r}")


Decision = Choice | Connections


def decision_to_dict(decision: Decision) -> dict[str, Any]:
    """Return a decision as plain JSON data."""
    when = {name: list(options) for name, options in decision.when}
    if isinstance(decision, Choice):
        data = {"choice": decision.name, "options": list(decision.options), "kind": decision.kind}
    else:
        data = {
            "connections": decision.name,
            "anchor": decision.anchor,
            "sources": list(decision.sources),
        }
    return {**data, "when": when} if when else data


def decision_from_dict(data: Mapping[str, Any]) -> Decision:
    """Inverse of `decision_to_dict`; raises `SpaceError` for anything else."""
    try:
        when = data.get("when", {})
        if "choice" in data:
            return Choice(data["choice"], tuple(data["options"]), when, data.get("kind", ""))
        return Connections(data["connections"], data["anchor"], tuple(data["sources"]), when)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SpaceError(
            f"a decision is a choice (choice, options) or connections (connections, anchor, "
            f"sources); got {str(data)[:80]!r}; mend the file"
        ) from error
