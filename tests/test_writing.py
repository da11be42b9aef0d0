"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.writing import write_whole


@given(before=st.binary(max_size=20), text=st.text(max_size=20))
def test_what_stood_there_is_replaced(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, text: str
) -> None:
    path = tmp_path_factory.mktemp("whole") / "report.html"
    write_whole(path, before)
    assert path.read_bytes() == before
    write_whole(path, text)
    assert path.read_bytes() == text.encode()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_the_file_gets_the_rights_of_a_new_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "text")
        (tmp_path / "b").write_text("text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_writing_that_fails_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "compare.json"
    write_whole(path, "whole")

    def fails(self: Path, target: Path) -> Path:
        raise error

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(type(error)):
        write_whole(path, "another")
    monkeypatch.undo()
    assert path.read_text() == "whole"
    assert [found.name for found in tmp_path.iterdir()] == ["compare.json"]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        write_whole(tmp_path / "gone" / "file", "text")


@pytest.mark.parametrize("before", [None, "longer before"])
def test_what_a_link_leads_to_is_written(before: str | None, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    kept, link = tmp_path / "shelf" / "kept.json", tmp_path / "link.json"
    if before is not None:
        kept.write_text(before)
    (tmp_path / "middle").symlink_to(Path("shelf") / "kept.json")
    link.symlink_to("middle")
    write_whole(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert kept.read_text() == "text"
    assert [found.name for found in kept.parent.iterdir()] == ["kept.json"]


def test_a_link_that_leads_nowhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    circle, lost = tmp_path / "circle", tmp_path / "lost"
    circle.symlink_to("circle")
    lost.symlink_to(tmp_path / "gone" / "file")
    for link in (circle, lost):
        with pytest.raises(OSError) as caught:
            write_whole(link, "text")
        assert str(caught.value).endswith(f": '{link}'")
        assert link.is_symlink()


def test_a_pipe_and_a_folder_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    ours, theirs = os.pipe()
    try:
        write_whole(Path(f"/dev/fd/{theirs}"), "text")  # a link that leads to no path
        assert os.read(ours, 100) == b"text"
    finally:
        os.close(ours)
        os.close(theirs)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_whole(tmp_path / "folder", "text")
    assert str(caught.value).endswith(f": '{tmp_path / 'folder'}'")
