"""The seams of Netwright on one page; tests/contracts has suites for their implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from netwright.space import Architecture, Option, SearchSpace
from netwright.stopping import Rule
from netwright.trial import Evaluation, Outline, Trial


@dataclass(frozen=True, kw_only=True)
class PolicySnapshot:
    """What a controller would draw now, for people to look at.

    entropy: nats of the whole sequence, estimated.
    options: for each choice, the probability of each option in order, given that the choice holds.
    connections: for each connection decision, the probability of each source in order.
    """

    entropy: float
    options: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    connections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Controller(Protocol):
    """Proposes architectures and learns from trials; knows nothing of how a child is trained.

    Its state is a pure function of its settings, its seed and the order of `propose` and `tell`:
    the same calls give the same bits.
    """

    space: SearchSpace
    batch: int  # how many architectures one proposal should ask for

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        """Return n architectures; `given` fixes choices (a depth schedule)."""

    def replay_propose(self, n: int, given: Mapping[str, Option] | None = None) -> None:
        """Advance the state as `propose` would, without the work of drawing."""

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from finished trials, in the order given; every one has a reward."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: tensors and plain numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state_dict` gave."""

    def snapshot(
        self, seed: int, samples: int, given: Mapping[str, Option] | None = None
    ) -> PolicySnapshot:
        """Describe the policy from `samples` drawn architectures, leaving the state alone."""


@runtime_checkable
class Remembering(Protocol):
    """A controller that takes account of what it proposed and was not told of yet."""

    proposed: int  # architectures that were proposed so far

    def remember(self, architectures: Sequence[Architecture]) -> None:
        """Take what the last proposal returned, which `replay_propose` did not draw."""


@runtime_checkable
class Scoring(Protocol):
    """A controller that knows with which probability it proposes; the journal keeps it."""

    def propose_scored(
        self, n: int, given: Mapping[str, Option] | None = None
    ) -> list[tuple[Architecture, float]]:
        """Do as `propose`, and return each architecture's log-probability in nats with it."""


@runtime_checkable
class Evaluator(Protocol):
    """Trains one child. Picklable; the test set is out of its reach."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Train the child and return what came out; raise `ChildError` where it failed."""


@runtime_checkable
class Stoppable(Protocol):
    """An evaluator whose children can be stopped early."""

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule
    ) -> Evaluation:
        """Do as `evaluate`, but end after the epoch in which `rule.stops` the scores so far.

        The evaluation of a stopped child says so: its detail `trial.STOPPED` is that epoch. Nothing
        else may change: its curve is the beginning of that of `evaluate`. Where there is a
        `rule.short`, the rule decides once, on the score of a short training with a schedule of its
        own, which is the detail `trial.SHORT`; who passes is trained anew, with `rule.alone`
        nobody is. `trial.trained` does it. Where there are `rule.donors`, the short training may
        begin with weights of one of them.
        """


class Executor(Protocol):
    """Runs evaluations somewhere."""

    @property
    def workers(self) -> int:
        """How many run at once; may change as machines come and go."""

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        """Start an evaluation; the future holds its result or its exception.

        rule: when to stop it early, for an evaluator that is `Stoppable`.
        """

    def shutdown(self) -> None:
        """Stop; running evaluations may be lost."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A line of the journal, in the order things happened.

    kind: "propose" (payload: n, given, and the rule of early stopping where there is one), "tell"
    (payload: numbers), "open_test", "tune", "train" and whatever later steps write.
    """

    sequence: int
    kind: str
    payload: Mapping[str, Any]
    time: float


class Store(Protocol):
    """The append-only journal of one study; a finished trial never changes."""

    place: str  # where it is, for messages

    def exists(self) -> bool:
        """Say whether there is a study here; reads only."""

    def create(self, header: Mapping[str, Any]) -> None:
        """Write the header of a new study; raise `StudyError` where one is."""

    def header(self) -> dict[str, Any]:
        """Return the header: seed, space, controller, configuration, versions."""

    def add_proposal(
        self, trials: Sequence[Trial], canonical: Sequence[str], payload: Mapping[str, Any]
    ) -> None:
        """Journal a proposal and its running trials, all or nothing.

        canonical: a digest for each, equal for architectures of one canonical form.
        """

    def finish(self, trial: Trial, told: Sequence[int] = ()) -> None:
        """Make a finished trial durable; in one step journal that the controller is told `told`.

        Raises `StudyError` if it was finished before.
        """

    def add_event(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Append an event."""

    def size(self) -> tuple[int, int]:
        """Return how many trials there are, and how many of them are finished."""

    def outlines(self) -> list[Outline]:
        """Return the outline of every trial by number, fast."""

    def trials(self, space: SearchSpace, numbers: Sequence[int] | None = None) -> list[Trial]:
        """Return all trials by number, or those of `numbers`, by number too."""

    def events(self, kind: str | None = None, after: int = 0) -> list[Event]:
        """Return the events of a later sequence than `after` in order, of one kind or of all."""

    def checkpoint(self) -> tuple[int, str, bytes] | None:
        """Return the newest checkpoint: sequence of the event it follows, versions, state."""

    def add_checkpoint(self, versions: str, state: bytes) -> None:
        """Keep the controller's state after the last event; a cache, which may be lost."""

    def lease(self, progress: Callable[[], Mapping[str, Any]]) -> LeaseHeld | None:
        """Return the lease, not yet taken; None where no other process can open the journal."""

    def patient(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Wait for a database that is away rather than raise, and `say` so."""

    def close(self) -> None:
        """Let go of the database."""


class LeaseHeld(Protocol):
    """The right to run a study's search."""

    def take(self) -> None:
        """Take it; raise `StudyError` with the holder's name where it is held."""

    def check(self) -> None:
        """Raise `StudyError` where another took it over."""

    def release(self) -> None:
        """Give it back."""
