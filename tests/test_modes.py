"""Many children at once: replicas as in the paper, and a queue that keeps every worker busy."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from netwright import keeper
from netwright.controllers.losses import reinforce_loss
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.controllers.random import RandomSearch
from netwright.errors import ChildError, ConfigError, StudyError
from netwright.evaluators.synthetic import Additive, choices_space
from netwright.executors.simulated import Simulated
from netwright.journal import checkpoints
from netwright.loop import Mode
from netwright.replaying import replay
from netwright.space import Architecture, Choice, SearchSpace
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.trial import Evaluation, Trial
from tests.equal import bits, same

SPACE = choices_space(6, 3)
QUEUE, REPLICAS = Mode(queue=True), Mode(replicas=5)


def _settings(**changes: object) -> PolicySettings:
    return PolicySettings(**{"batch": 4, "learning_rate": 0.02, **changes})  # type: ignore[arg-type]


def _told(drawn: list[tuple[Architecture, float]], batch: int, rewards: list[float]) -> list[Trial]:
    return [
        Trial(number=i, batch=batch, architecture=a, seed=0, reward=reward, log_prob=log_prob)
        for i, ((a, log_prob), reward) in enumerate(zip(drawn, rewards, strict=True))
    ]


def _warm(settings: PolicySettings) -> PolicyGradient:
    """Return a controller with a baseline, so that the next batch makes a gradient."""
    controller = PolicyGradient(SPACE, settings, seed=3)
    controller.tell(_told(controller.propose_scored(4), 0, [0.1, 0.2, 0.3, 0.4]))
    return controller


def _vector(controller: PolicyGradient) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(controller.policy.parameters()).detach().clone()


REWARDS = [0.9, 0.1, 0.5, 0.3]


def _step_by_hand(
    at: PolicyGradient, onto: PolicyGradient, trials: list[Trial], baseline: float, limit: float
) -> None:
    """Take the gradient of `trials` at the parameters of `at`, and `onto`'s Adam step with it."""
    encoded = at._encoding.encode([t.architecture for t in trials], [()] * len(trials))
    log_prob = at.policy.score(encoded).log_prob
    then = torch.tensor([t.log_prob for t in trials], dtype=log_prob.dtype)
    weight = (log_prob.detach() - then).exp().clamp(max=limit) if limit else 1.0
    advantage = torch.tensor([(t.reward or 0.0) - baseline for t in trials]) * weight
    at.policy.zero_grad()
    reinforce_loss(log_prob, advantage).backward()  # type: ignore[no-untyped-call]
    for mine, other in zip(onto.policy.parameters(), at.policy.parameters(), strict=True):
        mine.grad = other.grad
    onto._adam.step()


@pytest.mark.parametrize("staleness", ["sampling", "importance", "none"])
def test_what_was_proposed_before_the_last_step_is_learned_from_as_its_setting_says(
    staleness: str,
) -> None:
    controller = _warm(_settings(staleness=staleness, limit=1.01))
    before = copy.deepcopy(controller)
    first, second = controller.propose_scored(4), controller.propose_scored(4)
    controller.tell(_told(first, 1, REWARDS))
    between = copy.deepcopy(controller)
    assert not torch.equal(_vector(before), _vector(between))
    assert between.baseline is not None
    late = _told(second, 2, REWARDS[::-1])
    controller.tell(late)
    at = before if staleness == "sampling" else copy.deepcopy(between)
    limit = 1.01 if staleness == "importance" else 0.0
    _step_by_hand(at, between, late, between.baseline, limit)
    assert torch.allclose(_vector(controller), _vector(between), atol=1e-7)


def test_an_architecture_of_the_present_policy_has_weight_one() -> None:
    weighted, plain = (_warm(_settings(staleness=s)) for s in ("importance", "sampling"))
    for controller in (weighted, plain):
        controller.tell(_told(controller.propose_scored(4), 1, REWARDS))
    assert torch.equal(_vector(weighted), _vector(plain))


def test_gradients_accumulate_to_one_step() -> None:
    one = _warm(_settings(accumulate=2))
    drawn = [one.propose_scored(4), one.propose_scored(4)]
    start = _vector(one)
    one.tell(_told(drawn[0], 1, REWARDS))
    assert torch.equal(_vector(one), start)
    saved = copy.deepcopy(one.state_dict())
    one.tell(_told(drawn[1], 2, REWARDS))
    assert not torch.equal(_vector(one), start)
    again = PolicyGradient(SPACE, one.settings, seed=3)
    again.load_state_dict(saved)
    again.tell(_told(drawn[1], 2, REWARDS))
    assert torch.equal(_vector(again), _vector(one))


