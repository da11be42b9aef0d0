"""The demo, in small: what it makes, that it can be shown again, and that it deletes nothing."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from netwright import demo
from netwright.demo import run_demo
from netwright.errors import ConfigError, StudyError
from netwright.workspace import Workspace
from tests.cli.conftest import call

SMALL = [
    "study.trials=2",
    "training.epochs=1",
    "data.train_limit=200",
    "tune.top=1",
    "tune.learning_rates=[0.1]",
    "tune.weight_decays=[0.0001]",
    "final.epochs=1",
]


def _demo(folder: Path | str, settings: list[str]) -> str:
    out = Console(file=io.StringIO(), width=200)
    run_demo(folder, settings, out, Console(file=io.StringIO()))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def _times(folder: Path) -> dict[Path, int]:
    """Return when each file was changed, but those of a database that is still open."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {p: p.stat().st_mtime_ns for p in files if not p.name.endswith(("-wal", "-shm"))}


def test_the_demo_ends_with_its_network_and_is_shown_again_without_work(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    said = _demo(folder, SMALL)
    assert str(folder / "report.html") in said
    assert "test accuracy" in said
    for name in ("report.html", "network/network.py", "network/network.onnx"):
        assert (folder / name).stat().st_size > 1000
    before = _times(folder)
    assert _demo(folder, SMALL) == said
    assert _times(folder) == before
    events = Workspace(folder).open()[1].events("open_test")
    assert len(events) == 1

    assert "trained on all but the test set; tested once" in said

    with pytest.raises(StudyError, match="the demo needs a folder of its own"):
        _demo(folder, [*SMALL, "study.seed=5"])

    Workspace(folder).open()[1].store.add_event("open_test", {"by": "netwright train"})
    assert "the test set was opened 2 times in this folder" in _demo(folder, SMALL)


def test_the_demo_tells_the_scores_of_its_grid_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    @contextmanager
    def listening(console: Console, what: str, total: int) -> Iterator[Callable[[str], None]]:
        yield told.append

    records = [{"trial": 3, "score": 0.98765432}, {"trial": 4, "score": None}]
    monkeypatch.setattr(demo, "counting", listening)
    monkeypatch.setattr(demo, "tune", lambda *_: iter(records))
    _demo(tmp_path / "demo", SMALL)
    assert told[:2] == ["trial 3: 0.9877", "trial 4: failed"]


def test_the_demo_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "mine.txt").write_text("precious")
    (tmp_path / "thesis.txt").write_text("precious")
    _demo(tmp_path, SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert (tmp_path / "network" / "mine.txt").read_text() == "precious"


def test_the_demo_asks_for_its_device_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a device of this machine; 'meta' is not"):
        _demo(tmp_path / "demo", [*SMALL, "execution.device=meta"])
    assert not (tmp_path / "demo").exists()


def test_the_demo_without_onnx_leaves_that_form_out_and_goes_on_from_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    folder = tmp_path / "demo"
    assert ".onnx needs the extra onnx" in _demo(folder, SMALL)
    forms = {path.suffix for path in (folder / "network").iterdir()}
    assert forms == {".json", ".safetensors", ".py", ".pt2"}
    (folder / "report.html").unlink()  # as if it had been cut off before
    _demo(folder, SMALL)
    assert (folder / "report.html").exists()
    assert len(Workspace(folder).open()[1].events("open_test")) == 1


def test_the_demo_takes_the_url_of_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [word for setting in SMALL for word in ("--set", setting)]
    code, out, err = call(monkeypatch, capsys, "demo", "--study", "sqlite:///mine.db", *sets)
    assert code == 0, err
    assert "runs/mine/report.html" in out
    assert {path.name for path in tmp_path.iterdir()} == {"mine.db", "runs"}
    here = {path.name for path in Path("runs/mine").iterdir()}
    assert here == {"network", "random-search", "report.html"}
    assert "runs/mine/report.html" in _demo("sqlite:///mine.db", SMALL)
    assert len(Workspace("sqlite:///mine.db").open()[1].events("train")) == 1
    with pytest.raises(StudyError, match=r"own; sqlite:///mine\.db holds the study 'digits'"):
        _demo("sqlite:///mine.db", [*SMALL, "study.seed=5"])
