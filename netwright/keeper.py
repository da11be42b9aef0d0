"""Keeps a journal and a controller in step: what is proposed, what ended, what was told."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from netwright.depth import DepthSchedule
from netwright.errors import StudyError, UsageError
from netwright.history import History
from netwright.interrupts import held
from netwright.journal import checkpoints
from netwright.journal.ledger import Ledger
from netwright.protocols import Controller, Event, Scoring, Store
from netwright.replaying import STEPS, Steps, replay
from netwright.scheduling import Clock, Pending
from netwright.seeding import derive_seed
from netwright.space import Architecture, Option, SearchSpace
from netwright.stopping import Rule, StoppingSettings
from netwright.toml import one_line
from netwright.trial import STOPPED, Evaluation, Trial, TrialState, plain

CHECKPOINT = 500  # trials told between two checkpoints


class Keeper:
    """The one writer of a study's trials.

    A result is durable before the controller is told, and that it is told is written in the same
    step. A controller that must be brought to where a journal ends is, when first asked for.
    """

    def __init__(
        self,
        space: SearchSpace,
        controller: Controller,
        store: Store,
        clock: Clock,
        *,
        seed: int,
        schedule: DepthSchedule | None,
        retrain_duplicates: bool,
        failure_reward: float,
        versions: str,
        stopping: StoppingSettings,
        lower: bool,
    ) -> None:
        self.space = space
        self.store = store
        self.clock = clock
        self.ledger = Ledger(store, space)
        self._lower = lower
        self._history = History(self.ledger, stopping, lower)
        self._rules: dict[int, Rule] = {}  # of the batches that have unfinished trials
        self._controller = controller
        self._new = copy.deepcopy(controller.state_dict())  # before any proposal
        self._behind = False
        self._steps = Steps()
        self._seed = seed
        if schedule is not None:
            schedule.check(space)
        self._schedule = schedule
        self._retrain = retrain_duplicates
        self._failure_reward = failure_reward
        self._versions = versions
        self._since_checkpoint = 0
        self._broken, self._half = "", False  # why a step was not done to its end; see `_step`
        self._open: dict[int, None] = {}  # the numbers of unfinished trials, in order
        self._left: dict[int, int] = {}  # how many of a batch are unfinished
        self._untold: dict[int, list[int]] = {}  # the finished ones of such a batch
        self.pending = Pending(retrain_duplicates)

    @contextmanager
    def _step(self, half: bool = True) -> Iterator[None]:
        """A part of what controller and journal do together; where it breaks off nothing follows.

        half: what the controller has been through is then not known.
        """
        if self._broken:
            raise self._refusal()
        self._half = half
        try:
            yield
        except BaseException as error:
            self._broken = one_line(f"{type(error).__name__}: {error}")[:200]
            raise

    def _refusal(self) -> StudyError:
        return StudyError(
            f"a study goes on from what its journal says; a step of this one at "
            f"{self.store.place} broke off half-way ({self._broken}); run it on, or open the study "
            f"again"
        )

    # --- beginning --------------------------------------------------------------------------

    def read(self) -> None:
        """Take in a journal that is there; whatever was known of one is forgotten.

        Where the store raises, nothing changes.
        """
        ledger = Ledger(self.store, self.space)
        ledger.read()
        outlines, running = ledger.outlines, ledger.running()
        left = Counter(outlines[number].batch for number in running)
        self._rules = self._rules_of(left)
        self.ledger, self._left, self._open = ledger, dict(left), dict.fromkeys(running)
        self._untold.clear()
        self._history = History(ledger, self._history.settings, self._lower)
        self._behind = len(ledger) > 0 and self._steps == Steps()
        first = min(self._open, default=len(outlines))
        while first > 0 and outlines[first - 1].batch in self._left:
            first -= 1
        for number in range(first, len(outlines)):
            outline = outlines[number]
            if outline.batch in self._left and number not in self._open and not outline.told:
                self._untold.setdefault(outline.batch, []).append(number)
        self.restart()

    def _rules_of(self, batches: Mapping[int, int]) -> dict[int, Rule]:
        events = self.store.events("propose") if self.stops and batches else []
        return {
            batch: Rule.from_dict(event.payload["rule"])
            for batch, event in enumerate(events)
            if batch in batches and event.payload.get("rule") is not None
        }

    def catch_up(self) -> None:
        """Take in what others have journalled since; the controller hears of it.

        After a step that broke off the controller begins anew where it does not agree with the
        journal. Without one `StudyError` is raised there, and nothing changes.
        """
        if not self._broken and self._current():
            return
        news = self._news()
        if news is None:
            self._half = True
            self._controller.load_state_dict(copy.deepcopy(self._new))
            self._steps = Steps()
        self.read()
        self._broken = ""
        if news and not self._behind:
            with self._step():
                self._replay(news)

    def _current(self) -> bool:
        """Say whether the journal holds the trials that are known here, and no more."""
        return self.store.size() == (len(self.ledger), self.ledger.finished)

    def _news(self) -> list[Event] | None:
        """Return the events that the controller has not been through; None where it is in doubt."""
        if self._broken and self._half:
            return None
        if self._behind:
            return []
        after, count = self._steps.after, self._steps.count
        events = [event for event in self.store.events(after=after) if event.kind in STEPS]
        passed = Steps(after)
        for event in events[:count]:
            passed.add(event.kind, event.payload)
        if passed != self._steps and self._broken:
            return None
        if passed != self._steps:
            raise StudyError(
                f"a study goes on from what its journal says; {self.store.place} was written by "
                f"another process while this one asked and told; open the study again"
            )
        return events[count:]

    def restart(self) -> None:
        """Queue every unfinished trial anew: none of them runs."""
        self.pending = Pending(self._retrain)
        for number in self._open:
            self.pending.add(number, self.ledger.outlines[number].canonical)

    @property
    def stops(self) -> bool:
        """Whether children are stopped early."""
        return self._history.settings.method != "none"

    @property
    def controller(self) -> Controller:
        """The controller, brought to where the journal ends when first asked for."""
        with self._step():
            if self._behind:
                self._replay(self._to_replay())
                self._behind = False
            return self._controller

    def _replay(self, events: Sequence[Event]) -> None:
        for _ in replay(self._controller, self.ledger.trials, events):
            pass
        for event in events:
            self._steps.add(event.kind, event.payload)

    def _to_replay(self) -> list[Event]:
        found = self.store.checkpoint()
        if found is not None and found[1] == self._versions:
            state = checkpoints.load(found[2])
            if state is not None:
                self._controller.load_state_dict(state)
                self._steps.after = found[0]
                return self.store.events(after=found[0])
        return self.store.events()

    # --- proposing --------------------------------------------------------------------------

    @property
    def batches(self) -> int:
        """How many proposals have unfinished trials."""
        return len(self._left)

    def given(self, number: int | None = None) -> dict[str, Option]:
        """Return the choices fixed for the proposal that begins with this trial."""
        number = len(self.ledger) if number is None else number
        return self._schedule.given(number) if self._schedule else {}

    def propose(self) -> None:
        """Journal a proposal of the controller's batch, and queue its trials."""
        given, first = self.given(), len(self.ledger)
        batch = self.ledger.outlines[-1].batch + 1 if first else 0
        controller = self.controller
        with held(), self._step():
            proposed = _scored(controller, given)
            payload: dict[str, Any] = {"n": len(proposed), "given": given}
            rule = self._history.rule(given)
            if rule is not None:
                payload["rule"] = rule.to_dict()
            now = self.clock.time()
            trials = [
                Trial(
                    number=number,
                    batch=batch,
                    architecture=architecture,
                    seed=derive_seed(self._seed, number, "child"),
                    given=given,
                    log_prob=log_prob,
                    started=now,
                )
                for number, (architecture, log_prob) in enumerate(proposed, first)
            ]
            forms = [self.space.form(trial.architecture) for trial in trials]
            self._steps.add("propose", payload)
            self._half = False
            self.store.add_proposal(trials, forms, payload)
            self.ledger.add(trials, forms)
            if rule is not None:
                self._rules[batch] = rule
            self._left[batch] = len(trials)
            for trial, form in zip(trials, forms, strict=True):
                self._open[trial.number] = None
                self.pending.add(trial.number, form)

    # --- ending -----------------------------------------------------------------------------

    @held()
    def next(self) -> Trial | None:
        """Return the next trial to start; it runs from now on."""
        number = self.pending.take()
        if number is None:
            return None
        with self._step(half=False):
            trial = self.ledger.trials([number])[0]
        return replace(trial, rule=self._rules.get(trial.batch), started=self.clock.time())

    @held()
    def settle(self, trial: Trial, at_once: bool) -> Trial | None:
        """Give a trial the result of an equal one, where one completed or was stopped."""
        first = self.ledger.first(self.ledger.outlines[trial.number].canonical)
        if first is None or self._retrain:
            return None
        with self._step(half=False):
            other = self.ledger.trials([first])[0]
        assert other.evaluation is not None
        done = replace(
            trial,
            state=other.state,
            evaluation=replace(other.evaluation, cost=0.0),
            reward=other.reward,
            duplicate_of=first,
            rule=None,
            finished=self.clock.time(),
        )
        return self.record(done, at_once)

    def ended(self, trial: Trial, result: Evaluation | BaseException) -> Trial:
        """Return the trial with its end; raises what is no failure of the child's own."""
        if isinstance(result, UsageError) or (
            isinstance(result, BaseException) and not isinstance(result, Exception)
        ):
            raise result
        trial = replace(trial, rule=None, finished=self.clock.time())
        if isinstance(result, Evaluation):
            result = plain(result)
        if isinstance(result, Evaluation) and result.finite:
            done, reward = TrialState.COMPLETED, result.reward
            rule = self._rules.get(trial.batch)
            if rule is not None and STOPPED in result.details:
                done, reward = TrialState.STOPPED, rule.reward(result.judged)
            return replace(trial, state=done, evaluation=result, reward=reward)
        if isinstance(result, Evaluation):
            reason = f"the score or reward is not finite: {result.score}, {result.reward}"
        else:
            text = f"{type(result).__name__}: {result}".encode("utf-8", "backslashreplace").decode()
            reason = next(iter(text.splitlines()), "unknown").replace("\0", "\\0")[:500]
        return replace(
            trial,
            state=TrialState.FAILED,
            failure=reason,
            reward=min(self._failure_reward, self.ledger.lowest),
        )

    @held()
    def record(self, trial: Trial, at_once: bool) -> Trial:
        """Make a finished trial durable; then tell the controller of it, or of its whole batch.

        at_once: tell now; otherwise the batch is told whole, in the order of its trials, when its
        last one ends.
        """
        batch = trial.batch
        left = self._left.get(batch, 0) - (trial.number in self._open)
        waiting = self._untold.get(batch, [])
        told = sorted({*waiting, trial.number}) if left == 0 else [trial.number] * at_once
        self.store.finish(trial, told)
        with self._step():
            self.ledger.finish(trial)
            self._history.add(trial)
            del self._open[trial.number]
            self.pending.end(trial.number)
            if left == 0:
                self._left.pop(batch)
                self._rules.pop(batch, None)
                self._untold.pop(batch, None)
            else:
                self._left[batch] = left
                if not at_once:
                    self._untold.setdefault(batch, []).append(trial.number)
            if told:
                self._tell(told)
        self._keep(len(told))
        return trial

    def _tell(self, numbers: list[int]) -> None:
        if self._behind:
            _ = self.controller  # the journal has this tell already
        else:
            self._steps.add("tell", {"numbers": numbers})
            self._controller.tell(self.ledger.trials(numbers))
        self.ledger.told(numbers)

    def _keep(self, told: int) -> None:
        """Keep the controller's state now and then; so many trials were just told.

        Not where others have journalled what this controller has not been through: the state would
        be taken for what follows that.
        """
        self._since_checkpoint += told
        if self._since_checkpoint >= CHECKPOINT:
            self._since_checkpoint = 0
            if not self._current():
                return
            state = checkpoints.dump(self._controller.state_dict())
            self.store.add_checkpoint(self._versions, state)


def _scored(
    controller: Controller, given: dict[str, Option]
) -> Sequence[tuple[Architecture, float | None]]:
    if isinstance(controller, Scoring):
        return controller.propose_scored(controller.batch, given or None)
    return [(a, None) for a in controller.propose(controller.batch, given or None)]
