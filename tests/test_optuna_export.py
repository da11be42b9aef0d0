"""Studies written for Optuna."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

import netwright as nw
from netwright.errors import StudyError
from netwright.integrations.optuna import export_study
from netwright.store import SqlStore
from netwright.trial import Evaluation
from tests.strategies import small_space


def _evaluate(architecture: nw.Architecture, seed: int) -> Evaluation:
    if architecture["rate"] == 0.2 and architecture["type"] == "a":
        raise nw.ChildError("did not learn")
    return Evaluation(
        reward=seed % 100 / 100, score=0.5, curve=(0.25, 0.5), cost=2.0, details={"epochs": 2}
    )


def test_a_study_becomes_an_optuna_study(tmp_path: Path) -> None:
    space = small_space()
    study = nw.Study(space, nw.RandomSearch(space, seed=1, batch=5), _evaluate, seed=1)
    study.run(20)
    study.ask()  # runs still, and is left out
    url = f"sqlite:///{tmp_path / 'o.db'}"
    assert export_study(study, url, "small") == 20
    storage = optuna.storages.RDBStorage(url)
    loaded = optuna.load_study(storage=storage, study_name="small")
    assert loaded.best_value == study.best.reward
    assert loaded.user_attrs["netwright.fingerprint"] == space.fingerprint
    assert {trial.state.name for trial in loaded.trials} == {"COMPLETE", "FAIL"}
    for trial, own in zip(loaded.trials, study.trials, strict=True):
        assert trial.number == own.number == trial.user_attrs["number"]
        assert trial.value == (own.reward if own.completed else None)
        assert trial.user_attrs["seed"] == own.seed
        assert trial.user_attrs.get("failure") == own.failure
        assert trial.user_attrs.get("score") == own.score
        assert trial.user_attrs.get("epochs") == (2 if own.completed else None)
        assert trial.intermediate_values == ({1: 0.25, 2: 0.5} if own.completed else {})
        assert own.finished is not None
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        assert trial.datetime_start.timestamp() == pytest.approx(own.started, abs=1e-5)
        assert trial.datetime_complete.timestamp() == pytest.approx(own.finished, abs=1e-5)
        assert trial.params["type"] == own.architecture["type"]
        assert trial.params["third.inputs <- first"] == (
            "first" in own.architecture["third.inputs"]  # type: ignore[operator]
        )
        # The second anchor is only there with type b, so only then may the third take it.
        assert ("third.inputs <- second" in trial.params) == (own.architecture["type"] == "b")
    with pytest.raises(StudyError, match=r"holds 'small'; choose another name"):
        export_study(study, url, "small")
    assert len(loaded.trials) == 20
    storage.remove_session()
    storage.engine.dispose()


def test_a_journal_becomes_an_optuna_study(tmp_path: Path) -> None:
    space, path = small_space(), f"sqlite:///{tmp_path / 'journal.db'}"
    nw.Study(space, nw.RandomSearch(space, batch=5), _evaluate, path).run(5)
    store = SqlStore(path, must_exist=True)
    assert export_study(store, f"sqlite:///{tmp_path / 'o.db'}", "small") == 5
    with pytest.raises(StudyError, match="needs a database that can be written"):
        export_study(store, f"sqlite:///{tmp_path / 'no' / 'o.db'}", "small")
    with pytest.raises(StudyError, match="needs a database that can be written"):
        export_study(store, "no URL", "small")
    store.close()


def test_a_database_that_cannot_be_reached_is_tried_once(tmp_path: Path) -> None:
    space = small_space()
    study = nw.Study(space, nw.RandomSearch(space, batch=5), _evaluate)
    tried: list[object] = []

    def trying(dialect: object, record: object, args: list[str], given: object) -> None:
        tried.append(args)

    sa.event.listen(sa.Engine, "do_connect", trying)
    try:
        with pytest.raises(StudyError, match=r"got '.*no/o.db' .*unable to open database file"):
            export_study(study, f"sqlite:///{tmp_path / 'no' / 'o.db'}", "small")
    finally:
        sa.event.remove(sa.Engine, "do_connect", trying)
    assert len(tried) == 1
