"""What every controller promises."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from netwright.controllers.evolution import Evolution, EvolutionSettings
from netwright.controllers.guided import Guided, GuidedSettings
from netwright.controllers.local_search import LocalSearch, LocalSearchSettings
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.ppo import Ppo, PpoSettings
from netwright.controllers.random import RandomSearch
from netwright.controllers.tpe import Tpe, TpeSettings
from netwright.protocols import Controller, Remembering
from netwright.space import Architecture, Choice, SearchSpace
from netwright.trial import Trial, TrialState
from tests.equal import same
from tests.strategies import CONV_SPACES, small_space

Make = Callable[[SearchSpace, int], Controller]

CONTROLLERS: dict[str, Make] = {
    "guided": lambda space, seed: Guided(
        space,
        GuidedSettings(batch=4, start=4, sampled=8, mutants=8, uniform=16, replay=4),
        seed=seed,
    ),
    "policy_gradient": lambda space, seed: PolicyGradient(
        space, PolicySettings(batch=4, learning_rate=0.02), seed=seed
    ),
    "policy_gradient_kinds": lambda space, seed: PolicyGradient(
        space, PolicySettings(batch=4, heads="kind", entropy=0.01), seed=seed
    ),
    "evolution": lambda space, seed: Evolution(
        space, EvolutionSettings(population=6, sample=3, batch=4), seed=seed
    ),
    "local_search": lambda space, seed: LocalSearch(space, LocalSearchSettings(batch=4), seed=seed),
    "local_search_best": lambda space, seed: LocalSearch(
        space, LocalSearchSettings(move="best", starts=2, batch=4), seed=seed
    ),
    "ppo": lambda space, seed: Ppo(
        space, PpoSettings(batch=4, learning_rate=0.02, entropy=0.01), seed=seed
    ),
    "random": lambda space, seed: RandomSearch(space, seed=seed, batch=4),
    "tpe": lambda space, seed: Tpe(space, TpeSettings(startup=5, batch=4), seed=seed),
}
SPACES = {"small": small_space(), **CONV_SPACES}


@pytest.fixture(params=sorted(CONTROLLERS))
def make(request: pytest.FixtureRequest) -> Make:
    return CONTROLLERS[request.param]


@pytest.fixture(params=sorted(SPACES))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]


def _told(architectures: list[Architecture], step: int) -> list[Trial]:
    rng = random.Random(step)
    return [
        Trial(number=i, batch=step, architecture=a, seed=0, reward=rng.random())
        for i, a in enumerate(architectures)
    ]


def _steps(controller: Controller, first: int, last: int) -> list[Architecture]:
    drawn: list[Architecture] = []
    for step in range(first, last):
        proposed = controller.propose(4)
        drawn += proposed
        controller.tell(_told(proposed, step))
    return drawn


def test_proposes_as_many_as_asked_all_of_the_space(make: Make, space: SearchSpace) -> None:
    controller = make(space, 0)
    for n in (1, 3, 8):
        drawn = controller.propose(n)
        assert len(drawn) == n
        for architecture in drawn:
            assert space.architecture(dict(architecture)) == architecture


def test_the_same_seed_gives_the_same_bits_and_another_others(
    make: Make, space: SearchSpace
) -> None:
    one, two, other = make(space, 1), make(space, 1), make(space, 2)
    drawn = _steps(one, 0, 3)
    assert drawn == _steps(two, 0, 3)
    assert same(one.state_dict(), two.state_dict())
    assert drawn != _steps(other, 0, 3)


def test_state_goes_on_where_it_was(make: Make, space: SearchSpace) -> None:
    one, two = make(space, 1), make(space, 1)
    _steps(one, 0, 2)
    one.tell(_told(one.propose(4), 9)[:3])  # an update that waits for its last trial
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert same(one.state_dict(), two.state_dict())
    assert _steps(one, 2, 4) == _steps(two, 2, 4)
    assert same(one.state_dict(), two.state_dict())


def test_replay_gives_the_same_bits_as_the_search(make: Make, space: SearchSpace) -> None:
    lived, replayed = make(space, 4), make(space, 4)
    for step in range(4):
        drawn = lived.propose(4)
        told = _told(drawn, step)
        lived.tell(told)
        replayed.replay_propose(4)
        if isinstance(replayed, Remembering):
            replayed.remember(drawn)
        replayed.tell(told)
    assert same(lived.state_dict(), replayed.state_dict())
    assert lived.propose(4) == replayed.propose(4)


def test_a_copy_goes_on_alike_and_leaves_the_controller_alone(
    make: Make, space: SearchSpace
) -> None:
    controller = make(space, 1)
    _steps(controller, 0, 2)
    before = copy.deepcopy(controller.state_dict())
    drawn = _steps(copy.deepcopy(controller), 2, 4)
    assert same(before, controller.state_dict())
    assert _steps(controller, 2, 4) == drawn


def test_snapshots_describe_and_do_not_disturb(make: Make, space: SearchSpace) -> None:
    controller = make(space, 0)
    _steps(controller, 0, 2)
    before = copy.deepcopy(controller.state_dict())
    snapshot = controller.snapshot(0, 16)
    assert same(before, controller.state_dict())
    assert snapshot.entropy > 0
    for name, probabilities in snapshot.options.items():
        decision = space[name]
        assert isinstance(decision, Choice)
        assert len(probabilities) == len(decision.options)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    for probabilities in snapshot.connections.values():
        assert all(0 <= p <= 1 for p in probabilities)


def test_given_choices_hold(make: Make) -> None:
    controller = make(CONV_SPACES["types"], 0)
    drawn = controller.propose(6, {"depth": 3, "learning_rate": 0.01})
    assert {(a["depth"], a["learning_rate"]) for a in drawn} == {(3, 0.01)}
    assert {controller.snapshot(0, 8, {"depth": 2}).options["depth"]} == {(1.0, 0.0, 0.0)}


@pytest.mark.parametrize(
    "name", ["guided", "evolution", "local_search", "local_search_best", "tpe"]
)
def test_a_failed_trial_is_below_all_where_order_counts_alone(name: str) -> None:
    """What it was told, above all rewards or below, changes nothing."""
    space, found = small_space(), []
    for told in (0.0, -9.0):
        controller = CONTROLLERS[name](space, 1)
        drawn: list[Architecture] = []
        for step in range(6):
            proposed = controller.propose(4)
            drawn += proposed
            trials = [replace(t, reward=(t.reward or 0.0) - 2) for t in _told(proposed, step)]
            if step == 0:
                trials[3] = replace(trials[3], state=TrialState.FAILED, reward=told)
            controller.tell(trials)
        found.append(drawn)
    assert found[0] == found[1]
