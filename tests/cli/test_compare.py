"""`netwright compare`: what it promises, on a small table and on children that are trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from netwright import comparing
from netwright.comparing import Comparison, configured, runs_of
from netwright.comparing import Run as Search
from netwright.config import load_config
from netwright.errors import ChildError, StudyError
from netwright.evaluators import image, table
from netwright.evaluators.table import TableEvaluator
from netwright.evaluators.table import test_accuracies as accuracies_of_test
from netwright.report.comparison import plot
from netwright.tasks.closed import TableConfig
from tests.cli.conftest import Run, refused, tree
from tests.tables import write_table

EVOLUTION = "evolution:population=5,sample=2"
TWO = (EVOLUTION, "random")


def _args(
    *controllers: str, seeds: int = 2, trials: int = 12, sets: Mapping[str, object] | None = None
) -> list[str]:
    settings = {"data.table": "t.csv", "compare.at": "[4]", **(sets or {})}
    settings["compare.controllers"] = json.dumps(controllers or TWO)
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["compare", "nats", "--seeds", str(seeds), "--trials", str(trials), *words]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing, "plot", lambda measure, costs=None: "<svg/>")  # drawn once below
    write_table(tmp_path / "t.csv")


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every search that is run, by its entry and seed."""
    done: list[tuple[str, int]] = []
    original = comparing.instant_run

    def counted(run: Search) -> dict[str, Any]:
        done.append((run.entry, run.seed))
        return original(run)

    monkeypatch.setattr(comparing, "instant_run", counted)
    return done


FOLDER = Path("runs/compare-nats")
EACH = [(entry, seed) for seed in (0, 1) for entry in TWO]


def test_a_comparison_from_end_to_end(
    run: Run, searched: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "plot", plot)
    code, out, err = run(*_args())
    assert code == 0, err
    assert searched == EACH  # seed by seed
    text = (FOLDER / "compare.md").read_text()
    assert out.startswith(text)
    lines = text.splitlines()
    assert lines[0] == "# nats: 2 paired seeds"
    assert lines.count("| controller | 4 trials | 12 trials |") == 2
    assert "validation accuracy of the best so far (higher is better)" in text
    assert "regret in test accuracy of the best so far (lower is better)" in text
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {"compare.json", "compare.md", "runs", "best-trials.svg", "regret-trials.svg"}
    assert len(list((FOLDER / "runs").iterdir())) == 4
    for path in FOLDER.glob("*.svg"):
        assert str(path) in out
        assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")


def test_its_numbers_are_those_of_the_searches(run: Run) -> None:
    found = json.loads(run(*_args(), "--json")[1])
    means: dict[str, list[float]] = {}
    regrets: dict[str, list[float]] = {}
    tests = accuracies_of_test("t.csv")
    for search in runs_of(load_config("nats", [a for a in _args()[6:] if a != "--set"])):
        if search.seed > 1:
            continue
        study = search.config.make_study("sqlite://")
        study.run(12)
        assert study.best.score is not None
        means.setdefault(search.entry, []).append(study.best.score)
        best = tests[study.best.architecture]
        regrets.setdefault(search.entry, []).append(max(tests.values()) - best)
        study.store.close()
    for entry in TWO:
        score = found["measures"]["validation accuracy"][entry]["12"]
        regret = found["measures"]["regret in test accuracy"][entry]["12"]
        assert score == pytest.approx(sum(means[entry]) / 2)
        assert regret == pytest.approx(sum(regrets[entry]) / 2)
    every = [s.evaluate(a, 0, "cpu").score for s in [TableEvaluator("t.csv")] for a in tests]
    assert found["average_random"] == pytest.approx(sum(every) / 27, abs=0.05)


def test_again_runs_nothing_and_says_the_same(run: Run, searched: list[tuple[str, int]]) -> None:
    first = run(*_args())
    before = tree(FOLDER)
    searched.clear()
    assert run(*_args())[:2] == first[:2]
    assert searched == []
    assert tree(FOLDER) == before


def test_what_was_lost_alone_is_run_again(run: Run, searched: list[tuple[str, int]]) -> None:
    first = run(*_args())
    before = tree(FOLDER)
    (FOLDER / "runs/random-1.json").unlink()
    (FOLDER / "compare.md").unlink()
    searched.clear()
    assert run(*_args())[1] == first[1]
    assert searched == [("random", 1)]
    for path in (FOLDER / "runs").iterdir():
        path.unlink()
    (FOLDER / "runs").rmdir()
    assert run(*_args())[1] == first[1]
    assert searched == [("random", 1), *EACH]
    after = tree(FOLDER)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert all(name.startswith("runs/") for name in changed)  # they hold seconds


