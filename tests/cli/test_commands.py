"""What the commands promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from netwright import cli
from netwright.console import print_json
from netwright.network import load_network
from netwright.tasks.image_network import ImageNetwork
from tests.cli.conftest import (
    SETS,
    Road,
    Run,
    offered,
    refused,
    tree,
)


def test_presets_lists_all_with_what_they_are_for(run: Run) -> None:
    code, out, err = run("presets", "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [r["name"] for r in rows] == [
        "cell-demo",
        "chars-small",
        "cifar10-small",
        "cifar10-v1",
        "cifar10-v2",
        "cifar10-v3",
        "digits",
        "nats",
        "ptb-chars",
        "ptb-small",
        "ptb-words-max-sin",
        "ptb-words",
        "synthetic-cell",
        "synthetic-conv",
        "zaremba-medium",
    ]
    assert all(r["about"] for r in rows)
    assert len(run("presets")[1].splitlines()) == len(rows)


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


@pytest.mark.parametrize("width", [10, 40, 80, None])
def test_top_prints_numbers_whole(
    width: int | None, road: Road, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the terminal is narrower than they are; None is a pipe, where nothing is cut."""
    monkeypatch.setenv("COLUMNS", "40")
    best = json.loads(run("top", road.folder, "--json")[1])["top"]
    if width is not None:
        terminal = {"force_terminal": True, "color_system": None, "highlight": False}
        console = Console(width=width, soft_wrap=True, **terminal)  # type: ignore[arg-type]
        monkeypatch.setattr(cli, "out", console)
    code, out, _ = run("top", road.folder)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 1 + len(best)
    assert lines[0].split() == ["trial", "score", "reward", "parameters", "cost", "architecture"]
    for row, line in zip(best, lines[1:], strict=True):
        cells = line.split()
        assert cells[:2] == [str(row["trial"]), f"{row['score']:.4f}"]
        assert cells[2] == f"{row['reward']:.4f}"
        assert cells[3] == f"{row['parameters']:,}"
        assert "2 layers" in line
        if width == 80:
            assert len(line) <= 80
        if width is None:
            assert line.count("x") == 2  # of both layers' filters
            assert "…" not in line


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


def test_a_report_offers_what_is_still_worth_doing(road: Road, study: Path, run: Run) -> None:
    where = str(road.folder)
    assert offered(road.folder) == [
        f"netwright resume {where} --trials 6",
        f"netwright export {where}",
        f"netwright predict {where} FILES",
    ]
    assert run("report", study)[0] == 0
    assert [line.split()[1] for line in offered(study)] == [
        "resume",
        "train",
        "export",
    ]


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
    shown = []
    for i in range(4):
        pixels = np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)
        shown.append(torch.from_numpy(pixels)[None, None].float() / 255)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    for hidden in (tmp_path / "._0.png", tmp_path / ".thumbs" / "0.png"):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_bytes(b"none")
    code, out, err = run("predict", road.folder, tmp_path, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["image"] for row in rows] == [str(tmp_path / f"{i}.png") for i in range(4)]
    network = load_network(road.folder / "network")
    assert isinstance(network, ImageNetwork)
    with torch.no_grad():
        likely, which = network.module(torch.cat(shown)).softmax(1).max(1)
    assert [row["class"] for row in rows] == [network.classes[int(k)] for k in which]
    assert [row["probability"] for row in rows] == pytest.approx(likely.tolist(), abs=1e-4)
    code, out, _ = run("predict", road.folder / "network", tmp_path / "0.png")
    assert out.split()[0] == rows[0]["class"]


def test_a_drawing_is_written_whole_in_any_locale(tmp_path: Path) -> None:
    place = tmp_path / "v1.svg"
    ascii_only = {**os.environ, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"}
    start = "from netwright import cli; cli.main()"
    command = [sys.executable, "-c", start, "show", "v1", "--svg", str(place)]
    done = subprocess.run(command, env=ascii_only, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert place.read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_a_name_that_looks_like_markup_is_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text('name = "[bold]x"\ntask = "synthetic"\n[data]\nlayers = 2\n')
    args = ("--study", tmp_path / "s", "--set", "controller.name=random", "--trials", 2)
    assert run("search", tmp_path / "it.toml", *args)[0] == 0
    assert run("show", tmp_path / "s")[1].startswith("[bold]x: trial ")


def test_what_has_no_drawing_is_refused(run: Run, tmp_path: Path) -> None:
    refused(run("show", "lstm", "--svg", tmp_path / "lstm.svg"), "a drawing must be of a cell")
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"test": float("inf"), "curve": [1.5, float("nan")]})
    assert json.loads(capsys.readouterr().out) == {"test": None, "curve": [1.5, None]}


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
    assert err.splitlines() == ["netwright: interrupted; run the same command again"]


@pytest.mark.parametrize("command", ["tune", "train", "resume"])
def test_an_interrupt_says_what_goes_on(
    command: str, study: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import netwright.tasks.images
    from netwright.evaluators.image import ImageEvaluator

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(netwright.tasks.images, "train_final", interrupt)
    monkeypatch.setattr(ImageEvaluator, "evaluate_module", interrupt)
    more = ["--trials", "9"] if command == "resume" else []
    code, _, err = run(command, study, *more)
    assert code == 130
    said = {
        "tune": "run the same command again to go on; finished runs are kept",
        "train": "run the same command again",
        "resume": f"go on with: netwright resume {study}",
    }
    assert err.splitlines()[-1] == f"netwright: interrupted; {said[command]}"


def test_a_message_is_one_line_whatever_a_path_holds(run: Run, tmp_path: Path) -> None:
    line = refused(run("top", tmp_path / "a\nb:warning:[red]"))
    assert "a b:warning:[red]" in line


def test_a_score_of_a_short_training_alone_is_said_to_be_one(run: Run, tmp_path: Path) -> None:
    short = ["stopping.method=short", "stopping.keep=0", "stopping.share=0.5", "training.epochs=2"]
    sets = [*SETS, *(word for setting in short for word in ("--set", setting))]
    study = tmp_path / "short"
    code, out, _ = run("search", "digits", "--study", study, "--trials", 2, *sets)
    assert code == 0
    assert "2 trials, 0 failed; best: trial" in out.splitlines()[0]
    assert out.splitlines()[0].endswith(" after a short training")
    score = json.loads(run("top", study, "--json")[1])["top"][0]["score"]
    said = f"validation accuracy {score:.4f} after a short training"
    assert said in run("show", study)[1].splitlines()[0]
