"""A study at a database's URL: every command takes it, and lines name it so that it is found."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from netwright.errors import UsageError
from netwright.showing import named, said
from netwright.workspace import Workspace
from tests.cli.conftest import Road, Run, refused, tree

URL = "sqlite:///other.db"
SYNTHETIC = ("--set", "data.layers=2", "--set", "controller.name=random", "--trials", 2)


@pytest.fixture
def url(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a searched study, where the commands run."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(road.searched / "study.db", "other.db")
    return URL


@pytest.fixture
def trained(road: Road, url: str) -> str:
    """The same, trained."""
    shutil.copy(road.folder / "study.db", "other.db")
    shutil.copytree(road.folder / "network", Workspace(url).network)
    return url


def test_show_and_train_take_its_trials(url: str, road: Road, run: Run) -> None:
    for what in ((url,), (f"{url}:best",), (url, 1), (f"{url}:1",)):
        folder = [str(word).replace(url, str(road.searched)) for word in what]
        shown = run("show", *what)
        assert shown[0] == 0
        assert shown == run("show", *folder)
    code, out, err = run(
        "train", "digits", "--cell", f"{url}:1", "--set", "final.epochs=1", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["network"] == "runs/digits-other-1/network"
    assert json.loads(out)["architecture"] == "other-1"


def test_what_is_written_lies_in_a_folder_of_its_name(
    url: str, run: Run, picture: Path, tmp_path: Path
) -> None:
    refused(run("predict", url, picture), "none in runs/other/network", f"netwright train {url}")
    refused(run("export", url), f"netwright train {url}")
    assert not Path("runs").exists()
    code, out, err = run("train", url)
    assert code == 0, err
    assert out.endswith("saved in runs/other/network\n")
    assert run("predict", url, picture)[1] == run("predict", "runs/other/network", picture)[1] != ""
    code, out, err = run("export", url, "--no-onnx")
    assert code == 0, err
    assert "on 50 images" in out  # the study's validation data; others would be 8
    assert Path("runs/other/network/network.pt2").exists()
    assert run("export", url, "--no-onnx", "--out", "away")[0] == 0
    assert Path("away/network.py").exists()
    assert not Path("sqlite:").exists()


def test_a_report_takes_urls(url: str, road: Road, run: Run, study: Path) -> None:
    assert run("report", url) == (0, "report: runs/other/report.html\n", "")
    assert run("report", study, "--control", url)[0] == 0
    assert "guided (other)" in (study / "report.html").read_text()
    assert run("search", "synthetic-conv", "--study", "sqlite:///c.db", *SYNTHETIC)[0] == 0
    refused(run("report", study, "--control", "sqlite:///c.db"), "sqlite:///c.db searched")


@pytest.mark.parametrize("command", ["export", "predict", "show", "report", "train"])
def test_a_url_without_a_study_is_one_line(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    args = [picture] if command == "predict" else []
    refused(run(command, "sqlite:///none.db", *args), "there is none at none.db")
    assert tree(tmp_path) == before


def test_the_network_of_another_study_of_that_name_is_not_taken(
    trained: str, road: Road, run: Run, picture: Path
) -> None:
    assert run("predict", trained, picture)[0] == 0
    Path("elsewhere").mkdir()
    shutil.copy(road.searched / "study.db", "elsewhere/other.db")
    same_name = "sqlite:///elsewhere/other.db"
    for args in (("predict", same_name, picture), ("export", same_name)):
        refused(run(*args), "runs/other/network holds another's", same_name, "--out")


def test_the_file_of_a_folder_is_the_folder(road: Road, run: Run, picture: Path) -> None:
    url = f"sqlite:///{road.folder / 'study.db'}"
    assert run("predict", url, picture) == run("predict", road.folder, picture)
    assert Workspace(url).name == str(road.folder)
    assert Workspace(url).folder == road.folder


def test_the_place_that_a_search_names_is_found_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for where, place in (
        ("sqlite:///mine.db", "sqlite:///mine.db"),
        ("sqlite:///deep/study.db", "deep"),
        ("folder", "folder"),
        ("two words", "two words"),
    ):
        code, out, err = run("search", "synthetic-conv", "--study", where, *SYNTHETIC)
        assert code == 0, err
        line = out.splitlines()[-1]
        assert line.startswith(f"study: {place}   next: netwright top {shlex.quote(place)}, or ")
        assert run("top", place)[0] == 0
        again = refused(run("search", "synthetic-conv", "--study", where, *SYNTHETIC))
        assert f"use netwright resume {place}, " in again
        refused(run("show", place, 9), f"got 9 at {place};")


def test_a_password_is_not_said() -> None:
    url = "postgresql+psycopg://me:secret@localhost:5432/flowers"
    assert said(f"{url}:best") == "postgresql+psycopg://me:***@localhost:5432/flowers:best"
    assert said(f"{url}:7").endswith("/flowers:7")
    with pytest.raises(UsageError) as caught:
        named(url)
    assert "localhost:5432/flowers:best" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert said("postgresql://localhost:5432") == "postgresql://localhost:5432"  # a port, no trial
    assert said("nascell") == "nascell"


MALFORMED = {
    "postgresql://me:secret@host:port/db": "postgresql://me:***@host:port/db",
    "postgresql://me:secret": "postgresql://me:***",
    "postgresql://me:sec@ret@host/db": "postgresql://me:***@host/db",
    "postgresql://me:se/cret@secret@host/db": "postgresql://me:***@host/db",
    "postgresql://m/e:secret@host/db": "postgresql://m/e:***@host/db",
    "post gres://me:secret@host/db": "post gres://me:***@host/db",
    "://me:secret@host?password=secret": "://me:***@host?password=***",
    "postgresql://host:5432x/db": "postgresql://host:***",
}


@pytest.mark.parametrize("url", MALFORMED)
def test_a_password_is_not_said_of_what_is_no_url(
    url: str, run: Run, road: Road, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(run("top", url), "must be a database URL", repr(MALFORMED[url]), "%40")
    assert "secret" not in line
    for args in (("search", url), ("export", road.folder, "--optuna", url)):
        assert "secret" not in refused(run(*args), repr(MALFORMED[url]))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://h/db?user=me&Password=secret&a=b", "postgresql://h/db?Password=***&a=b&"),
        ("postgresql://h/db?sslpassword=secret", "postgresql://h/db?sslpassword=***"),
    ],
)
def test_no_command_says_the_password_of_a_sound_url(url: str, shown: str, run: Run) -> None:
    assert Workspace(url).name.startswith(shown)
    for args in (("search", url), ("compare", url), ("config", url)):
        assert "secret" not in refused(run(*args), shown)


@pytest.mark.parametrize(
    "args",
    [("show", "v1", "--save"), ("show", "v1", "--svg"), ("compare", "digits", "--out")]
    + [(command, "study", "--out") for command in ("train", "export", "report")],
)
def test_a_url_is_no_place_for_files(
    args: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "postgresql://me:secret@host/db"
    refused(run(*args, url), "written to a path; got the URL 'postgresql://me:***@host/db'")
    assert tree(tmp_path) == {}


def test_an_export_for_optuna_does_not_say_the_password(
    road: Road, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export = ("export", road.folder, "--optuna", "sqlite:///o.db?password=secret")
    with pytest.warns(sa.exc.SAWarning, match="argument.*'password'"):
        code, out, _ = run(*export)
    assert code == 0
    assert out.endswith(
        "at sqlite:///o.db?password=***; open it with optuna-dashboard "
        "sqlite:///o.db?password=***\n"
    )
    with pytest.warns(sa.exc.SAWarning, match="argument.*'password'"):
        refused(run(*export), "sqlite:///o.db?password=*** holds 'digits'")
