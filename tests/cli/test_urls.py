"""A study at a database's URL: lines name it so that it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run, refused

SYNTHETIC = ("--set", "data.layers=2", "--set", "controller.name=random", "--trials", 2)


def test_the_place_that_a_search_names_is_found_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for where, place in (
        ("sqlite:///mine.db", "sqlite:///mine.db"),
        ("sqlite:///deep/study.db", "deep"),
        ("folder", "folder"),
    ):
        code, out, err = run("search", "synthetic-conv", "--study", where, *SYNTHETIC)
        assert code == 0, err
        line = out.splitlines()[-1]
        assert line.startswith(f"study: {place}   next: netwright top {place},")
        assert run("top", place)[0] == 0
        again = refused(run("search", "synthetic-conv", "--study", where, *SYNTHETIC))
        assert f"use netwright resume {place}, " in again
