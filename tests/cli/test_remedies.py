"""Lines on what was meant: each names a remedy that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from netwright.errors import UsageError
from netwright.nn import Recurrent
from tests.cli.conftest import Run, refused, tree
from tests.cli.test_language_bad_input import TEXT
from tests.cli.test_language_commands import write_config, write_texts


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration `tiny.toml` where the commands run."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "tiny.toml", write_texts(tmp_path / "texts"), "words")
    return "tiny.toml"


@pytest.fixture
def found(config: str, run: Run) -> str:
    """A study of 3 trials in batches of 2: trial 3 was proposed and not trained."""
    assert run("search", config, "--study", "found", "--trials", 3)[0] == 0
    return "found"


def test_a_trial_that_was_only_proposed_is_neither_shown_nor_trained(
    found: str, config: str, run: Run, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    for args in (
        ("show", found, 3),
        ("show", f"{found}:3"),
        ("train", config, "--cell", f"{found}:3"),
    ):
        refused(run(*args), "trial 3 of found was only proposed", "netwright resume found")
    line = refused(run("train", config, "--cell", f"{found}:4"), "from 0 to 3; got 4 at found;")
    assert "sqlite" not in line
    assert tree(tmp_path) == before
    assert run("show", f"{found}:2")[0] == 0
    assert run("show", f"{found}:best")[1] == run("show", found)[1]


def test_a_study_begun_otherwise_is_named_by_its_folder(found: str, run: Run) -> None:
    import sqlite3

    with sqlite3.connect("found/study.db") as connection:
        connection.execute("update header set value = '7' where key = 'seed'")
    connection.close()
    line = refused(run("top", found), "goes on only as it began", "at found;")
    assert "sqlite" not in line


CELLS = [
    (["tiny.toml", "--cell", "found"], ["STUDY:best", "use found:best"]),
    (
        ["tiny.toml", "--cell", "v1"],
        ["'v1' is of a conv space", "use gru, lstm, nascell, "],
    ),
    (["digits", "--cell", "lstm"], ["'lstm' is of a gated space", "with digits use v1"]),
    (["--cell", "lstm"], ["needs a configuration", "netwright train ptb-small --cell lstm"]),
    (["--cell", "nascell", "--set", "data.unit=words"], ["needs a configuration"]),
    (["tiny.toml", "--cell", "nofile"], ["one of gru, lstm, nascell;"]),
    (["digits", "--cell", "nofile"], ["one of v1;"]),
    (["tiny.toml", "--cell", "tiny.toml"], ["must be JSON", "netwright show STUDY TRIAL --save"]),
    (["tiny.toml"], ["tiny.toml is a configuration", "search tiny.toml", "--cell NAME"]),
    (["ptb-small"], ["ptb-small is a configuration", "netwright train ptb-small --cell"]),
]


@pytest.mark.parametrize(("args", "words"), CELLS, ids=[" ".join(args) for args, _ in CELLS])
def test_train_says_what_to_give_it(
    args: list[str], words: list[str], config: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "found").mkdir()
    before = tree(tmp_path)
    refused(run("train", *args), *words)
    assert tree(tmp_path) == before


SETTINGS = [
    ("task=text", ["task must be one of images, language", "language for text"]),
    ("training.epochs=[1, 2]", ["a whole number; got [1, 2]", "--set training.epochs=35"]),
    ("training.learning_rate=fast", ["a number; got 'fast'", "--set training.learning_rate=1.0"]),
    (
        "space.combinations=[1]",
        ["combinations[0]", """combinations='["add","elem_mult"]'"""],
    ),
    ("tune.scales=3", ["tune.scales must be a list; got 3", "see netwright config"]),
    ("space.depths=[2]", ['space.depths is a key of task = "images"']),
]


@pytest.mark.parametrize(("setting", "words"), SETTINGS, ids=[s for s, _ in SETTINGS])
def test_a_setting_is_told_what_it_may_be(
    setting: str, words: list[str], config: str, run: Run
) -> None:
    line = refused(run("search", config, "--set", setting), *words)
    assert "..." not in line
    assert "…" not in line


def test_a_forgotten_task_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[space]\nbase = 4\n")
    refused(run("search", path), 'space.base is a key of task = "language"', "mine.toml")


def test_a_preset_that_is_nearly_named_is_told(run: Run) -> None:
    refused(run("search", "ptb-smal"), "did you mean ptb-small?")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("nofile", 1, 2), "one of nascell; got 'nofile'"),
        (("v1", 1, 2), "'v1' is of a conv space; take the file of a cell, or nascell"),
        (("nascell", 12, 2.5), "hidden_size must be a whole number, 1 or more; got 2.5"),
        (("nascell", 12, 2, "2"), "num_layers must be a whole number, 1 or more; got '2'"),
    ],
)
def test_layers_are_told_what_they_are_made_of(args: tuple[str, int, int], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recurrent(*args)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_names_every_shipped_architecture_and_what_config_is(run: Run) -> None:
    shown = run("show", "--help")[1]
    assert all(name in shown for name in ("v1", "nascell", "lstm", "gru"))
    said = " ".join(run("train", "--help")[1].split())
    assert "a TOML file or a preset's name" in said
    assert "runs/CONFIG-CELL/network" in said.replace("- ", "-")  # a line may end there


def test_presets_stand_in_columns(run: Run) -> None:
    lines = run("presets")[1].splitlines()
    width = max(len(line.split()[0]) for line in lines)
    assert all(line[width : width + 2] == "  " and line[width + 2] != " " for line in lines)


def test_a_control_has_the_same_scores_of_the_same_text(
    found: str, config: str, run: Run, tmp_path: Path
) -> None:
    def control(name: str, setting: str) -> tuple[int, str, str]:
        args = ("--trials", 2, "--set", "controller.name=random", "--set", setting)
        assert run("search", config, "--study", name, *args)[0] == 0
        return run("report", found, "--control", name)

    refused(control("a", "data.unit=characters"), "perplexity; a has bits per character")
    write_texts(tmp_path / "more")
    refused(control("b", "data.source=more"), "data.source is", "texts", "more", "in b;")
    assert control("c", "data.source=texts")[0] == 0  # by another name


def test_a_search_that_is_longer_than_asked_for_is_whole(found: str, run: Run) -> None:
    code, out, err = run("resume", found, "--trials", 1)
    assert code == 0
    assert out.startswith("3 trials, ")
    assert err == ""


def test_a_dead_cell_is_told(config: str, run: Run) -> None:
    """n0 and n1 multiply U h = 0, so the first h is 0, and then all."""
    sets = ("--set", 'space.combinations=["elem_mult"]', "--set", 'space.activations=["tanh"]')
    assert run("search", config, "--study", "dead", "--trials", 1, *sets)[0] == 0
    assert "dead: h_t is 0 at every step" in run("show", "dead")[1]
    assert "dead" not in run("show", "nascell")[1]


def test_own_words_that_training_lacks_are_learned_as_unknown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(TEXT + "once upon a time\n" + TEXT)
    config = write_config(tmp_path / "book.toml", tmp_path / "book.txt", "words")
    assert run("search", config, "--study", tmp_path / "s", "--trials", 1)[0] == 0
    # the cat sat a dog ran <eos> <unk>; once, upon and time are <unk>
    assert "for a vocabulary of 8" in run("show", tmp_path / "s")[1]
