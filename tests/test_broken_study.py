"""A study whose database fails once goes on as if it had not, or says that it is to be reopened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from netwright import keeper, replaying, study
from netwright.errors import StudyError
from netwright.evaluators.synthetic import Learning
from netwright.journal import ledger
from netwright.stopping import StoppingSettings
from netwright.store import SqlStore, sqlite_url
from netwright.study import Study
from tests.contracts.test_controllers import CONTROLLERS
from tests.equal import outcome, same
from tests.killed import SPACE

CALLS = (
    "add_proposal",
    "finish",
    "size",
    "outlines",
    "trials",
    "events",
    "checkpoint",
    "add_checkpoint",
)
TRIALS = 9  # into a proposal of 4


class Failing(SqlStore):
    """Raises once, in place of one of the calls of `CALLS`, or after it was made."""

    calls = 0
    at = -1
    after = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        off = lambda connection, _: connection.execute("PRAGMA synchronous=OFF")  # noqa: E731
        sa.event.listen(self._database.engine, "connect", off)  # nobody pulls the plug here
        self.close()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*given: Any, **named: Any) -> Any:
            Failing.calls += 1
            fails = Failing.calls == Failing.at
            if fails and not Failing.after:
                raise StudyError("the disk went away")
            result = found(*given, **named)
            if fails:
                raise StudyError("the disk went away")
            return result

        return call


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    monkeypatch.setattr(study, "SqlStore", Failing)
    monkeypatch.setattr(keeper, "CHECKPOINT", 4)
    monkeypatch.setattr(replaying, "AT_ONCE", 2)  # a replay reads in several goes
    monkeypatch.setattr(ledger, "KEPT", 3)
    for name, value in (("calls", 0), ("at", -1), ("after", False)):
        monkeypatch.setattr(Failing, name, value)
    return Failing


def _study(storage: str) -> Study:
    """Proposals of 4, rules of early stopping from the 4th trial on."""
    stopping = StoppingSettings(method="halving", rungs=(1, 3), warmup=4)
    controller = CONTROLLERS["policy_gradient"](SPACE, 3)
    return Study(SPACE, controller, Learning(SPACE, noise=0.05), storage, seed=3, stopping=stopping)


def _search(folder: Path, stale: bool) -> Study:
    """Search to the end, going on after the failure, which is in the last 6 trials or so.

    stale: another process has searched since the study was opened.
    """
    url, at = sqlite_url(folder / f"{Failing.at}.db"), Failing.at
    Failing.at = -1
    _study(url).run(3)
    found = _study(url)
    if stale:
        found.run(5)
        _study(url).run(7)
    Failing.calls, Failing.at = 0, at
    while len(found) < TRIALS:
        try:
            found.run(TRIALS)
        except StudyError as error:
            if "the disk went away" not in str(error):
                raise
    Failing.at = -1
    return found


@pytest.mark.parametrize(("stale", "after"), [(False, False), (True, False), (True, True)])
def test_a_failure_at_any_call_changes_nothing_of_the_search(
    failing: type[Failing], tmp_path: Path, stale: bool, after: bool
) -> None:
    whole = _search(tmp_path, stale)
    calls, failing.after = failing.calls, after
    assert calls > 11
    for at in range(1, calls + 1):
        failing.at = at
        found = _search(tmp_path, stale)
        assert [outcome(t) for t in found.trials] == [outcome(t) for t in whole.trials], at
        assert same(found.controller.state_dict(), whole.controller.state_dict()), at
        found.store.close()


def test_a_study_broken_off_half_way_says_so_whatever_it_is_asked(
    failing: type[Failing], tmp_path: Path
) -> None:
    found = _study(sqlite_url(tmp_path / "s.db"))
    failing.at = failing.calls + 1
    with pytest.raises(StudyError, match=r"^the disk went away$"):
        found.ask()
    for use in (found.ask, lambda: found.controller, found.snapshot):
        with pytest.raises(StudyError, match="open the study again") as caught:
            use()
        assert str(tmp_path / "s.db") in str(caught.value)
    assert found.trials == []
    found.run(TRIALS)
    whole = _study("sqlite://")
    whole.run(TRIALS)
    assert [outcome(t) for t in found.trials] == [outcome(t) for t in whole.trials]
