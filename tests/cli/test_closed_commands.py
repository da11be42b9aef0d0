"""The commands on tables and closed forms: looking works, training is refused in one line."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from netwright.evaluators.table import TableEvaluator
from netwright.journal import tables
from netwright.store import close_all
from tests.cli.conftest import Run, refused, tree
from tests.tables import write_table

STUDIES = {
    "nats": ["--set", "data.table=t.csv"],
    "synthetic-conv": ["--set", "data.layers=2", "--set", "controller.name=random"],
    "synthetic-cell": ["--set", "controller.name=evolution"],
}
GUIDED = ("start=4", "sampled=4", "mutants=8", "uniform=16", "rounds=0")
SMALL = [word for key in GUIDED for word in ("--set", f"controller.guided.{key}")]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.csv")


def _search(run: Run, name: str) -> str:
    code, out, err = run("search", name, "--study", "s", *STUDIES[name], *SMALL, "--trials", 6)
    assert code == 0, err
    close_all()
    return out


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_searched_and_looked_at(name: str, run: Run) -> None:
    _search(run, name)
    rows = json.loads(run("top", "s", "--json")[1])["top"]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=name != "synthetic-cell")
    shown = json.loads(run("show", "s", "--json")[1])
    assert shown["architecture"]["values"] == rows[0]["architecture"]
    if name == "nats":
        task = TableEvaluator("t.csv")
        for row in rows:
            found = task.evaluate(task.space.architecture(row["architecture"]), 0, "cpu")
            assert row["score"] == found.score
    code, out, _ = run("show", "s")
    assert code == 0
    assert all(name in out for name in rows[0]["architecture"])
    assert f"{len(rows[0]['architecture'])} decisions" in out
    assert "6 trials finished, 0 of them failed" in run("status", "s")[1]
    assert run("resume", "s", "--trials", 7)[0] == 0
    assert json.loads(run("status", "s", "--json")[1])["trials"] == 7


def test_only_commands_that_work_are_named(run: Run) -> None:
    last = _search(run, "synthetic-cell").splitlines()[-1]
    assert last == "study: s   next: netwright top s, or show of it"


@pytest.mark.parametrize("name", ["nats", "synthetic-conv"])
def test_nothing_is_tuned_trained_drawn_or_reported(name: str, run: Run) -> None:
    _search(run, name)
    before = tree(Path())
    for args, words in (
        (["tune", "s"], ["tune needs children that are trained"]),
        (["train", "s"], ["train needs children that are trained"]),
        (["report", "s"], ["a report needs children that are trained"]),
        (["report", "s", "--control", "s"], ["a report needs children that are trained"]),
        (["show", "s", "--svg", "it.svg"], ["leave --svg out"]),
        (["export", "s"], ["of task", "are looked up or computed; use netwright top or show"]),
        (["predict", "s", "t.csv"], ["are looked up or computed; use netwright top or show"]),
        (["tune", "s", "--set", "tune.top=1"], ["'tune'"]),
    ):
        refused(run(*args), *words)
    assert tree(Path()) == before


def test_their_architectures_are_trained_nowhere(run: Run) -> None:
    _search(run, "nats")
    assert run("show", "s", "--save", "cell.json")[0] == 0
    assert run("show", "cell.json")[0] == 0
    close_all()
    before = tree(Path())
    for args in (
        ["nats", "--cell", "v1"],
        ["nats", "--cell", "s:best", *STUDIES["nats"]],
        ["nats", "--cell", "cell.json", "--tune"],
        ["synthetic-conv", "--cell", "v1"],
        ["digits", "--architecture", "s:best"],
        ["ptb-small", "--cell", "cell.json"],
        ["--architecture", "s:best"],
    ):
        refused(run("train", *args), "train")
    assert tree(Path()) == before


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["nats"], "use --set data.table=FILE"),
        (["nats", "--set", "data.table=gone.csv"], "gone.csv"),
        (["nats", "--set", "data.table=."], "readable CSV"),
        (["synthetic-conv", "--set", "data.layers=0"], "data.layers must be 1 or more"),
        (["synthetic-cell", "--set", "data.surrogate=x"], "data.surrogate must be one of"),
        (["synthetic-cell", "--set", "study.depth.start=6"], "study.depth must be left out"),
    ],
)
def test_a_bad_search_leaves_nothing_behind(args: list[str], word: str, run: Run) -> None:
    before = tree(Path())
    refused(run("search", *args), word)
    assert tree(Path()) == before


def test_a_table_that_changed_is_not_gone_on_with(run: Run) -> None:
    _search(run, "nats")
    text = Path("t.csv").read_text()
    lines = text.splitlines()
    first = lines[1].split(",")
    Path("t.csv").write_text("\n".join([lines[0], f"{first[0]},9.5,{first[2]}", *lines[2:]]))
    before = tree(Path())
    refused(run("resume", "s", "--trials", 7), "the data that it began with", "t.csv", "s")
    assert tree(Path()) == before
    assert run("top", "s")[0] == 0  # what was found may be looked at
    Path("t.csv").write_text("\r\n".join([lines[0], "", *lines[:0:-1]]))  # the same cells
    assert run("resume", "s", "--trials", 7)[0] == 0
    close_all()
    with closing(sqlite3.connect("s/study.db")) as journal, journal:
        notes = journal.execute("select value from header where key = 'notes'").fetchone()[0]
        older = {key: value for key, value in json.loads(notes).items() if key != "table"}
        assert older.keys() == {"config"}
        journal.execute("update header set value = ? where key = 'notes'", [json.dumps(older)])
    Path("t.csv").write_text("\n".join([lines[0], f"{first[0]},9.5,{first[2]}", *lines[2:]]))
    assert run("resume", "s", "--trials", 8)[0] == 0  # a study from before tables were noted


def test_a_configuration_is_printed_whole(run: Run) -> None:
    code, out, _ = run("config", "nats", "--set", "data.table=t.csv")
    assert code == 0
    Path("mine.toml").write_text(out)
    assert run("config", "mine.toml")[:2] == (0, out)
    assert 'table = "t.csv"' in out
    refused(run("config", "nats", "--set", "compare.seeds=0"), "compare.seeds must be 1 or more")


def test_a_study_is_written_into_an_optuna_storage_once(run: Run) -> None:
    _search(run, "synthetic-conv")
    code, out, err = run("export", "s", "--optuna", "sqlite:///optuna.db")
    assert (code, err) == (0, ""), err
    assert "synthetic-conv" in out
    written = optuna.load_study(study_name="synthetic-conv", storage="sqlite:///optuna.db")
    scores = [row["score"] for row in json.loads(run("top", "s", "--json")[1])["top"]]
    assert written.best_value == pytest.approx(max(scores))
    assert len(written.trials) == 6
    refused(run("export", "s", "--optuna", "sqlite:///optuna.db"), "synthetic-conv")


def test_an_export_without_optuna_names_the_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _search(run, "synthetic-conv")
    for name in [name for name in sys.modules if name.startswith("netwright.integrations")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused(run("export", "s", "--optuna", "sqlite:///optuna.db"), "netwright[optuna]")


def test_more_layers_than_a_network_may_have_name_the_setting_of_the_task(run: Run) -> None:
    line = refused(run("search", "synthetic-conv", "--set", "data.layers=2000"), "at most 1000")
    assert "--set data.layers=1000" in line


def test_a_journal_is_no_optuna_storage(run: Run) -> None:
    _search(run, "synthetic-conv")
    close_all()
    before = Path("s/study.db").read_bytes()
    refused(run("export", "s", "--optuna", "sqlite:///s/study.db"), "holds one", "optuna.db")
    close_all()
    assert Path("s/study.db").read_bytes() == before


def test_a_creation_that_was_cut_off_is_begun_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    args = ["synthetic-conv", "--study", "s", *STUDIES["synthetic-conv"], *SMALL, "--trials", 6]
    with monkeypatch.context() as patch:
        patch.setattr(tables.header, "insert", cut)
        assert run("search", *args)[0] == 130
    close_all()
    refused(run("resume", "s"), "holds none; start one")
    _search(run, "synthetic-conv")
    assert run("top", "s")[0] == 0
