"""Trials: what the journal holds of each child, and what an evaluator returns."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from netwright.space import Architecture, Option
from netwright.stopping import Rule

Detail = float | int | str
STOPPED = "stopped"  # the detail of a child that a rule stopped: after which epoch
SHORT = "short"  # the detail of a child that was shortly trained first: its score then


@dataclass(frozen=True)
class Metric:
    """What a score is called, and whether less of it is better.

    Which trial is best always goes by the reward; this is for words and axes.
    """

    name: str = "accuracy"
    lower: bool = False


class TrialState(enum.StrEnum):
    """Where a trial stands; all but RUNNING never change again. STOPPED: early, by a rule."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


Stop = Callable[[Sequence[float]], bool]
Fit = Callable[[float, Stop | None], Sequence[float]]


def trained(
    fit: Fit, rule: Rule | None, epochs: int
) -> tuple[tuple[float, ...], tuple[float, ...], dict[str, Detail]]:
    """Train a child under a rule; return its curve, the scores its own is of, and its details.

    fit: trains a new one for a share of the steps, in (0, 1], asking after each epoch whether it
    stops there; returns its scores, of which those of a short training may be of some epochs only.
    epochs: of a whole training. The curve is empty where the child was shortly trained and no more.
    """
    details: dict[str, Detail] = {}
    if rule is not None and rule.short:
        scores = tuple(fit(rule.short, None))
        details[SHORT] = min(scores) if rule.lower else max(scores)
        if rule.alone:
            return (), scores, details
        if rule.stops([float(details[SHORT])]):
            return (), scores, {**details, STOPPED: 0}
        rule = None
    curve = tuple(fit(1.0, rule.stops if rule is not None else None))
    if len(curve) < epochs:
        details[STOPPED] = len(curve)
    return curve, curve, details


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What training a child gave.

    score: the validation score that people read: accuracy in [0, 1] for images, perplexity or bits
        per character for text.
    reward: what the controller learns from, higher is better; must be finite.
    curve: the score after each epoch.
    cost: seconds of training, of others that it needed too; the processor's where it trains with
        one thread.
    parameters: weights of the child, 0 where that means nothing.
    details: further numbers and words for tables; "stopped" is the epoch after which a rule stopped
        the child, whose score and reward are then those of its part of a training; "short" the
        score of a short training, before the whole one or instead of it, which is at epoch 0.
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

    @property
    def short(self) -> bool:
        """Whether the child had a short training and no other."""
        return SHORT in self.details and not self.curve

    @property
    def judged(self) -> tuple[float, ...]:
        """The scores that a rule goes by: a short training's if there was one, or the curve."""
        return (float(self.details[SHORT]),) if SHORT in self.details else self.curve


def plain(evaluation: Evaluation) -> Evaluation | TypeError:
    """Return it with numbers of Python's own, as the journal takes them, for those of a library.

    Where one is no number, return what is wrong.
    """
    try:
        return Evaluation(
            reward=float(evaluation.reward),
            score=float(evaluation.score),
            curve=tuple(float(score) for score in evaluation.curve),
            cost=float(evaluation.cost),
            parameters=int(evaluation.parameters),
            details={str(name): _detail(value) for name, value in evaluation.details.items()},
        )
    except (TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
        return TypeError(f"an evaluation must hold numbers and words: {error}")


def _detail(value: object) -> Detail:
    if isinstance(value, float | int | str):
        return value
    found = value.item()  # type: ignore[attr-defined]
    if isinstance(found, float | int | str):
        return found
    raise TypeError(f"{found!r} is none")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One architecture and what became of it.

    number: from 0, in the order of proposal.
    batch: which proposal of the controller it came in, from 0.
    seed: of the child's weights and its order of data.
    given: choices that the study fixed (a depth schedule), which the controller did not make.
    log_prob: nats, with which the controller proposed it, None where it does not say.
    rule: when to stop it early, None for never; known while it runs.
    reward: what the controller is told: the evaluation's; for a stopped trial what its rule says of
        it; for a failed trial the study's failure reward, or the lowest told before where that is
        less; None while running.
    failure: the reason in one line, for a failed trial.
    duplicate_of: the trial whose result this one shares, being canonically equal.
    started, finished: seconds since the epoch; `started` of the training, and of the proposal while
        that has not ended.
    """

    number: int
    batch: int
    architecture: Architecture
    seed: int
    given: Mapping[str, Option] = field(default_factory=dict)
    log_prob: float | None = None
    rule: Rule | None = None
    state: TrialState = TrialState.RUNNING
    evaluation: Evaluation | None = None
    reward: float | None = None
    failure: str | None = None
    duplicate_of: int | None = None
    started: float = 0.0
    finished: float | None = None

    @property
    def score(self) -> float | None:
        """The validation score, None for a trial without one; a stopped child's is of its part."""
        return None if self.evaluation is None else self.evaluation.score

    @property
    def standing(self) -> float:
        """The reward, for who goes by the order of rewards alone: a failed trial is below all.

        What it was told may be above rewards that came later. Raises `ValueError` without a reward.
        """
        if self.reward is None:
            raise ValueError(f"trial {self.number} was told without a reward")
        return -math.inf if self.state is TrialState.FAILED else self.reward

    @property
    def completed(self) -> bool:
        """Whether the child was trained to its end."""
        return self.state is TrialState.COMPLETED

    @property
    def stopped(self) -> int | None:
        """The epoch after which a rule stopped it, 0 after a short training; None if none did."""
        if self.state is not TrialState.STOPPED or self.evaluation is None:
            return None
        return len(self.evaluation.curve)


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


def cost_of(trial: Trial) -> float:
    """Return the seconds that a trial took; of a failed one those between its start and its end."""
    if trial.evaluation is not None:
        return trial.evaluation.cost
    if trial.state is not TrialState.FAILED or trial.finished is None:
        return 0.0
    return max(0.0, trial.finished - trial.started)