def test_parameters_of_proposals_are_kept_until_all_of_their_trials_are_told() -> None:
    controller = _warm(_settings())
    a, b = controller.propose_scored(4), controller.propose_scored(4)
    controller.tell(_told(a, 1, REWARDS))
    assert list(controller._sampled_at) == [2]
    state = copy.deepcopy(controller.state_dict())
    controller.tell(_told(b, 2, REWARDS))
    assert not controller._sampled_at
    assert not controller._flying
    again = PolicyGradient(SPACE, controller.settings, seed=3)
    again.load_state_dict(state)
    again.tell(_told(b, 2, REWARDS))
    assert torch.equal(_vector(again), _vector(controller))


# --- studies ------------------------------------------------------------------------------------


def _durations(architecture: Architecture, seed: int) -> float:
    return random.Random(seed).lognormvariate(0.0, 1.0)


def _lost(architecture: Architecture, seed: int) -> Exception | None:
    return ChildError("lost") if random.Random(seed).random() < 0.1 else None


def _study(storage: str, mode: Mode, executor: Simulated, space: SearchSpace = SPACE) -> Study:
    controller = PolicyGradient(space, _settings(), seed=1)
    task = Additive(space, noise=0.01)
    return Study(space, controller, task, storage, seed=1, mode=mode, clock=executor)


@pytest.mark.parametrize("mode", [QUEUE, REPLICAS, Mode()], ids=["queue", "replicas", "one"])
@pytest.mark.parametrize("stops", [(7, 8, 31, 60), (60,)])
def test_many_at_once_go_on_bit_for_bit(tmp_path: Path, mode: Mode, stops: tuple[int, ...]) -> None:
    url = sqlite_url(tmp_path / "s.db")
    executor = Simulated(9, _durations, _lost)
    for trials in stops:
        study = _study(url, mode, executor)
        study.run(trials, executor)
        assert len(study) == trials == len(study.trials)
    found = study.trials
    assert {t.state for t in found} == {"completed", "failed"}
    tells = [n for event in study.events("tell") for n in event.payload["numbers"]]
    assert len(tells) == len(set(tells))
    if mode.queue:
        assert sorted(tells) == [t.number for t in found]
    reopened = _study(url, mode, executor)
    assert same(bits(reopened), bits(study))
    assert reopened.trials == found


