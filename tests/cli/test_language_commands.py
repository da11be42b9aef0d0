"""What the commands promise on recurrent cells and texts."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netwright.store import close_all
from tests.cli.conftest import Capture, Road, Run, call, events_of, tree

METRICS = {"words": "perplexity", "characters": "bits per character"}
NODE = ["node0.combine", "node0.activation", "node1.combine", "node1.activation"]


def write_texts(folder: Path) -> Path:
    """Write three texts of 6 words in some order; return their folder."""
    folder.mkdir()
    for name, seed, lines in (("train", 1, 120), ("valid", 2, 30), ("test", 3, 31)):
        draw = random.Random(seed)
        words = ["the cat sat", "a dog ran", "the dog sat"]
        text = "\n".join(draw.choice(words) for _ in range(lines))
        (folder / f"{name}.txt").write_text(text + "\n")
    return folder


def write_config(path: Path, source: Path, unit: str, *more: str) -> Path:
    """Write a configuration of a search of seconds."""
    lines = [
        'name = "tiny"',
        'task = "language"',
        "space.base = 2",
        "child.width = 8",
        "child.layers = 1",
        "controller.batch = 2",
        f'data.source = "{source}"',
        f'data.unit = "{unit}"',
        "training.epochs = 2",
        "training.batch = 4",
        "training.steps = 10",
        'training.optimiser = "adam"',
        "training.learning_rate = 0.005",
        'training.schedule = "cosine"',
        "training.scale = 0.3",
        "tune.top = 1",
        "tune.learning_rates = [0.02, 0.05]",
        "tune.dropouts = [[0.1, 0.2]]",
        "final.epochs = 3",
        "study.seed = 1",
        *more,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module", params=sorted(METRICS))
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """Take a tiny study of each unit all the way."""
    root = tmp_path_factory.mktemp(request.param)
    source = write_texts(root / "texts")
    config = write_config(root / "tiny.toml", source, request.param)
    made = Road(root / "study", root / "searched", {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", sys.stdout)
        patch.setattr(sys, "stderr", sys.stderr)
        capture = Capture()
        capture.fresh()

        def step(name: str, *args: object) -> None:
            made.said[name] = call(patch, capture, *args)
            assert made.said[name][0] == 0, made.said[name]
            made.events[name] = events_of(made.folder)

        step("search", "search", config, "--study", made.folder, "--trials", 3, "--json")
        shutil.copytree(made.folder, made.searched)
        step("tune", "tune", made.folder, "--json")
        step("train", "train", made.folder, "--json")
        step("report", "report", made.folder)
    yield made
    close_all()


@pytest.fixture
def metric(way: Road) -> str:
    """Say what the scores of this way are."""
    return METRICS[way.folder.parent.name.rstrip("0123456789")]


@pytest.fixture
def mine(way: Road, tmp_path: Path) -> Path:
    """A searched study of one's own."""
    return Path(shutil.copytree(way.searched, tmp_path / "mine"))


def test_search_tells_the_best(way: Road) -> None:
    found = way.json("search")
    assert found["trials"] == 3
    best = found["best"]
    assert len(best["curve"]) == 2
    assert best["score"] == min(best["curve"]) > 0
    assert set(NODE) < set(best["architecture"])
    assert "3/3" in way.said["search"][2]


def test_the_best_has_the_lowest_score_and_the_most_reward(way: Road, run: Run) -> None:
    rows = json.loads(run("top", way.folder, "--json")[1])["top"]
    assert [r["score"] for r in rows] == sorted(r["score"] for r in rows)
    assert [r["reward"] for r in rows] == sorted((r["reward"] for r in rows), reverse=True)
    assert rows[0] == way.json("search")["best"]


def test_scores_and_rewards_belong_together(way: Road, metric: str) -> None:
    """80 / perplexity^2, where bits per character are its logarithm."""
    best = way.json("search")["best"]
    perplexity = best["score"] if metric == "perplexity" else 2 ** best["score"]
    assert best["reward"] == pytest.approx(80 / perplexity**2)
    # 6 words, <eos> and <unk>; the 11 letters, space, newline and <unk> of the same lines
    vocabulary = 8 if metric == "perplexity" else 14
    assert best["parameters"] == 2 * 8 * 16 + vocabulary * (8 + 9)
    assert 1 < perplexity < vocabulary


