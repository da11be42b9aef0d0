"""Netwright designs neural networks by reinforcement learning (Zoph & Le, ICLR 2017).

Importing this package imports neither torch nor any other heavy library: public names are loaded
when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Architecture": "netwright.space",
    "Choice": "netwright.space",
    "Connections": "netwright.space",
    "SearchSpace": "netwright.space",
    "Evaluation": "netwright.trial",
    "Trial": "netwright.trial",
    "TrialState": "netwright.trial",
    "NetwrightError": "netwright.errors",
    "UsageError": "netwright.errors",
    "ChildError": "netwright.errors",
    "Study": "netwright.study",
    "FunctionEvaluator": "netwright.study",
    "InProcess": "netwright.executors.local",
    "Evolution": "netwright.controllers.evolution",
    "Guided": "netwright.controllers.guided",
    "GuidedSettings": "netwright.controllers.guided",
    "PolicyGradient": "netwright.controllers.policy_gradient",
    "PolicySettings": "netwright.controllers.policy_gradient",
    "RandomSearch": "netwright.controllers.random",
    "build": "netwright.children.conv",
    "load_architecture": "netwright.spaces",
    "save_architecture": "netwright.spaces",
}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from netwright.children.conv import build as build
    from netwright.controllers.evolution import Evolution as Evolution
    from netwright.controllers.guided import Guided as Guided
    from netwright.controllers.guided import GuidedSettings as GuidedSettings
    from netwright.controllers.policy_gradient import PolicyGradient as PolicyGradient
    from netwright.controllers.policy_gradient import PolicySettings as PolicySettings
    from netwright.controllers.random import RandomSearch as RandomSearch
    from netwright.errors import ChildError as ChildError
    from netwright.errors import NetwrightError as NetwrightError
    from netwright.errors import UsageError as UsageError
    from netwright.executors.local import InProcess as InProcess
    from netwright.space import Architecture as Architecture
    from netwright.space import Choice as Choice
    from netwright.space import Connections as Connections
    from netwright.space import SearchSpace as SearchSpace
    from netwright.spaces import load_architecture as load_architecture
    from netwright.spaces import save_architecture as save_architecture
    from netwright.study import FunctionEvaluator as FunctionEvaluator
    from netwright.study import Study as Study
    from netwright.trial import Evaluation as Evaluation
    from netwright.trial import Trial as Trial
    from netwright.trial import TrialState as TrialState


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'netwright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
