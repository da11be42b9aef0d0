"""The Optuna sampler, with Optuna's own suite for samplers."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import netwright as nw
from netwright.controllers.making import CONTROLLERS, ControllerSettings, make_controller
from netwright.errors import ObjectivesError
from netwright.integrations.optuna import NetwrightSampler
from netwright.protocols import Controller
from netwright.space import Architecture, Option, SearchSpace
from netwright.trial import Trial

suite = pytest.importorskip("optuna.testing.pytest_samplers")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def random_search(space: SearchSpace, seed: int) -> Controller:
    return nw.RandomSearch(space, seed=seed)


# --- Optuna's own suite. Left out: its multi-objective case, for this sampler refuses such studies.


class _Sampler:
    @pytest.fixture
    def sampler(self) -> Callable[[], NetwrightSampler]:
        return lambda: NetwrightSampler(seed=0)


class TestBasic(_Sampler, suite.BasicSamplerTestCase):  # type: ignore[misc,name-defined]
    pass


class TestRelative(_Sampler, suite.RelativeSamplerTestCase):  # type: ignore[misc,name-defined]
    pass


class TestSingleOnly(_Sampler, suite.SingleOnlySamplerTestCase):  # type: ignore[misc,name-defined]
    pass


# --- the sampler --------------------------------------------------------------------------------


class Recorder(nw.RandomSearch):
    """Draws at random and keeps what it is told."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space, seed=seed)
        self.heard: list[Trial] = []
        self.made.append(self)

    def tell(self, trials: Sequence[Trial]) -> None:
        self.heard += trials

    def __deepcopy__(self, memo: object) -> Recorder:
        return self  # `made` should hold those that the sampler made


@pytest.fixture
def recorders() -> list[Recorder]:
    Recorder.made.clear()
    return Recorder.made


def network(trial: optuna.Trial) -> float:
    """Return the share of good decisions; the best network has three layers of 64."""
    layers = trial.suggest_int("layers", 1, 3)
    units = [trial.suggest_categorical(f"units{i}", (16, 32, 64)) for i in range(layers)]
    rate = trial.suggest_int("rate", 1, 1000, log=True)
    return (sum(units) / 64 + float(rate > 30)) / 4


def searched(
    sampler: NetwrightSampler, trials: int, storage: optuna.storages.RDBStorage | None = None
) -> optuna.Study:
    study = optuna.create_study(
        sampler=sampler, direction="maximize", storage=storage, study_name="s", load_if_exists=True
    )
    study.optimize(network, n_trials=trials)
    return study


def params(study: optuna.Study) -> list[dict[str, object]]:
    return [trial.params for trial in study.trials]


def test_a_seed_repeats_a_study_and_a_new_process_goes_on_alike(tmp_path: Path) -> None:
    whole = params(searched(NetwrightSampler(3), 24))
    assert params(searched(NetwrightSampler(3), 24)) == whole
    assert params(searched(NetwrightSampler(4), 24)) != whole
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'o.db'}")
    searched(NetwrightSampler(3), 13, storage)
    study = searched(pickle.loads(pickle.dumps(NetwrightSampler(3))), 11, storage)
    assert params(study) == whole
    storage.remove_session()
    storage.engine.dispose()


def test_it_learns_what_random_search_does_not() -> None:
    def late(sampler: NetwrightSampler) -> float:
        values = [trial.value for trial in searched(sampler, 60).trials[40:]]
        return sum(value for value in values if value is not None) / len(values)

    for seed in range(2):
        assert late(NetwrightSampler(seed)) > late(NetwrightSampler(seed, random_search)) + 0.1


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_can_be_a_sampler(name: str) -> None:
    settings = ControllerSettings(name=name)
    sampler = NetwrightSampler(0, lambda space, seed: make_controller(space, settings, seed))
    assert len(searched(sampler, 14).trials) == 14


def test_a_new_parameter_makes_a_new_controller_that_hears_all(recorders: list[Recorder]) -> None:
    study = optuna.create_study(sampler=NetwrightSampler(0, Recorder))
    study.optimize(lambda t: float(t.suggest_int("x", 1, 3)), n_trials=3)
    assert [d.name for d in recorders[-1].space.decisions] == ["x"]
    study.optimize(lambda t: float(t.suggest_int("x", 1, 3) + t.suggest_int("y", 1, 3)), n_trials=3)
    # y is drawn by itself in the fourth trial and a decision from the fifth on; the first three
    # have no value of their own for it.
    assert len(recorders) == 2
    assert {d.name for d in recorders[-1].space.decisions} == {"x", "y"}
    assert [trial.number for trial in recorders[-1].heard] == [0, 1, 2, 3, 4]
    own = [{*trial.architecture} - {*trial.given} for trial in recorders[-1].heard]
    assert own == [{"x"}] * 3 + [{"x", "y"}] * 2