def test_search_and_tune_say_it_in_words(mine: Path, run: Run, metric: str) -> None:
    code, out, _ = run("resume", mine, "--trials", 4)
    assert code == 0
    assert "4 trials, 0 failed; best: trial " in out
    assert f"validation {metric} " in out
    assert out.endswith(f"next: netwright top {mine}, or show, tune, train, export, report of it\n")
    code, out, err = run("tune", mine)
    assert code == 0
    assert "3 runs = 1 architectures x 3 settings" in err
    assert f"validation {metric} " in out
    assert "dropout [0.1, 0.2]" in out
    code, out, _ = run("train", mine)
    assert code == 0
    assert out.startswith("tuned: learning_rate 0.0")
    assert f"dropout [0.1, 0.2] (validation {metric} " in out.splitlines()[0]
    assert out.splitlines()[1].startswith(f"test {metric} ")


def test_resume_goes_on_as_one_search_would(way: Road, run: Run, tmp_path: Path) -> None:
    config = way.folder.parent / "tiny.toml"
    mine = Path(shutil.copytree(way.searched, tmp_path / "mine"))
    assert run("resume", mine, "--trials", 5, "--json")[0] == 0
    at_once = tmp_path / "at-once"
    assert run("search", config, "--study", at_once, "--trials", 5, "--json")[0] == 0
    assert rows_of(run, mine) == rows_of(run, at_once)
    other = tmp_path / "other"
    sets = ("--set", "study.seed=7", "--trials", 5)
    assert run("search", config, "--study", other, *sets)[0] == 0
    assert rows_of(run, other) != rows_of(run, at_once)


def rows_of(run: Run, study: Path) -> list[dict[str, Any]]:
    """Return the trials, the best first, without the time they took."""
    rows = json.loads(run("top", study, "--json")[1])["top"]
    return [{k: v for k, v in row.items() if k != "cost_s"} for row in rows]


def test_show_tells_equations_and_size_and_draws_the_cell(
    way: Road, run: Run, tmp_path: Path, metric: str
) -> None:
    best = way.json("search")["best"]
    svg = tmp_path / "it.svg"
    code, out, err = run("show", way.folder, best["trial"], "--json", "--svg", svg)
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert shown["title"] == f"tiny: trial {best['trial']}, validation {metric} {best['score']:.4f}"
    assert shown["parameters"] == best["parameters"]
    assert shown["width"] == 8
    assert shown["architecture"]["values"] == best["architecture"]
    assert shown["equations"][0].startswith("n0 = ")
    assert shown["equations"][-1].startswith("h_t = ")
    assert svg.read_text().startswith("<svg")
    code, out, _ = run("show", way.folder, best["trial"])
    assert code == 0
    assert f"{best['parameters']:,} parameters at width 8" in out
    assert "n0 = " in out


def test_tune_tries_the_grid_and_says_the_best_setting(way: Road) -> None:
    found = way.json("tune")
    assert found["runs"] == 3  # two, and the configuration's own
    assert found["trial"] == way.json("search")["best"]["trial"]
    assert found["setting"]["learning_rate"] in (0.02, 0.05)
    assert found["setting"]["dropout"] == [0.1, 0.2]
    assert found["score"] > 0
    assert way.events["tune"].count("tune") == 3


def test_a_grid_worse_than_the_settings_themselves_is_not_taken(
    mine: Path, run: Run, metric: str
) -> None:
    """Such rates teach nothing; all train 2 epochs on the same text, from another seed's start."""
    best = json.loads(run("top", mine, "--json")[1])["top"][0]
    args = ("--set", "tune.learning_rates=[1e-6, 1e-5]")
    code, out, _ = run("tune", mine, *args)
    assert code == 0
    found = json.loads(run("tune", mine, *args, "--json")[1])
    assert (found["trial"], found["setting"]) == (best["trial"], None)
    assert found["score"] != best["score"]
    own = f"the configuration's own settings: validation {metric} {found['score']:.4f}"
    assert out == f"best of 3 runs: trial {best['trial']}, {own}\n"
    trained = json.loads(run("train", mine, "--json")[1])
    assert (trained["tuned"], trained["validation_score"]) == (True, found["score"])
    assert trained["recipe"]["learning_rate"] == 0.005
    assert trained["recipe"]["hidden_dropout"] == 0.0


