"""Bad texts, cells and settings of a language study: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netwright.spaces import recurrent, save_architecture
from tests.cli.conftest import Run, refused, tree
from tests.cli.test_language_commands import write_config, write_texts

TEXT = "the cat sat\na dog ran\n" * 20  # 8 tokens in 2 lines: 160 words; 440 characters


def write(folder: Path, **texts: str) -> str:
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A sound configuration of tiny texts beside texts that are not."""
    write(tmp_path / "empty", train="", valid=TEXT, test=TEXT[:80])
    write(tmp_path / "blank", train=" \n\n \n", valid=TEXT, test=TEXT[:80])
    write(tmp_path / "one", train="a " * 200, valid=TEXT, test=TEXT[:80])
    write(tmp_path / "same", train=TEXT, valid=TEXT[:90], test=TEXT)
    write(tmp_path / "valid", train=TEXT, valid=TEXT[:90], test=TEXT[:90])
    write(tmp_path / "twice", train=TEXT, valid=TEXT)
    write(tmp_path / "short", train="the cat sat", valid="a cat", test="a dog ran")
    write(tmp_path / "names", first=TEXT)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    (tmp_path / "line.txt").write_text("a b")
    return write_config(tmp_path / "tiny.toml", write_texts(tmp_path / "texts"), "words")


BAD = [
    (["data.source=empty"], ["more than white space", "empty/train.txt"]),
    (["data.source=blank"], ["more than white space", "blank/train.txt"]),
    (["data.source=one"], ["at least 2 different words", "got 1 in one/train.txt"]),
    (["data.source=same"], ["must differ", "same/test.txt", "same/train.txt"]),
    (["data.source=valid"], ["must differ", "valid/test.txt", "valid/valid.txt"]),
    (["data.source=twice"], ["must differ", "twice/valid.txt"]),
    (["data.source=short"], ["training.batch=4", "got 4 in 'short'", "training.batch=2"]),
    (["data.source=names"], ["must have a train text", "first.txt in names"]),
    (["data.source=latin.txt"], ["must be in UTF-8", "latin.txt"]),
    (["data.source=line.txt"], ["line.txt"]),
    (["data.source=nowhere"], ["existing path", "'nowhere'"]),
    (["data.source=hub:name"], ["hub:owner/name"]),
    (["data.unit=syllables"], ["data.unit must be one of words, characters", "'syllables'"]),
    (["data.train_limit=7"], ["data.train_limit must be 0, or 8 or more", "got 7"]),
    (["tune.train_limit=7"], ["tune.train_limit must be 0, or 8 or more", "got 7"]),
    (["final.train_limit=1"], ["final.train_limit must be 0, or 8 or more", "got 1"]),
    (["training.batch=400"], ["training.batch=400", "got 480 in", "training.batch=240"]),
    (["data.vocabulary=2"], ["data.vocabulary must be 0, or 3 or more"]),
    (["child.width=0", "child.budget=100"], ["child.budget", "width 8", "vocabulary of 8"]),
    (["child.budget=0"], ["child.budget must be 1 or more"]),
    (["child.cutoffs=[3, 8]"], ["child.cutoffs must rise within (0, 8)", "got [3, 8]"]),
    (["child.cutoffs=[3, 2]"], ["child.cutoffs must rise", "got [3, 2]"]),
    (["child.shared=true", "child.embedding=4"], ["child.embedding must be 0"]),
    (["space.activations=['gelu']"], ["space.activations must be different ones of", "gelu"]),
    (["space.combinations=['sub']"], ["space.combinations must be different ones of", "sub"]),
    (["space.base=1"], ["space.base must be in [2, 64]", "got 1"]),
    (["space.depths=[3]"], ["space.depths", "keys here are base"]),
    (["study.depth={start = 2}"], ["study.depth must be left out for language"]),
    (["training.optimiser=lion"], ["training.optimiser must be one of sgd, adam"]),
    (["training.input_dropout=1.0"], ["training.input_dropout must be in [0, 1)"]),
    (["tune.dropouts=[[0.1]]"], ["tune.dropouts must hold pairs"]),
    (["tune.dropouts=[[0.1, 1.0]]"], ["tune.dropouts must", "in [0, 1); got [0.1, 1.0]"]),
    (["tune.scales=[0.0]"], ["tune.scales must be above 0"]),
    (["task=images"], ["tiny.toml"]),
]


