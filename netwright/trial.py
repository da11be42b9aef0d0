"""Trials: what the journal holds of each child, and what an evaluator returns."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from netwright.space import Architecture, Option

Detail = float | int | str


@dataclass(frozen=True)
class Metric:
    """What a score is called, and whether less of it is better.

    Which trial is best always goes by the reward; this is for words and axes.
    """

    name: str = "accuracy"
    lower: bool = False


class TrialState(enum.StrEnum):
    """Where a trial stands; COMPLETED and FAILED never change again."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What training a child gave.

    score: the validation score that people read: accuracy in [0, 1] for images, perplexity or bits
        per character for text.
    reward: what the controller learns from, higher is better; must be finite.
    curve: the score after each epoch.
    cost: seconds of training.
    parameters: weights of the child, 0 where that means nothing.
    details: further numbers and words for tables.
    """

    reward: float
    score: float
    curve: tuple[float, ...] = ()
    cost: float = 0.0
    parameters: int = 0
    details: Mapping[str, Detail] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether reward and score are numbers one can learn from."""
        return math.isfinite(self.reward) and math.isfinite(self.score)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One architecture and what became of it.

    number: from 0, in the order of proposal.
    batch: which proposal of the controller it came in, from 0.
    seed: of the child's weights and its order of data.
    given: choices that the study fixed (a depth schedule), which the controller did not make.
    log_prob: nats, with which the controller proposed it, None where it does not say.
    reward: the evaluation's, or the study's failure reward for a failed trial; None while running.
    failure: the reason in one line, for a failed trial.
    duplicate_of: the trial whose result this one shares, being canonically equal.
    started, finished: seconds since the epoch.
    """

    number: int
    batch: int
    architecture: Architecture
    seed: int
    given: Mapping[str, Option] = field(default_factory=dict)
    log_prob: float | None = None
    state: TrialState = TrialState.RUNNING
    evaluation: Evaluation | None = None
    reward: float | None = None
    failure: str | None = None
    duplicate_of: int | None = None
    started: float = 0.0
    finished: float | None = None

    @property
    def score(self) -> float | None:
        """The validation score, None for a trial that has none."""
        return None if self.evaluation is None else self.evaluation.score

    @property
    def completed(self) -> bool:
        """Whether the trial ended with an evaluation."""
        return self.state is TrialState.COMPLETED


@dataclass(slots=True)
class Outline:
    """What a study must know of every trial: little, so that 100,000 of them open in no time.

    canonical: the digest of the architecture's canonical form. told: whether the controller was
    told when it ended; what waited for its batch was told with the batch.
    """

    batch: int
    canonical: str
    state: TrialState = TrialState.RUNNING
    reward: float | None = None
    told: bool = False
