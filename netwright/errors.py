"""Every public error of Netwright.

    NetwrightError
    ├── UsageError            bad input from a person; the commands exit with code 2
    │   ├── ConfigError       a configuration: unknown key, wrong type, value out of range
    │   ├── SpaceError        a search space that cannot be (decisions, conditions, anchors)
    │   ├── ArchitectureError an architecture that its space does not hold, or a bad file of one
    │   ├── DataError         data that is missing, unreadable or too small
    │   ├── StudyError        a study or its journal: missing, truncated, of another configuration
    │   ├── ObjectivesError   an Optuna study of several objectives where one is needed
    │   ├── MissingExtraError an optional dependency that is not installed
    │   └── WorkersEndedError workers that ended without a child, so that none can be trained
    └── ChildError            a child that failed while training; the search goes on
        ├── TimeLimitError    it ran past its time limit
        └── WorkerLostError   the process that trained it died

Messages of a UsageError are one line that says rule, value, place and remedy.
"""

from __future__ import annotations


class NetwrightError(Exception):
    """Root of the tree."""


class UsageError(NetwrightError):
    """Bad input from a person: one clear line, exit code 2."""


class ConfigError(UsageError):
    """A configuration that breaks a rule."""


class SpaceError(UsageError):
    """A search space that cannot be."""


class ArchitectureError(UsageError):
    """An architecture that its space does not hold, or a file that is not one."""


class DataError(UsageError):
    """Data that is missing, unreadable or too small."""


class StudyError(UsageError):
    """A study that is missing, damaged or of another configuration."""


class ObjectivesError(UsageError, ValueError):
    """Several objectives where one is needed; a ValueError, as Optuna's own samplers raise."""


class MissingExtraError(UsageError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'netwright[{extra}]'"
        )


class WorkersEndedError(UsageError):
    """Workers that ended without a child, so that none can be trained."""


class ChildError(NetwrightError):
    """A child that failed while training: its trial fails with this reason, the search goes on."""


class TimeLimitError(ChildError):
    """A child that ran past its time limit."""


class WorkerLostError(ChildError):
    """A child whose process died; where a search was told to end, not by the child's own fault."""


def out_of_range(key: str, rule: str, value: object, remedy: object = "...") -> str:
    """Return the line on a setting that breaks a rule; `key` is whole, as "training.epochs"."""
    return f"{key} {rule}; got {value!r}; use --set {key}={remedy}"


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is one of memory, of the host or of a GPU; torch's are RuntimeErrors."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "storage size calculation overflowed",
)
