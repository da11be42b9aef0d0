"""The study: propose, submit, tell, with a journal that survives anything."""

from __future__ import annotations

import dataclasses
import inspect
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from importlib import metadata
from typing import Any, SupportsFloat

from netwright.depth import DepthSchedule
from netwright.errors import StudyError, UsageError
from netwright.journal import identity as header
from netwright.journal.checkpoints import versions_key
from netwright.keeper import Keeper
from netwright.loop import Loop, Mode
from netwright.protocols import (
    Controller,
    Evaluator,
    Event,
    Executor,
    PolicySnapshot,
    Stoppable,
    Store,
)
from netwright.replaying import replay
from netwright.scheduling import Clock, WallClock, Watch
from netwright.space import Architecture, SearchSpace
from netwright.stopping import StoppingSettings
from netwright.store import SqlStore
from netwright.toml import one_line, short
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
    failure_reward: what the controller is told for a failed trial; the lowest reward that it was
        told before where that is less.
    mode: how proposals are kept in flight, see `Mode`.
    stopping: when children are stopped early; then the evaluator must be `Stoppable`, and who uses
        `ask` and `tell` heeds `Trial.rule`. lower: lower scores are better, which only this needs
        to know.
    clock: time, the machine's own by default.
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
        mode: Mode | None = None,
        stopping: StoppingSettings | None = None,
        lower: bool = False,
        clock: Clock | None = None,
        config: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.space = space
        self.evaluator = _as_evaluator(evaluator)
        self.seed = header.whole("seed", seed)
        failure_reward = header.finite("failure_reward", failure_reward)
        self.mode = mode or Mode()
        self.store: Store = SqlStore(storage)
        self.watch: Watch | None = None
        self._loop: Loop | None = None
        self._clock = clock or WallClock()
        own_versions = versions()
        self._keeper = Keeper(
            space,
            controller,
            self.store,
            self._clock,
            seed=self.seed,
            schedule=schedule,
            retrain_duplicates=retrain_duplicates,
            failure_reward=failure_reward,
            versions=versions_key(own_versions),
            stopping=stopping or StoppingSettings(),
            lower=lower,
        )
        identity = {
            **self._identity(controller, config),
            "schedule": dataclasses.asdict(schedule) if schedule else None,
            "retrain_duplicates": retrain_duplicates,
            "failure_reward": failure_reward,
            "stopping": header.of_stopping(stopping, lower),
        }
        identity = header.plain(identity)
        if self.store.exists():
            self._check_identity(identity)
            self._keeper.read()
        else:
            also = {"notes": dict(notes or {}), "versions": own_versions, "created": time.time()}
            self.store.create({**identity, **header.plain(also)})

    def _identity(self, controller: Controller, config: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            "space": self.space.to_dict(),
            "fingerprint": self.space.fingerprint,
            "seed": self.seed,
            **header.of_controller(controller),
            "mode": dataclasses.asdict(self.mode),
            "config": dict(config or {}),
        }

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        where = header.changed(self.store.header(), identity)
        if where:
            raise StudyError(
                f"a study goes on only as it began; {where} at {self.store.place}; use its own "
                f"configuration or start a new study"
            )

    @property
    def controller(self) -> Controller:
        """The controller, brought to where the journal ends when first asked for."""
        return self._keeper.controller

    # --- looking ----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many trials are finished, without reading them."""
        return self._keeper.ledger.finished

    @property
    def trials(self) -> list[Trial]:
        """All finished trials by number, failed and stopped ones too."""
        ledger, running = self._keeper.ledger, TrialState.RUNNING
        return ledger.trials(n for n, o in enumerate(ledger.outlines) if o.state is not running)

    @property
    def best(self) -> Trial:
        """The completed trial of the highest reward, the earliest of equals."""
        top = self.top(1)
        if not top:
            raise StudyError(
                f"the best trial needs a completed one; {self.store.place} has none; run more "
                f"trials"
            )
        return top[0]

    def top(self, n: int) -> list[Trial]:
        """Return the n completed trials of the highest rewards, each canonical form once."""
        return self._keeper.ledger.trials(self._keeper.ledger.top(n))

    def trial(self, number: int) -> Trial:
        """Return one trial, proposed or finished; raises `StudyError` where there is none."""
        if not 0 <= number < len(self._keeper.ledger):
            raise StudyError(
                f"a trial must be from 0 to {len(self._keeper.ledger) - 1}; got {number} at "
                f"{self.store.place}; see netwright top"
            )
        return self._keeper.ledger.trials([number])[0]

    def events(self, kind: str | None = None) -> list[Event]:
        """Return the journal's events."""
        return self.store.events(kind)

    def snapshot(self, samples: int = 64) -> PolicySnapshot:
        """Describe what the controller would draw now."""
        return self.controller.snapshot(self.seed, samples, self._keeper.given())

    def history(
        self, controller: Controller, points: int = 40, samples: int = 64
    ) -> list[tuple[int, PolicySnapshot]]:
        """Return (trials told, what the policy would draw then), about `points` of them.

        `controller` must be new and like the study's: the journal is replayed into it.
        """
        given, events = self._keeper.given, self.store.events()
        tells = sum(event.kind == "tell" for event in events)
        every = max(1, -(-tells // points))
        told = 0
        result = [(0, controller.snapshot(self.seed, samples, given(0)))]
        for step, numbers in enumerate(replay(controller, self._keeper.ledger.trials, events), 1):
            told += len(numbers)
            if step % every == 0 or step == tells:
                result.append((told, controller.snapshot(self.seed, samples, given(told))))
        return result

    # --- ask and tell -----------------------------------------------------------------------

    def ask(self) -> Trial:
        """Return a trial to evaluate; duplicates of completed ones are settled on the way.

        Raises `StudyError` when 1,000 proposals in a row were duplicates.
        """
        for _ in range(1000):
            trial = self._keeper.next()
            if trial is None:
                self._keeper.propose()
            elif self._keeper.settle(trial, at_once=True) is None:
                return trial
        raise StudyError(
            "ask needs an architecture that was not trained before; 1000 in a row were; the space "
            "may be used up: stop here, or set retrain_duplicates"
        )

    def tell(self, trial: Trial, result: Evaluation | SupportsFloat | Exception) -> Trial:
        """Finish a trial that `ask` gave with its evaluation, number or exception.

        Raises `UsageError` for what is none of them, and the trial goes on.
        """
        if not isinstance(result, Evaluation | BaseException):
            number = _number(result, trial)
            result = Evaluation(reward=number, score=number)
        return self._keeper.record(self._keeper.ended(trial, result), at_once=True)

    # --- the loop ---------------------------------------------------------------------------

    def run(
        self,
        trials: int,
        executor: Executor | None = None,
        on_trial: Callable[[Trial], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Go on until the study has `trials` finished trials, or `stop` is called.

        With one replica, the default, the controller is told a whole proposal at a time, in the
        order of its trials, so that the search does not depend on which child ends first; `mode`
        has what keeps more workers busy. Proposals are always of the controller's batch: what is
        left of the last ones waits for the next run. `on_trial` sees each finished trial. `say`
        gets a line when the search waits for its database; without it that raises.

        What other processes have journalled since the study was opened is taken in first; a journal
        in memory is open to none. Where controller and journal were broken off half-way, the
        controller is brought to where the journal ends. An interrupt waits until what is begun of
        them is done; a second one does not.

        Raises `StudyError` where another process runs this study, where one wrote between what this
        one asked and told, and where children are to be stopped early and the evaluator cannot.
        """
        if self.evaluator is None:
            raise StudyError("run needs an evaluator; this study has none; give one to Study(...)")
        if self._keeper.stops and not isinstance(self.evaluator, Stoppable):
            raise StudyError(
                f"an evaluator must have evaluate_until for children to be stopped early; got "
                f"{type(self.evaluator).__name__}; write it, or leave stopping out"
            )
        if executor is None:
            from netwright.executors.local import InProcess

            executor = InProcess()
        if len(self) >= trials:
            return
        self.watch = None
        lease = self.store.lease(self.progress)
        with ExitStack() as stack:
            if lease is not None:
                stack.callback(lease.release)
                lease.take()
            self._keeper.catch_up()
            self._keeper.restart()
            self.watch = self._new_watch(trials, executor)
            loop = Loop(self._keeper, self.evaluator, executor, self.mode, self.watch, on_trial)
            self._loop = loop
            check = _nothing if lease is None else lease.check
            stack.callback(self._interrupted, loop, check)
            if say is not None:
                stack.enter_context(self.store.patient(say))
            loop.run(check)

    def stop(self) -> None:
        """Let a run start no more children and return when those that run have ended."""
        if self._loop is not None:
            self._loop.stopping = True

    def progress(self) -> dict[str, Any]:
        """Return how the run goes, see `Watch`."""
        return {} if self.watch is None else self.watch.to_dict(self._clock.time())

    def _new_watch(self, trials: int, executor: Executor) -> Watch:
        ledger = self._keeper.ledger
        states = Counter(outline.state for outline in ledger.outlines)
        best = self.top(1)
        return Watch(
            target=trials,
            workers=executor.workers,
            started=self._clock.time(),
            done=ledger.finished,
            failed=states[TrialState.FAILED],
            stopped=states[TrialState.STOPPED],
            best=best[0].score if best else None,
            best_reward=best[0].reward if best else None,
        )

    def _interrupted(self, loop: Loop, check: Callable[[], None]) -> None:
        """Journal which children were lost; they are trained again by the next run.

        Where `check` raises the journal is another's.
        """
        self._loop = None
        numbers = loop.interrupted()
        if numbers:
            with suppress(StudyError):
                check()
                self.store.add_event("interrupted", {"numbers": numbers})


def _nothing() -> None:
    return None


def _number(result: Any, trial: Trial) -> float:
    """Return the number that was told, also numpy's or torch's."""
    try:
        if not isinstance(result, str | bytes):
            return float(result)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise UsageError(
        f"a result must be a number, an Evaluation or an exception; got {one_line(short(result))} "
        f"for trial {trial.number}; tell a number, or the exception for a trial that failed"
    )


def _as_evaluator(evaluator: Evaluator | Function | None) -> Evaluator | None:
    if evaluator is None or isinstance(evaluator, Evaluator):
        return evaluator
    return FunctionEvaluator(evaluator)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, without importing anything."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("netwright", "torch", "numpy", "scikit-learn", "sqlalchemy", "datasets"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
