"""Netwright's controllers as an Optuna sampler, and Netwright's studies as Optuna studies.

    import optuna
    from netwright.integrations.optuna import NetwrightSampler

    study = optuna.create_study(sampler=NetwrightSampler(seed=0), direction="maximize")
    study.optimize(objective, n_trials=200)

Needs Optuna (`pip install 'netwright[optuna]'`).
"""

from __future__ import annotations

import copy
import datetime
import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from netwright.controllers.guided import Guided
from netwright.errors import MissingExtraError, ObjectivesError
from netwright.protocols import Controller, Remembering
from netwright.seeding import derive_seed, rng
from netwright.space import Architecture, SearchSpace
from netwright.trial import Evaluation, Trial, TrialState

try:
    import optuna
except ImportError as error:
    raise MissingExtraError("optuna", "optuna", "netwright.integrations.optuna") from error

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from netwright.integrations.optuna_export import export_study
from netwright.integrations.optuna_space import PROPOSED, Inferred, draw, infer

__all__ = ["NetwrightSampler", "default_controller", "export_study"]

MakeController = Callable[[SearchSpace, int], Controller]
REDRAWS = 20  # at most, before what is new comes from the list of all architectures
BEGUN = (
    optuna.trial.TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED,
    optuna.trial.TrialState.FAIL,
)


def default_controller(space: SearchSpace, seed: int) -> Controller:
    """Return the controller of a `NetwrightSampler` that was given none."""
    return Guided(space, seed=seed)


class NetwrightSampler(optuna.samplers.BaseSampler):
    """Lets a Netwright controller propose the trials of an Optuna study.

    seed: any whole number; None draws one. With a seed, studies run one trial at a time repeat
        exactly; proposals are a function of the seed, the trial's number, the running trials and
        the finished ones in the order of their ends, so a study gone on with in a new process goes
        on alike.
    controller: makes a controller from a space and a seed; `default_controller` by default. Each
        proposal is made by a deep copy of it.

    The controller decides categories, integers and stepped floats of up to 64 values, and integers
    with `log=True` on a geometric grid of up to 16 values (all, of 16 or fewer). Wider integers,
    other floats, and parameters whose distribution differs among trials are drawn at random,
    independently. So are parameters no completed trial had: the space is inferred from these, with
    the conditions under which a parameter is asked for. When it changes, a new controller is told
    all trials again. What the controller was told of, or what is running, in any process, is not
    proposed again while there is anything else, where every parameter is the controller's; what a
    killed process left running comes last. For that each trial keeps its proposal as a system
    attribute.

    The reward is the value, negative where the study minimises. A pruned trial counts with its last
    intermediate value. A failed trial counts as the worst completed so far if it has all its
    parameters, as do values infinitely bad. Other failed trials and running ones are left out.

    Raises `ObjectivesError`, a ValueError, for a study of several objectives.
    """

    def __init__(self, seed: int | None = None, controller: MakeController | None = None) -> None:
        self.seed = random.SystemRandom().getrandbits(63) if seed is None else seed
        self._make = controller or default_controller
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._history = _History(self._make, self.seed, 1)

    def __getstate__(self) -> dict[str, Any]:
        """Return seed and controller: the rest comes from the study."""
        return {"seed": self.seed, "_make": self._make}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def reseed_rng(self) -> None:
        """Do nothing: what is drawn depends on the trial's number, which is its own."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that the controller decides."""
        with self._lock:
            parameters = self._read(study)[0].inferred.parameters
            return {name: own.distribution for name, own in parameters.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return one proposal; parameters that do not hold in it have no value."""
        if not search_space:
            self._one_objective(study)
            return {}
        with self._lock:
            architecture = self._propose(study, trial)
            parameters = self._history.inferred.parameters
        values = {}
        for name, distribution in search_space.items():
            own = parameters.get(name)
            if own is None or own.distribution != distribution:
                values[name] = self.sample_independent(study, trial, name, distribution)
            elif name in architecture:
                values[name] = own.value(architecture[name])
        return values

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter at random, by the seed, the trial's number and the name."""
        self._one_objective(study)
        return draw(param_distribution, rng(self.seed, trial.number, f"optuna/{param_name}"))

    @staticmethod
    def _one_objective(study: optuna.Study) -> None:
        if len(study.directions) > 1:
            raise ObjectivesError(
                f"NetwrightSampler needs a study of one objective; got {len(study.directions)} at "
                f"{study.study_name!r}; combine them into one number, or use NSGAIISampler"
            )

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> Architecture:
        """Return a proposal and keep it with the trial, for those that run beside it to see.

        Another process may have kept the same meanwhile, or be done with it: then this one looks
        for something else.
        """
        history, trials = self._read(study)
        out = history.beside(trial, trials)
        while True:
            found = history.propose(trial.number, out)
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, dict(found))
            trials = study.get_trials(deepcopy=False, states=BEGUN)
            new = [other for other in history.beside(trial, trials) if other not in out]
            if found not in new:
                return found
            out += new

    def _read(self, study: optuna.Study) -> tuple[_History, list[FrozenTrial]]:
        """Bring the history to the study's finished trials; return it and all trials begun."""
        self._one_objective(study)
        sign = 1 if study.direction is optuna.study.StudyDirection.MAXIMIZE else -1
        begun = study.get_trials(deepcopy=False, states=BEGUN)
        trials = sorted((trial for trial in begun if trial.state.is_finished()), key=_end)
        if not self._history.begins(trials, sign):
            self._history = _History(self._make, self.seed, sign)
        for trial in trials[len(self._history) :]:
            self._history.add(trial)
        return self._history, begun


