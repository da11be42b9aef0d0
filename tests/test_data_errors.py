"""Bad image data is refused in one line that says rule, value, place and remedy."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from netwright.data.images import DataSettings, load_final_data, load_search_data
from netwright.errors import ConfigError, DataError

Make = Callable[[Path], Path]


def refusal(source: Path | str, **values: object) -> str:
    """The line with which a search refuses `source`."""
    chosen = DataSettings(source=str(source), **values)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        load_search_data(chosen, 0)
    line = str(caught.value)
    assert "\n" not in line
    assert line.count("; ") >= 2, line  # rule; value and place; remedy
    return line


def png(side: int = 4, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, "PNG")
    return file.getvalue()


def folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(png())
    return root


def npz(root: Path, **arrays: object) -> Path:
    np.savez(root / "x.npz", **arrays)  # type: ignore[arg-type]
    return root / "x.npz"


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


IMAGES = np.zeros((8, 4, 4), np.uint8)
LABELS = np.arange(8) % 2


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", ""),
        ("size", -1),
        ("size", 4097),
        ("train_limit", -1),
        ("test_limit", -1),
        ("upsample", -1),
        ("upsample", 10**12),
        ("pad", -1),
        ("pad", 4097),
        ("validation", 0.0),
        ("validation", -0.5),
        ("validation", 1.5),
        ("validation", float("nan")),
        ("validation", float("inf")),
        ("test", 0.0),
        ("test", 1.0),
        ("whiten", "pca"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        DataSettings(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"data.{name} must ")
    assert f"got {value!r}; use --set data.{name}=" in str(caught.value)


@pytest.mark.parametrize("values", [{"upsample": 10, "pad": 1}, {"size": 4, "pad": 4}])
def test_settings_that_do_not_go_together_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"^data\.pad must .*use --set data\.pad=0$"):
        DataSettings(**values)  # type: ignore[arg-type]


def test_an_upsample_that_does_not_exceed_the_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.upsample must .*=8; got 8; use .*=9$"):
        DataSettings(size=8, upsample=8)


def test_a_pad_as_wide_as_the_images_themselves_is_refused(tmp_path: Path) -> None:
    folders(tmp_path / "train", {"cats": 3, "dogs": 3})
    line = refusal(tmp_path, pad=4)
    assert line.startswith("data.pad must be below the 4 pixels that images of ")
    assert line.endswith("; got 4; use --set data.pad=0")
    assert load_search_data(DataSettings(source=str(tmp_path), pad=3), 0).shape == (1, 4, 4)


# --- paths --------------------------------------------------------------------------------------


def test_a_missing_path(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.npz")
    assert "none.npz', which is not there; use --set data.source=PATH" in line


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-that-name/x"])
def test_a_path_that_cannot_be(source: str) -> None:
    line = refusal(source)
    assert line.startswith("image data must be readable; ")
    assert len(line) < 400


def test_a_file_of_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    assert "x.csv'; convert it" in refusal(tmp_path / "x.csv")


def test_a_hub_name_that_is_none() -> None:
    assert "got 'hub:mnist'; use --set data.source=hub:owner/name" in refusal("hub:mnist")


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    program = """if True:
        from netwright.data.images import DataSettings, load_search_data
        from netwright.errors import ConfigError, DataError
        try:
            load_search_data(DataSettings(source="hub:nobody/nothing"), 0)
        except DataError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.startswith("a data set of the hub must be reachable and readable; ")
    assert result.stdout.endswith("or download it and give a path\n")
    assert "hub:nobody/nothing" in result.stdout
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


# --- folders of images --------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "said"), [(["cats"], "got 1 (cats)"), ([], "got 0")])
def test_a_folder_of_fewer_than_two_classes(tmp_path: Path, names: list[str], said: str) -> None:
    folders(tmp_path, dict.fromkeys(names, 3))
    assert refusal(tmp_path) == (
        f"an image folder must have at least 2 classes; {said} in {tmp_path}/; "
        f"add a folder for each class"
    )


def test_a_class_folder_without_images(tmp_path: Path) -> None:
    folders(tmp_path, {"cats": 3, "dogs": 0})
    (tmp_path / "dogs" / "a.txt").write_text("")
    assert f"got none in {tmp_path}/dogs/; add images" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no image", png()[:40], png(40)[:-30], png().replace(b"IDAT", b"IDAX")]
)
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    folders(tmp_path / "train", {"cats": 3, "dogs": 3})
    (tmp_path / "train" / "dogs" / "1.png").write_bytes(content)
    line = refusal(tmp_path)
    assert line.startswith(f"an image must be readable; {tmp_path}/train/dogs/1.png is not (")
    assert line.endswith("; replace it or take it out")


