from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from netwright.config import load_config
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.depth import DepthSchedule
from netwright.errors import ChildError, ConfigError, DataError, StudyError, UsageError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.protocols import Evaluator
from netwright.space import Architecture, Choice, SearchSpace
from netwright.spaces import conv
from netwright.stopping import Rule
from netwright.store import SqlStore, sqlite_url
from netwright.study import FunctionEvaluator, Study
from netwright.trial import Evaluation, Trial, TrialState
from tests import killed
from tests.equal import bits, outcome, same
from tests.strategies import small_space

SPACE = choices_space(6, 3)


def _study(storage: str = "sqlite://", batch: int = 4, **settings: object) -> Study:
    controller = PolicyGradient(SPACE, PolicySettings(batch=batch, learning_rate=0.02), seed=1)
    return Study(SPACE, controller, Additive(SPACE, noise=0.01), storage, seed=1, **settings)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_search() -> None:
    one, two = _study(), _study()
    one.run(20)
    two.run(20)
    assert [outcome(t) for t in one.trials] == [outcome(t) for t in two.trials]
    assert same(bits(one), bits(two))


def test_resuming_goes_on_bit_for_bit(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    whole = _study()
    whole.run(30)
    for trials in (3, 4, 11, 30):
        part = _study(url)
        part.run(trials)
        assert len(part.trials) == trials
    assert [outcome(t) for t in part.trials] == [outcome(t) for t in whole.trials]
    assert same(bits(_study(url)), bits(whole))


def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """Real kills of a real process; the end must be that of a search never interrupted."""
    trials, rng = 60, random.Random(5)
    whole = killed.study(sqlite_url(tmp_path / "whole.db"))
    whole.run(trials)
    url, kills = sqlite_url(tmp_path / "killed.db"), 0
    finished: list[Trial] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(60):
        command = [sys.executable, "-m", "tests.killed", url, str(trials)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment)
        before = len(finished)
        while process.poll() is None and kills < 6:
            if _finished(tmp_path / "killed.db") > before:
                time.sleep(rng.random() * 0.06)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
        now = [t for t in _trials(url) if t.state is not TrialState.RUNNING]
        assert now[: len(finished)] == finished  # no finished trial lost or changed
        finished = now
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills >= 5
    assert {t.state for t in finished} == {TrialState.COMPLETED, TrialState.STOPPED}
    assert [outcome(t) for t in finished] == [outcome(t) for t in whole.trials]
    assert same(bits(killed.study(url)), bits(whole))


def _trials(url: str) -> list[Trial]:
    store = SqlStore(url)
    try:
        return store.trials(killed.SPACE)
    finally:
        store.close()


def _finished(path: Path) -> int:
    import sqlite3

    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        return int(connection.execute("select count(*) from results").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def test_a_finished_trial_is_durable_before_the_controller_learns(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    seen: list[int] = []

    class Watching(RandomSearch):
        def tell(self, trials: object) -> None:
            assert isinstance(trials, list)
            store = SqlStore(url)
            durable = {t.number for t in store.trials(SPACE) if t.completed}
            store.close()
            seen.extend(t.number for t in trials)
            assert durable >= {t.number for t in trials}

    Study(SPACE, Watching(SPACE, batch=3), Additive(SPACE), url).run(9)
    assert seen == list(range(9))


# --- failures -------------------------------------------------------------------------------


def _fails(architecture: Architecture) -> float:
    kind = architecture["d0"]
    if kind == 0:
        raise ChildError("broke\nwith a second line")
    return math.nan if kind == 1 else 0.5


def test_failed_trials_have_a_reason_and_the_documented_reward() -> None:
    study = Study(SPACE, RandomSearch(SPACE, seed=3), _fails, failure_reward=-0.25)
    study.run(30)
    assert len(study.trials) == 30
    by_kind = {kind: [t for t in study.trials if t.architecture["d0"] == kind] for kind in range(3)}
    assert all(by_kind.values())
    assert {t.failure for t in by_kind[0]} == {"ChildError: broke"}
    assert all("not finite: nan" in str(t.failure) for t in by_kind[1])
    assert {t.reward for t in by_kind[0] + by_kind[1]} == {-0.25}
    assert all(t.completed and t.reward == 0.5 for t in by_kind[2])
    assert study.best.architecture["d0"] == 2


def test_bad_input_in_an_evaluator_stops_the_search_and_loses_nothing() -> None:
    calls: list[int] = []

    def breaks(architecture: Architecture) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise DataError("the data went away")
        return 0.5

    study = Study(SPACE, RandomSearch(SPACE), breaks)
    with pytest.raises(DataError, match=r"^the data went away$"):
        study.run(10)
    assert len(study.trials) == 2
    study.run(10)
    assert len(study.trials) == 10


def test_without_a_completed_trial_there_is_no_best() -> None:
    with pytest.raises(StudyError, match="needs a completed one"):
        _ = _study().best


# --- duplicates -----------------------------------------------------------------------------


def test_canonically_equal_architectures_are_trained_once() -> None:
    space = conv.space(
        "n", conv.ConvSettings(depths=(2,), heights=(1,), widths=(1,), filters=(4, 8))
    )
    trained: list[Architecture] = []

    def score(architecture: Architecture, seed: int) -> float:
        trained.append(space.canonical(architecture))
        return seed / 2**63

    study = Study(space, RandomSearch(space, batch=4), score)
    study.run(40)
    # 2 layers of 2 labels: chains 4, pairs side by side 3
    assert len(trained) == len(set(trained)) == 7
    for trial in study.trials:
        if trial.duplicate_of is not None:
            first = study.trial(trial.duplicate_of)
            assert space.canonical(first.architecture) == space.canonical(trial.architecture)
            assert (trial.score, trial.reward) == (first.score, first.reward)
            assert first.number < trial.number
            assert trial.evaluation is not None
            assert trial.evaluation.cost == 0.0
    assert len(study.top(100)) == 7

    trained.clear()
    again = Study(space, RandomSearch(space, batch=4), score, retrain_duplicates=True)
    again.run(40)
    assert len(trained) == 40


# --- executors that take their time -------------------------------------------------------


class _Later:
    """An executor of three workers that finishes the newest evaluation first."""

    workers = 3

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Evaluation], Evaluation]] = []
        self.most = 0

    def submit(
        self, evaluator: Evaluator, architecture: Architecture, seed: int, rule: Rule | None = None
    ) -> Future[Evaluation]:
        future: Future[Evaluation] = _Lazy(self)
        self.waiting.append((future, evaluator.evaluate(architecture, seed, "cpu")))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) == self.workers:
            self.finish()
        return future

    def finish(self) -> None:
        future, result = self.waiting.pop()
        future.set_result(result)

    def shutdown(self) -> None:
        return None


