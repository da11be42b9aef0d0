"""Text data: every source, its units and parts, batches, and that a search opens no test file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from netwright.data.corpora import split_text
from netwright.data.text import (
    FinalText,
    SearchText,
    TextSettings,
    Vocabulary,
    batchify,
    load_final_text,
    load_search_text,
    units_of,
    windows,
)
from netwright.errors import ConfigError, DataError

DATA = Path(__file__).parents[1].parent / "shared" / "data"
TRAIN = "a b a\n\n  c a b\n"  # a b a <eos> c a b <eos>
VALID = "b d\na <unk>\n"


def unopened() -> None:
    """What to give as `opened` where it does not matter."""


def search(source: Path | str, **values: object) -> SearchText:
    return load_search_text(TextSettings(source=str(source), **values))  # type: ignore[arg-type]


def final(source: Path | str, **values: object) -> FinalText:
    chosen = TextSettings(source=str(source), **values)  # type: ignore[arg-type]
    return load_final_text(chosen, unopened)


def refusal(source: Path | str, **values: object) -> str:
    """The line with which a search refuses `source`."""
    with pytest.raises(DataError) as caught:
        search(source, **values)
    return line_of(caught.value)


def line_of(error: Exception) -> str:
    assert "\n" not in str(error)
    assert str(error).count("; ") >= 2, error  # rule; value and place; remedy
    return str(error)


def folder(root: Path, **texts: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (root / f"{name}.txt").write_bytes(text.encode())
    return root


def parquet(
    path: Path, rows: list[str] | list[int] | list[str | None], column: str = "text"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: rows}), path)
    return path


# --- units and vocabulary -----------------------------------------------------------------------


def test_words_end_each_line_that_is_not_empty() -> None:
    assert units_of(" a  b\t\n \n\nc", "words") == ["a", "b", "<eos>", "c", "<eos>"]
    assert units_of("a\x0cb\u2028c\n", "words") == ["a", "b", "c", "<eos>"]  # one line


def test_characters_are_all_there_unless_lines_are_stripped() -> None:
    assert list(units_of(" a \n\n b", "characters")) == [" ", "a", " ", "\n", "\n", " ", "b"]
    assert list(units_of(" a \n\n b", "characters", strip=True)) == ["a", "\n", "\n", "b"]


def test_a_vocabulary_is_ordered_by_falling_frequency_then_by_text() -> None:
    # a 3, <eos> 2, b 2, c 1; "<" comes before "b".
    words = Vocabulary.of(units_of(TRAIN, "words"), "words")
    assert words.units == ("a", "<eos>", "b", "c", "<unk>")
    assert words.encode(["b", "nobody", "a"]).tolist() == [2, 4, 0]
    assert Vocabulary.of("abbc", "characters").units == ("b", "a", "c", "<unk>")


def test_a_limited_vocabulary_keeps_the_most_frequent_and_counts_the_rest_as_unknown() -> None:
    # a 3, b 2, c 2, d 1 and e 1. Of 4 places "<unk>" and "<eos>" take two; a and then b, before c
    # by text, the others. Left out: c, d, e, 4 in all, which puts "<unk>" in front.
    units = [*"aaabbccde", "<eos>"]
    assert Vocabulary.of(units, "words", 4).units == ("<unk>", "a", "b", "<eos>")
    assert Vocabulary.of(units, "words", 99).units == ("a", "b", "c", "<eos>", "d", "e", "<unk>")
    assert Vocabulary.of("aaabbccde", "characters", 3).units == ("<unk>", "a", "b")


@pytest.mark.parametrize(
    ("train", "values", "units"),
    [
        ("a b a c b\n", {"vocabulary": 4}, ("a", "b", "<eos>", "<unk>")),
        ("a b a c b\n", {"vocabulary": 5}, ("a", "b", "<eos>", "<unk>")),
        ("a b a b c d\n", {"vocabulary": 5}, ("a", "b", "<eos>", "<unk>", "c")),
        ("a b a c b <unk>\n", {"vocabulary": 9}, ("a", "b", "<eos>", "<unk>", "c")),
        ("a b a c <unk>\n", {}, ("a", "<eos>", "<unk>", "b", "c")),
        ("a b a c b\n", {}, ("a", "b", "<eos>", "<unk>")),
        ("abac", {"unit": "characters"}, ("a", "b", "c", "<unk>")),
    ],
    ids=["a limit", "a wide limit", "a limit of one", "both", "its own", "neither", "characters"],
)
def test_words_seen_once_teach_what_unknown_is_where_nothing_else_does(
    train: str, values: dict[str, object], units: tuple[str, ...], tmp_path: Path
) -> None:
    data = search(folder(tmp_path, train=train, valid="a b\n", test="b\n"), **values)
    assert data.vocabulary.units == units
    learned = set(data.vocabulary.decode(data.train))
    assert ("<unk>" in learned) == (train != "abac")


def test_a_text_with_hardly_a_word_seen_twice_keeps_all(tmp_path: Path) -> None:
    data = search(folder(tmp_path, train="a b c a\n", valid="a b\n", test="b\n"))
    assert data.vocabulary.units == ("a", "<eos>", "b", "c", "<unk>")


def test_what_is_written_as_unknown_is_the_unknown_unit() -> None:
    words = Vocabulary.of(units_of("<unk> a <unk>\n", "words"), "words")
    assert words.units == ("<unk>", "<eos>", "a")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["words", "characters"]),
)
def test_what_is_encoded_is_decoded(text: str, unit: str) -> None:
    units = units_of(text, unit)
    vocabulary = Vocabulary.of(units, unit)
    tokens = vocabulary.encode(units)
    assert tokens.dtype == torch.int64
    assert vocabulary.decode(tokens) == list(units)
    assert set(vocabulary.units) == {*units, "<unk>", *(["<eos>"] if unit == "words" else [])}
    if unit == "characters":
        assert "".join(vocabulary.decode(tokens)) == text


@given(st.lists(st.sampled_from("abcdefg"), min_size=1), st.integers(3, 9))
def test_a_limit_is_kept_to_and_no_unit_left_out_is_more_frequent(
    units: list[str], limit: int
) -> None:
    vocabulary = Vocabulary.of(units, "characters", limit)
    assert len(vocabulary) <= limit
    out = {unit for unit in units if unit not in vocabulary}
    assert not out or len(vocabulary) == limit
    kept = set(vocabulary.units) - {"<unk>"}
    assert all(units.count(a) <= units.count(b) for a in out for b in kept)


@pytest.mark.parametrize("token", [-1, 5])
def test_a_token_that_is_none_is_not_decoded(token: int) -> None:
    words = Vocabulary.of(units_of(TRAIN, "words"), "words")
    with pytest.raises(ValueError, match=rf"^tokens must be in 0\.\.4; got {token}\.\.{token}$"):
        words.decode(torch.tensor([token]))


@pytest.mark.parametrize("units", [("a", "b"), ("<unk>", "a", "a")])
def test_a_vocabulary_that_is_none_is_refused(units: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="must hold different units and <unk>") as caught:
        Vocabulary(units)
    line_of(caught.value)


# --- sources ------------------------------------------------------------------------------------


def test_a_folder_gives_its_three_texts(tmp_path: Path) -> None:
    folder(tmp_path, **{"my.train": TRAIN, "my.valid": VALID, "my.test": "c c x\n", "latest": "no"})
    data = search(tmp_path)
    assert data.vocabulary.units == ("a", "<eos>", "b", "<unk>")  # c stands there once
    assert data.train.tolist() == [0, 2, 0, 1, 3, 0, 2, 1]
    assert data.valid.tolist() == [2, 3, 1, 0, 3, 1]
    assert data.valid_unknown == 1  # d; the text's own <unk> is none
    whole = final(tmp_path)
    assert torch.equal(whole.train, data.train)
    assert torch.equal(whole.valid, data.valid)
    assert whole.vocabulary == data.vocabulary
    assert whole.test.tolist() == [3, 3, 3, 1]
    assert (whole.valid_unknown, whole.test_unknown) == (1, 3)
    assert {part.dtype for part in (whole.train, whole.valid, whole.test)} == {torch.int64}


@pytest.mark.parametrize("name", ["val", "dev", "VALIDATION", "x-val-1"])
def test_the_validation_text_goes_by_several_names(tmp_path: Path, name: str) -> None:
    folder(tmp_path, **{"train": TRAIN, name: VALID, "test": "c c x\n"})
    assert len(search(tmp_path).valid) == 6


def test_a_limit_cuts_the_training_text_and_not_its_vocabulary(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID, test="c c x\n")
    for data in (search(tmp_path, train_limit=3), final(tmp_path, train_limit=3)):
        assert data.train.tolist() == [0, 2, 0]
        assert len(data.vocabulary) == 4
    assert len(search(tmp_path, train_limit=99).train) == 8


def test_what_a_folder_lacks_is_split_off_the_end_of_its_training_text(tmp_path: Path) -> None:
    lines = "".join(f"{'abcdefghij'[i]} a\n" for i in range(10))  # 10 lines of 4 characters
    folder(tmp_path, train=lines)
    whole = final(tmp_path, validation=0.2, test=0.1)
    # Cuts at the line ends from characters 28 and 36 on: 7 lines, 2 and 1, of 3 tokens.
    assert [len(part) for part in (whole.train, whole.valid, whole.test)] == [21, 6, 3]
    folder(tmp_path, valid="a b\n")
    whole = final(tmp_path, validation=0.2, test=0.1)
    assert [len(part) for part in (whole.train, whole.valid, whole.test)] == [27, 3, 3]
    (tmp_path / "valid.txt").rename(tmp_path / "test.txt")
    whole = final(tmp_path, validation=0.2, test=0.1)
    assert [len(part) for part in (whole.train, whole.valid, whole.test)] == [24, 6, 3]


def test_a_file_is_split_by_position(tmp_path: Path) -> None:
    path = tmp_path / "book.md"
    path.write_bytes("\ufeffone two\r\nthree\rone two\nsix\nseven\n".encode())
    data = final(path, unit="characters", validation=0.25, test=0.25)
    # 32 characters without the mark and with plain line ends; line ends after 8, 14, 22, 26, 32.
    # From 16 on the first is 22, from 24 on it is 26.
    known = ["".join(data.vocabulary.decode(part)) for part in (data.train, data.valid, data.test)]
    assert known == ["one two\nthree\none two\n", "<unk><unk><unk>\n", "<unk>e<unk>en\n"]
    assert (data.valid_unknown, data.test_unknown) == (3, 2)
    words = search(path, validation=0.25, test=0.25)
    assert words.vocabulary.decode(words.train)[:5] == ["one", "two", "<eos>", "<unk>", "<eos>"]
    assert len(words.train) == 8


def test_one_long_line_is_split_between_words(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("aaaa bbbbbb " * 499)  # 5,389 and 5,689 are within an aaaa
    data = final(tmp_path / "x.txt")
    parts = [data.vocabulary.decode(part) for part in (data.train, data.valid, data.test)]
    assert {word for part in parts for word in part} == {"aaaa", "bbbbbb", "<eos>"}
    assert sum(map(len, parts)) == 998 + 3


texts = st.text(st.sampled_from("ab \n"), min_size=1, max_size=60)
shares = st.floats(0.01, 0.98)


@given(texts, st.lists(shares, min_size=0, max_size=2))
def test_parts_make_up_the_text_and_are_cut_at_line_ends(text: str, parts: list[float]) -> None:
    assume(sum(parts) < 1)
    starts = [round(len(text) * (1 - sum(parts[i:]))) for i in range(len(parts))]
    if sorted({0, *starts, len(text)}) != [0, *starts, len(text)]:  # a share rounds to nothing
        with pytest.raises(DataError, match=r"must be long enough for data\.validation"):
            split_text(text, parts, "x")
        return
    found = split_text(text, parts, "x")
    assert "".join(found) == text
    assert len(found) == len(parts) + 1
    assert all(found)
    at = 0
    for start, part in zip(starts, found[:-1], strict=True):
        at += len(part)
        assert at >= start
        assert "\n" not in text[start - 1 : at - 1]  # no earlier line end would have done
        if text[at - 1] != "\n" and at > start:
            assert text[at - 1] == " "


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=80))
def test_a_files_characters_are_all_there_once(pieces: list[str]) -> None:
    text = "ab" + "é".join(pieces) + "éz\r\nend\r"
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "x.txt"
        path.write_bytes(text.encode())
        data = final(path, unit="characters", validation=0.2, test=0.2)
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    tokens = torch.cat([data.train, data.valid, data.test])
    expected = [c if c in data.vocabulary else "<unk>" for c in plain]
    assert data.vocabulary.decode(tokens) == expected
    assert set(data.vocabulary.units) == {*plain[: len(data.train)], "<unk>"}


def test_the_standard_library_is_a_text_of_two_million_characters() -> None:
    data = final("stdlib", unit="characters")
    sizes = [len(part) for part in (data.train, data.valid, data.test)]
    assert 1_990_000 < sum(sizes) <= 2_000_000
    assert sizes[1:] == pytest.approx([100_000, 100_000], rel=0.02)
    text = "".join(data.vocabulary.decode(data.train))
    assert text.startswith((Path(os.__file__).parent / "__future__.py").read_text()[:500])
    assert torch.equal(search("stdlib", unit="characters").valid, data.valid)


def test_rows_of_parquet_are_lines(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", ["a b a\n", "", "c a b"])
    parquet(tmp_path / "valid.parquet", ["b d", "a <unk>"])
    parquet(tmp_path / "test.parquet", ["c c x"])
    data = search(tmp_path, unit="characters")
    assert "".join(data.vocabulary.decode(data.train)) == "a b a\n\nc a b\n"
    assert search(tmp_path).valid.tolist() == [2, 3, 1, 0, 3, 1]
    path = parquet(tmp_path / "one.parquet", [f"a {i:02}" for i in range(100)], "body")
    assert len(search(path, column="body").train) == 90 * 3


# --- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`datasets` takes owner/name for a folder where there is one, and reads it like the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "owner" / "name"


def test_the_hubs_splits_are_read_without_opening_its_test_split(hub: Path) -> None:
    parquet(hub / "train.parquet", ["a b a", "c a b"])
    parquet(hub / "validation.parquet", ["b d", "a <unk>"])
    parquet(hub / "test.parquet", ["c c x"])
    whole = final("hub:owner/name")
    assert whole.test.tolist() == [3, 3, 3, 1]
    (hub / "test.parquet").write_bytes(b"PAR1 damaged")
    assert search("hub:owner/name").valid.tolist() == whole.valid.tolist() == [2, 3, 1, 0, 3, 1]
    with pytest.raises(DataError, match=r"^a data set of the hub must .*owner/name.*give a path$"):
        final("hub:owner/name")


def test_a_hub_set_without_other_splits_is_split_by_position(hub: Path) -> None:
    parquet(hub / "train.parquet", [f"word {i:02}" for i in range(100)])
    data = final("hub:owner/name")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [270, 15, 15]


def test_a_hub_set_may_have_configurations(hub: Path) -> None:
    for name, rows in {"one": ["a b", "c d"], "two": ["e f g", "h i j"]}.items():
        parquet(hub / name / "train.parquet", rows)
        parquet(hub / name / "validation.parquet", ["x y"])
        parquet(hub / name / "test.parquet", ["z"])
    (hub / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files:\n"
            + "".join(
                f"  - split: {part}\n    path: {name}/{part}.parquet\n"
                for part in ("train", "validation", "test")
            )
            for name in ("one", "two")
        )
        + "---\n"
    )
    assert len(search("hub:owner/name", hub_config="one").train) == 6
    assert len(search("hub:owner/name", hub_config="two").train) == 8
    assert "data.hub_config" in refusal("hub:owner/name")
    assert "data.hub_config" in refusal("hub:owner/name", hub_config="three")


def test_the_hubs_test_split_must_not_be_its_training_split(hub: Path) -> None:
    parquet(hub / "train.parquet", [f"word {i}" for i in range(100)])
    parquet(hub / "test.parquet", [f"word {i}" for i in range(100)])
    with pytest.raises(DataError, match="the parts of a text must differ"):
        final("hub:owner/name")


def test_a_hub_name_that_is_none() -> None:
    assert "got 'hub:ptb'; use --set data.source=hub:owner/name" in refusal("hub:ptb")


def test_a_hub_set_without_a_training_split(hub: Path) -> None:
    parquet(hub / "test.parquet", ["a b"])
    assert "must have a train split; got test in hub:owner/name" in refusal("hub:owner/name")


# --- the test text ------------------------------------------------------------------------------


def test_a_damaged_test_text_is_no_obstacle_to_a_search_and_is_opened_only_after_saying_so(
    tmp_path: Path,
) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe damaged and of another length")
    assert len(search(tmp_path).valid) == 6
    calls: list[str] = []
    with pytest.raises(DataError, match=r"must be in UTF-8; .*test\.txt is not"):
        load_final_text(TextSettings(source=str(tmp_path)), lambda: calls.append("opened"))
    assert calls == ["opened"]


def test_opened_is_not_called_when_the_validation_text_is_bad(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid="\n", test="a b\n")
    with pytest.raises(DataError, match=r"must hold more than white space; .* in .*valid\.txt"):
        load_final_text(
            TextSettings(source=str(tmp_path)), lambda: pytest.fail("the test text was opened")
        )


def test_the_files_a_search_and_a_test_open_in_their_order(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID, test="c c x\n")
    program = """if True:
        import sys
        from netwright.data.text import TextSettings, load_final_text, load_search_text
        settings = TextSettings(source=sys.argv[1])
        def hook(event, arguments):
            if event == "open" and str(arguments[0]).startswith(sys.argv[1]):
                print(str(arguments[0])[len(sys.argv[1]) + 1:])
        sys.addaudithook(hook)
        load_search_text(settings)
        print("final")
        load_final_text(settings, lambda: print("opened"))
    """
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    read = ["train.txt", "valid.txt"]
    assert result.stdout.split() == [*read, "final", *read, "opened", "test.txt"]


def test_a_search_and_a_test_have_the_same_parts_whatever_the_test_text(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID, test="c c x\n")
    one = search(tmp_path)
    folder(tmp_path, test="y y y y y\n")
    assert search(tmp_path).vocabulary == one.vocabulary == final(tmp_path).vocabulary


def test_a_test_text_of_equal_length_and_other_words_is_well(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID, test=TRAIN.replace("c", "d"))
    assert len(search(tmp_path).train) == len(final(tmp_path).test) == 8


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ({"train": TRAIN, "valid": VALID, "test": TRAIN}, "test.txt holds the same as .*train.txt"),
        ({"train": TRAIN, "valid": VALID, "test": VALID}, "test.txt holds the same as .*valid.txt"),
        (
            {"train": TRAIN, "valid": TRAIN, "test": VALID},
            "valid.txt holds the same as .*train.txt",
        ),
        ({"train": TRAIN * 9, "test": TRAIN * 9}, "test.txt holds the same as .*train.txt"),
        ({"train": TRAIN, "valid": TRAIN}, "valid.txt holds the same as .*train.txt"),
    ],
)
def test_parts_that_are_equal_are_refused_by_a_search(
    tmp_path: Path, texts: dict[str, str], line: str
) -> None:
    found = refusal(folder(tmp_path, **texts))
    assert re.search(f"^the parts of a text must differ; .*{line}; give", found)


def test_a_test_text_that_differs_by_its_line_ends_only_is_refused_in_the_end(
    tmp_path: Path,
) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID, test=TRAIN.replace("\n", "\r\n"))
    assert len(search(tmp_path).train) == 8
    with pytest.raises(DataError, match="the parts of a text must differ"):
        final(tmp_path)


# --- batches ------------------------------------------------------------------------------------


def test_columns_are_runs_of_the_text_and_the_remainder_is_dropped() -> None:
    columns = batchify(torch.arange(14), 3)
    assert columns.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    pairs = [(x.tolist(), y.tolist()) for x, y in windows(columns, 2)]
    assert pairs == [
        ([[0, 4, 8], [1, 5, 9]], [[1, 5, 9], [2, 6, 10]]),
        ([[2, 6, 10]], [[3, 7, 11]]),
    ]


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 30))
def test_windows_cover_every_token_once_with_targets_shifted_by_one(
    count: int, batch: int, steps: int
) -> None:
    assume(count // batch >= 2)
    columns = batchify(torch.arange(count), batch)
    assert torch.equal(columns.t().flatten(), torch.arange(count // batch * batch))
    pairs = list(windows(columns, steps))
    assert all(len(x) == len(y) == steps for x, y in pairs[:-1])
    assert 1 <= len(pairs[-1][0]) <= steps
    inputs, targets = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    assert torch.equal(inputs, columns[:-1])
    assert torch.equal(targets, inputs + 1)


def test_a_text_too_short_for_a_batch() -> None:
    assert batchify(torch.arange(6), 3).shape == (2, 3)
    with pytest.raises(DataError, match="got 5 tokens; use a batch of at most 2, or") as caught:
        batchify(torch.arange(5), 3)
    line_of(caught.value)


def test_batches_and_windows_of_nothing() -> None:
    with pytest.raises(ValueError, match="batch must be 1 or more; got 0"):
        batchify(torch.arange(5), 0)
    with pytest.raises(ValueError, match="steps must be 1 or more; got 0"):
        windows(torch.zeros(5, 2), 0)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", ""),
        ("unit", "bytes"),
        ("validation", 0.0),
        ("validation", 1.0),
        ("validation", float("nan")),
        ("validation", 0.95),
        ("test", 0.0),
        ("test", 1.0),
        ("test", float("inf")),
        ("train_limit", -1),
        ("train_limit", 1),
        ("vocabulary", -1),
        ("vocabulary", 2),
        ("column", ""),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        TextSettings(**{name: value})  # type: ignore[arg-type]
    assert line_of(caught.value).startswith(f"data.{name} must ")
    assert f"got {value!r}; use --set data.{name}=" in str(caught.value)


def test_a_missing_path(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.txt")
    assert line.startswith('data.source must be "stdlib", "hub:owner/name" or an existing path; ')
    assert "none.txt', which is not there; use --set data.source=PATH" in line


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-that-name/x"])
def test_a_path_that_cannot_be(source: str) -> None:
    assert refusal(source).startswith("a text must be readable; ")


def test_a_text_that_is_not_there_after_all(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN * 9)
    (tmp_path / "valid.txt").symlink_to(tmp_path / "gone")
    assert "valid.txt is not ([Errno 2]" in refusal(tmp_path)
    (tmp_path / "valid.txt").rename(tmp_path / "test.txt")
    assert "test.txt is not ([Errno 2]" in refusal(tmp_path)


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert re.search(
        r"UTF-8; .*x\.txt is not \(.*\); save it as UTF-8$", refusal(tmp_path / "x.txt")
    )


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_text(tmp_path: Path, text: str) -> None:
    line = f"got {len(text)} characters in"
    assert line in refusal(folder(tmp_path, x=text) / "x.txt")
    assert line in refusal(folder(tmp_path / "train", train=text))
    assert line in refusal(folder(tmp_path / "valid", train=TRAIN, valid=text))


def test_an_empty_test_text(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid=VALID, test="")
    assert len(search(tmp_path).valid) == 6
    with pytest.raises(DataError, match=r"got 0 characters in .*test\.txt"):
        final(tmp_path)


def test_a_text_of_one_unit(tmp_path: Path) -> None:
    folder(tmp_path, train="a a a\na\n", valid="b b\n", test="c\n")
    assert "at least 2 different words; got 1 in" in refusal(tmp_path)
    folder(tmp_path, train="aaaaa")
    assert "at least 2 different characters; got 1 in" in refusal(tmp_path, unit="characters")


def test_a_part_too_short(tmp_path: Path) -> None:
    folder(tmp_path, train=TRAIN, valid="x", test="y")
    assert re.search(r"2 tokens; got 1 in .*valid\.txt", refusal(tmp_path, unit="characters"))
    folder(tmp_path, valid="xy")
    with pytest.raises(DataError, match=r"2 tokens; got 1 in .*test\.txt"):
        final(tmp_path, unit="characters")


def test_a_text_too_short_to_split(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a b c\n")
    line = refusal(tmp_path / "x.txt")
    assert line.startswith("a text must be long enough for data.validation and data.test; got 6 ")
    assert line.endswith("x.txt; use more text or other shares")
    (tmp_path / "x.txt").write_text("a b c\nd\ne f\n")  # cut at the line ends from 5 and 8 on
    assert len(search(tmp_path / "x.txt", validation=0.3, test=0.3).train) == 4


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("a.train", "b.train"), "must have one train text; got a.train.txt and b.train.txt in"),
        (("train", "val", "valid"), "must have one valid text; got val.txt and valid.txt in"),
        (("train", "test-a", "test-b"), "must have one test text; got test-a.txt and test-b.txt"),
        (("train-test",), "must be named for one part of a text; got train and test in"),
        (("valid", "test"), "must have a train text, .txt or .parquet; got test.txt, valid.txt in"),
        ((), "must have a train text, .txt or .parquet; got none in"),
    ],
)
def test_a_folder_that_is_ambiguous(tmp_path: Path, names: tuple[str, ...], line: str) -> None:
    assert line in refusal(folder(tmp_path, **dict.fromkeys(names, TRAIN)))


def test_bad_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", ["a b", "c d"], "body")
    assert "column of texts, text; got body in" in refusal(path)
    parquet(path, ["a b", None])
    assert "must hold a text; got NoneType in column text, row 1 of" in refusal(path)
    parquet(path, [1, 2])
    assert "must hold a text; got int in column text, row 0 of" in refusal(path)
    path.write_bytes(b"PAR1 damaged")
    assert re.search(r"^a parquet file must be readable; .*x\.parquet is not \(", refusal(path))


# --- real texts ---------------------------------------------------------------------------------


def real(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.data
def test_penn_treebank_has_its_well_known_counts() -> None:
    data = final(real(DATA / "ptb"))
    assert [len(p) for p in (data.train, data.valid, data.test)] == [929_589, 73_760, 82_430]
    assert len(data.vocabulary) == 10_000
    assert (data.valid_unknown, data.test_unknown) == (0, 0)
    # 42,068 sentences, each with one end.
    assert int((data.train == data.vocabulary.encode(["<eos>"])).sum()) == 42_068


@pytest.mark.data
def test_penn_treebanks_characters_have_a_space_at_each_end_of_a_line_unless_stripped() -> None:
    path = real(DATA / "ptb")
    plain, stripped = (search(path, unit="characters", strip=strip) for strip in (False, True))
    assert len(plain.train) == 5_101_618  # the file's bytes, all ASCII
    assert len(plain.train) - len(stripped.train) == 2 * 42_068  # sentences
    assert len(plain.vocabulary) == len(stripped.vocabulary) == 51


@pytest.mark.data
def test_tiny_shakespeare_has_65_characters_and_unknown() -> None:
    data = final(real(DATA / "text" / "tinyshakespeare.txt"), unit="characters")
    assert sum(len(part) for part in (data.train, data.valid, data.test)) == 1_115_394
    assert len(data.vocabulary) == 66
    assert (data.valid_unknown, data.test_unknown) == (0, 0)
