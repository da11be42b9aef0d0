"""A folder keeps its trained network: what `train` and `export` refuse, repeat and note."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from netwright import finishing
from tests.cli.conftest import Run, events_of, offered, refused, tree
from tests.cli.test_language_commands import write_config, write_texts

AGAIN = "test set for"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "tiny.toml", write_texts(tmp_path / "texts"), "words")


@pytest.fixture
def found(config: Path, run: Run, tmp_path: Path) -> Path:
    """A study that was searched and trained."""
    study = tmp_path / "found"
    assert run("search", config, "--study", study, "--trials", 2)[0] == 0
    assert run("train", study)[0] == 0
    return study


def cell(config: Path, target: Path, *more: str) -> tuple[object, ...]:
    return ("train", config, "--cell", "gru", "--out", target, *more)


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize(
    "settings", [["final.epochs=1"], ["training.learning_rate=0.02"], ["final.budget=9000"]]
)
def test_a_study_trained_otherwise_goes_to_another_folder(
    settings: list[str], found: Path, run: Run, tmp_path: Path
) -> None:
    before = tree(found)
    refused(run("train", found, *sets(*settings)), "holds one training", "--out", str(found))
    assert tree(found) == before
    other = tmp_path / "other"
    assert run("train", found, *sets(*settings), "--out", other)[0] == 0
    assert (other / "network.json").is_file()


def test_a_report_names_the_folder_of_its_network(found: Path, run: Run, tmp_path: Path) -> None:
    def named() -> list[str]:
        assert run("report", found)[0] == 0
        return offered(found)[1:]

    def commands(network: str) -> list[str]:
        return [f"netwright export {network}", f"netwright predict {network} FILES"]

    assert named() == commands(str(found))
    other, away = tmp_path / "an other", tmp_path / "away"
    assert run("train", found, *sets("final.epochs=1"), "--out", other)[0] == 0
    assert named() == commands(f"'{other}'")
    assert run("export", other, "--no-onnx")[0] == 0
    other.rename(away)
    assert named() == commands("NETWORK")
    assert run("train", found)[0] == 0
    assert named() == commands(str(found))


@pytest.mark.parametrize(
    ("reader", "setting"),
    [
        ("netwright.evaluators.image.load_search_data", "data.test_limit=100"),
        ("netwright.evaluators.language.load_search_text", "data.column=other"),
    ],
)
def test_train_reads_a_search_s_data_once_and_other_settings_anew(
    reader: str,
    setting: str,
    config: Path,
    study: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "language" in reader:
        study = tmp_path / "found"
        assert run("search", config, "--study", study, "--trials", 2)[0] == 0
    read: list[object] = []
    module, name = reader.rsplit(".", 1)
    load = getattr(importlib.import_module(module), name)

    def reading(settings: object, *more: object) -> object:
        read.append(settings)
        return load(settings, *more)

    monkeypatch.setattr(reader, reading)
    assert run("train", study)[0] == 0
    assert len(read) == 1
    assert run("train", study, *sets(setting), "--out", tmp_path / "other")[0] == 0
    assert len(read) == 3
    assert read[0] == read[1] != read[2]


def test_a_study_does_not_take_the_folder_of_another_training(
    found: Path, config: Path, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "gru"
    assert run(*cell(config, target))[0] == 0
    before = tree(tmp_path)
    refused(run("train", found, "--out", target), "holds one training", "gru")
    refused(run(*cell(config, found / "network")), "holds one training", "found/network")
    assert tree(tmp_path) == before
    for name in ("network.json", "weights.safetensors"):
        (target / name).unlink()
    refused(run("train", found, "--out", target), "holds one training")  # its journal is there


@pytest.mark.parametrize(
    "more", [sets("final.epochs=1"), ["--tune"], sets("study.seed=2"), sets("child.width=9")]
)
def test_a_cell_trained_otherwise_is_refused_before_any_work(
    more: list[str], config: Path, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "gru"
    assert run(*cell(config, target))[0] == 0
    before = tree(tmp_path)
    refused(run(*cell(config, target, *more)), "holds one training", str(target))
    assert tree(tmp_path) == before


def test_the_same_training_may_be_repeated_and_opens_the_test_text_again(
    found: Path, config: Path, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "gru"
    weights = []
    for time in (1, 2, 3):
        code, _, err = run(*cell(config, target))
        assert code == 0
        assert (AGAIN in err) == (time > 1)
        assert time == 1 or f"test set for {target} was opened {time} times" in err
        weights.append((target / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    code, _, err = run("train", found)
    assert code == 0
    assert "test set of this study was opened 2 times" in err
    assert events_of(found).count("open_test") == 2


def test_exports_of_other_weights_do_not_stay(found: Path, run: Run) -> None:
    network = found / "network"
    assert run("export", found, "--no-onnx")[0] == 0
    assert run("train", found)[0] == 0
    exports = {"network.py", "network.pt2"}
    assert exports <= {path.name for path in network.iterdir()}  # the same weights
    data = json.loads((network / "network.json").read_text())
    (network / "network.json").write_text(json.dumps({**data, "weights": "0" * 64}))
    assert run("train", found)[0] == 0
    assert {path.name for path in network.iterdir()} == {"network.json", "weights.safetensors"}


def test_a_folder_of_ones_own_keeps_its_files(found: Path, run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "network.py").write_text("mine")
    assert run("train", found, "--out", mine)[0] == 0
    assert (mine / "network.py").read_text() == "mine"


def test_an_export_does_not_replace_another_network(
    found: Path, config: Path, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "gru"
    assert run(*cell(config, target))[0] == 0
    before = tree(tmp_path)
    refused(run("export", found, "--out", target), "holds one network", str(target))
    assert tree(tmp_path) == before


def test_an_export_does_not_replace_what_somebody_wrote(
    found: Path, run: Run, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "network.py").write_text("mine")
    before = tree(tmp_path)
    refused(run("export", found, "--out", mine, "--no-onnx"), "another one's network.py")
    assert tree(tmp_path) == before
    assert run("export", found, "--no-onnx")[0] == 0
    assert run("export", found, "--no-onnx")[0] == 0  # the same again
    path = found / "network" / "network.py"
    path.write_text(path.read_text() + "\n# changed\n")
    before = tree(tmp_path)
    refused(run("export", found, "--no-onnx"), "no file that was changed", str(path))
    assert tree(tmp_path) == before


def test_a_training_does_not_replace_one_that_ended_meanwhile(
    found: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    first = finishing.train_best
    trained: list[dict[str, str]] = []

    def meanwhile(*given: Any) -> Any:
        shutil.copytree(found / "network", target)
        trained.append(tree(target))
        return first(*given)

    monkeypatch.setattr(finishing, "train_best", meanwhile)
    code, out, _ = run("train", found, "--out", target, *sets("final.epochs=1"))
    assert code == 0
    assert tree(target) == trained[0]
    (other,) = (path for path in tmp_path.iterdir() if path.name.startswith("target-"))
    assert (other / "network.json").is_file()
    assert out.strip().endswith(f"saved in {other}")


def test_train_with_a_grid_says_what_it_chose(config: Path, run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*cell(config, tmp_path / "gru", "--tune"))
    assert code == 0
    chosen, score = out.splitlines()
    assert chosen.startswith("tuned: learning_rate 0.05, dropout [0.1, 0.2] (validation perplexity")
    assert score.startswith("test perplexity ")
    record: dict[str, Any] = json.loads((tmp_path / "gru" / "network.json").read_text())["result"]
    assert record["setting"] == {"learning_rate": 0.05, "dropout": [0.1, 0.2]}
    assert record["recipe"]["learning_rate"] == 0.05
