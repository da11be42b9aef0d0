"""Texts for language modelling: the settings, and readers of their three parts.

A reader gives a `Corpus`, whose training and validation texts are read and whose test text is not
opened yet, so that a search never touches a test file.
"""

from __future__ import annotations

import itertools
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netwright.data.hub import open_hub, read_parquet
from netwright.data.transforms import error_line
from netwright.errors import DataError
from netwright.rules import Section

UNITS = ("words", "characters")
STDLIB_CHARACTERS = 2_000_000
TEXT_SUFFIXES = (".txt", ".parquet")
HUB_VALIDATION = ("validation", "valid", "val", "dev")
# "ptb.train.txt" names a part and "latest.txt" none.
_NAMES = {
    "train": re.compile("(?<![a-z])train"),
    "valid": re.compile("(?<![a-z])(valid|(val|dev)(?![a-z]))"),
    "test": re.compile("(?<![a-z])test"),
}

# Written by the build or by the site: not the library's own source.
_NOT_STDLIB = re.compile(r"_sysconfigdata|sitecustomize|usercustomize")


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Which text, what its units are and how it is split.

    source: "stdlib" (the source text of Python's standard library, offline), "hub:owner/name", or
        a path: a folder with a train and perhaps a valid (val, dev) and a test text, .txt or
        .parquet, one file each; or one text file or .parquet.
    unit: "words" (parted by white space, each line that is not empty ends in "<eos>") or
        "characters" (all of them, newlines too).
    strip: take white space off both ends of each line; it changes nothing for words.
    validation, test: in (0, 1), together below 1; the shares of the characters split off the end
        of the training text, test last, where the source has no such part.
    train_limit: only the first so many training units, 2 or more; 0 takes all. The vocabulary is
        that of the whole training text all the same.
    vocabulary: at most so many units, "<unk>" and "<eos>" among them, 3 or more; the most frequent
        are kept and the rest are "<unk>". 0 keeps all. Where units are words and neither the
        training text nor the limit makes one of its words "<unk>", those seen there once are, so
        that "<unk>" is learned (if two words or more are left).
    column: of parquet and the hub, a text a row.
    hub_config: the configuration of a data set of the hub that has several; "" is its default.

    Raises `ConfigError` for a value out of range.
    """

    source: str = "stdlib"
    unit: str = "words"
    strip: bool = False
    validation: float = 0.05
    test: float = 0.05
    train_limit: int = 0
    vocabulary: int = 0
    column: str = "text"
    hub_config: str = ""

    def __post_init__(self) -> None:
        section = Section("data", self)
        if not self.source:
            section.refuse("source", "must name a text")
        section.one_of("unit", UNITS)
        section.within("(0, 1)", "validation", "test")
        if self.validation + self.test >= 1:
            rule = f"must leave text to train on beside data.test={self.test}"
            section.refuse("validation", rule)
        if self.train_limit < 0 or self.train_limit == 1:
            section.refuse("train_limit", "must be 0, or 2 or more")
        if self.vocabulary < 0 or self.vocabulary in (1, 2):
            section.refuse("vocabulary", "must be 0, or 3 or more")
        if not self.column:
            section.refuse("column", "must name a column")


@dataclass(frozen=True)
class Part:
    """A text with "\\n" at its line ends, and the place to name in errors."""

    text: str
    where: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError(
                f"a text must hold more than white space; got {len(self.text)} characters in "
                f"{self.where}; give it some text"
            )


@dataclass(frozen=True)
class Corpus:
    """The parts of a text.

    test: opens and reads the test text. check: refuses a test file whose bytes are those of the
    training or validation file; it opens the test file only where their sizes are equal. Both
    raise `DataError`.
    """

    train: Part
    valid: Part
    test: Callable[[], Part]
    check: Callable[[], None]


def open_corpus(settings: TextSettings) -> Corpus:
    """Return the parts of `settings.source` without opening a test file or a test split.

    What has no test part of its own is read whole, and the end of it is the test text. Raises
    `DataError` for a source that is missing, unreadable, empty or too short to split, and for a
    validation text that equals the training text.
    """
    source = settings.source
    if source == "stdlib":
        return _assemble(settings, _stdlib())
    if source.startswith("hub:"):
        return _hub(source.removeprefix("hub:"), settings)
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(path, settings)
        if not path.exists():
            raise DataError(
                f'data.source must be "stdlib", "hub:owner/name" or an existing path; got '
                f"{source!r}, which is not there; use --set data.source=PATH"
            )
    except (OSError, RuntimeError) as error:
        raise _unreadable(source, error) from error
    return _assemble(settings, part_of_file(path, settings.column))


# --- parts --------------------------------------------------------------------------------------


def split_text(text: str, shares: list[float], where: str) -> list[str]:
    """Split the last parts off `text`, one for each of `shares` of its characters, in order.

    A cut is made after the first line end from its position on; where there is none before the
    next position, after the first white space; where there is none either, at the position. So
    the parts make up the text, none is empty, and no line is cut but very long ones. Raises
    `DataError` for a text too short for that.
    """
    size = len(text)
    bounds = [round(size * (1 - sum(shares[i:]))) for i in range(len(shares))]
    limits = [*bounds, size][1:]
    if not all(a < b for a, b in itertools.pairwise([0, *bounds, size])):
        raise DataError(
            f"a text must be long enough for data.validation and data.test; got {size} characters "
            f"in {where}; use more text or other shares"
        )
    cuts = [_cut(text, *pair) for pair in zip(bounds, limits, strict=True)]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]


def _cut(text: str, position: int, limit: int) -> int:
    """Return where to cut, in [position, limit)."""
    line_end = text.find("\n", position - 1, limit - 1)
    if line_end >= 0:
        return line_end + 1
    space = re.compile(r"\s").search(text, position - 1, limit - 1)
    return space.end() if space else position


def _assemble(
    settings: TextSettings,
    train: Part,
    valid: Part | None = None,
    test: Callable[[], Part] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Corpus:
    """Split off the end of `train` what is None, and refuse a part that equals another."""
    if valid is not None and valid.text == train.text:
        raise _equal(train.where, valid.where)
    shares = [] if valid else [settings.validation]
    shares += [] if test else [settings.test]
    texts = split_text(train.text, shares, train.where)

    def named(index: int, name: str) -> Part:
        return Part(texts[index], f"the {name} part of {train.where}")

    def opened() -> Part:
        assert test is not None
        part = test()
        for other in (train, valid) if valid else (train,):
            if part.text == other.text:
                raise _equal(other.where, part.where)
        return part

    return Corpus(
        Part(texts[0], train.where) if len(texts) == 1 else named(0, "training"),
        valid or named(1, "validation"),
        opened if test else (lambda: named(-1, "test")),
        check,
    )


def _equal(one: str, other: str) -> DataError:
    return DataError(
        f"the parts of a text must differ; {other} holds the same as {one}; "
        f"give each part its own text"
    )


# --- files and folders --------------------------------------------------------------------------


def _unreadable(where: str, error: BaseException) -> DataError:
    return DataError(
        f"a text must be readable; {where} is not ({error_line(error)}); "
        f"check the path and mend its rights"
    )


def part_of_file(path: Path, column: str) -> Part:
    """Read a text or .parquet file; raises `DataError` where it is empty or cannot be read."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path, column)
    try:
        return Part(_newlines(path.read_bytes().decode("utf-8-sig")), str(path))
    except UnicodeDecodeError as error:
        raise DataError(
            f"a text must be in UTF-8; {path} is not ({error_line(error)}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _stdlib() -> Part:
    """Read the modules at the top of the standard library, by name, up to a number of lines."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts, size = [], 0
    for path in sorted(folder.glob("*.py")):
        if _NOT_STDLIB.match(path.name) or size > STDLIB_CHARACTERS:
            continue
        try:
            texts.append(_newlines(path.read_bytes().decode("utf-8-sig")))
        except (OSError, UnicodeDecodeError):
            continue
        size += len(texts[-1])
    text = "".join(texts)
    if size > STDLIB_CHARACTERS:
        text = text[: text.rfind("\n", 0, STDLIB_CHARACTERS) + 1]
    return Part(text, f"the standard library in {folder}/")


def _folder(path: Path, settings: TextSettings) -> Corpus:
    files = sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in TEXT_SUFFIXES and not p.name.startswith(".") and not p.is_dir()
    )
    found: dict[str, Path] = {}
    for file in files:
        parts = [part for part, name in _NAMES.items() if name.search(file.stem.lower())]
        if len(parts) > 1:
            raise DataError(
                f"a file must be named for one part of a text; got {' and '.join(parts)} in "
                f"{file}; rename it"
            )
        for part in parts:
            if part in found:
                raise DataError(
                    f"a folder must have one {part} text; got {found[part].name} and {file.name} "
                    f"in {path}/; take one out, or give the path of one file"
                )
            found[part] = file
    if "train" not in found:
        names = ", ".join(file.name for file in files[:5])
        raise DataError(
            f"a folder must have a train text, {' or '.join(TEXT_SUFFIXES)}; got {names or 'none'} "
            f"in {path}/; rename the training text, or give the path of one file"
        )
    test = found.get("test")

    def check() -> None:
        for part in ("train", "valid"):
            if test is not None and part in found and _same_bytes(found[part], test):
                raise _equal(str(found[part]), str(test))

    return _assemble(
        settings,
        part_of_file(found["train"], settings.column),
        part_of_file(found["valid"], settings.column) if "valid" in found else None,
        (lambda: part_of_file(test, settings.column)) if test is not None else None,
        check,
    )


def _same_bytes(one: Path, other: Path) -> bool:
    """Compare two files; they are opened only where their sizes are equal."""
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        with one.open("rb") as a, other.open("rb") as b:
            while piece := a.read(1 << 16):
                if piece != b.read(1 << 16):
                    return False
    except OSError as error:
        raise _unreadable(str(other), error) from error
    return True


# --- parquet and the hub, through Hugging Face datasets -----------------------------------------


def _parquet(path: Path, column: str) -> Part:
    return _rows(read_parquet([path], str(path)), column, str(path))


def _rows(table: Any, column: str, where: str) -> Part:
    """Return the rows of a Hugging Face `Dataset`, each with a newline at its end."""
    if column not in table.column_names:
        raise DataError(
            f"there must be a column of texts, {column}; got {', '.join(table.column_names)} in "
            f"{where}; use --set data.column=NAME"
        )
    rows = table[column][:]
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise DataError(
                f"a cell of texts must hold a text; got {type(row).__name__} in column {column}, "
                f"row {number} of {where}; use --set data.column=NAME"
            )
    return Part(_newlines("".join(r if r.endswith("\n") else r + "\n" for r in rows)), where)


def _hub(name: str, settings: TextSettings) -> Corpus:
    found = open_hub(name, settings.hub_config or None, "the name, data.hub_config")

    def split(part: str) -> Part:
        return _rows(found.read(part), settings.column, f"hub:{name} ({part})")

    valid = next((part for part in HUB_VALIDATION if part in found.files), None)
    return _assemble(
        settings,
        split("train"),
        split(valid) if valid else None,
        (lambda: split("test")) if "test" in found.files else None,
    )
