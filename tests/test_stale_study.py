"""A study that another wrote to after it was opened goes on as a newly opened one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from netwright import keeper
from netwright.controllers.random import RandomSearch
from netwright.errors import StudyError
from netwright.evaluators.synthetic import Learning
from netwright.journal import lease as lease_module
from netwright.protocols import Event
from netwright.stopping import StoppingSettings
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from netwright.trial import Trial
from tests.contracts.test_controllers import CONTROLLERS
from tests.equal import outcome, same
from tests.killed import SPACE

Use = Callable[[Study], object]

USES: dict[str, tuple[int, Use]] = {  # trials that there are when it is opened, what it does then
    "new": (0, lambda study: None),
    "opened": (6, lambda study: None),
    "looked at": (6, lambda study: study.snapshot(samples=2)),
    "run": (6, lambda study: study.run(9)),
    "begun": (0, lambda study: study.run(7)),
}


def _study(storage: str, name: str = "policy_gradient") -> Study:
    """Proposals of 4, rules of early stopping from the 8th trial on."""
    stopping = StoppingSettings(method="halving", rungs=(1, 3), warmup=8)
    controller = CONTROLLERS[name](SPACE, 3)
    return Study(SPACE, controller, Learning(SPACE, noise=0.05), storage, seed=3, stopping=stopping)


def _same(one: Study, two: Study) -> None:
    assert [outcome(t) for t in one.trials] == [outcome(t) for t in two.trials]
    assert same(one.controller.state_dict(), two.controller.state_dict())
    assert one.controller.propose(4) == two.controller.propose(4)


@pytest.mark.parametrize("checkpoint", [500, 4])
@pytest.mark.parametrize("use", sorted(USES))
def test_what_another_wrote_is_taken_in(
    tmp_path: Path, use: str, checkpoint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CHECKPOINT", checkpoint)
    url, (before, does) = sqlite_url(tmp_path / "s.db"), USES[use]
    if before:
        _study(url).run(before)
    study = _study(url)
    does(study)
    other = _study(url)
    other.run(17)  # into a proposal of 4, of which one trial is finished and not told
    other.store.add_event("note", {})
    study.run(18)
    whole = _study("sqlite://")
    whole.run(18)
    assert [outcome(t) for t in study.trials] == [outcome(t) for t in whole.trials]
    assert study.watch is not None
    assert (study.watch.before, study.watch.done) == (17, 18)
    study.run(30)
    whole.run(30)
    _same(study, whole)


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_every_controller_proposes_next_as_that_of_a_new_study(tmp_path: Path, name: str) -> None:
    url = sqlite_url(tmp_path / "s.db")
    study = _study(url, name)
    study.run(6)
    _study(url, name).run(13)
    study.run(13)  # nothing to do but to look
    new = _study(url, name)
    assert len(study) == len(new) == 13
    _same(study, new)


def test_studies_that_take_turns_are_one_search(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "s.db")
    one, two, whole = _study(url), _study(url), _study("sqlite://")
    for trials in range(3, 31, 6):
        one.run(trials)
        two.run(trials + 3)
    whole.run(30)
    _same(two, whole)


def test_what_was_told_in_between_is_refused_and_nothing_written(tmp_path: Path) -> None:
    """ask and tell take no lease, so two may each tell what the other's controller never heard."""
    url = sqlite_url(tmp_path / "s.db")
    study = _study(url)
    _, trial = study.ask(), study.ask()
    other = _study(url)
    other.tell(other.ask(), 0.5)
    study.tell(trial, 0.25)
    before = _journal(url)
    for _ in range(2):
        with pytest.raises(StudyError, match="open the study again") as caught:
            study.run(20)
        assert str(tmp_path / "s.db") in str(caught.value)
        assert "\n" not in str(caught.value)
    assert _journal(url) == before
    assert study.store.holder() is None  # type: ignore[attr-defined]
    _study(url).run(20)


def _journal(url: str) -> tuple[list[Trial], list[Event]]:
    store = SqlStore(url)
    try:
        return store.trials(SPACE), store.events()
    finally:
        store.close()


def test_a_proposal_that_could_not_be_written_is_no_hindrance_where_another_made_it(
    tmp_path: Path,
) -> None:
    url = sqlite_url(tmp_path / "s.db")
    study = _study(url)
    study.run(4)
    other = _study(url)
    other.run(5)
    with pytest.raises(StudyError, match=r"trial 4 is in .* already; another process"):
        study.ask()
    study.run(12)
    whole = _study("sqlite://")
    whole.run(12)
    _same(study, whole)


def test_one_of_two_that_saw_a_dead_search_takes_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlStore(sqlite_url(tmp_path / "s.db"))
    store.create({"format": 3})
    leases = [store.lease(dict) for _ in range(3)]
    dead, first, second = (lease for lease in leases if lease is not None)
    dead.take()
    dead._stop.set()
    seen = store.holder()
    assert seen is not None
    monkeypatch.setattr(lease_module, "read", lambda _: replace(seen, age=1e9, alive=False))
    first.take()
    with pytest.raises(StudyError, match=r"another took .* just now"):
        second.take()
    monkeypatch.undo()
    holder = store.holder()
    assert holder is not None
    assert holder.token == first._token
    first.release()
    store.close()


def test_no_checkpoint_claims_what_another_process_journalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CHECKPOINT", 1)
    url = sqlite_url(tmp_path / "s.db")

    def opened() -> Study:
        return Study(SPACE, RandomSearch(SPACE, seed=3), storage=url, seed=3)

    one = opened()
    trial = one.ask()
    other = opened()  # of the same journal, without a lease
    assert [other.ask().number for _ in range(2)] == [0, 1]
    one.tell(trial, 0.5)
    assert one.store.checkpoint() is None
    alone = Study(SPACE, RandomSearch(SPACE, seed=3), seed=3)
    alone.tell(alone.ask(), 0.5)
    assert alone.store.checkpoint() is not None
