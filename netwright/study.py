"""The study: propose, submit, tell, with a journal that survives anything."""

from __future__ import annotations

import dataclasses
import inspect
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from importlib import metadata
from typing import Any

from netwright.depth import DepthSchedule
from netwright.errors import StudyError, UsageError
from netwright.protocols import Controller, Evaluator, Event, Executor, PolicySnapshot, Store
from netwright.seeding import derive_seed
from netwright.space import Architecture, Option, SearchSpace
from netwright.store import SqlStore, place_of
from netwright.trial import Evaluation, Trial, TrialState

Function = Callable[..., Evaluation | float]


class FunctionEvaluator:
    """Any function from an architecture to a number, as an evaluator.

    The function may take a keyword `seed`. The number is both score and reward.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters
        self._seeded = "seed" in parameters

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Call the function; `device` is not passed on."""
        started = time.perf_counter()
        extra = {"seed": seed} if self._seeded else {}
        result = self.function(architecture, **extra)
        if isinstance(result, Evaluation):
            return result
        cost = time.perf_counter() - started
        return Evaluation(reward=float(result), score=float(result), cost=cost)


class Study:
    """A search: a space, a controller, an evaluator and a journal.

    evaluator: an `Evaluator`, or any function from an architecture to a number; None to use
        `ask` and `tell` or only to look.
    storage: a database URL; the default keeps the journal in memory. A journal that is there is
        gone on with: the controller, which must be new, is brought to where it was by replaying it
        when it is first needed.
    seed: everything random in the study comes from it and the controller's.
    retrain_duplicates: train an architecture again though a canonically equal one has completed;
        otherwise it shares that one's result.
    failure_reward: what the controller is told for a failed trial.
    config: whatever else makes the study what it is; it is only gone on with under an equal one.
    notes: what else a reader of a new journal should know.

    Raises `StudyError` for a damaged journal or one of another space, controller, seed or config.
    """

    def __init__(
        self,
        space: SearchSpace,
        controller: Controller,
        evaluator: Evaluator | Function | None = None,
        storage: str = "sqlite://",
        *,
        seed: int = 0,
        schedule: DepthSchedule | None = None,
        retrain_duplicates: bool = False,
        failure_reward: float = 0.0,
        config: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.space = space
        self._controller = controller
        self._behind: list[Event] = []
        self.evaluator = _as_evaluator(evaluator)
        self.seed = seed
        self.schedule = schedule
        self.retrain_duplicates = retrain_duplicates
        self.failure_reward = failure_reward
        self.store: Store = SqlStore(storage)
        self._trials: list[Trial] = []
        self._told: set[int] = set()
        self._open: dict[int, None] = {}  # the numbers of unfinished trials, in order
        self._canonical: dict[int, Architecture] = {}
        self._first: dict[Architecture, int] = {}
        self._asked: set[int] = set()
        identity = self._identity(config)
        if self.store.exists():
            self._check_identity(identity)
            self._trials = self.store.trials(space)
            self._behind = self.store.events()
            for event in self._behind:
                if event.kind == "tell":
                    self._told.update(event.payload["numbers"])
            for trial in self._trials:
                self._note(trial)
                if trial.state is TrialState.RUNNING:
                    self._open[trial.number] = None
        else:
            also = {"notes": dict(notes or {}), "versions": versions(), "created": time.time()}
            self.store.create({**identity, **also})

    def _identity(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        settings = getattr(self._controller, "settings", None)
        return {
            "space": self.space.to_dict(),
            "fingerprint": self.space.fingerprint,
            "seed": self.seed,
            "controller": {
                "name": type(self._controller).__name__,
                "batch": self._controller.batch,
                "settings": dataclasses.asdict(settings) if settings is not None else {},
            },
            "schedule": dataclasses.asdict(self.schedule) if self.schedule else None,
            "retrain_duplicates": self.retrain_duplicates,
            "failure_reward": self.failure_reward,
            "config": dict(config or {}),
        }

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        header = self.store.header()
        for key, now in json.loads(json.dumps(identity)).items():
            if header.get(key) != now:
                raise StudyError(
                    f"a study goes on only as it began; {key} {_difference(header.get(key), now)} "
                    f"at {place_of(self.store.url)}; use its own configuration or start a new study"
                )

    def _note(self, trial: Trial) -> None:
        """Remember the canonical form, and which completed trial has it first."""
        if trial.number not in self._canonical:
            self._canonical[trial.number] = self.space.canonical(trial.architecture)
        if trial.completed:
            self._first.setdefault(self._canonical[trial.number], trial.number)

    @property
    def controller(self) -> Controller:
        """The controller, brought to where the journal ends when first asked for."""
        behind, self._behind = self._behind, []
        for _ in replay(self._controller, self._trials, behind):
            pass
        return self._controller

    # --- looking ----------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """All finished trials by number."""
        return [trial for trial in self._trials if trial.state is not TrialState.RUNNING]

    @property
    def best(self) -> Trial:
        """The completed trial of the highest reward, the earliest of equals."""
        top = self.top(1)
        if not top:
            raise StudyError(
                f"the best trial needs a completed one; {place_of(self.store.url)} has none; run "
                f"more trials"
            )
        return top[0]

    def top(self, n: int) -> list[Trial]:
        """Return the n completed trials of the highest rewards, each canonical form once."""
        seen: set[Architecture] = set()
        result = []
        done = [t for t in self._trials if t.completed and t.reward is not None]
        for trial in sorted(done, key=lambda t: (-(t.reward or 0.0), t.number)):
            if self._canonical[trial.number] not in seen:
                seen.add(self._canonical[trial.number])
                result.append(trial)
        return result[:n]

    def trial(self, number: int) -> Trial:
        """Return one trial; raises `StudyError` where there is none."""
        if not 0 <= number < len(self._trials):
            raise StudyError(
                f"a trial must be from 0 to {len(self._trials) - 1}; got {number} at "
                f"{place_of(self.store.url)}; see netwright top"
            )
        return self._trials[number]

    def events(self, kind: str | None = None) -> list[Event]:
        """Return the journal's events."""
        return self.store.events(kind)

    def snapshot(self, samples: int = 64) -> PolicySnapshot:
        """Describe what the controller would draw now."""
        return self.controller.snapshot(self.seed, samples, self._given())

    def history(
        self, controller: Controller, points: int = 40, samples: int = 64
    ) -> list[tuple[int, PolicySnapshot]]:
        """Return (trials told, what the policy would draw then), about `points` of them.

        `controller` must be new and like the study's: the journal is replayed into it.
        """
        events = self.store.events()
        tells = sum(event.kind == "tell" for event in events)
        every = max(1, -(-tells // points))
        told = 0
        result = [(0, controller.snapshot(self.seed, samples, self._given(0)))]
        for step, numbers in enumerate(replay(controller, self._trials, events), 1):
            told += len(numbers)
            if step % every == 0 or step == tells:
                snapshot = controller.snapshot(self.seed, samples, self._given(told))
                result.append((told, snapshot))
        return result

    # --- ask and tell -----------------------------------------------------------------------

    def ask(self) -> Trial:
        """Return a trial to evaluate; duplicates of completed ones are settled on the way.

        Raises `StudyError` when 1,000 proposals in a row were duplicates.
        """
        for _ in range(1000):
            trial = self._next(ahead=None)
            if trial is None:
                self._propose()
                continue
            self._asked.add(trial.number)
            if not self._settle_duplicate(trial, tell=True):
                return trial
        raise StudyError(
            "ask needs an architecture that was not trained before; 1000 in a row were; the space "
            "may be used up: stop here, or set retrain_duplicates"
        )

    def tell(self, trial: Trial, result: Evaluation | float | Exception) -> Trial:
        """Finish a trial that `ask` gave with its evaluation, number or exception."""
        if isinstance(result, int | float):
            result = Evaluation(reward=float(result), score=float(result))
        done = self._finished(trial, result)
        self._record(done, tell=True)
        return done

    # --- the loop ---------------------------------------------------------------------------

    def run(
        self,
        trials: int,
        executor: Executor | None = None,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> None:
        """Go on until the study has `trials` finished trials.

        The controller is told a whole proposal at a time, in the order of its trials, so that the
        search does not depend on which child ends first. Proposals are always of the controller's
        batch: what is left of the last one waits for the next run. `on_trial` sees each finished
        trial.
        """
        if self.evaluator is None:
            raise StudyError("run needs an evaluator; this study has none; give one to Study(...)")
        if executor is None:
            from netwright.executors.local import InProcess

            executor = InProcess()
        running: dict[Future[Evaluation], Trial] = {}
        self._asked = set()
        while (missing := trials - len(self._trials) + len(self._open)) > 0:
            room = min(executor.workers, missing) - len(running)
            trial = self._next(running.values()) if room > 0 else None
            if trial is not None:
                self._asked.add(trial.number)
                if self._settle_duplicate(trial, tell=False):
                    self._after(trial.number, on_trial)
                    continue
                future = executor.submit(self.evaluator, trial.architecture, trial.seed)
                running[future] = trial
                continue
            if not running:
                self._propose()
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                self._record(self._finished(trial, future.exception() or future.result()))
                self._after(trial.number, on_trial)

    def _after(self, number: int, on_trial: Callable[[Trial], None] | None) -> None:
        self._tell_batch()
        if on_trial is not None:
            on_trial(self._trials[number])

    def _next(self, ahead: Iterable[Trial] | None) -> Trial | None:
        """Return the next trial to start, None where a proposal must come or a child must end."""
        self._tell_batch()
        held = {self._canonical[t.number] for t in ahead or ()}
        for number in self._open:
            if number in self._asked:
                continue
            if self.retrain_duplicates or self._canonical[number] not in held:
                return self._trials[number]
            held.add(self._canonical[number])
        return None

    def _last_batch(self) -> list[Trial]:
        if not self._trials:
            return []
        batch = self._trials[-1].batch
        first = len(self._trials)
        while first > 0 and self._trials[first - 1].batch == batch:
            first -= 1
        return self._trials[first:]

    def _tell_batch(self) -> None:
        """Tell the last proposal's trials that were not told, once all are finished."""
        batch = self._last_batch()
        untold = [trial for trial in batch if trial.number not in self._told]
        if untold and all(trial.state is not TrialState.RUNNING for trial in batch):
            self.store.add_event("tell", {"numbers": [trial.number for trial in untold]})
            self.controller.tell(untold)
            self._told.update(trial.number for trial in untold)

    def _given(self, number: int | None = None) -> dict[str, Option]:
        number = len(self._trials) if number is None else number
        return self.schedule.given(number) if self.schedule else {}

    def _propose(self) -> None:
        given = self._given()
        batch = self._trials[-1].batch + 1 if self._trials else 0
        proposed = self.controller.propose(self.controller.batch, given or None)
        now = time.time()
        trials = [
            Trial(
                number=number,
                batch=batch,
                architecture=architecture,
                seed=derive_seed(self.seed, number, "child"),
                given=given,
                started=now,
            )
            for number, architecture in enumerate(proposed, len(self._trials))
        ]
        self.store.add_proposal(trials, {"n": len(trials), "given": given})
        self._trials += trials
        for trial in trials:
            self._note(trial)
            self._open[trial.number] = None

    def _settle_duplicate(self, trial: Trial, tell: bool) -> bool:
        first = self._first.get(self._canonical[trial.number])
        if first is None or self.retrain_duplicates:
            return False
        evaluation = self._trials[first].evaluation
        assert evaluation is not None
        done = replace(self._finished(trial, replace(evaluation, cost=0.0)), duplicate_of=first)
        self._record(done, tell)
        return True

    def _finished(self, trial: Trial, result: Evaluation | BaseException) -> Trial:
        if isinstance(result, UsageError) or (
            isinstance(result, BaseException) and not isinstance(result, Exception)
        ):
            raise result
        if isinstance(result, Evaluation) and result.finite:
            return replace(
                trial,
                state=TrialState.COMPLETED,
                evaluation=result,
                reward=result.reward,
                finished=time.time(),
            )
        if isinstance(result, Evaluation):
            reason = f"the score or reward is not finite: {result.score}, {result.reward}"
        else:
            reason = f"{type(result).__name__}: {result}".splitlines()[0][:500]
        return replace(
            trial,
            state=TrialState.FAILED,
            failure=reason,
            reward=self.failure_reward,
            finished=time.time(),
        )

    def _record(self, trial: Trial, tell: bool = False) -> None:
        """Make a finished trial durable, and only then tell the controller, if `tell`."""
        self.store.finish(trial, tell)
        self._trials[trial.number] = trial
        del self._open[trial.number]
        self._note(trial)
        if tell:
            self.controller.tell([trial])
            self._told.add(trial.number)


def replay(
    controller: Controller, trials: list[Trial], events: Iterable[Event]
) -> Iterator[list[int]]:
    """Bring a new controller to where the journal ends; yield the numbers of each tell."""
    for event in events:
        if event.kind == "propose":
            controller.replay_propose(event.payload["n"], event.payload["given"])
        elif event.kind == "tell":
            numbers = [int(number) for number in event.payload["numbers"]]
            controller.tell([trials[number] for number in numbers])
            yield numbers


def _as_evaluator(evaluator: Evaluator | Function | None) -> Evaluator | None:
    if evaluator is None or isinstance(evaluator, Evaluator):
        return evaluator
    return FunctionEvaluator(evaluator)


def _difference(before: Any, now: Any, path: str = "") -> str:
    """Return where two values first differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            if one != other:
                return _difference(one, other, f"{path}[{i}]")
    return f"{path + ' ' if path else ''}was {str(before)[:60]!r} and is {str(now)[:60]!r}"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, without importing anything."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("netwright", "torch", "numpy", "scikit-learn", "sqlalchemy", "datasets"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