class _Losses(Additive):
    """Rewards from -2 to -1, as of a loss."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        found = super().evaluate(architecture, seed, device)
        return replace(found, reward=found.reward - 2)


@pytest.mark.parametrize("mode", [QUEUE, Mode()], ids=["queue", "one"])
@pytest.mark.parametrize("stops", [(1, 7, 31, 60), (60,)])
def test_failing_is_never_better_than_what_was_told(
    tmp_path: Path, mode: Mode, stops: tuple[int, ...]
) -> None:
    url = sqlite_url(tmp_path / "s.db")
    executor = Simulated(9, _durations, _lost)
    for trials in stops:
        controller = PolicyGradient(SPACE, _settings(), seed=1)
        losses, own = _Losses(SPACE), {"seed": 1, "mode": mode, "clock": executor}
        study = Study(SPACE, controller, losses, url, failure_reward=-0.5, **own)  # type: ignore[arg-type]
        study.run(trials, executor)
    lowest = -0.5
    for event in study.events("tell"):
        told = [study.trial(n) for n in event.payload["numbers"]]
        assert all(t.completed or t.reward == lowest for t in told)
        lowest = min([lowest, *(t.reward or 0.0 for t in told if t.completed)])
    assert {t.reward for t in study.trials if not t.completed} > {lowest}


def test_what_a_failed_trial_is_told_does_not_depend_on_the_workers() -> None:
    found = []
    for workers in (1, 3, 9):
        executor = Simulated(workers, _durations, _lost)
        controller = PolicyGradient(SPACE, _settings(), seed=1)
        study = Study(SPACE, controller, _Losses(SPACE), seed=1, clock=executor)
        study.run(60, executor)
        found.append([(t.state, t.reward, t.architecture) for t in study.trials])
    assert found[0] == found[1] == found[2]


def test_a_proposal_is_told_whole_however_many_are_in_flight() -> None:
    executor = Simulated(20, _durations)
    study = _study("sqlite://", REPLICAS, executor)
    study.run(60, executor)
    tells = [event.payload["numbers"] for event in study.events("tell")]
    batches = [{study.trial(n).batch for n in numbers} for numbers in tells]
    assert all(len(numbers) == 4 and len(b) == 1 for numbers, b in zip(tells, batches, strict=True))
    order = [b.pop() for b in batches]
    assert order != sorted(order)  # some ended before earlier ones


def test_a_queue_keeps_workers_busier_than_replicas_than_one_proposal() -> None:
    used = []
    for mode in (Mode(), REPLICAS, QUEUE):
        executor = Simulated(8, _durations)
        study = Study(
            SPACE, RandomSearch(SPACE, batch=8), Additive(SPACE), mode=mode, clock=executor
        )
        study.run(400, executor)
        assert study.watch is not None
        used.append(study.progress()["utilisation"])
    assert used[0] < 0.75 < used[1] <= used[2]
    assert used[2] > 0.9  # the last children end one by one


@pytest.mark.parametrize("mode", [QUEUE, REPLICAS], ids=["queue", "replicas"])
def test_equal_architectures_in_flight_are_trained_once(mode: Mode) -> None:
    space = SearchSpace("nine", [Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3))])
    trained: list[Architecture] = []

    def score(architecture: Architecture) -> float:
        trained.append(architecture)
        return 0.5

    executor = Simulated(6, _durations)
    study = Study(space, RandomSearch(space, batch=4), score, mode=mode, clock=executor)
    study.run(80, executor)
    assert len(trained) == len(set(trained)) <= 9
    assert len(study.trials) == 80


def test_an_equal_one_behind_a_failed_child_is_trained_itself() -> None:
    space = SearchSpace("one", [Choice("a", (1,))])
    executor = Simulated(3, _durations)
    calls: list[int] = []

    def score(architecture: Architecture) -> float:
        calls.append(1)
        if len(calls) == 1:
            raise ChildError("once")
        return 0.5

    study = Study(space, RandomSearch(space, batch=3), score, mode=QUEUE, clock=executor)
    study.run(3, executor)
    assert len(calls) == 2
    assert [t.failure is None for t in study.trials] == [False, True, True]
    assert [t.duplicate_of for t in study.trials] == [None, None, 1]


def test_a_study_goes_on_only_in_its_own_mode(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    executor = Simulated(2, _durations)
    _study(url, QUEUE, executor).run(4, executor)
    controller = PolicyGradient(SPACE, _settings(), seed=1)
    with pytest.raises(StudyError, match="mode queue was 'True' and is 'False'"):
        Study(SPACE, controller, storage=url, seed=1)


@pytest.mark.parametrize("mode", [QUEUE, REPLICAS], ids=["queue", "replicas"])
def test_a_checkpoint_gives_the_bits_that_replaying_gives(
    tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CHECKPOINT", 10)
    url = sqlite_url(tmp_path / "s.db")
    executor = Simulated(9, _durations, _lost)
    study = _study(url, mode, executor)
    study.run(60, executor)
    kept = study.store.checkpoint()
    assert kept is not None
    last = study.events()[-1].sequence
    assert last - 40 < kept[0] <= last
    reopened = _study(url, mode, executor)
    assert same(bits(reopened), bits(study))
    plain = PolicyGradient(SPACE, _settings(), seed=1)
    for _ in replay(plain, study._keeper.ledger.trials, study.events()):
        pass
    live = study.controller.state_dict()
    assert same(plain.state_dict(), live)
    assert same(reopened.controller.state_dict(), live)


def test_an_unsound_checkpoint_or_one_of_other_versions_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CHECKPOINT", 10)
    url = sqlite_url(tmp_path / "s.db")
    executor = Simulated(4, _durations)
    study = _study(url, QUEUE, executor)
    study.run(40, executor)
    store = SqlStore(url)
    found = store.checkpoint()
    assert found is not None
    other = checkpoints.dump(PolicyGradient(SPACE, _settings(), seed=2).state_dict())
    for versions, state in (("{}", other), (found[1], b"not a state")):
        store.add_checkpoint(versions, state)
        assert same(bits(_study(url, QUEUE, executor)), bits(study))
    store.close()


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_reading_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "CHECKPOINT", 10)
    url, file = sqlite_url(tmp_path / "s.db"), tmp_path / "touched"
    executor = Simulated(4, _durations)
    study = _study(url, QUEUE, executor)
    study.run(20, executor)
    found = study.store.checkpoint()
    assert found is not None
    study.store.add_checkpoint(found[1], checkpoints.dump({"policy": _Hostile(file)}))
    assert same(bits(_study(url, QUEUE, executor)), bits(study))
    assert not file.exists()


def test_log_probabilities_are_in_the_journal() -> None:
    study = Study(SPACE, PolicyGradient(SPACE, _settings()), lambda a: 0.5)
    study.run(4)
    for trial in study.trials:
        assert trial.log_prob == pytest.approx(6 * math.log(1 / 3), rel=0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accumulate": 0}, "controller.accumulate must be 1 or more; got 0"),
        ({"staleness": "x"}, "controller.staleness must be one of sampling, importance, none"),
        ({"limit": 0.0}, "controller.limit must be above 0"),
    ],
)
def test_bad_settings_are_one_line(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _settings(**change)
