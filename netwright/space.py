"""Search spaces: an ordered list of decisions, and the architectures they hold.

Knows nothing of torch, rewards or controllers. Sources: Zoph & Le 2017, 3.1 (tokens), 3.3 (anchor
points).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netwright.decisions import (
    Choice,
    Conditions,
    Connections,
    Decision,
    Option,
    Value,
    decision_from_dict,
    decision_to_dict,
)
from netwright.errors import ArchitectureError, SpaceError

__all__ = [
    "Architecture",
    "Assignment",
    "Choice",
    "Connections",
    "Decision",
    "Option",
    "SearchSpace",
    "Value",
    "decision_from_dict",
    "decision_to_dict",
]

Assignment = dict[str, Value]
State = tuple[tuple[str, Option], ...]  # choices that later decisions depend on, in their order


@dataclass(frozen=True)
class Architecture(Mapping[str, Value]):
    """The values chosen in one space; frozen, hashable, a mapping from decision to value.

    `space` is the fingerprint of the space. Make one with `SearchSpace.architecture`, which
    validates.
    """

    space: str
    values_: tuple[tuple[str, Value], ...]
    _index: dict[str, Value] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", dict(self.values_))

    def __getitem__(self, name: str) -> Value:
        return self._index[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __hash__(self) -> int:
        return hash((self.space, self.values_))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Architecture):
            return NotImplemented
        return self.space == other.space and self.values_ == other.values_

    def to_json(self) -> str:
        """Return the values as canonical JSON (one text for one architecture)."""
        return json.dumps(dict(self.values_), separators=(",", ":"))


class SearchSpace:
    """An ordered list of decisions.

    `canonical` may map the values of an architecture to those of its representative: architectures
    that build the same child must map to the same values, which the space must hold. `kind` and
    `settings` say which function made the space, so that a file can name it in two lines; they are
    part of the fingerprint.
    """

    def __init__(
        self,
        name: str,
        decisions: Sequence[Decision],
        *,
        canonical: Callable[[SearchSpace, Assignment], Mapping[str, Value]] | None = None,
        kind: str = "decisions",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.decisions = tuple(decisions)
        self.kind = kind
        self.settings: dict[str, Any] = dict(settings or {})
        self._canonical = canonical
        self._by_name: dict[str, Decision] = {}
        self.anchors: dict[str, Connections] = {}
        for decision in self.decisions:
            self._admit(decision)
        if not self.decisions:
            raise SpaceError(f"a space needs at least one decision; {name!r} has none")
        self.fingerprint = self._fingerprint()
        self._size: int | None = None

    def _admit(self, decision: Decision) -> None:
        if decision.name in self._by_name:
            raise SpaceError(f"names of decisions must differ; {decision.name!r} is there twice")
        for name, options in decision.when:
            earlier = self._by_name.get(name)
            if not isinstance(earlier, Choice):
                raise SpaceError(
                    f"a condition must name an earlier choice; {decision.name!r} names {name!r}"
                )
            unknown = [option for option in options if option not in earlier.options]
            if unknown:
                raise SpaceError(
                    f"a condition on {name!r} must use its options {earlier.options!r}; "
                    f"got {unknown[0]!r} at {decision.name!r}"
                )
        if isinstance(decision, Connections):
            if decision.anchor in self.anchors:
                raise SpaceError(f"anchor names must differ; {decision.anchor!r} is there twice")
            for source in decision.sources:
                if source not in self.anchors:
                    raise SpaceError(
                        f"sources must be earlier anchors; got {source!r} at {decision.name!r}"
                    )
            self.anchors[decision.anchor] = decision
        self._by_name[decision.name] = decision

    def _fingerprint(self) -> str:
        text = json.dumps(
            [self.kind, self.settings, [decision_to_dict(d) for d in self.decisions]],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __getitem__(self, name: str) -> Decision:
        return self._by_name[name]

    def __len__(self) -> int:
        return len(self.decisions)

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {len(self)} decisions, {self.fingerprint})"

    # --- which decisions hold ---------------------------------------------------------------

    @staticmethod
    def holds(decision: Decision, values: Mapping[str, Value]) -> bool:
        """Say whether `decision` holds under the values of the decisions before it."""
        return all(name in values and values[name] in options for name, options in decision.when)

    def sources(self, decision: Connections, values: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the sources of `decision` whose own anchor point was reached."""
        return tuple(s for s in decision.sources if self.anchors[s].name in values)

    # --- validation and files ---------------------------------------------------------------

    def architecture(
        self, values: Mapping[str, Any], where: str = "the architecture"
    ) -> Architecture:
        """Validate `values` and return the architecture; lists stand for tuples.

        Raises `ArchitectureError` naming the rule, the value and the decision in `where`.
        """
        chosen: Assignment = {}
        for decision in self.decisions:
            name = decision.name
            if not self.holds(decision, chosen):
                if name in values:
                    raise ArchitectureError(
                        f"{name!r} holds only when {_say(decision.when)}; got {values[name]!r} in "
                        f"{where}; leave it out"
                    )
                continue
            if name not in values:
                raise ArchitectureError(f"{where} must decide {name!r}; it has no value; add it")
            chosen[name] = self._checked(decision, values[name], chosen, where)
        for name in values:
            if name not in self._by_name:
                raise ArchitectureError(
                    f"every value must belong to a decision of space {self.name!r}; got {name!r} "
                    f"in {where}; remove it"
                )
        return Architecture(self.fingerprint, tuple(chosen.items()))

    def _checked(self, decision: Decision, value: Any, chosen: Assignment, where: str) -> Value:
        if isinstance(decision, Choice):
            for option in decision.options:
                if option == value and not isinstance(value, bool):
                    return option
            raise ArchitectureError(
                f"{decision.name!r} must be one of {_list(decision.options)}; got {value!r} in "
                f"{where}; choose one of them"
            )
        sources = self.sources(decision, chosen)
        if not isinstance(value, list | tuple):
            raise ArchitectureError(
                f"{decision.name!r} must be a list of anchors; got {value!r} in {where}; "
                f"write a list, empty for none"
            )
        for taken in value:
            if taken not in sources:
                raise ArchitectureError(
                    f"{decision.name!r} may take {_list(sources) or 'nothing'}; got {taken!r} in "
                    f"{where}; remove it"
                )
        return tuple(source for source in sources if source in value)

    def check(self, architecture: Architecture) -> Architecture:
        """Return `architecture` if it is of this space, else raise `ArchitectureError`."""
        if architecture.space != self.fingerprint:
            raise ArchitectureError(
                f"an architecture must be of space {self.name!r} ({self.fingerprint}); got one of "
                f"{architecture.space}; use the space it was made in"
            )
        return architecture

    def to_dict(self) -> dict[str, Any]:
        """Return what `netwright.spaces.space_from_dict` rebuilds the space from."""
        head: dict[str, Any] = {"name": self.name, "kind": self.kind, "settings": self.settings}
        if self.kind == "decisions":
            head["decisions"] = [decision_to_dict(d) for d in self.decisions]
        return head

    # --- sampling and counting --------------------------------------------------------------

    def sample(self, rng: random.Random, given: Mapping[str, Option] | None = None) -> Architecture:
        """Draw an architecture, every decision that holds uniform over its options.

        `given` fixes choices by name. Each source of a connection is taken with probability 1/2.
        """
        given = given or {}
        chosen: Assignment = {}
        for decision in self.decisions:
            if not self.holds(decision, chosen):
                continue
            if decision.name in given:
                chosen[decision.name] = given[decision.name]
            elif isinstance(decision, Choice):
                chosen[decision.name] = rng.choice(decision.options)
            else:
                sources = self.sources(decision, chosen)
                chosen[decision.name] = tuple(s for s in sources if rng.random() < 0.5)
        return Architecture(self.fingerprint, tuple(chosen.items()))

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every architecture once (small spaces only: see `size`)."""
        yield from self._extend(0, {})

    def _extend(self, i: int, chosen: Assignment) -> Iterator[Architecture]:
        while i < len(self.decisions) and not self.holds(self.decisions[i], chosen):
            i += 1
        if i == len(self.decisions):
            yield Architecture(self.fingerprint, tuple(chosen.items()))
            return
        decision = self.decisions[i]
        for value in self._values(decision, chosen):
            yield from self._extend(i + 1, {**chosen, decision.name: value})

    def _values(self, decision: Decision, chosen: Assignment) -> Iterator[Value]:
        if isinstance(decision, Choice):
            yield from decision.options
        else:
            sources = self.sources(decision, chosen)
            for n in range(len(sources) + 1):
                yield from itertools.combinations(sources, n)

    def size(self) -> int:
        """Return the exact number of architectures, canonical duplicates counted apart."""
        if self._size is None:
            ways: dict[State, int] = {(): 1}
            for decision, later in zip(self.decisions, self._needed_later()[1:], strict=True):
                ways = self._after(decision, ways, later)
            self._size = sum(ways.values())
        return self._size

    def _after(
        self, decision: Decision, ways: Mapping[State, int], later: set[str]
    ) -> dict[State, int]:
        """Return in how many ways each state, of choices needed `later`, comes after a decision."""
        after: dict[State, int] = {}
        for state, n in ways.items():
            chosen: Assignment = dict(state)
            kept = tuple((name, option) for name, option in state if name in later)
            new, times = [kept], 1
            if not self.holds(decision, chosen):
                pass
            elif isinstance(decision, Connections):
                times = 2 ** sum(self.holds(self.anchors[s], chosen) for s in decision.sources)
            elif decision.name in later:
                new = [(*kept, (decision.name, option)) for option in decision.options]
            else:
                times = len(decision.options)
            for found in new:
                after[found] = after.get(found, 0) + n * times
        return after

    def _needed_later(self) -> list[set[str]]:
        """For each position, the choices that a decision from there on depends on."""
        needed: set[str] = set()
        result: list[set[str]] = [set()]
        for decision in reversed(self.decisions):
            needed = needed | {name for name, _ in decision.when}
            if isinstance(decision, Connections):
                for source in decision.sources:
                    needed |= {name for name, _ in self.anchors[source].when}
            result.append(needed)
        return result[::-1]

    # --- canonical form ---------------------------------------------------------------------

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the representative of all architectures that build the same child."""
        self.check(architecture)
        if self._canonical is None:
            return architecture
        return self.architecture(self._canonical(self, dict(architecture)), "the canonical form")

    def form(self, architecture: Architecture) -> str:
        """Return 32 hexadecimal digits that architectures of one canonical form share."""
        text = self.canonical(architecture).to_json()
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _list(options: Sequence[Any]) -> str:
    return ", ".join(str(option) for option in options)


def _say(when: Conditions) -> str:
    return " and ".join(f"{name} is {' or '.join(map(str, options))}" for name, options in when)