def test_rewards(recorders: list[Recorder]) -> None:
    study = optuna.create_study(sampler=NetwrightSampler(0, Recorder), direction="minimize")

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_int("x", 1, 30)
        if trial.number == 2:
            trial.report(7.0, 1)
            raise optuna.TrialPruned
        if trial.number == 3:
            raise ArithmeticError
        return [2.0, 5.0, 0.0, 0.0, math.inf, -math.inf, 1.0][trial.number]

    study.optimize(objective, n_trials=7, catch=ArithmeticError)
    study.ask().suggest_int("x", 1, 30)
    # Negated; the pruned one by its report; failed and infinitely bad as the worst completed one,
    # infinitely good as the best.
    assert [t.reward for t in recorders[-1].heard] == [-2, -5, -7, -5, -5, -2, -1]
    assert [t.number for t in recorders[-1].heard if not t.completed] == [3]


def test_trials_that_cannot_be_told_are_left_out(recorders: list[Recorder]) -> None:
    study = optuna.create_study(sampler=NetwrightSampler(0, Recorder))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_int("x", 1, 3)
        if trial.number == 1:
            raise ArithmeticError  # before it asked for y
        return float(x + trial.suggest_int("y", 1, 3))

    study.optimize(objective, n_trials=2, catch=ArithmeticError)
    running = study.ask()
    running.suggest_int("x", 1, 3)
    study.optimize(objective, n_trials=2)
    assert [t.number for t in recorders[-1].heard] == [0, 3]


def test_what_was_evaluated_is_not_proposed_again() -> None:
    study = optuna.create_study(sampler=NetwrightSampler(0))
    study.optimize(lambda t: t.suggest_int("x", 1, 4) * t.suggest_int("y", 1, 2), n_trials=8)
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 8
    study.optimize(lambda t: t.suggest_int("x", 1, 4) * t.suggest_int("y", 1, 2), n_trials=2)
    assert len(study.trials) == 10


class Counter(nw.RandomSearch):
    """Draws at random and counts how often."""

    proposals = 0

    def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
        type(self).proposals += 1
        return super().propose(n, given)


def test_all_of_a_space_is_evaluated_and_then_one_draw_is_a_proposal() -> None:
    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_int("x", 0, 4), trial.suggest_int("y", 0, 8)
        if x == 1 and trial.number:  # the space is known by the first one that completes
            raise ArithmeticError if y % 2 else optuna.TrialPruned
        return float(x * y)

    study = optuna.create_study(
        sampler=NetwrightSampler(0, lambda space, seed: Counter(space, seed=seed))
    )
    study.optimize(objective, n_trials=45, catch=ArithmeticError)
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 45
    Counter.proposals = 0
    study.optimize(objective, n_trials=10, catch=ArithmeticError)
    assert Counter.proposals == 10


ENDS = (
    optuna.trial.TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED,
    optuna.trial.TrialState.FAIL,
)


def asked_for(trial: optuna.Trial) -> tuple[int, int]:
    return trial.suggest_int("x", 0, 2), trial.suggest_int("y", 0, 2)


def nine(sampler: NetwrightSampler, storage: optuna.storages.BaseStorage | None) -> optuna.Study:
    """Return a study of nine architectures; the first of them is completed where it is new."""
    study = optuna.create_study(
        sampler=sampler, storage=storage, study_name="s", load_if_exists=True
    )
    if not study.trials:
        study.optimize(lambda trial: float(sum(asked_for(trial))), n_trials=1)
    return study


