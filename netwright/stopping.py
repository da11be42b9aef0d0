"""Early stopping: which children end before their last epoch, and what the controller is told.

Asynchronous successive halving in its stopping form (Li et al., "A System for Massively Parallel
Hyperparameter Tuning", MLSys 2020): after certain epochs, the rungs, a child goes on only where it
is among the best of those that came as far before it. Or, with the same rule, after one short
training with a whole schedule of its own, and then anew; that short training may begin with weights
of an earlier child. Everything here is a pure function of the finished trials, worked out when a
child is proposed and journalled with the proposal.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from netwright.rules import Section

METHODS = ("none", "halving", "short")
KNOTS = 16  # of a rung's map, at most


@dataclass(frozen=True, kw_only=True)
class StoppingSettings:
    """When a search stops its children early.

    method: "none", "halving" (children stop after some epochs) or "short" (each is trained for a
    share of the steps first, and whole only if that went well). rungs: of "halving", epochs after
    which a child may be stopped, from 1 and rising; those from the last epoch on mean nothing.
    share: of "short", the steps of a short training among those of a whole one, in (0, 1). donors:
    of "short", from how many of the search's first children that were trained whole a short
    training may inherit weights, >= 0; it takes the likest one's. keep:
    the share of a rung's children, or of the shortly trained, that goes on, in (0, 1); of the
    latter also 0: all have the short training alone, the first too, and are none the less complete,
    with its score for theirs. Of "none" it means nothing. warmup: nobody is stopped at a rung
    before so many children reached it, >= 2; the first ones of a search are thus trained whole.
    window: how many of the latest trials a child is compared with, >= warmup.
    """

    method: str = "none"
    rungs: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    share: float = 0.125
    donors: int = 0
    keep: float = 0.5
    warmup: int = 10
    window: int = 100

    def __post_init__(self) -> None:
        section = Section("stopping", self)
        section.one_of("method", METHODS)
        rule = "must be epochs from 1 that rise"
        if not self.rungs:
            section.refuse("rungs", rule)
        section.rising("rungs", rule, 0)
        if self.donors < 0 or (self.donors and self.method == "halving"):
            section.refuse("donors", "must be 0 or more, and 0 with stopping.method=halving")
        section.within("(0, 1)", "share")
        section.within("(0, 1)" if self.method == "halving" else "[0, 1)", "keep")
        if self.alone and self.donors:
            section.refuse("donors", "must be 0 with stopping.keep=0: no child is trained whole", 0)
        section.at_least(2, "warmup")
        if self.window < self.warmup:
            rule = f"must be stopping.warmup={self.warmup} or more"
            section.refuse("window", rule, self.warmup)

    @property
    def alone(self) -> bool:
        """Whether children have a short training and no other."""
        return self.method == "short" and self.keep == 0

    def to_dict(self) -> dict[str, Any]:
        """Return what counts of it, as plain data; older journals had no `share`, no `donors`."""
        data = asdict(self)
        del data["rungs" if self.method == "short" else "share"]
        if not self.donors:
            del data["donors"]
        return data


@dataclass(frozen=True, kw_only=True)
class Donor:
    """A child that was trained whole, as its training can be done again.

    architecture: its values, JSON. seed: of its weights and its order of data.
    """

    architecture: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished trial, as rules are made of them.

    curve: its score after each epoch that it was trained, or the one of its short training.
    reward: what the controller was told. whole: it was trained to its last epoch. made: how.
    """

    curve: tuple[float, ...]
    reward: float
    whole: bool
    made: Donor | None = None


@dataclass(frozen=True, kw_only=True)
class Rung:
    """epoch: after which a child stops whose best score so far is worse than `threshold`.

    scores, rewards: the knots of the map from such a child's score to what the controller is told
    of it; from the worst score to the best, rewards that never fall. Linear between knots,
    constant beyond.
    """

    epoch: int
    threshold: float
    scores: tuple[float, ...]
    rewards: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When one child stops. lower: lower scores are better.

    short: the share of the steps of a first, short training, whose score is then the curve that the
    rule goes by; 0 for none. It may have no rung, where children train shortly and then whole.
    alone: where they do not train whole, and the short training is all of theirs. donors: from the
    likest of these the short training inherits weights. wanted: how many these will be; while they
    are fewer, a child trained whole may become one.
    """

    rungs: tuple[Rung, ...]
    lower: bool = False
    short: float = 0.0
    alone: bool = False
    donors: tuple[Donor, ...] = ()
    wanted: int = 0

    def stops(self, curve: Sequence[float]) -> bool:
        """Say whether a child stops now, whose scores after each epoch were `curve`."""
        for rung in self.rungs:
            if rung.epoch == len(curve):
                sign = -1.0 if self.lower else 1.0
                return sign * _best(curve, self.lower) < sign * rung.threshold
        return False

    def reward(self, curve: Sequence[float]) -> float:
        """Return what the controller is told of a child that stopped with this curve.

        Raises `ValueError` where the curve ends before the first rung.
        """
        passed = [rung for rung in self.rungs if rung.epoch <= len(curve)]
        if not passed:
            raise ValueError(f"a stopped child must have reached a rung; got {len(curve)} epochs")
        rung = passed[-1]
        return _interpolate(rung, _best(curve[: rung.epoch], self.lower), self.lower)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` takes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the rule of `to_dict`, also after JSON."""
        rungs = tuple(
            Rung(
                epoch=int(rung["epoch"]),
                threshold=float(rung["threshold"]),
                scores=tuple(rung["scores"]),
                rewards=tuple(rung["rewards"]),
            )
            for rung in data["rungs"]
        )
        return cls(
            rungs=rungs,
            lower=bool(data["lower"]),
            short=float(data.get("short", 0.0)),
            alone=bool(data.get("alone", False)),
            donors=tuple(Donor(**donor) for donor in data.get("donors", ())),
            wanted=int(data.get("wanted", 0)),
        )