def test_more_of_anything_runs_what_is_missing(run: Run, searched: list[tuple[str, int]]) -> None:
    run(*_args())
    searched.clear()
    assert run(*_args(*TWO, "local_search"))[0] == 0
    assert searched == [("local_search", 0), ("local_search", 1)]
    searched.clear()
    assert run(*_args("random", seeds=3))[0] == 0
    assert searched == [("random", 2)]
    searched.clear()
    more = run(*_args("random", trials=15))
    assert searched == [("random", 0), ("random", 1)]
    assert "| controller | 4 trials | 15 trials |" in more[1]
    searched.clear()
    less = run(*_args("random", trials=9))  # a part of what is there
    assert searched == []
    assert run(*_args("random", trials=9), "--out", "fresh")[1].startswith(
        less[1].split("\nwritten:")[0]
    )


def test_settings_of_others_do_not_count(run: Run, searched: list[tuple[str, int]]) -> None:
    run(*_args())
    searched.clear()
    sets = {"controller.guided.rounds": 1, "controller.sample": 3, "controller.clip": 0.3}
    assert run(*_args("random", sets=sets))[0] == 0
    assert searched == []
    assert run(*_args("random", sets={"compare.batch": 3}))[0] == 0
    assert searched == [("random", 0), ("random", 1)]
    path = FOLDER / "runs/random-0.json"
    kept = json.loads(path.read_text())
    for change in ({"name": "evolution"}, {"name": None}, {"batch": None}):
        path.write_text(json.dumps({**kept, "controller": {**kept["controller"], **change}}))
        searched.clear()
        assert run(*_args("random", sets={"compare.batch": 3}))[0] == 0
        assert searched == [("random", 0)]


def test_two_workers_find_what_one_finds(run: Run) -> None:
    one = run(*_args(), "--out", "c")
    kept = [json.loads(p.read_text()) for p in sorted(Path("c/runs").iterdir())]
    for path in Path("c/runs").iterdir():
        path.unlink()
    two = run(*_args(), "--out", "c", "--workers", 2)
    assert one[:2] == two[:2]
    again = [json.loads(p.read_text()) for p in sorted(Path("c/runs").iterdir())]
    for one_run, other in zip(kept, again, strict=True):
        assert {**one_run, "costs": 0} == {**other, "costs": 0}


def test_another_comparison_is_not_put_in_the_folder(run: Run) -> None:
    run(*_args())
    before = tree(Path())
    for sets in ({"study.failure_reward": 1.0}, {"data.table": "./t.csv"}):
        refused(run(*_args(sets=sets)), "goes on only as it began", str(FOLDER), "--out")
    args = _args()
    args[1] = "synthetic-conv"
    args[args.index("data.table=t.csv")] = "data.layers=2"
    refused(run(*args, "--out", FOLDER), "goes on only as it began")
    assert tree(Path()) == before


def test_a_table_that_changed_is_another_comparison(run: Run, searched: list[Any]) -> None:
    run(*_args())
    path = FOLDER / "compare.json"
    header = json.loads(path.read_text())
    write_table(Path("t.csv"), seed=8)
    before = tree(Path())
    refused(run(*_args("ppo")), "the data that it began with", "t.csv", str(FOLDER))
    assert tree(Path()) == before
    for data in (5, None):
        path.write_text(json.dumps({**header, "data": data}))
        refused(run(*_args()), "must be JSON that it wrote", "compare.json", "no sound 'data'")
    del header["data"]  # as of before tables were noted
    path.write_text(json.dumps(header))
    searched.clear()
    assert run(*_args())[0] == 0
    assert searched == []


@pytest.mark.parametrize(
    "content",
    [b"{", b"null", b'{"controller": {}}', b"\xff"],
)
@pytest.mark.parametrize("name", ["runs/random-1.json", "compare.json"])
def test_a_damaged_file_is_one_line(name: str, content: bytes, run: Run) -> None:
    comparison = Comparison(_loaded(), FOLDER)
    comparison.begin()
    (FOLDER / name).write_bytes(content)
    before = tree(FOLDER)
    refused(run(*_args()), "must be JSON that it wrote", name, "remove it")
    assert tree(FOLDER) == before


def _loaded() -> TableConfig:
    config = load_config(
        "nats", [a for a in _args()[6:] if a != "--set"] + ["compare.seeds=2", "study.trials=12"]
    )
    assert isinstance(config, TableConfig)
    return config