def test_an_image_of_16_bits(tmp_path: Path) -> None:
    folders(tmp_path / "train", {"cats": 3, "dogs": 3})
    (tmp_path / "train" / "dogs" / "1.png").write_bytes(png(mode="I;16"))
    assert "got mode 'I;16' in " in refusal(tmp_path)


def test_images_of_different_sizes_without_a_size_and_with_one(tmp_path: Path) -> None:
    folders(tmp_path / "train", {"cats": 3, "dogs": 3})
    (tmp_path / "train" / "dogs" / "1.png").write_bytes(png(7))
    line = refusal(tmp_path)
    assert f"got 7x7 and 4x4 pixels in {tmp_path}/train/dogs/1.png; " in line
    assert line.endswith("use --set data.size=4 to resize them")
    resized = load_search_data(DataSettings(source=str(tmp_path), size=4), 0)
    assert resized.shape == (1, 4, 4)


# --- npz ----------------------------------------------------------------------------------------


def damaged(root: Path) -> Path:
    path = npz(root, images=IMAGES, labels=LABELS)
    path.write_bytes(path.read_bytes()[:200])
    return path


def pickled(root: Path) -> Path:
    return npz(root, images=IMAGES, labels=np.array([{}] * 8, dtype=object))


def one_array(root: Path) -> Path:
    np.save(root / "x.npy", IMAGES)
    return (root / "x.npy").rename(root / "x.npz")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (damaged, "x.npz is not ("),
        (pickled, "without pickled objects; "),
        (one_array, "holds one array"),
        (lambda root: npz(root, images=IMAGES), "got images in "),
        (lambda root: npz(root, x_train=IMAGES), "got x_train in "),
        (lambda root: npz(root, images=IMAGES, labels=LABELS[:7]), "got 8 images in images and 7"),
        (lambda root: npz(root, images=IMAGES, labels=LABELS * 0.5), "got labels of float64 [8]"),
        (lambda root: npz(root, images=IMAGES, labels=np.eye(8)), "got labels of float64 [8, 8]"),
        (lambda root: npz(root, images=IMAGES.astype(int), labels=LABELS), "images of int64"),
        (lambda root: npz(root, images=IMAGES[0], labels=LABELS), "got images [4, 4]"),
        (lambda root: npz(root, images=np.zeros((8, 4, 4, 2)), labels=LABELS), "[8, 4, 4, 2]"),
        (lambda root: npz(root, images=IMAGES[:, :0], labels=LABELS), "must have pixels"),
        (lambda root: npz(root, images=IMAGES[:0], labels=LABELS[:0]), "got none in "),
        (lambda root: npz(root, images=IMAGES + 2.0, labels=LABELS), "got [2, 2] in image "),
        (lambda root: npz(root, images=IMAGES * np.nan, labels=LABELS), "got [nan, nan] in image "),
        (lambda root: npz(root, images=IMAGES, labels=LABELS * 0), "got 1 (0) in "),
    ],
)
def test_a_bad_npz(tmp_path: Path, make: Make, said: str) -> None:
    line = refusal(make(tmp_path))
    assert said in line
    assert f"{tmp_path}/x.npz" in line


# --- parquet ------------------------------------------------------------------------------------

CELLS = [png()] * 8
INTS = [0, 1] * 4


def truncated(root: Path) -> Path:
    path = parquet(root / "x.parquet", img=CELLS, label=INTS)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def spoilt_inside(root: Path) -> Path:
    path = parquet(root / "x.parquet", img=CELLS, label=INTS)
    content = bytearray(path.read_bytes())
    content[4:80] = bytes(76)
    path.write_bytes(content)
    return path


def unlabelled(root: Path) -> Path:
    features = datasets.Features({"img": datasets.Value("binary")})
    features["label"] = datasets.ClassLabel(names=["a", "b"])
    rows = {"img": CELLS, "label": [0, 1, -1, 0, 1, 0, 1, 0]}
    with (root / "x.parquet").open("wb") as file:
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return root / "x.parquet"


def table(**columns: object) -> Make:
    return lambda root: parquet(root / "x.parquet", **columns)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (truncated, "a parquet file must be readable; "),
        (spoilt_inside, "a parquet file must be readable; "),
        (unlabelled, "labels must be in 0..1, the named classes; got -1 in "),
        (table(picture=CELLS, label=INTS), "a column of images, img or image; got picture, label"),
        (table(img=CELLS, kind=INTS), "a column of labels, label or fine_label or labels; got img"),
        (table(img=CELLS, label=[0.5] * 8), "got 0.5 in column label"),
        (table(img=CELLS, label=[None, *INTS[1:]]), "got None in column label"),
        (table(img=[1] * 8, label=INTS), "got int in column img"),
        (table(img=[None] * 8, label=INTS), "got NoneType in column img"),
        (table(img=[b"x"] * 8, label=INTS), "row "),
        (table(img=["gone.png"] * 8, label=INTS), "gone.png"),
        (table(img=pa.array([], pa.binary()), label=pa.array([], pa.int64())), ""),
    ],
)
def test_a_bad_parquet_file(tmp_path: Path, make: Make, said: str) -> None:
    line = refusal(make(tmp_path))
    assert said in line
    assert f"{tmp_path}/x.parquet" in line