def all_params(study: optuna.Study) -> set[tuple[object, ...]]:
    return {(trial.params["x"], trial.params["y"]) for trial in study.trials}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.tuples(st.sampled_from([None, *ENDS]), st.integers(0, 8)), max_size=30),
)
def test_what_runs_is_not_proposed_again(
    seed: int, steps: list[tuple[optuna.trial.TrialState | None, int]]
) -> None:
    storage = optuna.storages.InMemoryStorage()
    own = [nine(NetwrightSampler(seed + k, random_search), storage) for k in range(2)]
    running: list[optuna.Trial] = []
    for end, k in [*steps, *[(None, k) for k in range(8)]]:
        if end is None and len(own[0].trials) < 9:
            running.append(own[k % 2].ask())
            running[-1].suggest_int("x", 0, 2)  # what it will ask for as y is known only to it
        elif end is not None and running:
            trial = running.pop(k % len(running))
            value = float(sum(asked_for(trial)))
            done = end is optuna.trial.TrialState.COMPLETE
            own[k % 2].tell(trial, value if done else None, end)
    for trial in running:
        asked_for(trial)
    assert len(all_params(own[0])) == 9
    asked_for(own[1].ask())  # nothing else is left


def test_what_was_enqueued_and_runs_is_not_proposed_again() -> None:
    study = nine(NetwrightSampler(0), None)
    rest = {(x, y) for x in range(3) for y in range(3)} - all_params(study)
    for x, y in sorted(rest)[:-1]:
        study.enqueue_trial({"x": x, "y": y})
    running = [study.ask() for _ in range(7)]  # none has asked for anything yet
    assert asked_for(study.ask()) == max(rest)
    assert {asked_for(trial) for trial in running} == rest - {max(rest)}


def test_the_controller_knows_what_runs_where_other_parameters_are_drawn() -> None:
    def asked(trial: optuna.Trial) -> int:
        trial.suggest_float("rate", 0, 1)  # so equal choices are not equal trials
        return trial.suggest_int("x", 0, 7)

    for seed in range(3):
        study = optuna.create_study(sampler=NetwrightSampler(seed))
        study.optimize(asked, n_trials=1)
        running = {asked(study.ask()) for _ in range(7)}  # guided proposes none of its own twice
        assert running | {study.trials[0].params["x"]} == set(range(8))


@pytest.mark.parametrize("done", [False, True])
def test_processes_that_propose_at_once_see_each_other(tmp_path: Path, done: bool) -> None:
    class Slow(nw.RandomSearch):
        """Lets another process propose in the meantime."""

        def propose(self, n: int, given: Mapping[str, Option] | None = None) -> list[Architecture]:
            if meantime:
                beside = meantime.pop()
                trial = beside.ask()
                value = float(sum(asked_for(trial)))
                if done:
                    beside.tell(trial, value)
            return super().propose(n, given)

    url = f"sqlite:///{tmp_path / 'o.db'}"
    storages = [optuna.storages.RDBStorage(url) for _ in range(2)]
    first = nine(NetwrightSampler(0, lambda space, seed: Slow(space, seed=seed)), storages[0])
    other = nine(NetwrightSampler(0, random_search), storages[1])
    meantime: list[optuna.Study] = []
    for _ in range(4):
        meantime.append(other)
        asked_for(first.ask())
    assert meantime == []
    assert len(all_params(first)) == len(first.trials) == 9
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


def test_threads_take_each_architecture_once() -> None:
    study, all_running = nine(NetwrightSampler(0), None), threading.Barrier(4)

    def objective(trial: optuna.Trial) -> float:
        x, y = asked_for(trial)
        all_running.wait(60)
        return float(x + y)

    study.optimize(objective, n_trials=8, n_jobs=4)
    assert len(all_params(study)) == 9


def test_threads_and_processes_share_a_study(tmp_path: Path) -> None:
    study = optuna.create_study(sampler=NetwrightSampler(0), direction="maximize")
    study.optimize(network, n_trials=24, n_jobs=3)
    assert sorted(trial.number for trial in study.trials) == list(range(24))
    assert all(trial.value is not None for trial in study.trials)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "log")))
    first = optuna.create_study(storage=storage, study_name="s", sampler=NetwrightSampler(1))
    other = optuna.load_study(storage=storage, study_name="s", sampler=NetwrightSampler(2))
    for _ in range(6):  # both have a trial running while the other ends
        asked = [study.ask() for study in (first, other)]
        for study, trial in zip((other, first), reversed(asked), strict=True):
            study.tell(trial, network(trial))
    assert len(first.trials) == 12


def test_several_objectives_are_refused_in_one_line() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=NetwrightSampler(0))
    with pytest.raises(ObjectivesError, match="needs a study of one objective; got 2"):
        study.ask().suggest_int("x", 1, 3)
