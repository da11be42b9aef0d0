"""The commands: what they promise, and bad input of every kind."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from netwright import cli
from netwright.space import Choice, SearchSpace
from netwright.spaces import load_architecture, save_architecture
from netwright.store import SqlStore, close_all, sqlite_url
from netwright.study import Study

TINY = [
    "training.epochs=1",
    "data.train_limit=200",
    "controller.batch=3",
    "space.depths=[2]",
    "space.filters=[4, 8]",
    "space.pools=[1]",
    "tune.top=1",
    "tune.learning_rates=[0.1]",
    "tune.weight_decays=[1e-4]",
    "final.epochs=1",
]
SETS = [word for setting in TINY for word in ("--set", setting)]

Run = Callable[..., tuple[int, str, str]]


def call(patch: pytest.MonkeyPatch, capture: Any, *args: object) -> tuple[int, str, str]:
    """Run the command line in this process and return exit code, stdout and stderr."""
    capture.readouterr()
    patch.setattr(sys, "argv", ["netwright", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capture.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *args: call(monkeypatch, capsys, *args)


def tree(folder: Path) -> dict[str, str]:
    """Return every file below with its hash, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


@dataclass
class Road:
    """A tiny study taken all the way, and what each command said."""

    folder: Path
    searched: Path
    said: dict[str, tuple[int, str, str]]
    events: dict[str, list[str]]

    def json(self, name: str) -> Any:
        code, out, _ = self.said[name]
        assert code == 0, self.said[name]
        return json.loads(out)


def events_of(folder: Path) -> list[str]:
    """Return the kinds of the journal's events, in order."""
    store = SqlStore(sqlite_url(folder / "study.db"), must_exist=True)
    kinds = [event.kind for event in store.events()]
    store.close()
    return kinds