def _end(trial: FrozenTrial) -> tuple[datetime.datetime, int]:
    return trial.datetime_complete or datetime.datetime.min, trial.number


class _History:
    """The finished trials of a study in the order of their ends, and a controller that knows them.

    A pure function of them, the seed and the direction: proposing leaves it alone.
    """

    def __init__(self, make: MakeController, seed: int, sign: int) -> None:
        self.inferred = Inferred()
        self._make, self._seed, self._sign = make, seed, sign
        self._trials: list[tuple[FrozenTrial, float | None]] = []  # with their rewards
        self._completed: list[FrozenTrial] = []
        self._worst, self._best = math.inf, -math.inf
        self._forget()

    def _forget(self) -> None:
        self._controller: Controller | None = None
        self._told = 0  # of `_trials`, those the controller was told or that do not fit
        self._proposals = 0
        self._seen: set[Architecture] = set()  # what the controller was told
        self._used_up = False  # whether that is the whole space

    def __len__(self) -> int:
        return len(self._trials)

    def begins(self, trials: Sequence[FrozenTrial], sign: int) -> bool:
        """Whether `trials` begin with these."""
        if sign != self._sign or len(self) > len(trials):
            return False
        pairs = zip(self._trials, trials, strict=False)
        return all(_end(own) == _end(trial) for (own, _), trial in pairs)

    def add(self, trial: FrozenTrial) -> None:
        """Take a finished trial in; the space is inferred again where it does not fit."""
        reward = self._reward(trial)
        self._trials.append((trial, reward))
        if trial.state is not optuna.trial.TrialState.COMPLETE:
            return
        self._completed.append(trial)
        if self.inferred.encode(trial) is None:
            before, self.inferred = self.inferred, infer(self._completed)
            if not self.inferred.like(before):
                self._forget()

    def _reward(self, trial: FrozenTrial) -> float | None:
        """Return what the controller is told, None for nothing."""
        value: float | None = None
        if trial.state is optuna.trial.TrialState.COMPLETE:
            value = trial.value
        elif trial.state is optuna.trial.TrialState.PRUNED and trial.last_step is not None:
            value = trial.intermediate_values[trial.last_step]
        reward = -math.inf if value is None or math.isnan(value) else self._sign * value
        if math.isfinite(reward):
            if trial.state is optuna.trial.TrialState.COMPLETE:
                self._worst, self._best = min(self._worst, reward), max(self._best, reward)
            return reward
        bound = self._best if reward > 0 else self._worst
        return bound if math.isfinite(bound) else None

    def beside(self, own: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[Architecture]:
        """Return what `trials` evaluate that are not among these, as far as it is known."""
        known = {own.number, *(trial.number for trial, _ in self._trials)}
        found = [self.inferred.begun(trial) for trial in trials if trial.number not in known]
        return [architecture for architecture in found if architecture is not None]

    def propose(self, number: int, out: Sequence[Architecture]) -> Architecture:
        """Return what trial `number` should evaluate while `out` is being evaluated."""
        if self.inferred.space is None:
            return Architecture("", ())
        if self._controller is None:
            self._controller = self._make(self.inferred.space, self._seed)
        for trial, reward in self._trials[self._told :]:
            self._tell(trial, reward)
        self._told = len(self._trials)
        controller = copy.deepcopy(self._controller)
        for _ in range(number - self._proposals):
            controller.replay_propose(1)
        if isinstance(controller, Remembering):
            controller.remember(out)
        return self._new(controller, self._seen.union(out))

    def _new(self, controller: Controller, taken: set[Architecture]) -> Architecture:
        """Return a proposal that is not taken, as long as there is one."""
        architecture = controller.propose(1)[0]
        if not self.inferred.whole or self._used_up or architecture not in taken:
            return architecture
        left = self._left(taken)
        if left is None:
            self._used_up = self._left(self._seen) is None
            return architecture
        for _ in range(REDRAWS):
            redrawn = controller.propose(1)[0]
            if redrawn not in taken:
                return redrawn
        return left

    def _left(self, taken: set[Architecture]) -> Architecture | None:
        assert self.inferred.space is not None
        return next((a for a in self.inferred.space.enumerate() if a not in taken), None)

    def _tell(self, trial: FrozenTrial, reward: float | None) -> None:
        encoded = self.inferred.encode(trial)
        if encoded is None or reward is None or self._controller is None:
            return
        while self._proposals <= trial.number:
            self._controller.replay_propose(1)
            self._proposals += 1
        assert self.inferred.space is not None
        architecture = self.inferred.space.architecture(encoded.values)
        failed = trial.state is optuna.trial.TrialState.FAIL
        self._seen.add(architecture)
        told = Trial(
            number=trial.number,
            batch=trial.number,
            architecture=architecture,
            seed=derive_seed(self._seed, trial.number, "child"),
            given=encoded.given,
            state=TrialState.FAILED if failed else TrialState.COMPLETED,
            evaluation=None if failed else Evaluation(reward=reward, score=reward),
            reward=reward,
            failure="failed in Optuna" if failed else None,
        )
        self._controller.tell([told])