def test_a_run_that_has_ended_is_read_once(run: Run) -> None:
    run(*_args("random", seeds=2))
    comparison = Comparison(_loaded(), FOLDER)
    comparison.begin()
    there = [r for r in comparison.runs if r not in comparison.missing()]
    assert len(there) == 2
    for path in (FOLDER / "runs").iterdir():
        path.unlink()
    assert [r for r in comparison.runs if r not in comparison.missing()] == there


def test_a_run_that_lacks_a_part_is_one_line(run: Run) -> None:
    run(*_args("random", seeds=1))
    path = FOLDER / "runs/random-0.json"
    whole = json.loads(path.read_text())
    for key in ("scores", "costs", "best"):
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        refused(run(*_args("random", seeds=1)), "must be JSON that it wrote", f"no '{key}'")


DAMAGED: list[tuple[dict[str, object], str]] = [
    ({"scores": [1]}, "not of the same trials"),
    ({"costs": []}, "not of the same trials"),
    ({"rewards": [None] * 12}, "no sound 'rewards'"),
    ({"rewards": ["a"] * 12}, "no sound 'rewards'"),
    ({"rewards": [True] * 12}, "no sound 'rewards'"),
    ({"rewards": [float("nan")] * 12}, "no sound 'rewards'"),
    ({"rewards": [10**400] * 12}, "no sound 'rewards'"),
    ({"scores": ["a"] * 12}, "no sound 'scores'"),
    ({"costs": [float("inf")] * 12}, "no sound 'costs'"),
    ({"best": {}}, "no trial 0 in 'best'"),
    ({"best": {"0": [], "x": {}}}, "no trial 0 in 'best'"),
    ({"best": {"0": {}}}, "no sound trial 0 in 'best'"),
    ({"best": {"0": {"node1.from0": "z"}}}, "no sound trial 0 in 'best'"),
]


@pytest.mark.parametrize(("change", "says"), DAMAGED)
def test_a_run_whose_parts_are_not_sound_is_one_line(
    change: dict[str, object], says: str, run: Run
) -> None:
    run(*_args("random", seeds=1))
    path = FOLDER / "runs/random-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    before = tree(FOLDER)
    refused(run(*_args("random", seeds=1)), "must be JSON that it wrote", str(path), says)
    assert tree(FOLDER) == before


BAD = [
    (["nonsense"], "controller.name must be one of"),
    (["evolution:population=0"], "controller.population must be 1 or more"),
    (["evolution:colour=red"], "sets colour, which evolution does not have; use population"),
    (["guided:batch=8"], "sets batch, which guided does not have; use guided.batch"),
    (["evolution:population"], "key=value"),
    (["evolution:population=many"], "a whole number"),
    (["evolution:population=5,sample=6"], "controller.sample must be at most"),
    (["evolution:population=12"], "or it is random search"),
    (["guided:guided.noise=0"], "controller.guided.noise must be 0.0001 or more"),
    ([""], "controller.name must be one of"),
    (["random", "random"], "must be different names"),
    (["guided:name=random"], "'guided:name=random', which sets name after it"),
    (["guided:guided.batch=2, name = guided"], "sets name after it"),
    (["guided", "guided:"], "'guided:' is as 'guided'; leave one out"),
    (["evolution:sample=10", "evolution:batch=1"], "'evolution:batch=1' is as"),
    (
        ["guided:guided.batch=1", "guided:guided.pairs=[0.2, 0.5, 0.8]"],
        "is as 'guided:guided.batch=1'",
    ),
]


@pytest.mark.parametrize(("entries", "word"), BAD, ids=[e[-1] or "empty" for e, _ in BAD])
def test_a_bad_entry_writes_nothing(entries: list[str], word: str, run: Run) -> None:
    before = tree(Path())
    refused(run(*_args("ppo", *entries)), word)
    assert tree(Path()) == before


@pytest.mark.parametrize(
    ("sets", "word"),
    [
        ({"data.table": "gone.csv"}, "gone.csv"),
        ({"data.table": ""}, "data.table must name a CSV file"),
        ({"compare.at": "[4, 2]"}, "compare.at must be numbers of trials that rise"),
        ({"study.seed": 2**63 - 1}, "study.seed must be"),
    ],
)
def test_a_bad_setting_writes_nothing(sets: dict[str, object], word: str, run: Run) -> None:
    before = tree(Path())
    refused(run(*_args(sets=sets)), word)
    assert tree(Path()) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "t.csv"], "is a file"),
        (["--workers", "0"], "--workers"),
        (["--seeds", "0"], "--help"),
        (["--colour"], "--help"),
    ],
)
def test_a_bad_option_writes_nothing(words: list[str], says: str, run: Run) -> None:
    before = tree(Path())
    refused(run(*_args(), *words), says)
    assert tree(Path()) == before