class _Lazy(Future[Evaluation]):
    def __init__(self, owner: _Later) -> None:
        super().__init__()
        self.owner = owner

    def done(self) -> bool:
        return super().done()


def test_the_order_in_which_children_end_changes_nothing() -> None:
    """Three at once, newest first, against one at a time: the same trials and controller."""
    one, many = _study(), _study()
    one.run(24)
    executor = _Later()
    timer = _Finisher(executor)
    timer.start()
    many.run(24, executor)
    timer.stop()
    assert executor.most == 3
    assert [outcome(t) for t in one.trials] == [outcome(t) for t in many.trials]
    assert same(bits(one), bits(many))


class _Finisher:
    """Ends what waits when nothing else does, as a slow worker would."""

    def __init__(self, executor: _Later) -> None:
        import threading

        self.executor, self.going = executor, True
        self.thread = threading.Thread(target=self._loop)

    def _loop(self) -> None:
        while self.going:
            time.sleep(0.002)
            if self.executor.waiting:
                self.executor.finish()

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.going = False
        self.thread.join()


# --- ask and tell -------------------------------------------------------------------------


def test_ask_and_tell_learn_as_run_does(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    ran, asked = _study(), _study(url)
    ran.run(16)
    task = Additive(SPACE, noise=0.01)
    for _ in range(sum(t.duplicate_of is None for t in ran.trials)):
        trial = asked.ask()
        asked.tell(trial, task.evaluate(trial.architecture, trial.seed, "cpu"))
    assert [t.reward for t in ran.trials][: len(asked.trials)] == [t.reward for t in asked.trials]
    assert same(bits(_study(url)), bits(asked))  # replayed from the journal


def test_trials_asked_for_and_never_told_are_asked_for_again(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    study = _study(url)
    asked = [study.ask() for _ in range(6)]  # into the second proposal
    study.tell(asked[1], 0.5)
    study.tell(asked[5], 0.25)
    again = _study(url)
    assert [again.ask().number for _ in range(4)] == [asked[i].number for i in (0, 2, 3, 4)]
    assert same(bits(again), bits(study))


def test_tell_takes_numbers_and_exceptions_and_only_once() -> None:
    study = _study()
    first, second = study.ask(), study.ask()
    assert study.tell(second, 0.5).score == 0.5
    assert study.tell(first, ValueError("no")).failure == "ValueError: no"
    with pytest.raises(StudyError, match=r"is written once; trial 0 is in .* already"):
        study.tell(first, 1.0)


@pytest.mark.parametrize(
    "number",
    [True, 1, np.float32(1), np.float64(1), np.int64(1), np.array(1.0), torch.tensor(1.0)],
    ids=lambda number: type(number).__name__,
)
def test_tell_takes_the_numbers_of_numpy_and_torch(number: Any) -> None:
    study = _study()
    told = study.tell(study.ask(), number)
    assert (told.state, told.reward, told.score) == (TrialState.COMPLETED, 1.0, 1.0)
    assert type(told.reward) is float


@pytest.mark.parametrize("result", [None, "0.5", "a\nb", b"1", [], 1j, 10**400, torch.zeros(2)])
def test_what_is_no_result_is_one_line_and_the_trial_goes_on(result: Any) -> None:
    study = _study()
    trial = study.ask()
    with pytest.raises(UsageError, match=r"must be a number.* for trial 0; tell") as caught:
        study.tell(trial, result)
    assert "\n" not in str(caught.value)
    assert study.trials == []
    assert study.tell(trial, 0.5).completed


def test_ask_ends_when_the_space_is_used_up() -> None:
    space = SearchSpace("two", [Choice("a", (1, 2))])
    study = Study(space, RandomSearch(space))
    for _ in range(2):
        study.tell(study.ask(), 1.0)
    with pytest.raises(StudyError, match=r"1000 in a row were; the space may be used up"):
        study.ask()


# --- what a study is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"failure_reward": 1.0}, "failure_reward was '0.0' and is '1.0'"),
        ({"config": {"training": {"epochs": 2}}}, "config training"),
        ({"retrain_duplicates": True}, "retrain_duplicates"),
        ({"batch": 5}, "controller batch was '4' and is '5'"),
    ],
)
def test_a_study_of_another_configuration_is_refused(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    url = sqlite_url(tmp_path / "s.db")
    _study(url).run(4)
    before = (tmp_path / "s.db").read_bytes()
    with pytest.raises(StudyError, match="goes on only as it began") as caught:
        _study(url, **change)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert (tmp_path / "s.db").read_bytes() == before


def test_the_depth_schedule_of_the_paper() -> None:
    schedule = DepthSchedule()
    assert schedule.depths() == (6, 8, 10, 12, 14, 16, 18, 20)
    trials = (0, 1599, 1600, 3199, 3200, 11_200, 99_999)
    by_trials = {n: schedule.given(n)["depth"] for n in trials}
    assert by_trials == {0: 6, 1599: 6, 1600: 8, 3199: 8, 3200: 10, 11_200: 20, 99_999: 20}
    with pytest.raises(ConfigError, match=r"study\.depth\.last must be at least start"):
        DepthSchedule(start=6, last=5)


def test_a_schedule_fixes_depth_and_teaches_nothing_about_it(tmp_path: Path) -> None:
    schedule = DepthSchedule(start=1, step=1, every=4, last=3)
    space = conv.space("d", conv.ConvSettings(depths=schedule.depths(), filters=(4, 8)))
    settings = PolicySettings(batch=4, learning_rate=0.05)
    url = sqlite_url(tmp_path / "s.db")

    def make() -> Study:
        return Study(
            space, PolicyGradient(space, settings), lambda a: len(a) / 9, url, schedule=schedule
        )

    study = make()
    study.run(16)
    assert [t.architecture["depth"] for t in study.trials] == [1] * 4 + [2] * 4 + [3] * 8
    assert all(t.given == {"depth": t.architecture["depth"]} for t in study.trials)
    controller = study.controller
    assert isinstance(controller, PolicyGradient)
    fresh = PolicyGradient(space, settings)
    assert torch.equal(controller.policy.head_bias[0], fresh.policy.head_bias[0])
    assert not torch.equal(controller.policy.head_bias[3], fresh.policy.head_bias[3])
    assert same(bits(make()), bits(study))


def test_history_describes_the_policy_as_it_was() -> None:
    study = _study()
    study.run(40)
    fresh = PolicyGradient(SPACE, PolicySettings(batch=4, learning_rate=0.02), seed=1)
    history = study.history(fresh, points=5, samples=16)
    assert [told for told, _ in history] == [0, 8, 16, 24, 32, 40]
    assert history[0][1].entropy == pytest.approx(6 * math.log(3), rel=1e-3)
    assert history[-1][1] == study.snapshot(samples=16)
    assert history[-1][1].entropy < history[0][1].entropy


def test_functions_are_evaluators_and_may_take_the_seed() -> None:
    a = next(iter(small_space().enumerate()))
    assert FunctionEvaluator(lambda architecture: 2).evaluate(a, 5, "cpu").score == 2.0
    assert FunctionEvaluator(lambda architecture, seed: seed).evaluate(a, 5, "cpu").reward == 5.0
    full = Evaluation(reward=1.0, score=0.5)
    assert FunctionEvaluator(lambda architecture: full).evaluate(a, 5, "cpu") is full


def test_importing_netwright_is_light() -> None:
    code = (
        "import sys, netwright; heavy = {'torch', 'numpy', 'sqlalchemy', 'ray', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == "[]"


def test_numbers_of_a_library_are_journalled_as_numbers(tmp_path: Path) -> None:
    space = small_space()

    def train(architecture: Architecture) -> Evaluation:
        return Evaluation(
            reward=cast(float, np.float32(0.5)),
            score=cast(float, torch.tensor(0.25)),
            curve=cast(tuple[float, ...], np.array([0.1, 0.25], np.float32)),
            parameters=cast(int, np.int64(3)),
            details={"depth": cast(int, np.int64(2)), "word": "deep"},
        )

    study = Study(space, RandomSearch(space, seed=0), train, sqlite_url(tmp_path / "s.db"))
    study.run(2)
    found = study.trials[0].evaluation
    assert found is not None
    assert (found.reward, found.score, found.parameters) == (0.5, 0.25, 3)
    assert found.curve == pytest.approx((0.1, 0.25))
    assert found.details == {"depth": 2, "word": "deep"}
    wrong = Study(
        space,
        RandomSearch(space, seed=0),
        lambda architecture: Evaluation(reward=0.5, score=0.5, details={"a": cast(int, [1])}),
    )
    wrong.run(1)
    assert "must hold numbers and words" in (wrong.trials[0].failure or "")


def test_a_trial_of_before_the_study_was_opened_again_may_be_told(tmp_path: Path) -> None:
    space, url = small_space(), sqlite_url(tmp_path / "s.db")

    def opened() -> Study:
        return Study(space, RandomSearch(space, seed=0, batch=3), storage=url)

    first = opened()
    trials = [first.ask() for _ in range(3)]
    again = opened()
    for trial in trials[::-1]:
        assert again.tell(trial, 0.5).reward == 0.5
    assert again.ask().number == 3


def test_a_schedule_needs_a_space_with_its_depths() -> None:
    space = conv.v1(6)
    schedule = DepthSchedule(start=6, last=8, step=2, every=4)
    with pytest.raises(ConfigError, match=r"study.depth needs a space .*\[6, 8\]; got none"):
        Study(space, RandomSearch(space, seed=0), schedule=schedule)
    sets = ["study.depth.start=6", "study.depth.last=6", "space.depths=[6]", "space.pools=[2]"]
    study = load_config("cifar10-v1", sets).make_study("sqlite://")
    assert study.ask().given == {}
