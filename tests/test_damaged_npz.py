"""An .npz file with damaged bytes is a good one, or refused in one line."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from netwright.data.images import DataSettings, load_search_data
from netwright.errors import DataError

IMAGES = np.arange(128, dtype=np.uint8).reshape(8, 4, 4)
LABELS = np.arange(8) % 2
HEADER = 80  # bytes of a member that hold all of its header's text

Bytes = dict[int, int]


def member(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def said_of(content: bytes) -> str:
    """The line that refuses such a file, "" where it is taken; anything else is raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        path.write_bytes(content)
        try:
            data = load_search_data(DataSettings(source=str(path)), 0)
        except DataError as error:
            line = str(error)
            assert len(line.splitlines()) == 1
            assert len(line) < 500
            assert f"{path}" in line
            return line
        assert 0 < len(data.train.labels) == len(data.train.images)
        return ""


def damaged(content: bytes, changes: Bytes) -> bytes:
    changed = bytearray(content)
    for place, byte in changes.items():
        changed[place] = byte
    return bytes(changed)


def changes(size: int, byte: st.SearchStrategy[int]) -> st.SearchStrategy[Bytes]:
    return st.dictionaries(st.integers(0, size - 1), byte, min_size=1, max_size=4)


ANY = st.integers(0, 255)
TEXT = st.sampled_from(b"(){}[]'\",:<>|0189-_ \n\\#+.TFubO")
GOOD = {"images.npy": member(IMAGES), "labels.npy": member(LABELS)}
FILE = zipped(GOOD)
NAME = FILE.rindex(b"images.npy")  # in the archive's directory


def test_the_file_itself_is_good() -> None:
    assert said_of(FILE) == ""


@given(changes(len(FILE), ANY))
@example({NAME + 3: ord("\n")})
@settings(deadline=None)
def test_a_file_with_other_bytes_is_good_or_refused_in_a_line(others: Bytes) -> None:
    said_of(damaged(FILE, others))


@pytest.mark.filterwarnings("ignore")  # numpy's, of headers that it takes all the same
@given(st.sampled_from(sorted(GOOD)), st.one_of(changes(HEADER, ANY), changes(HEADER, TEXT)))
@example("images.npy", {10: ord("(")})
@settings(deadline=None)
def test_a_header_with_other_bytes_is_good_or_refused_in_a_line(name: str, others: Bytes) -> None:
    said_of(zipped({**GOOD, name: damaged(GOOD[name], others)}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (8, 4, 4), ", "a header is damaged"),
        ("{'descr': '|u1', b'fortran_order': False, 'shape': (8,), }", "'<' not supported"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (8, 4, 1" + "0" * 15 + "), }", ""),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (8, 4, 1" + "0" * 25 + "), }", ""),
        ("(" * 9000, ""),
    ],
    ids=["open", "keys of two types", "no memory holds it", "no integer holds it", "deep"],
)
def test_a_header_that_numpy_cannot_parse_is_refused(text: str, why: str) -> None:
    line = said_of(zipped({**GOOD, "images.npy": with_header(text)}))
    assert line.startswith("an .npz file must be readable, without pickled objects; ")
    assert f"x.npz is not ({why}" in line
    assert line.endswith("; write it again with numpy.savez")