def test_entries_have_files_of_their_own() -> None:
    config = _loaded()
    entries = ["ppo:batch=4,learning_rate=0.1", "ppo:batch=4,learning_rate=0.01", "ppo", "ppo/x"]
    names = {Search(entry=entry, seed=0, config=config).name for entry in entries}
    assert len(names) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)
    assert Search(entry="ppo", seed=3, config=config).name == "ppo-3"
    changed = configured(config, EVOLUTION, 9)
    assert (changed.controller.population, changed.controller.sample) == (5, 2)
    assert (changed.controller.name, changed.study.seed) == ("evolution", 9)


def test_all_hear_of_results_at_the_same_time() -> None:
    settings = ["compare.batch=3", "controller.batch=8", "controller.guided.batch=4"]
    config = load_config("digits", settings)
    space = config.make_space()

    def batch(entry: str) -> int:
        return configured(config, entry, 0).make_controller(space).batch

    for name in ("guided", "evolution", "local_search", "tpe", "random"):
        assert batch(name) == 3
    assert (batch("policy_gradient"), batch("ppo")) == (8, 8)  # an update's
    assert (batch("policy_gradient:batch=2"), batch("guided:guided.batch=5")) == (2, 5)


def test_tests_are_not_read_before_all_runs_have_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch, searched: list[tuple[str, int]]
) -> None:
    asked: list[int] = []
    original = table.test_accuracies

    def watched(path: str) -> Any:
        asked.append(len(searched))
        return original(path)

    monkeypatch.setattr("netwright.tasks.closed.test_accuracies", watched)
    assert run(*_args())[0] == 0
    assert asked == [4]
    comparison = Comparison(_loaded(), FOLDER)
    (FOLDER / "runs/random-1.json").unlink()
    with pytest.raises(StudyError, match=r"random-1 in .* has not; run netwright compare again"):
        comparison.write()
    assert asked == [4]


# --- children that are trained ------------------------------------------------------------------

DIGITS = [
    *("compare", "digits", "--trials", "2", "--seeds", "1", "--json", "--out", "d"),
    *("--set", 'compare.controllers=["random:batch=2", "local_search"]'),
    *("--set", "space.depths=[1]", "--set", "space.filters=[4]", "--set", "space.pools=[]"),
    *("--set", "training.epochs=1", "--set", "data.train_limit=200"),
]


def test_trained_children_go_on_from_their_journal(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    original = image.ImageEvaluator.evaluate

    def counted(self: Any, architecture: Any, seed: int, device: str) -> Any:
        trained.append(seed)
        return original(self, architecture, seed, device)

    monkeypatch.setattr(image.ImageEvaluator, "evaluate", counted)
    code, out, err = run(*DIGITS)
    assert code == 0, err
    assert len(trained) <= 4  # of equal ones one is trained
    found = json.loads(out)
    assert set(found["measures"]) == {"validation accuracy"}  # nothing is known of the test set
    assert {Path(p).name for p in found["files"]} == {
        "compare.md",
        "best-trials.svg",
        "best-cost.svg",
    }
    kept = {p.name: json.loads(p.read_text()) for p in Path("d/runs").glob("*.json")}
    assert len(kept) == 2
    sets = [a for a in DIGITS if "=" in a] + ["stopping.method=short"]
    assert Comparison(load_config("digits", sets), Path("d")).average_random() is None
    scores = [s for name, r in kept.items() if "random" in name for s in r["scores"]]
    assert found["average_random"] == pytest.approx(sum(scores) / 2)
    for path in Path("d/runs").glob("*.json"):
        path.unlink()
    trained.clear()
    again = json.loads(run(*DIGITS)[1])
    assert trained == []  # all was in the journals
    assert again["measures"] == found["measures"]
    assert {p.name: json.loads(p.read_text()) for p in Path("d/runs").glob("*.json")} == kept


def test_a_comparison_whose_children_fail_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, architecture: Any, seed: int, device: str) -> Any:
        raise ChildError("too large")

    monkeypatch.setattr(comparing, "plot", plot)
    monkeypatch.setattr(TableEvaluator, "evaluate", fail)
    monkeypatch.setattr(Comparison, "average_random", lambda self: None)
    code, out, err = run(*_args(), "--json")
    assert code == 0, err
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["measures"]["validation accuracy"]["random"]["12"] is None
    assert "a seed has no score yet" in (FOLDER / "compare.md").read_text()


def test_a_setting_of_an_entry_may_be_a_list() -> None:
    entry = "guided:guided.pairs=[0.2, 0.5],guided.start=3"
    guided = configured(load_config("synthetic-conv"), entry, 0).controller.guided
    assert (guided.pairs, guided.start) == ((0.2, 0.5), 3)
