"""The Optuna sampler, with Optuna's own suite for samplers."""

from __future__ import annotations

import math
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import netwright as nw
from netwright.controllers.making import CONTROLLERS, ControllerSettings, make_controller
from netwright.errors import ObjectivesError
from netwright.integrations.optuna import NetwrightSampler
from netwright.integrations.optuna_space import GRID, infer, parameter
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


# --- the space, from trials ---------------------------------------------------------------------

LAYERS = IntDistribution(1, 4)
UNITS = CategoricalDistribution((16, 32))


def frozen(**params: object) -> optuna.trial.FrozenTrial:
    """Return a completed trial; integers are layers, texts and booleans two categories."""
    found: dict[str, BaseDistribution] = {}
    for name, value in params.items():
        if isinstance(value, bool):
            found[name] = CategoricalDistribution((False, True))
        elif isinstance(value, str):
            found[name] = CategoricalDistribution(("a", "b", "c"))
        elif isinstance(value, float):
            found[name] = FloatDistribution(0, 1)
        else:
            found[name] = UNITS if name.startswith("units") else LAYERS
    return optuna.trial.create_trial(params=params, distributions=found, value=0.0)


def conditions(
    trials: Sequence[optuna.trial.FrozenTrial],
) -> dict[str, dict[str, tuple[object, ...]]]:
    space = infer(trials).space
    assert space is not None
    return {d.name: dict(d.when) for d in space.decisions}


def test_conditions_come_from_which_trials_have_a_parameter() -> None:
    trials = [
        frozen(layers=1, units0=16),
        frozen(layers=4, units0=32, units1=16, units2=16),
        frozen(layers=2, units0=16, units1=16),
    ]
    # Three layers were not seen: as near to two as to four, so as two, the first.
    assert conditions(trials) == {
        "layers": {},
        "units0": {},
        "units1": {"layers": (2, 3, 4)},
        "units2": {"layers": (4,)},
    }
    assert conditions([frozen(kind="a", x=True), frozen(kind="b")]) == {
        "kind": {},
        "x": {"kind": ("a",)},
    }


def test_two_conditions_where_one_does_not_do() -> None:
    trials = [
        frozen(kind=kind, on=on, **({"x": True} if kind != "c" and on else {}))
        for kind in "abc"
        for on in (False, True)
    ]
    assert conditions(trials)["x"] == {"kind": ("a", "b"), "on": ("1: True",)}


def test_what_choices_do_not_explain_is_given_where_a_trial_lacks_it() -> None:
    trials = [frozen(rate=0.9, kind="a", x=True), frozen(rate=0.1, kind="a")]
    found = infer(trials)
    assert found.unexplained == {"x"}
    assert not found.whole
    first, second = (found.encode(trial) for trial in trials)
    assert first is not None
    assert second is not None
    assert (first.values, first.given) == ({"kind": "a", "x": "1: True"}, {})
    assert second.given == {"x": "0: False"}


@st.composite
def choice_spaces(draw: st.DrawFn) -> SearchSpace:
    """Return up to 81 architectures; choices hold under up to two earlier ones."""
    made: list[nw.Choice] = []
    for i in range(draw(st.integers(1, 4))):
        parents = draw(st.lists(st.sampled_from(made), max_size=2, unique=True)) if made else []
        when = {
            parent.name: draw(st.lists(st.sampled_from(parent.options), min_size=1, unique=True))
            for parent in parents
        }
        made.append(nw.Choice(f"d{i}", tuple("abc"[: draw(st.integers(1, 3))]), when))
    return SearchSpace("generated", made)


@settings(max_examples=50)
@given(space=choice_spaces(), seed=st.integers(0, 2**32))
def test_all_of_a_space_gives_it_back_and_a_part_fits_its_trials(
    space: SearchSpace, seed: int
) -> None:
    own = {
        d.name: CategoricalDistribution(d.options)
        for d in space.decisions
        if isinstance(d, nw.Choice)
    }
    everything = list(space.enumerate())
    random.Random(seed).shuffle(everything)
    trials = [
        optuna.trial.create_trial(params=dict(a), distributions={n: own[n] for n in a}, value=0.0)
        for a in everything
    ]
    for n in {1, 2, len(trials) // 2 or 1, len(trials)}:
        part = infer(trials[:n])
        for trial in trials[:n]:
            encoded = part.encode(trial)
            assert encoded is not None
            asked = {k: v for k, v in encoded.values.items() if k not in encoded.given}
            assert asked == {k: v for k, v in trial.params.items() if k in part.parameters}
    found = infer(trials)
    assert found.unexplained == set()
    if found.space is not None:
        expected = {
            frozenset((k, v) for k, v in a.items() if not own[k].single()) for a in everything
        }
        assert {frozenset(a.items()) for a in found.space.enumerate()} == expected


def test_numbers_as_options() -> None:
    stepped = parameter(IntDistribution(2, 10, step=4))
    assert stepped is not None
    assert stepped.options == (2, 6, 10)
    rates = parameter(FloatDistribution(0.0, 0.5, step=0.25))
    assert rates is not None
    assert rates.options == (0.0, 0.25, 0.5)
    grid = parameter(IntDistribution(1, 1024, log=True))
    assert grid is not None
    # Steps of 1024^(1/15) = 1.587: 1, 1.59, 2.52, 4, 6.35, 10.1, 16, ...
    assert grid.options[:7] == (1, 2, 3, 4, 6, 10, 16)
    assert (grid.options[-1], len(grid.options)) == (1024, 16)
    assert grid.option(5) == 6  # 6/5 = 1.2 and 5/4 = 1.25: nearer to 6 by logarithm
    assert parameter(IntDistribution(1, 64)) is not None
    assert parameter(IntDistribution(1, 65)) is None
    assert parameter(FloatDistribution(0, 1)) is None
    assert parameter(IntDistribution(3, 3)) is None
    texts = parameter(CategoricalDistribution((None, True, 1)))
    assert texts is not None
    assert texts.options == ("0: None", "1: True", "2: 1")
    assert [texts.value(option) for option in texts.options] == [None, True, 1]


@st.composite
def few_integers(draw: st.DrawFn) -> IntDistribution:
    """Return a distribution of 2 to `GRID` integers."""
    more = draw(st.integers(1, GRID - 1))
    if draw(st.booleans()):
        low = draw(st.integers(1, 10**6))
        return IntDistribution(low, low + more, log=True)
    low, step = draw(st.integers(-(10**6), 10**6)), draw(st.integers(1, 1000))
    rest = draw(st.integers(0, step - 1))  # Optuna lowers `high` to the last step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return IntDistribution(low, low + more * step + rest, step=step)


@given(distribution=few_integers())
@example(distribution=IntDistribution(1, 16, log=True))
def test_every_one_of_few_integers_can_be_decided(distribution: IntDistribution) -> None:
    found = parameter(distribution)
    assert found is not None
    everything = range(distribution.low, distribution.high + 1, distribution.step)
    assert found.values == tuple(everything)
    assert [found.value(found.option(value)) for value in everything] == list(everything)


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
