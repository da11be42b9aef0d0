"""Optuna's TPE behind the protocol."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace

import pytest

from netwright.controllers.guided import GuidedSettings
from netwright.controllers.making import CONTROLLERS, ControllerSettings, make_controller
from netwright.controllers.tpe import Tpe, TpeSettings
from netwright.errors import ConfigError, MissingExtraError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.space import Architecture
from netwright.trial import Trial
from tests.strategies import small_space


def _trial(architecture: Architecture, reward: float) -> Trial:
    return Trial(number=0, batch=0, architecture=architecture, seed=0, reward=reward)


def test_what_is_told_becomes_parameters_and_what_was_given_does_not() -> None:
    space = small_space()
    controller = Tpe(space)
    values = {"type": "b", "first.inputs": (), "second.inputs": ("first",), "rate": 0.2}
    told = _trial(space.architecture({**values, "third.inputs": ("second",)}), 0.5)
    controller.tell([replace(told, given={"type": "b"})])
    (frozen,) = controller._study.get_trials()
    assert frozen.value == 0.5
    assert frozen.params == {
        "second.inputs\0first": True,
        "rate": 1,
        "third.inputs\0first": False,
        "third.inputs\0second": True,
    }


def test_a_state_knows_what_was_told_and_nothing_of_what_is_out() -> None:
    """What was asked and not yet told leaves no trace: a new study goes on alike."""
    space = small_space()
    task = {a: i / 28 for i, a in enumerate(space.enumerate())}
    controller = Tpe(space, TpeSettings(startup=3), seed=5)
    for _ in range(6):
        told, _out = controller.propose(2)
        controller.tell([_trial(told, task[told])])
    state = controller.state_dict()
    assert state["proposals"] == 6
    assert len(state["told"]) == 6
    other = Tpe(space, TpeSettings(startup=3), seed=5)
    other.load_state_dict(state)
    assert len(other._study.trials) == 6
    assert other.propose(8) == controller.propose(8)


def test_it_finds_more_than_it_began_with() -> None:
    space = choices_space(8, 4)
    task = Additive(space, seed=2)
    controller = Tpe(space, seed=2)
    rewards = []
    for _ in range(80):
        (drawn,) = controller.propose(1)
        rewards.append(task.expected(drawn))
        controller.tell([_trial(drawn, rewards[-1])])
    assert sum(rewards[-20:]) / 20 > sum(rewards[:10]) / 10 + 0.2


def test_optuna_says_nothing_and_keeps_its_own_settings(capfd: pytest.CaptureFixture[str]) -> None:
    optuna = pytest.importorskip("optuna")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            controller = Tpe(small_space(), TpeSettings(startup=1))
            controller.tell([_trial(a, 0.5) for a in controller.propose(2)])
            controller.propose(2)
        assert optuna.logging.get_verbosity() == logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
    assert raised == []
    assert capfd.readouterr() == ("", "")


def test_without_optuna_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'netwright\[optuna\]'"):
        make_controller(small_space(), ControllerSettings(name="tpe"), 0)


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"controller\.startup must be 1 or more; got 0"):
        TpeSettings(startup=0)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_is_made_by_its_name_with_its_settings(name: str) -> None:
    settings = ControllerSettings(name=name, batch=3, guided=GuidedSettings(batch=3))
    controller = make_controller(small_space(), settings, 1)
    assert type(controller).__name__.lower() in (name.replace("_", ""), f"{name}search")
    assert controller.batch == 3
    if hasattr(controller, "settings"):
        own = vars(settings.guided if name == "guided" else settings)
        assert vars(controller.settings).items() <= own.items()