class Capture:
    """What capsys is to one test, for a module."""

    def readouterr(self) -> tuple[str, str]:
        texts = []
        for name in ("stdout", "stderr"):
            texts.append(getattr(sys, name).getvalue())
        self.fresh()
        return texts[0], texts[1]

    def fresh(self) -> None:
        import io

        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("road") / "study"
    searched = folder.with_name("searched")
    made = Road(folder, searched, {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", sys.stdout)
        patch.setattr(sys, "stderr", sys.stderr)
        capture = Capture()
        capture.fresh()

        def step(name: str, *args: object) -> None:
            made.said[name] = call(patch, capture, *args)
            assert made.said[name][0] == 0, made.said[name]
            made.events[name] = events_of(folder)

        step("search", "search", "digits", "--study", folder, "--trials", 3, *SETS, "--json")
        shutil.copytree(folder, searched)
        step("tune", "tune", folder, "--json")
        step("train", "train", folder, "--json")
        step("export", "export", folder, "--json")
        step("report", "report", folder)
    yield made
    close_all()


@pytest.fixture
def study(road: Road, tmp_path: Path) -> Path:
    """A searched study of one's own, not tuned or trained."""
    return Path(shutil.copytree(road.searched, tmp_path / "study"))


@pytest.fixture
def network(road: Road, tmp_path: Path) -> Path:
    """A trained network's folder of one's own."""
    target = tmp_path / "network"
    target.mkdir()
    for name in ("network.json", "weights.safetensors"):
        shutil.copy(road.folder / "network" / name, target / name)
    return target


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)
    return path


def refused(result: tuple[int, str, str], *words: str) -> str:
    """Check the rule of the project and return the line."""
    code, out, err = result
    assert code == 2, result
    assert out == ""
    assert "Traceback" not in err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("netwright: ")
    assert len(lines[0]) < 700
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


# --- what the commands promise ------------------------------------------------------------------


def test_presets_lists_all_with_what_they_are_for(run: Run) -> None:
    code, out, err = run("presets", "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [r["name"] for r in rows] == [
        "cifar10-small",
        "cifar10-v1",
        "cifar10-v2",
        "cifar10-v3",
        "digits",
    ]
    assert all(r["about"] for r in rows)
    assert len(run("presets")[1].splitlines()) == 5


def test_the_road_leaves_no_database_file_open(road: Road) -> None:
    names = {path.name for path in road.folder.iterdir()}
    assert names == {"study.db", "network", "report.html"}


def test_search_says_the_best_and_shows_progress_on_stderr(road: Road) -> None:
    found = road.json("search")
    assert found["study"] == str(road.folder)
    assert found["trials"] == 3
    assert 0 <= found["best"]["score"] <= 1
    assert found["best"]["parameters"] > 0
    assert "layer1.height" in found["best"]["architecture"]
    assert "searching" in road.said["search"][2]
    assert "3/3" in road.said["search"][2]


def test_top_orders_by_score_and_says_why_others_failed(road: Road, run: Run) -> None:
    code, out, _ = run("top", road.folder, "--json")
    found = json.loads(out)
    scores = [row["score"] for row in found["top"]]
    assert code == 0
    assert 1 <= len(scores) <= 3
    assert scores == sorted(scores, reverse=True)
    assert found["failed"] == []
    assert found["top"][0] == road.json("search")["best"]
    assert len(json.loads(run("top", road.folder, "-n", 1, "--json")[1])["top"]) == 1


def test_top_prints_scores_whole_in_80_columns(
    road: Road, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    best = json.loads(run("top", road.folder, "--json")[1])["top"]
    code, out, _ = run("top", road.folder)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 1 + len(best)
    assert lines[0].split() == ["trial", "score", "reward", "parameters", "cost", "architecture"]
    for row, line in zip(best, lines[1:], strict=True):
        assert len(line) <= 80
        cells = line.split()
        assert cells[:2] == [str(row["trial"]), f"{row['score']:.4f}"]
        assert cells[2] == f"{row['reward']:.4f}"
        assert cells[3] == f"{row['parameters']:,}"
        assert "2 layers" in line


def test_show_knows_the_papers_network(run: Run) -> None:
    code, out, err = run("show", "v1", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert shown["parameters"] == 4201630
    assert shown["convolution_weights"] == 4199868
    assert len(shown["layers"]) == 15
    assert shown["image"] == [3, 32, 32]
    assert shown["architecture"]["digest"]
    code, out, _ = run("show", "v1")
    assert code == 0
    assert "4,201,630 parameters, 4,199,868 of them convolution weights" in out
    wider = json.loads(run("show", "v1", "--json", "--set", "child.widen=40")[1])
    assert wider["parameters"] > 2 * 4201630


def test_show_gives_a_trial_of_a_study_and_draws_it(road: Road, run: Run, tmp_path: Path) -> None:
    best = road.json("search")["best"]
    number = best["trial"]
    code, out, _ = run("show", road.folder, number, "--json", "--svg", tmp_path / "it.svg")
    shown = json.loads(out)
    assert code == 0
    assert shown["parameters"] == best["parameters"]
    assert (shown["image"], shown["classes"]) == ([1, 8, 8], 10)
    assert shown["architecture"]["values"] == best["architecture"]
    assert json.loads(run("show", road.folder, "--json")[1])["title"] == shown["title"]
    assert (tmp_path / "it.svg").read_text().startswith("<svg")


def test_an_architecture_that_was_shown_can_be_kept_and_shown_again(
    road: Road, run: Run, tmp_path: Path
) -> None:
    first = json.loads(run("show", road.folder, "--json")[1])["architecture"]
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(first))
    code, out, _ = run("show", path, "--json")
    assert code == 0
    assert json.loads(out)["architecture"] == first


def test_tune_says_the_best_setting(road: Road) -> None:
    found = road.json("tune")
    assert found["runs"] == 1
    assert found["setting"]["learning_rate"] == 0.1
    assert 0 <= found["score"] <= 1
    assert "tuning" in road.said["tune"][2]


def test_train_opens_the_test_set_once_and_says_so_before(road: Road) -> None:
    found = road.json("train")
    assert 0 <= found["test_accuracy"] <= 1
    assert found["tuned"] is True
    assert found["trial"] == road.json("tune")["trial"]
    assert found["network"] == str(road.folder / "network")
    assert "open_test" not in road.events["search"] + road.events["tune"]
    after = road.events["train"]
    assert after.count("open_test") == 1
    assert after.count("train") == 1
    assert after.index("open_test") < after.index("train")
    assert road.events["report"] == after
    assert "training" in road.said["train"][2]


def test_export_writes_every_form(road: Road) -> None:
    found = road.json("export")
    assert set(found) == {"weights", "python", "torch.export", "onnx"}
    assert all("equal to torch within" in found[kind] for kind in ("python", "onnx"))
    names = {path.name for path in (road.folder / "network").iterdir()}
    assert names >= {
        "network.json",
        "weights.safetensors",
        "network.py",
        "network.pt2",
        "network.onnx",
    }


def test_report_is_one_page_that_needs_nothing_else(road: Road) -> None:
    text = (road.folder / "report.html").read_text()
    assert "<html" in text
    assert "<link" not in text
    assert "<script src" not in text
    for mark in ('src="http', 'href="http', "@import", "url(http"):
        assert mark not in text
    assert road.said["report"][1] == f"report: {road.folder / 'report.html'}\n"


def test_predict_names_classes(road: Road, run: Run, tmp_path: Path) -> None:
    digits = load_digits()
    for i in range(4):
        pixels = np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    code, out, err = run("predict", road.folder, tmp_path, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["image"] for row in rows] == [str(tmp_path / f"{i}.png") for i in range(4)]
    assert all(row["class"] in map(str, range(10)) for row in rows)
    assert all(0 < row["probability"] <= 1 for row in rows)
    code, out, _ = run("predict", road.folder / "network", tmp_path / "0.png")
    assert out.split()[0] == rows[0]["class"]


def test_resume_goes_on(study: Path, run: Run) -> None:
    code, out, err = run("resume", study, "--trials", 5, "--json")
    assert code == 0
    assert json.loads(out)["trials"] == 5
    assert "5/5" in err
    assert {path.name for path in study.iterdir()} == {"study.db"}


def test_train_takes_an_architecture_file(road: Road, run: Run, tmp_path: Path) -> None:
    path, target = tmp_path / "mine.json", tmp_path / "out"
    path.write_text(json.dumps(json.loads(run("show", road.folder, "--json")[1])["architecture"]))
    args = ("train", "--architecture", path, "--config", "digits", "--out", target)
    code, out, _ = run(*args, *SETS, "--json")
    assert code == 0
    assert 0 <= json.loads(out)["test_accuracy"] <= 1
    assert {p.name for p in target.iterdir()} == {
        "network.json",
        "weights.safetensors",
        "training.db",
    }


def test_a_looked_at_study_is_not_changed(study: Path, run: Run) -> None:
    before = tree(study)
    for args in (("top", study), ("show", study), ("show", study, 1, "--json")):
        assert run(*args)[0] == 0
    assert tree(study) == before


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


def pictures(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = np.full((8, 8), 10 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


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
    sql(folder, "update trials set choices = '{}' where number = 0")


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
    another_database: "must be of format 1",
    no_json: "sound database",
    other_format: "must be of format 1",
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


def test_a_trial_must_be_there(study: Path, run: Run) -> None:
    refused(run("show", study, 3), "from 0 to 2; got 3")
    refused(run("show", "v1", 0), "goes with a study's folder")


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


def test_a_control_must_search_the_same_space(study: Path, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sets = [*SETS, "--set", "space.filters=[4]", "--trials", "1", "--set", "controller.batch=1"]
    assert run("search", "digits", "--study", other, *sets)[0] == 0
    before = tree(tmp_path)
    refused(run("report", study, "--control", other), "same space", str(other))
    refused(run("report", study, "--control", tmp_path / "none"), "must have a journal")
    assert tree(tmp_path) == before


# --- bad input: architectures -------------------------------------------------------------------


def written(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write v1's file with a change."""
    space, architecture = load_architecture("v1")
    save_architecture(path, space, architecture)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def changed(*keys: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


ARCHITECTURES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("format", changed("format", to="other/1"), "must have format"),
    ("no space", lambda data: data.pop("space"), "a space and values"),
    ("kind", changed("space", "kind", to="cell"), "kind of a space"),
    ("setting", changed("space", "settings", "depths", to=7), "must describe a space"),
    ("decisions", changed("space", to={"kind": "decisions", "decisions": 5}), "describe a space"),
    ("settings", changed("space", "settings", to=[1]), "must describe a space"),
    ("fingerprint", changed("fingerprint", to="0" * 16), "the fingerprint must be"),
    ("other space", changed("space", "settings", "filters", to=[24]), "the fingerprint must be"),
    ("option", changed("values", "layer1.height", to=4), "must be one of 1, 3, 5, 7; got 4"),
    ("type", changed("values", "layer1.height", to=[3]), "must be one of 1, 3, 5, 7; got [3]"),
    ("extra", changed("values", "layer99.height", to=3), "remove it"),
    ("missing", lambda data: data["values"].pop("layer3.width"), "must decide 'layer3.width'"),
    ("later input", changed("values", "layer2.inputs", to=["layer9"]), "may take layer1"),
    ("value", changed("values", "layer1.height", to=5), "the digest must be that of the values"),
    ("digest", changed("digest", to=5), "the digest must be that of the values"),
]


@pytest.mark.parametrize("command", ["show", "train"])
@pytest.mark.parametrize(
    ("change", "word"), [c[1:] for c in ARCHITECTURES], ids=[c[0] for c in ARCHITECTURES]
)
def test_a_bad_architecture_file_is_refused(
    command: str, change: Callable[[dict[str, Any]], object], word: str, run: Run, tmp_path: Path
) -> None:
    path = written(tmp_path / "bad.json", change)
    args = ["show", path] if command == "show" else ["train", "--architecture", path]
    before = tree(tmp_path)
    refused(run(*args, *(["--out", tmp_path / "out"] if command == "train" else [])), word)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, None]
)
def test_no_architecture_file_at_all(content: bytes | None, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    refused(run("show", path), "a.json")
    refused(run("train", "--architecture", path), "a.json")


def test_a_folder_is_no_architecture(run: Run, tmp_path: Path) -> None:
    refused(run("show", tmp_path), "must have a journal")
    refused(run("train", "--architecture", tmp_path), str(tmp_path))


def test_a_digest_holds_the_values_and_may_be_left_out(tmp_path: Path) -> None:
    space, architecture = load_architecture("v1")
    path = written(tmp_path / "by-hand.json", lambda data: data.pop("digest"))
    assert load_architecture(path)[1] == architecture
    shipped = Path(cli.__file__).parent / "architectures" / "v1.json"
    save_architecture(tmp_path / "v1.json", space, architecture)
    assert (tmp_path / "v1.json").read_text() == shipped.read_text()
    digest = json.loads(shipped.read_text())["digest"]
    text = f"{space.fingerprint}\n{architecture.to_json()}"
    assert digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_an_architecture_of_another_kind_of_space_is_refused(run: Run, tmp_path: Path) -> None:
    space = SearchSpace("mine", [Choice("x", (1, 2))])
    save_architecture(tmp_path / "x.json", space, space.architecture({"x": 1}))
    before = tree(tmp_path)
    refused(run("show", tmp_path / "x.json"), "convolutional")
    args = ("train", "--architecture", tmp_path / "x.json", "--config", "digits")
    refused(run(*args, "--out", tmp_path / "out"), "convolutional")
    assert tree(tmp_path) == before


def test_train_takes_one_of_study_and_architecture(study: Path, run: Run) -> None:
    before = tree(study)
    refused(run("train", study, "--architecture", "v1"), "one of them")
    refused(run("train"), "one of them")
    assert tree(study) == before


@pytest.mark.parametrize("config", ["cifar10-v1", "nope", "digits.toml"])
def test_training_a_file_without_data_writes_nothing(
    config: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("train", "--architecture", "v1", "--config", config))
    assert tree(tmp_path) == {}


# --- bad input: networks and images -------------------------------------------------------------


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def described(*keys: str, to: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / "network.json").read_text())
        changed(*keys, to=to)(data)
        (folder / "network.json").write_text(json.dumps(data))

    return change


def other_weights(folder: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    changed_ = {name: tensor + 1 for name, tensor in weights.items()}
    safetensors.torch.save_file(changed_, folder / "weights.safetensors")


def other_names(folder: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    renamed = {f"x.{name}": tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(renamed, folder / "weights.safetensors")
    described("weights", to=None)(folder)


NETWORKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "description cut": (lambda folder: cut(folder / "network.json"), "network.json"),
    "description gone": (lambda folder: (folder / "network.json").unlink(), "network.json"),
    "weights cut": (lambda folder: cut(folder / "weights.safetensors"), "weights.safetensors"),
    "weights gone": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors"),
    "weights empty": (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights"),
    "weights of another": (other_weights, "SHA-256"),
    "weights of other names": (other_names, "Missing key"),
    "format": (described("format", to="other/1"), "its format is not"),
    "child": (described("child", to={"widen": "x"}), "network.json"),
    "child key": (described("child", to={"wide": 1}), "network.json"),
    "image": (described("image", to=[1, 8]), "network.json"),
    "image size": (described("image", to=[-1, 8, 8]), "network.json"),
    "preprocess": (described("preprocess", to={"upsample": 4}), "network.json"),
    "classes": (described("classes", to=["a", "b"]), "weights"),
    "no classes": (described("classes", to=[]), "0 classes"),
    "architecture": (described("architecture", to={}), "network.json"),
    "value": (described("architecture", "values", "layer1.height", to=4), "network.json"),
}


@pytest.mark.parametrize("command", ["predict", "export"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_damaged_network_is_refused(
    command: str, name: str, network: Path, picture: Path, run: Run, tmp_path: Path
) -> None:
    damage, word = NETWORKS[name]
    damage(network)
    before = tree(tmp_path)
    more = [picture] if command == "predict" else ["--out", tmp_path / "out"]
    refused(run(command, network, *more), word)
    assert tree(tmp_path) == before


def test_a_network_of_before_digests_is_used(network: Path, picture: Path, run: Run) -> None:
    described("weights", to=None)(network)
    assert run("predict", network, picture)[0] == 0


def test_images_must_be_images(network: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    refused(run("predict", network, folder), "needs an image", str(folder))
    refused(run("predict", network, tmp_path / "none"), "found none")
    pictures(folder / "some", 3)
    (folder / "some" / "folder.png").mkdir()
    assert run("predict", network, folder)[0] == 0
    cut(folder / "some" / "1.png")
    refused(run("predict", network, folder), "some/1.png", "readable")
    (folder / "text.png").write_text("no image")
    refused(run("predict", network, folder / "text.png"), "text.png")


# --- the process --------------------------------------------------------------------------------


def process(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netwright.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "args", [["search", "no-such-preset"], ["top", "/no/such/study"]], ids=" ".join
)
def test_a_process_ends_with_one_line_and_2(args: list[str]) -> None:
    ended = process(*args)
    refused((ended.returncode, ended.stdout, ended.stderr), args[1])


def test_an_interrupt_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import netwright.config

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(netwright.config, "load_config", interrupt)
    code, out, err = run("search", "digits")
    assert (code, out) == (130, "")
    assert err.splitlines() == ["netwright: interrupted; go on with: netwright resume STUDY"]


def test_a_message_is_one_line_whatever_a_path_holds(run: Run, tmp_path: Path) -> None:
    line = refused(run("top", tmp_path / "a\nb:warning:[red]"))
    assert "a b:warning:[red]" in line