def test_a_named_column_that_is_not_there(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", img=CELLS, label=INTS)
    line = refusal(path, label_column="coarse")
    assert "a column of labels, coarse; got img, label in " in line
    assert line.endswith("use --set data.label_column=NAME")


def test_a_parquet_folder_without_a_training_file(tmp_path: Path) -> None:
    parquet(tmp_path / "test.parquet", img=CELLS, label=INTS)
    assert "must have train*.parquet; got none in " in refusal(tmp_path)


# --- splits -------------------------------------------------------------------------------------


def test_a_class_of_two_images_where_a_test_share_is_split_off(tmp_path: Path) -> None:
    folders(tmp_path, {"cats": 5, "dogs": 2})
    line = refusal(tmp_path)
    assert "a class must have at least 3 images" in line
    assert f"got 2 of dogs in {tmp_path}/; " in line


def test_a_class_of_one_image_where_there_is_a_test_set(tmp_path: Path) -> None:
    folders(tmp_path / "train", {"cats": 5, "dogs": 1})
    folders(tmp_path / "test", {"cats": 1, "dogs": 1})
    assert "at least 2 images" in refusal(tmp_path)
    (tmp_path / "train" / "dogs" / "more.png").write_bytes(png())
    assert len(load_search_data(DataSettings(source=str(tmp_path)), 0).valid) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"validation": 1436}, "got 1436, which takes 1436; lower it with --set data.validation="),
        ({"validation": 5}, "got 5, which takes 5; raise it with --set data.validation="),
        ({"validation": 0.9999}, "got 0.9999, which takes 1438; lower it"),
        ({"test": 0.9999}, "got 0.9999, which takes 1797; lower it with --set data.test="),
        ({"train_limit": 15}, "got 15, which takes 15; raise it with --set data.train_limit="),
    ],
)
def test_a_split_that_leaves_a_part_without_a_class(values: dict[str, object], said: str) -> None:
    assert said in refusal("digits", **values)


def test_a_damaged_image_that_is_held_out_is_not_told_to_be_taken_out(tmp_path: Path) -> None:
    folders(tmp_path, {"cats": 6, "dogs": 6})
    settings = DataSettings(source=str(tmp_path), test=0.5)
    search = load_search_data(settings, 0)
    for path in tmp_path.rglob("*.png"):
        good = path.read_bytes()
        path.write_bytes(good[:40])
        try:
            load_search_data(settings, 0)
        except DataError:
            path.write_bytes(good)
        else:
            break
    with pytest.raises(DataError) as caught:
        load_final_data(settings, 0, lambda: None)
    line = str(caught.value)
    assert str(path) in line
    assert line.endswith("goes on only with one in its place")
    path.unlink()
    other = load_search_data(settings, 0)
    assert other.digest() != search.digest()


def test_a_test_label_that_training_does_not_know(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", img=CELLS, label=INTS)
    parquet(tmp_path / "test.parquet", img=CELLS[:2], label=[0, 7])
    with pytest.raises(DataError, match=r"must be one of .*; got 7 in .*test\.parquet; .* 0, 1$"):
        load_final_data(DataSettings(source=str(tmp_path)), 0, lambda: None)


def test_test_images_of_another_size(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", img=CELLS, label=INTS)
    parquet(tmp_path / "test.parquet", img=[png(6)] * 2, label=[0, 1])
    with pytest.raises(DataError, match=r"got 6x6 and 4x4 pixels in row 0 of .*test\.parquet"):
        load_final_data(DataSettings(source=str(tmp_path)), 0, lambda: None)


def test_test_classes_named_in_another_order(tmp_path: Path) -> None:
    for name, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        features = datasets.Features({"img": datasets.Value("binary")})
        features["label"] = datasets.ClassLabel(names=names)
        rows = datasets.Dataset.from_dict({"img": CELLS, "label": INTS}, features=features)
        with (tmp_path / f"{name}.parquet").open("wb") as file:
            rows.to_parquet(file)
    with pytest.raises(DataError, match=r"must name the classes as .*; got b, a in "):
        load_final_data(DataSettings(source=str(tmp_path)), 0, lambda: None)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"no numpy header")
        file.writestr("labels.npy", b"nor here")
    with pytest.raises(DataError, match=r"d\.npz is not \(images is no array\)"):
        load_search_data(DataSettings(source=str(path)), 0)