def test_runs_longer_than_the_search_are_compared_with_one_as_long(mine: Path, run: Run) -> None:
    best = json.loads(run("top", mine, "--json")[1])["top"][0]
    args = ("--set", "tune.epochs=3", "--set", "tune.learning_rates=[1e-6, 1e-5]", "--json")
    found = json.loads(run("tune", mine, *args)[1])
    assert (found["runs"], found["setting"]) == (3, None)
    assert found["score"] != best["score"]  # 3 epochs, not 2


def test_a_grid_trained_otherwise_is_run_again_and_counts(mine: Path, run: Run) -> None:
    first = json.loads(run("tune", mine, "--json")[1])
    again = json.loads(run("tune", mine, "--json")[1])
    assert again == first
    assert events_of(mine).count("tune") == 3
    shorter = json.loads(run("tune", mine, "--set", "tune.epochs=1", "--json")[1])
    assert events_of(mine).count("tune") == 6
    assert shorter["score"] != first["score"]
    trained = json.loads(run("train", mine, "--json", "--out", mine / "shorter")[1])
    assert trained["validation_score"] == shorter["score"]
    assert json.loads(run("tune", mine, "--json")[1]) == first  # not trained again, and last
    assert json.loads(run("train", mine, "--json")[1])["validation_score"] == first["score"]


def test_train_opens_the_test_text_once(way: Road, metric: str) -> None:
    found = way.json("train")
    name = metric.replace(" ", "_")
    assert found[f"test_{name}"] > 0
    assert found[f"final_validation_{name}"] == min(found["curve"])
    assert (len(found["curve"]), found["stopped"]) == (3, "")
    assert found["tuned"] is True
    setting = way.json("tune")["setting"]
    assert found["recipe"]["learning_rate"] == setting["learning_rate"]
    assert found["recipe"]["hidden_dropout"] == setting["dropout"][0]
    assert found["recipe"]["recurrent_dropout"] == setting["dropout"][1]
    assert "open_test" not in way.events["search"] + way.events["tune"]
    assert way.events["train"].count("open_test") == 1
    names = {path.name for path in (way.folder / "network").iterdir()}
    assert names == {"network.json", "weights.safetensors"}


def test_training_is_fixed_by_the_seed(way: Road, run: Run, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(way.searched, tmp_path / "mine"))
    assert run("tune", mine, "--json")[0] == 0
    code, out, _ = run("train", mine, "--json")
    assert code == 0
    again, before = json.loads(out), way.json("train")
    for record in (again, before):
        record.pop("seconds")
        record.pop("network")
    assert again == before


def test_report_is_a_page_on_cells(way: Road, metric: str) -> None:
    page = (way.folder / "report.html").read_text()
    assert way.said["report"][1] == f"report: {way.folder / 'report.html'}\n"
    assert metric in page
    assert "h_t" in page
    assert "<link" not in page
    assert "layer1" not in page


def test_a_looked_at_study_is_not_changed(mine: Path, run: Run) -> None:
    before = tree(mine)
    for args in (("top", mine), ("show", mine), ("show", mine, 1, "--json")):
        assert run(*args)[0] == 0
    assert tree(mine) == before


@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_a_hand_designed_layer_is_trained_by_the_same_recipe(
    layer: str, run: Run, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "tiny.toml", write_texts(tmp_path / "texts"), "words")
    target = tmp_path / "out"
    code, out, _ = run("train", config, "--cell", layer, "--out", target, "--json")
    assert code == 0
    found = json.loads(out)
    gates = {"lstm": 4, "gru": 3}[layer]
    assert found["parameters"] == gates * 8 * 16 + 8 * (8 + 9)
    assert 1 < found["test_perplexity"] < 8


def test_one_file_is_split_and_may_be_limited(run: Run, tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts") / "train.txt"
    config = write_config(tmp_path / "tiny.toml", source, "words", "data.train_limit = 100")
    study = tmp_path / "study"
    args = ("search", config, "--study", study, "--trials", 2)
    assert run(*args, "--set", "data.validation=0.2")[0] == 0
    assert {path.name for path in study.iterdir()} == {"study.db"}
