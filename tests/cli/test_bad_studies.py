"""Bad command lines, configurations and studies: one line, exit code 2, nothing changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from netwright import searching
from netwright.space import Choice, SearchSpace
from netwright.store import sqlite_url
from netwright.study import Study
from tests.cli.conftest import (
    SETS,
    Run,
    pictures,
    refused,
    tree,
)

# --- bad input: the command line and configurations ---------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["serch"],
        ["search"],
        ["search", "digits", "--trials", "0"],
        ["search", "digits", "--trials", "many"],
        ["search", "digits", "--colour"],
        ["resume", "x", "--trials", "0"],
        ["top", "x", "-n", "0"],
        ["show", "x", "-1"],
        ["show", "x", "one"],
        ["train", "x", "y"],
        ["predict", "x"],
    ],
)
def test_a_bad_command_line_is_one_line(args: list[str], run: Run, tmp_path: Path) -> None:
    refused(run(*args), "--help")


SEARCHES = [
    (["nope"], "nope"),
    (["missing.toml"], "missing.toml"),
    (["bad.toml"], "must be TOML"),
    (["unknown.toml"], "did you mean training?"),
    (["digits", "--set", "training.epoch=3"], "did you mean epochs?"),
    (["digits", "--set", "training.epochs=many"], "a whole number"),
    (["digits", "--set", "training.epochs=0"], "must be 1 or more"),
    (["digits", "--set", "training.learning_rate=nan"], "training.learning_rate"),
    (["digits", "--set", "nothing"], "key=value"),
    (["digits", "--set", "name.x=1"], "no section"),
    (["digits", "--set", "execution.device=toaster"], "execution.device"),
    (["digits", "--set", "execution.device=cuda:77"], "of this machine"),
    (["digits", "--set", "data.source=gone.npz"], "gone.npz"),
    (["digits", "--set", "data.source=bad.toml"], "must be a folder"),
    (["digits", "--set", "data.source=one"], "at least 2 classes"),
    (["digits", "--set", "data.source=broken"], "must be readable"),
    (["digits", "--set", "data.source=few"], "at least 3 images"),
    (["digits", "--set", "data.train_limit=3"], "data.train_limit"),
    (["digits", "--set", "data.validation=99999"], "data.validation"),
    (["digits", "--set", "data.pad=0", "--set", "data.upsample=4"], "data.upsample"),
    (["digits", "--set", "space.depths=[1000000000]"], "space.depths"),
    (["digits", "--study", "bad.toml/x"], "choose another"),
    (["digits", "--study", "what?"], "question mark"),
]


@pytest.mark.parametrize(("args", "word"), SEARCHES, ids=[" ".join(a) for a, _ in SEARCHES])
def test_a_bad_search_leaves_nothing_behind(
    args: list[str], word: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text("name = [")
    Path("unknown.toml").write_text("[trainig]\nepochs = 3")
    pictures(Path("one/a"), 9)
    for name in ("a", "b"):
        pictures(Path("few") / name, 2)
        pictures(Path("broken") / name, 9)
    for path in Path("broken").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    before = tree(tmp_path)
    refused(run("search", *args), word)
    assert tree(tmp_path) == before


def test_a_search_does_not_touch_a_study_that_is_there(study: Path, run: Run) -> None:
    before = tree(study)
    refused(run("search", "digits", "--study", study, *SETS), "resume", str(study))
    assert tree(study) == before


# --- bad input: studies -------------------------------------------------------------------------

ON_STUDIES = ["resume", "top", "show", "tune", "train", "report", "export"]


@pytest.mark.parametrize("command", ON_STUDIES)
def test_a_missing_study_is_not_made(command: str, run: Run, tmp_path: Path) -> None:
    refused(run(command, tmp_path / "nowhere" / "study"), "nowhere/study")
    assert tree(tmp_path) == {}


def garbage(folder: Path) -> None:
    (folder / "study.db").write_bytes(b"no database at all " * 100)


def empty(folder: Path) -> None:
    (folder / "study.db").write_bytes(b"")


def truncated(folder: Path) -> None:
    content = (folder / "study.db").read_bytes()
    (folder / "study.db").write_bytes(content[: len(content) // 2])


def folder_instead(folder: Path) -> None:
    (folder / "study.db").unlink()
    (folder / "study.db").mkdir()


def another_database(folder: Path) -> None:
    (folder / "study.db").unlink()
    with sqlite3.connect(folder / "study.db") as connection:
        connection.execute("create table header (key text, value text)")
    connection.close()


def no_json(folder: Path) -> None:
    sql(folder, "update header set value = '{' where key = 'notes'")


def other_format(folder: Path) -> None:
    sql(folder, "update header set value = '99' where key = 'format'")


def other_seed(folder: Path) -> None:
    sql(folder, "update header set value = '7' where key = 'seed'")


def bad_config(folder: Path) -> None:
    sql(folder, """update header set value = '{"config": {"nme": "x"}}' where key = 'notes'""")


def bad_trial(folder: Path) -> None:
    sql(folder, "update trials set choices = '{}'")


def no_trials(folder: Path) -> None:
    sql(folder, "drop table results")


def in_python(folder: Path) -> None:
    (folder / "study.db").unlink()
    space = SearchSpace("mine", [Choice("x", (1, 2))])
    from netwright.controllers.random import RandomSearch

    made = Study(space, RandomSearch(space), lambda a: 0.5, sqlite_url(folder / "study.db"))
    made.store.close()


def sql(folder: Path, text: str) -> None:
    with sqlite3.connect(folder / "study.db") as connection:
        assert connection.execute(text).rowcount != 0
    connection.close()


DAMAGES: dict[Callable[[Path], None], str] = {
    garbage: "sound database",
    empty: "must hold a study",
    truncated: "sound database",
    folder_instead: "must have a journal",
    another_database: "must be of format 2 or 3",
    no_json: "sound database",
    other_format: "must be of format 2 or 3",
    other_seed: "goes on only as it began",
    bad_config: "did you mean name?",
    bad_trial: "must decide 'layer1.height'",
    no_trials: "sound database",
    in_python: "begun in Python",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("command", ["resume", "top", "show", "tune", "train", "report"])
def test_a_damaged_study_is_left_as_it_is(
    command: str, damage: Callable[[Path], None], study: Path, run: Run
) -> None:
    damage(study)
    before = tree(study)
    refused(run(command, study), DAMAGES[damage])
    assert tree(study) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 255. TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory\nat home"),
    ],
)
def test_memory_that_does_not_suffice_is_one_line(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("netwright.config.load_config", fails)
    code, out, text = run("config", "digits")
    assert (code, out) == (1, "")
    words = str(error).splitlines() or ["MemoryError"]
    assert text.startswith(f"netwright: memory must suffice; it does not ({words[0]}); set less")
    assert len(text.splitlines()) == 1


def test_a_controller_larger_than_any_memory_leaves_nothing_behind(
    run: Run, tmp_path: Path
) -> None:
    sets = ["--set", "controller.name=policy_gradient", "--set", "controller.units=1000000000000"]
    code, _, text = run("search", "digits", "--study", tmp_path / "study", "--workers", 1, *sets)
    assert code == 1
    assert "memory must suffice" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["export", "predict"])
def test_what_is_neither_network_nor_study_is_not_told_to_be_trained(
    command: str, run: Run, picture: Path, tmp_path: Path
) -> None:
    for place in (picture, tmp_path, "digits"):
        words = [command, place, *([tmp_path] if command == "predict" else [])]
        line = refused(run(*words), f"none in {place}, which is no study either; give the folder")
        assert "run netwright train" not in line


@pytest.mark.parametrize("command", ["resume", "train", "report", "top"])
def test_the_file_of_a_study_is_told_from_its_folder(command: str, study: Path, run: Run) -> None:
    file = study / "study.db"
    refused(run(command, file), f"{file} is a file: give the folder of a study")


def test_export_needs_a_trained_study(study: Path, run: Run) -> None:
    before = tree(study)
    refused(run("export", study), "netwright train")
    refused(run("predict", study, study), "netwright train")
    assert tree(study) == before


@pytest.mark.parametrize("command", ["tune", "train"])
@pytest.mark.parametrize(
    "setting", ["study.seed=5", "space.depths=[3]", "data.validation=0.5", "controller.batch=2"]
)
def test_the_search_cannot_be_changed_afterwards(
    command: str, setting: str, study: Path, run: Run
) -> None:
    before = tree(study)
    refused(run(command, study, "--set", setting), "only what comes after", setting.split(".")[0])
    assert tree(study) == before


@pytest.mark.parametrize("command", ["tune", "train"])
@pytest.mark.parametrize("setting", ["training.epoch=1", "final.epochs=x", "data.source=gone.npz"])
def test_bad_settings_after_a_search_write_nothing(
    command: str, setting: str, study: Path, run: Run
) -> None:
    before = tree(study)
    refused(run(command, study, "--set", setting))
    assert tree(study) == before


def test_the_trials_of_a_study_where_all_failed_are_told(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "failed"
    limit = ("--set", "training.time_limit=1e-9")
    code, *_ = run("search", "digits", "--study", folder, *SETS, "--trials", 3, *limit)
    assert code == 1
    code, out, _ = run("top", folder)
    assert code == 0
    assert out.startswith("no trial has a score: all 3 failed; the last one: ")
    assert f"netwright top {folder} --json" in out
    assert "has none" in refused(run("train", folder), str(folder))


def test_a_trial_must_be_there(study: Path, run: Run) -> None:
    line = refused(run("show", study, 3), "from 0 to 2; got 3", f"at {study};")
    assert "sqlite" not in line
    refused(run("show", "v1", 0), "goes with a study")


def test_the_place_to_write_is_checked_before_any_work(
    study: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    refused(run("train", study, "--out", tmp_path / "file"), "is a file")
    refused(run("train", study, "--out", tmp_path / "file" / "x"), "is a file")
    refused(run("report", study, "--out", tmp_path / "study"), str(tmp_path))
    refused(run("show", study, "--svg", tmp_path / "no" / "it.svg"), "no/it.svg")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.epochs=2", ["training.epochs is 1 in", "and 2 in"]),
        ("data.validation=0.3", ["data.validation is 0.25 in", "and 0.3 in"]),
        ("child.widen=1", ["child.widen is 0 in", "and 1 in"]),
    ],
)
def test_a_control_must_be_scored_alike(
    setting: str, words: list[str], study: Path, run: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    args = ["--trials", "3", "--set", "controller.name=random"]
    assert run("search", "digits", "--study", other, *SETS, *args)[0] == 0
    assert run("report", study, "--control", other, "--out", tmp_path / "it.html")[0] == 0
    third = tmp_path / "third"
    assert run("search", "digits", "--study", third, *SETS, *args, "--set", setting)[0] == 0
    before = tree(tmp_path)
    refused(run("report", study, "--control", third), "a control must", str(third), *words)
    assert tree(tmp_path) == before


def test_a_control_must_be_scored_on_the_same_images(study: Path, run: Run, tmp_path: Path) -> None:
    """Another study seed splits off other images for validation."""
    other = tmp_path / "other"
    args = ["--trials", "3", "--set", "controller.name=random", "--set", "study.seed=4"]
    assert run("search", "digits", "--study", other, *SETS, *args)[0] == 0
    before = tree(tmp_path)
    refused(run("report", study, "--control", other), "on the same data", "study.seed")
    assert tree(tmp_path) == before


def test_a_control_that_is_no_random_search_is_named_by_its_controller(
    study: Path, run: Run, tmp_path: Path
) -> None:
    other, page = tmp_path / "other", tmp_path / "it.html"
    args = ["--trials", "3", "--set", "controller.name=local_search"]
    assert run("search", "digits", "--study", other, *SETS, *args)[0] == 0
    assert run("report", study, "--control", other, "--out", page)[0] == 0
    assert "Against local_search" in page.read_text(encoding="utf-8")
    assert run("report", study, "--control", study, "--out", page)[0] == 0
    assert f"({study.name})" in page.read_text(encoding="utf-8")


def test_a_control_must_search_the_same_space(study: Path, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sets = [*SETS, "--set", "space.filters=[4]", "--trials", "1", "--set", "controller.batch=1"]
    assert run("search", "digits", "--study", other, *sets)[0] == 0
    before = tree(tmp_path)
    refused(run("report", study, "--control", other), "same space", str(other))
    refused(run("report", study, "--control", tmp_path / "none"), "must have a journal")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["resume", "tune", "train"])
def test_data_that_have_changed_since_the_search_are_refused(
    command: str, run: Run, tmp_path: Path
) -> None:
    """Another image moves the split: images that the search used would be tested on."""
    folder = tmp_path / "photos"
    for name in ("one", "two"):
        pictures(folder / name, 12)
    study = tmp_path / "study"
    sets = [*SETS, "--set", f"data.source={folder}", "--set", "data.train_limit=0"]
    assert run("search", "digits", "--study", study, "--trials", 1, *sets)[0] == 0
    before = tree(study)
    assert run("top", study)[0] == 0
    new = folder / "one" / "0000.png"
    new.write_bytes(next(iter((folder / "one").iterdir())).read_bytes())
    refused(run(command, study, *(["--trials", 2] if command == "resume" else [])), "digest")
    assert tree(study) == before
    new.unlink()
    assert run(command, study)[0] == 0


def test_what_is_measured_of_workers_is_of_the_search_s_own_numerics(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        searching,
        "search_and_say",
        lambda place, config, *_: seen.append(config.execution.numerics),
    )
    assert run("search", "digits", "--study", tmp_path / "s", *SETS)[0] == 0
    assert run("resume", tmp_path / "s", "--trials", 2)[0] == 0
    assert seen[0] != ""