@pytest.mark.parametrize(("settings", "words"), BAD, ids=[" ".join(s) for s, _ in BAD])
def test_a_bad_search_writes_nothing(
    settings: list[str],
    words: list[str],
    config: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [word for setting in settings for word in ("--set", setting)]
    before = tree(tmp_path)
    line = refused(run("search", config, *sets), *words)
    assert line.count("; ") >= 2
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.source=short"], ["training.batch=4", "got 4"]),
        (["data.source=same"], ["must differ"]),
        (["child.width=0", "child.budget=100"], ["child.budget", "vocabulary of 8"]),
        (["child.width=0", "final.budget=100"], ["budget", "vocabulary of 8"]),
        (["child.cutoffs=[9]"], ["child.cutoffs must rise within (0, 8)"]),
        (["data.unit=syllables"], ["data.unit"]),
    ],
)
@pytest.mark.parametrize("layer", ["lstm", "nascell"])
def test_a_bad_training_writes_nothing(
    settings: list[str],
    words: list[str],
    layer: str,
    config: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [word for setting in settings for word in ("--set", setting)]
    before = tree(tmp_path)
    refused(run("train", config, "--cell", layer, *sets), *words)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("cell.from", 3, "'cell.from' must be one of 0, 1, 2; got 3"),
        ("cell.into", -1, "'cell.into' must be one of 0, 1, 2; got -1"),
        ("cell.into", "1", "got '1'"),
        ("node2.activation", "gelu", "got 'gelu'"),
        ("node3.combine", "add", "remove it"),
        ("inject.combine", None, "got None"),
    ],
)
def test_a_cell_file_that_is_none_is_refused(
    name: str, value: Any, word: str, config: Path, run: Run, tmp_path: Path
) -> None:
    """Base 2 has the nodes 0, 1 and 2."""
    space = recurrent.space("mine", recurrent.RecurrentSettings(base=2))
    cell = recurrent.Cell((("add", "tanh"),) * 3, ("add", "tanh"), 1, 0)
    path = tmp_path / "bad.json"
    save_architecture(path, space, recurrent.architecture_of(space, cell))
    data = json.loads(path.read_text())
    data["values"][name] = value
    path.write_text(json.dumps(data))
    before = tree(tmp_path)
    refused(run("show", path), word, "bad.json")
    refused(run("train", config, "--cell", path, "--out", tmp_path / "out"), word, "bad.json")
    assert tree(tmp_path) == before


def test_a_network_of_another_task_is_refused(config: Path, run: Run, tmp_path: Path) -> None:
    before = tree(tmp_path)
    refused(run("train", config, "--cell", "v1", "--out", tmp_path / "out"), "recurrent")
    refused(run("train", "digits", "--cell", "nascell", "--out", tmp_path / "out"), "conv")
    assert tree(tmp_path) == before


def test_after_a_search_text_and_space_stay(config: Path, run: Run, tmp_path: Path) -> None:
    study = tmp_path / "study"
    assert run("search", config, "--study", study, "--trials", 2)[0] == 0
    before = tree(tmp_path)
    for setting in ("data.unit=characters", "space.base=3", "data.validation=0.2"):
        for command in ("tune", "train"):
            refused(run(command, study, "--set", setting), "only what comes after")
    refused(run("tune", study, "--set", "tune.train_limit=7"), "8 or more")
    refused(run("train", study, "--set", "final.train_limit=7"), "8 or more")
    refused(run("show", study, "--set", "child.cutoffs=[8]"), "child.cutoffs")
    assert tree(tmp_path) == before
