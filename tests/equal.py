"""When two studies, or the states of two controllers, are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from netwright.controllers.policy_gradient import PolicyGradient
from netwright.study import Study
from netwright.trial import Trial


def same(a: Any, b: Any) -> bool:
    """Say whether two nested values are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def bits(study: Study) -> dict[str, torch.Tensor]:
    """Return the parameters of a study's policy."""
    controller = study.controller
    assert isinstance(controller, PolicyGradient)
    return {k: v.clone() for k, v in controller.policy.state_dict().items()}


def outcome(trial: Trial) -> Trial:
    """Return the trial without its times."""
    evaluation = trial.evaluation and replace(trial.evaluation, cost=0.0)
    return replace(trial, started=0.0, finished=None, evaluation=evaluation)