def rule_of(
    records: Sequence[Record],
    first: Sequence[Record],
    settings: StoppingSettings,
    lower: bool,
    donors: Sequence[Record] = (),
) -> Rule | None:
    """Return the rule for the next child, None where it is just trained whole.

    records: the latest finished trials, with which it is compared. first: the first ones of the
    search, trained whole, from which, too, is learned what a bad start leads to. donors: its first
    ones that were trained whole, of which `settings.donors` are taken.

    At each rung the threshold is the score that the best `keep` of `records` reached; equal scores
    go on. The reward of a stopped child is the isotonic regression of the rewards of trials that
    went on from this rung on their scores there, capped by the lowest reward of those at or above
    the threshold: of the trials known, none that passes is told less than one that does not. Where
    all that reached the threshold were stopped themselves, when better ones were in the window, it
    is capped by the highest reward of the regression.
    """
    if settings.method == "none":
        return None
    short = settings.share if settings.method == "short" else 0.0
    if settings.alone:
        return Rule(rungs=(), lower=lower, short=short, alone=True)
    rungs = []
    for epoch in (1,) if short else settings.rungs:
        reached = [r for r in records if _sound(r, epoch)]
        if len(reached) < settings.warmup:
            continue
        scores = sorted((_best(r.curve[:epoch], lower) for r in reached), reverse=not lower)
        threshold = scores[max(1, math.ceil(settings.keep * len(scores))) - 1]
        went_on = [r for r in [*first, *records] if _sound(r, epoch) and _went_on(r, epoch)]
        rung = _rung(epoch, threshold, went_on, lower)
        if rung is not None:
            rungs.append(rung)
    if not short:
        return Rule(rungs=tuple(rungs), lower=lower) if rungs else None
    given = [r.made for r in donors if r.whole and r.made is not None]
    return Rule(
        rungs=tuple(rungs),
        lower=lower,
        short=short,
        donors=tuple(given[: settings.donors]),
        wanted=settings.donors,
    )


def _sound(record: Record, epoch: int) -> bool:
    finite = all(math.isfinite(score) for score in record.curve[:epoch])
    return len(record.curve) >= epoch and finite and math.isfinite(record.reward)


def _went_on(record: Record, epoch: int) -> bool:
    return record.whole or len(record.curve) > epoch


def _rung(epoch: int, threshold: float, went_on: Sequence[Record], lower: bool) -> Rung | None:
    sign = -1.0 if lower else 1.0
    pairs = [(sign * _best(r.curve[:epoch], lower), r.reward) for r in went_on]
    if not pairs:
        return None
    passed = [reward for score, reward in pairs if score >= sign * threshold]
    knots = _thinned(isotonic(pairs))
    knots = _below(knots, sign * threshold, min(passed) if passed else knots[-1][1])
    return Rung(
        epoch=epoch,
        threshold=threshold,
        scores=tuple(sign * score for score, _ in knots),
        rewards=tuple(reward for _, reward in knots),
    )


def _below(
    knots: Sequence[tuple[float, float]], threshold: float, least: float
) -> list[tuple[float, float]]:
    """Return the map's part below the threshold, squeezed so that it ends there at most at `least`.

    Squeezed towards its lowest reward rather than cut off, which would tell all of the better ones
    the same; cut off only where even that is above `least`.
    """
    lowest, top = knots[0][1], _linear(knots, threshold)
    part = [(score, reward) for score, reward in knots if score < threshold]
    if lowest >= least:
        return [*((score, least) for score, _ in part), (threshold, least)]
    scale = min(1.0, (least - lowest) / (top - lowest)) if top > lowest else 1.0
    return [(x, lowest + scale * (y - lowest)) for x, y in [*part, (threshold, top)]]


def isotonic(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the least-squares rising fit of (x, y), as (mean x, mean y) of each level block.

    Pool adjacent violators; pairs of equal x are one. From the lowest x to the highest.
    """
    blocks: list[list[float]] = []  # sum of x, sum of y, count
    merged: dict[float, list[float]] = {}
    for x, y in pairs:
        entry = merged.setdefault(x, [0.0, 0.0, 0.0])
        entry[0], entry[1], entry[2] = entry[0] + x, entry[1] + y, entry[2] + 1.0
    for x in sorted(merged):
        blocks.append(merged[x])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [(sum_x / count, sum_y / count) for sum_x, sum_y, count in blocks]


def _mean(block: Sequence[float]) -> float:
    return block[1] / block[2]


def _thinned(knots: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `KNOTS` of them, the first and the last among these."""
    if len(knots) <= KNOTS:
        return knots
    last = len(knots) - 1
    return [knots[round(i * last / (KNOTS - 1))] for i in range(KNOTS)]


def _best(curve: Sequence[float], lower: bool) -> float:
    return min(curve) if lower else max(curve)


def _interpolate(rung: Rung, score: float, lower: bool) -> float:
    sign = -1.0 if lower else 1.0
    return _linear(
        [(sign * s, y) for s, y in zip(rung.scores, rung.rewards, strict=True)], sign * score
    )


def _linear(knots: Sequence[tuple[float, float]], x: float) -> float:
    """Return the map at x: linear between knots, constant beyond."""
    right = bisect_right(knots, x, key=lambda knot: knot[0])
    if right == 0:
        return knots[0][1]
    if right == len(knots):
        return knots[-1][1]
    (x0, y0), (x1, y1) = knots[right - 1], knots[right]
    return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
