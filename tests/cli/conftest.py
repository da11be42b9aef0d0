"""One tiny study that has gone the whole road, and what calls the commands."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netwright import cli
from netwright.store import SqlStore, close_all, sqlite_url

TINY = [
    "training.epochs=1",
    "data.train_limit=200",
    "controller.batch=3",
    "controller.guided.batch=3",
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


@pytest.fixture(scope="session")
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


def offered(study: Path) -> list[str]:
    """Return the commands that a study's report offers, without what they do."""
    page = html.unescape((study / "report.html").read_text(encoding="utf-8"))
    section = page.partition("<h2>How to go on</h2>")[2]
    return [line.partition("#")[0].strip() for line in re.findall("netwright .*", section)]


def pictures(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = np.full((8, 8), 10 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
