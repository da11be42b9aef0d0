"""Searches that stop children early: what is told, shown and journalled, and going on with them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from netwright.controllers.random import RandomSearch
from netwright.errors import ConfigError, StudyError
from netwright.evaluators.synthetic import Additive, Learning, choices_space
from netwright.executors.processes import Processes
from netwright.executors.simulated import Simulated
from netwright.loop import Mode
from netwright.report.page import ReportData, render
from netwright.report.tables import summary, top_rows
from netwright.space import Architecture
from netwright.stopping import Rule, StoppingSettings
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.trial import SHORT, STOPPED, Evaluation, Trial, TrialState
from tests.equal import outcome

SPACE = choices_space(6, 3)
STOPPING = StoppingSettings(method="halving", rungs=(1, 3), keep=0.5, warmup=8, window=30)
SHORT_FIRST = StoppingSettings(method="short", share=0.25, keep=0.3, warmup=8, window=30)


def _study(storage: str = "sqlite://", evaluator: object = None, **settings: object) -> Study:
    return Study(
        SPACE,
        RandomSearch(SPACE, batch=4, seed=1),
        evaluator or Learning(SPACE, noise=0.1),  # type: ignore[arg-type]
        storage,
        **{"seed": 1, "stopping": STOPPING, **settings},  # type: ignore[arg-type]
    )


def _page(study: Study) -> str:
    return render(
        ReportData(
            name="s",
            space=SPACE,
            trials=study.trials,
            header={},
            events=(),
            snapshots=(),
            plans={},
        )
    )


def _stopped(study: Study) -> list[Trial]:
    return [trial for trial in study.trials if trial.state is TrialState.STOPPED]


def test_children_stop_at_rungs_and_their_curves_are_the_beginnings_of_whole_ones() -> None:
    study = _study()
    study.run(60)
    stopped = _stopped(study)
    assert all(trial.state is TrialState.COMPLETED for trial in study.trials[:8])
    assert {trial.stopped for trial in stopped} == {1, 3}
    task = Learning(SPACE, noise=0.1)
    for trial in stopped:
        assert trial.evaluation is not None
        assert trial.evaluation.details[STOPPED] == trial.stopped
        full = task.evaluate(
            trial.architecture, study.trials[trial.duplicate_of or trial.number].seed, "cpu"
        )
        assert trial.evaluation.curve == full.curve[: trial.stopped]


def test_short_trainings_may_be_all_that_children_have() -> None:
    task = Learning(SPACE)
    alone = StoppingSettings(method="short", share=0.25, keep=0.0)
    study = _study(evaluator=task, stopping=alone)
    study.run(30)
    for trial in study.trials:
        assert trial.evaluation is not None
        assert trial.state is TrialState.COMPLETED
        assert trial.evaluation.short
        assert trial.score == trial.reward == trial.evaluation.details[SHORT]
        assert trial.evaluation.cost == (0.0 if trial.duplicate_of is not None else 2.0)
        assert trial.score == pytest.approx(task.expected(trial.architecture) - 0.75 * task.gap)
    assert study.best.reward == max(trial.reward or 0.0 for trial in study.trials)
    page = _page(study)
    assert f"trial {study.best.number}, after a short training" in page


def test_a_short_training_comes_first_and_who_passes_it_is_trained_anew() -> None:
    study = _study(stopping=SHORT_FIRST)
    study.run(60)
    rules = [Rule.from_dict(event.payload["rule"]) for event in study.events("propose")]
    assert [len(rule.rungs) for rule in rules[:3]] == [0, 0, 1]
    task, stopped = Learning(SPACE, noise=0.1), 0
    for trial in study.trials:
        if trial.duplicate_of is not None:
            continue
        assert trial.evaluation is not None
        score, rule = trial.evaluation.details[SHORT], rules[trial.batch]
        assert trial.evaluation.judged == (score,)
        assert rule.stops([float(score)]) == (trial.state is TrialState.STOPPED)
        if trial.state is TrialState.STOPPED:
            stopped += 1
            assert (trial.stopped, trial.evaluation.curve) == (0, ())
            assert (trial.score, trial.evaluation.cost) == (score, 2.0)  # a quarter of 8 epochs
            assert trial.reward == rule.reward([float(score)])
        else:
            full = task.evaluate(trial.architecture, trial.seed, "cpu")
            assert trial.evaluation.curve == full.curve
            assert (trial.reward, trial.evaluation.cost) == (full.reward, 2.0 + full.cost)
    assert 20 < stopped < 50
    assert study.best.completed
    assert summary(study.trials)["stopped"] >= stopped


def test_what_is_told_of_a_stopped_child_follows_from_the_rule_in_the_journal() -> None:
    study = _study()
    study.run(60)
    rules: list[Any] = [event.payload.get("rule") for event in study.events("propose")]
    assert rules[:2] == [None, None]
    assert all(rules[2:])
    assert len({json.dumps(rule) for rule in rules}) > 5, "a rule for each proposal"
    for trial in _stopped(study):
        if trial.duplicate_of is None:
            rule = Rule.from_dict(rules[trial.batch])
            assert trial.evaluation is not None
            assert rule.stops(trial.evaluation.curve)
            assert trial.reward == rule.reward(trial.evaluation.curve)


def test_no_child_is_told_more_than_one_that_was_known_to_have_passed_its_rung() -> None:
    study = _study()
    study.run(60)
    checked = 0
    for trial in _stopped(study):
        if trial.duplicate_of is not None:
            continue
        rule = Rule.from_dict(study.events("propose")[trial.batch].payload["rule"])
        threshold = next(r.threshold for r in rule.rungs if r.epoch == trial.stopped)
        for other in study.trials[max(0, 4 * trial.batch - 30) : 4 * trial.batch]:
            curve = other.evaluation.curve if other.evaluation is not None else ()
            further = len(curve) > (trial.stopped or 0) and other.duplicate_of is None
            if further and max(curve[: trial.stopped]) >= threshold:
                assert trial.reward is not None
                assert other.reward is not None
                assert trial.reward <= other.reward
                checked += 1
    assert checked > 50


def test_the_best_is_never_a_stopped_child() -> None:
    study = _study()
    study.run(60)
    assert _stopped(study)
    assert study.best.completed
    assert all(trial.completed for trial in study.top(60))
    assert all(trial.completed for trial in top_rows(study.trials, 60))
    assert study.watch is not None
    assert study.watch.stopped == len(_stopped(study))
    assert study.watch.failed == 0
    assert summary(study.trials)["stopped"] == len(_stopped(study))
    page = _page(study)
    assert f"{len(_stopped(study))} stopped early" in page
    assert 'id="rewards-stopped"' in page


def test_an_architecture_that_was_stopped_is_not_trained_again() -> None:
    space = choices_space(2, 2)
    study = Study(
        space,
        RandomSearch(space, batch=4, seed=3),
        Learning(space),
        seed=3,
        stopping=StoppingSettings(method="halving", rungs=(1,), warmup=2, window=8),
    )
    study.run(24)
    shared = [t for t in study.trials if t.duplicate_of is not None]
    first = {t.number: t for t in study.trials}
    assert {t.state for t in shared} == {TrialState.COMPLETED, TrialState.STOPPED}
    for trial in shared:
        other = first[trial.duplicate_of or 0]
        assert (trial.state, trial.reward) == (other.state, other.reward)
        assert trial.evaluation is not None
        assert trial.evaluation.cost == 0.0


@pytest.mark.parametrize("stopping", [STOPPING, SHORT_FIRST])
def test_going_on_gives_the_same_bits(stopping: StoppingSettings, tmp_path: Path) -> None:
    whole, url = _study(stopping=stopping), sqlite_url(tmp_path / "s.db")
    whole.run(50)
    for trials in (3, 9, 13, 26, 50):  # in the midst of proposals too
        part = _study(url, stopping=stopping)
        part.run(trials)
    assert [outcome(t) for t in part.trials] == [outcome(t) for t in whole.trials]
    rules = [[e.payload for e in s.events("propose")] for s in (part, whole)]
    assert rules[0] == rules[1]


class _Interrupted(Learning):
    """Interrupts its third child, as Ctrl-C would."""

    calls = 0

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().evaluate_until(architecture, seed, device, rule)


def test_a_child_that_was_lost_is_trained_again_under_its_own_rule(tmp_path: Path) -> None:
    whole, url = _study(), sqlite_url(tmp_path / "s.db")
    whole.run(40)
    for _ in range(30):
        part = _study(url, _Interrupted(SPACE, noise=0.1))
        try:
            part.run(40)
            break
        except KeyboardInterrupt:
            continue
    assert part.events("interrupted")
    assert [outcome(t) for t in part.trials] == [outcome(t) for t in whole.trials]


def test_two_workers_with_one_replica_make_the_same_study() -> None:
    one, two = _study(stopping=SHORT_FIRST), _study(stopping=SHORT_FIRST)
    one.run(40)
    executor = Processes(2)
    try:
        two.run(40, executor)
    finally:
        executor.shutdown()
    assert _stopped(one)
    assert [outcome(t) for t in two.trials] == [outcome(t) for t in one.trials]


@pytest.mark.parametrize("mode", [Mode(queue=True), Mode(replicas=3)])
def test_other_modes_stop_and_go_on_too(mode: Mode, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")

    def begin() -> tuple[Study, Simulated]:
        simulated = Simulated(3, lambda architecture, seed: 1.0 + seed % 7)
        return _study(url, mode=mode, clock=simulated), simulated

    for trials in (11, 60):
        study, simulated = begin()
        study.run(trials, simulated)
    assert _stopped(study)
    assert study.best.completed
    assert len(study.trials) == 60


def test_only_children_of_one_depth_are_compared() -> None:
    from netwright.depth import DepthSchedule
    from netwright.spaces import conv

    schedule = DepthSchedule(start=2, last=4, step=2, every=16)
    space = conv.space("s", conv.ConvSettings(depths=schedule.depths()))

    class Deep(Learning):
        def __init__(self) -> None:
            self.epochs, self.gap, self.curve_noise = 8, 0.3, 0.0

        def expected(self, architecture: Architecture) -> float:
            return (
                zlib.crc32(architecture.to_json().encode())
                % 97
                / 97
                / float(str(architecture["depth"]))
            )

    study = Study(
        space,
        RandomSearch(space, batch=4, seed=1),
        Deep(),
        stopping=STOPPING,
        schedule=schedule,
    )
    study.run(32)
    ruled = [event.payload.get("rule") is not None for event in study.events("propose")]
    assert ruled == [False, False, True, True, False, False, True, True]


def test_ask_and_tell_heed_the_rule() -> None:
    study = _study()
    task = Learning(SPACE, noise=0.1)
    for _ in range(40):
        trial = study.ask()
        if trial.rule is None:
            study.tell(trial, task.evaluate(trial.architecture, trial.seed, "cpu"))
        else:
            study.tell(
                trial, task.evaluate_until(trial.architecture, trial.seed, "cpu", trial.rule)
            )
    assert _stopped(study)
    assert all(trial.rule is None for trial in study.trials)


def test_an_evaluator_that_cannot_stop_is_refused() -> None:
    with pytest.raises(StudyError, match=r"must have evaluate_until .*; got Additive"):
        _study(evaluator=Additive(SPACE)).run(1)


def test_a_study_goes_on_only_with_the_stopping_it_began_with(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    _study(url).run(2)
    with pytest.raises(StudyError, match="a study goes on only as it began; stopping"):
        _study(url, stopping=None)
    with pytest.raises(StudyError, match=r"stopping keep was '0.5' and is '0.3'"):
        _study(
            url,
            stopping=StoppingSettings(
                method="halving", rungs=(1, 3), keep=0.3, warmup=8, window=30
            ),
        )


def test_only_journals_with_stopped_trials_are_of_the_newer_format(tmp_path: Path) -> None:
    for name, stopping, known in (("a", None, 2), ("b", STOPPING, 3)):
        url = sqlite_url(tmp_path / f"{name}.db")
        _study(url, stopping=stopping).run(2)
        assert SqlStore(url).header()["format"] == known
        _study(url, stopping=stopping).run(4)


def test_instant_tasks_have_nothing_to_stop() -> None:
    from netwright.config import load_config

    with pytest.raises(ConfigError, match=r"stopping\.method must be none for"):
        load_config("synthetic-conv", ["stopping.method=halving"])
