"""Local search (White et al. 2021): look at the neighbours, move to a better one, start again."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netwright.controllers.neighbours import changed, changes, shares
from netwright.controllers.random import RandomSearch
from netwright.protocols import PolicySnapshot
from netwright.rules import Section
from netwright.seeding import rng
from netwright.space import Architecture, Option, SearchSpace, Value
from netwright.trial import Trial

MOVES = ("first", "best")
START = -1  # in the place of a climb's number: drawn at random, to start one
TRIES = 200  # draws of an architecture that was not proposed, before the space is looked through
SMALL = 5000  # architectures of a space that is looked through

Place = tuple[Architecture, float]  # with its reward


@dataclass(frozen=True, kw_only=True)
class LocalSearchSettings:
    """Its settings.

    starts: architectures drawn at random, of whose best a climb starts, >= 1 (5). move: "first": to
    a neighbour as soon as it is better; "best": to the best neighbour, after all of them.
    batch: >= 1 (1).
    """

    starts: int = 5
    move: str = "first"
    batch: int = 1

    def __post_init__(self) -> None:
        section = Section("controller", self)
        section.at_least(1, "starts", "batch")
        section.one_of("move", MOVES)


class LocalSearch:
    """Climbs from a random architecture, neighbour by neighbour in random order, and starts again.

    A neighbour differs in one decision: another option, or one connection taken or left; decisions
    that come to hold by it are drawn anew. Nothing is proposed twice, canonically equal forms
    included, until the space is spent, or 200 draws in one of over 5,000 are all known; a neighbour
    that is known from before is moved to, where it is better, without being proposed.

    Results may come late and in any order: one that is better than where the climb stands moves it,
    one of a climb that has ended is only remembered. While the last neighbours are out, and more
    architectures are asked for, these are random ones, from whose best the next climb starts.
    """

    def __init__(
        self, space: SearchSpace, settings: LocalSearchSettings | None = None, *, seed: int = 0
    ) -> None:
        self.space = space
        self.settings = settings or LocalSearchSettings()
        self.batch = self.settings.batch
        self._seed = seed
        self._proposals = 0
        self._known: dict[str, float | None] = {}  # what was proposed, by form; None: not yet told
        self._out: dict[str, int] = {}  # by form: the climb of what is out, or START
        self._spent = False  # the whole space was looked through, and nothing was new
        self._climb = 0
        self._at: Place | None = None
        self._ways: list[tuple[str, Value]] = []  # changes of it that were not looked at
        self._best: Place | None = None  # its best neighbour yet, where the move waits for all
        self._starts: list[Place] = []

    # --- proposing --------------------------------------------------------------------------

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Return n architectures; `given` fixes choices, which are never changed."""
        generator = rng(self._seed, self._proposals, "propose")
        self._proposals += 1
        return [self._one(generator, given or {}) for _ in range(n)]

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Draw and forget: what was proposed is part of the state."""
        self.propose(n, given)

    def _one(self, generator: random.Random, given: Mapping[str, Option]) -> Architecture:
        while self._at is not None and (self._ways or self._rest()):
            k = generator.randrange(len(self._ways))
            self._ways[k], self._ways[-1] = self._ways[-1], self._ways[k]
            name, value = self._ways.pop()
            if name in given:
                continue
            found = changed(self.space, self._at[0], name, value, generator, given)
            key = self.space.form(found)
            if key not in self._known:
                return self._send(found, key, self._climb)
            reward = self._known[key]
            if reward is not None:
                self._look(found, reward)
        return self._start(generator, given)

    def _start(self, generator: random.Random, given: Mapping[str, Option]) -> Architecture:
        size = self.space.size()
        for _ in range(TRIES if len(self._known) < size else 0):
            found = self.space.sample(generator, given)
            key = self.space.form(found)
            if key not in self._known:
                return self._send(found, key, START)
        if len(self._known) < size <= SMALL and not self._spent:
            left = [(a, key) for a in self.space.enumerate() if (key := self._new(a, given))]
            if left:
                return self._send(*generator.choice(left), START)
            self._spent = not given  # every form is known, though fewer than architectures
        found = self.space.sample(generator, given)
        return self._send(found, self.space.form(found), START)

    def _new(self, architecture: Architecture, given: Mapping[str, Option]) -> str:
        """Return the key of what may be proposed, else nothing."""
        if any(architecture.get(name, option) != option for name, option in given.items()):
            return ""
        key = self.space.form(architecture)
        return "" if key in self._known else key

    def _send(self, architecture: Architecture, key: str, climb: int) -> Architecture:
        self._known.setdefault(key, None)
        self._out[key] = climb
        return architecture

    # --- moving -----------------------------------------------------------------------------

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take results in, and move or start again where that is due."""
        for trial in trials:
            key = self.space.form(trial.architecture)
            place = (trial.architecture, trial.standing)
            self._known[key] = trial.standing
            climb = self._out.pop(key, START)
            if self._at is not None and climb in (START, self._climb) and place[1] > self._at[1]:
                self._look(*place)
            elif climb == START:
                self._starts.append(place)
        if self._at is None or not self._ways:
            self._rest()

    def _look(self, architecture: Architecture, reward: float) -> None:
        """Compare with where the climb stands."""
        assert self._at is not None
        if reward <= self._at[1]:
            return
        if self.settings.move == "first":
            self._move((architecture, reward))
        elif self._best is None or reward > self._best[1]:
            self._best = (architecture, reward)

    def _rest(self) -> bool:
        """Where no change is left to look at: move or start again, and say whether that was due.

        A climb ends when all of its neighbours are told, or when one more start is told for each
        that is still out: it may never come.
        """
        out = sum(climb == self._climb for climb in self._out.values())
        enough = len(self._starts) >= self.settings.starts + out
        if self._best is not None and (out == 0 or enough):
            self._move(self._best)
        elif enough:
            self._climb += 1
            best = max(self._starts, key=lambda place: place[1])
            self._starts = []
            self._move(best)
        else:
            return False
        return bool(self._ways)

    def _move(self, place: Place) -> None:
        self._at, self._best = place, None
        self._ways = changes(self.space, place[0])

    # --- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where the climb stands, what it has not looked at, and all that was proposed."""
        return {
            "proposals": self._proposals,
            "known": dict(self._known),
            "out": dict(self._out),
            "climb": self._climb,
            "at": _plain(self._at),
            "ways": [[name, value] for name, value in self._ways],
            "best": _plain(self._best),
            "starts": [_plain(place) for place in self._starts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        self._proposals, self._climb = int(state["proposals"]), int(state["climb"])
        self._known, self._out = dict(state["known"]), dict(state["out"])
        self._ways = [(name, value) for name, value in state["ways"]]
        self._at, self._best = self._place(state["at"]), self._place(state["best"])
        starts = [self._place(plain) for plain in state["starts"]]
        self._starts = [place for place in starts if place is not None]

    def _place(self, plain: Mapping[str, Any] | None) -> Place | None:
        if plain is None:
            return None
        return self.space.architecture(plain["values"]), float(plain["reward"])

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Return the shares of options among `samples` neighbours of where the climb stands.

        Uniform ones where it stands nowhere. entropy: of a uniform draw among all neighbours.
        """
        found = RandomSearch(self.space).snapshot(seed, samples, given)
        ways = [] if self._at is None else changes(self.space, self._at[0], given)
        if self._at is None or not ways:
            return found
        generator = rng(seed, 0, "snapshot")
        drawn = [
            changed(self.space, self._at[0], *generator.choice(ways), generator, given)
            for _ in range(samples)
        ]
        return shares(self.space, drawn, replace(found, entropy=math.log(len(ways))), given)


def _plain(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else {"values": dict(place[0]), "reward": place[1]}
