"""Readers of image sources: digits, parquet files, folders of images, npz files and the hub.

A reader gives `Rows`, whose labels are known and whose images are not decoded yet, so that a
search can choose its rows first and never touches a test image.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netwright.data.hub import open_hub, read_parquet
from netwright.data.transforms import Pictures, error_line, open_image
from netwright.errors import DataError
from netwright.toml import one_line

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)

_NPY_HEADER = (SyntaxError, tokenize.TokenError)  # numpy's, where one cannot be parsed


@dataclass(frozen=True)
class Rows:
    """Labelled images, not decoded yet.

    labels: one a row, [N], whole numbers or texts. pictures: the images of the rows it is given,
    each with the place to name in errors; it raises `DataError`. where: the file or folder.
    names: class names by label, None where the source has none.
    """

    labels: NDArray[Any]
    pictures: Callable[[NDArray[np.int64]], Pictures]
    where: str
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """The training rows, and how to open the test rows; None where the source has no test set."""

    train: Rows
    test: Callable[[], Rows] | None


def open_source(source: str, image_column: str = "", label_column: str = "") -> Source:
    """Return the rows of `source` (see `DataSettings.source`) without opening its test set.

    Raises `DataError` for a source that is missing, of no known kind or unreadable.
    """
    columns = (image_column, label_column)
    if source == "digits":
        return Source(_digits(), None)
    if source.startswith("hub:"):
        return _hub(source.removeprefix("hub:"), columns)
    try:
        path = Path(source).expanduser()
        folder, there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"image data must be readable; {source[:80]!r} is not ({error_line(error)}); "
            f"check the path and mend its rights"
        ) from error
    if folder:
        return _folder(path, columns)
    if not there:
        raise DataError(
            f'data.source must be "digits", "hub:owner/name" or an existing path; got {source!r}, '
            f"which is not there; use --set data.source=PATH"
        )
    if path.suffix.lower() == ".parquet":
        return Source(_parquet([path], columns), None)
    if path.suffix.lower() == ".npz":
        return _npz(path)
    raise DataError(
        f"image data must be a folder, a .parquet or an .npz file; got {source!r}; "
        f"convert it to one of these"
    )


# --- digits and npz: images in arrays -----------------------------------------------------------


def _array_rows(images: NDArray[np.uint8], labels: NDArray[Any], where: str) -> Rows:
    def pictures(index: NDArray[np.int64]) -> Pictures:
        for i in index:
            yield f"image {i} of {where}", Image.fromarray(images[i])

    return Rows(labels, pictures, where)


def _digits() -> Rows:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _array_rows(images, digits.target, "digits")


def _npz(path: Path) -> Source:
    names = _npz_arrays(path, ())
    if "x_train" not in names:
        return Source(_npz_rows(path, "images", "labels"), None)
    train = _npz_rows(path, "x_train", "y_train")
    if "x_test" not in names:
        return Source(train, None)
    return Source(train, lambda: _npz_rows(path, "x_test", "y_test"))


def _npz_arrays(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return the arrays `wanted`, or the names there are with nothing wanted."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"an .npz file must hold named arrays; {path} holds one array; "
                    f"write it with numpy.savez(images=..., labels=...)"
                )
            with archive:
                missing = [name for name in wanted if name not in archive.files]
                if missing:
                    there = one_line(", ".join(archive.files))[:200] or "none"
                    raise DataError(
                        f"an .npz file must hold x_train and y_train, or images and labels; "
                        f"got {there} in {path}; add {missing[0]}"
                    )
                arrays = {n: archive[n] for n in wanted}
                for name, array in arrays.items():
                    if not isinstance(array, np.ndarray):  # of a member without numpy's header
                        raise ValueError(f"{name} is no array")
                return arrays if wanted else dict.fromkeys(archive.files)
    except DataError:
        raise
    except Exception as error:  # numpy's parsers raise whatever damaged bytes make them raise
        why = "a header is damaged" if isinstance(error, _NPY_HEADER) else error_line(error)
        raise DataError(
            f"an .npz file must be readable, without pickled objects; {path} is not ({why}); write "
            f"it again with numpy.savez"
        ) from error


def _npz_rows(path: Path, image_name: str, label_name: str) -> Rows:
    arrays = _npz_arrays(path, (image_name, label_name))
    images, labels = arrays[image_name], arrays[label_name]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise DataError(
            f"labels must be whole numbers or texts in one dimension; got {label_name} of "
            f"{labels.dtype} {list(labels.shape)} in {path}; give one label an image"
        )
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(
            f"images must be [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3; got "
            f"{image_name} {list(arrays[image_name].shape)} in {path}; reshape it"
        )
    if 0 in images.shape[1:3]:
        raise DataError(
            f"images must have pixels; got {image_name} {list(images.shape)} in {path}; mend it"
        )
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(
            f"images must be uint8, or floats in [0, 1]; got {image_name} of {images.dtype} in "
            f"{path}; convert it"
        )
    if len(images) != len(labels):
        raise DataError(
            f"there must be one label an image; got {len(images)} images in {image_name} and "
            f"{len(labels)} labels in {label_name} in {path}; mend the file"
        )
    if images.dtype == np.uint8:
        return _array_rows(images, labels, str(path))
    return Rows(labels, lambda index: _floats(images, index, f"{image_name} in {path}"), str(path))


def _floats(images: NDArray[Any], index: NDArray[np.int64], where: str) -> Pictures:
    for i in index:
        low, high = float(images[i].min()), float(images[i].max())
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"images of floats must be in [0, 1] without NaN; got [{low:g}, {high:g}] in "
                f"image {i} of {where}; scale them"
            )
        pixels = np.rint(images[i].astype(np.float64) * 255).astype(np.uint8)
        yield f"image {i} of {where}", Image.fromarray(pixels)


# --- folders ------------------------------------------------------------------------------------


def _folder(path: Path, columns: tuple[str, str]) -> Source:
    train = sorted(path.glob("train*.parquet"))
    if train:
        test = sorted(path.glob("test*.parquet"))
        return Source(_parquet(train, columns), (lambda: _parquet(test, columns)) if test else None)
    if any(path.glob("*.parquet")):
        raise DataError(
            f"a folder of parquet files must have train*.parquet; got none in {path}; rename the "
            f"training file, or give the path of one file"
        )
    inner = path / "train"
    if not inner.is_dir() or not _visible_folders(inner):
        return Source(_class_folders(path), None)
    test_folder = path / "test"
    has_test = test_folder.is_dir()
    return Source(
        _class_folders(inner), (lambda: _class_folders(test_folder)) if has_test else None
    )


def _visible(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"an image folder must be readable; {path} is not ({error_line(error)}); "
            f"mend its rights"
        ) from error


def _visible_folders(path: Path) -> list[Path]:
    return [p for p in _visible(path) if p.is_dir()]


def _class_folders(path: Path) -> Rows:
    """Read a folder that has one folder of images a class; other files are passed over."""
    folders = _visible_folders(path)
    if len(folders) < 2:
        names = ", ".join(folder.name for folder in folders)
        raise DataError(
            f"an image folder must have at least 2 classes; got {len(folders)}"
            f"{f' ({names})' if names else ''} in {path}/; add a folder for each class"
        )
    files: list[Path] = []
    labels: list[str] = []
    for folder in folders:
        found = [p for p in _visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise DataError(
                f"a class folder must hold images; got none in {folder}/; "
                f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or take the folder out"
            )
        files += found
        labels += [folder.name] * len(found)

    def pictures(index: NDArray[np.int64]) -> Pictures:
        for i in index:
            yield str(files[i]), open_image(files[i], str(files[i]))

    return Rows(np.array(labels), pictures, f"{path}/")


# --- parquet and the hub, through Hugging Face datasets -----------------------------------------


def _parquet(files: list[Path], columns: tuple[str, str]) -> Rows:
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent}/{files[0].name} and others"
    return _dataset_rows(read_parquet(files, where), columns, where)


def _hub(name: str, columns: tuple[str, str]) -> Source:
    found = open_hub(name)

    def rows(part: str) -> Rows:
        return _dataset_rows(found.read(part), columns, f"hub:{name} ({part})")

    return Source(rows("train"), (lambda: rows("test")) if "test" in found.files else None)


def _dataset_rows(table: Any, columns: tuple[str, str], where: str) -> Rows:
    """Return the rows of a Hugging Face `Dataset`."""
    import datasets

    image = _column(table, columns[0], IMAGE_COLUMNS, "image", where)
    label = _column(table, columns[1], LABEL_COLUMNS, "label", where)
    kind = table.features[label]
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    values = table[label][:]
    if any(isinstance(v, bool) or not isinstance(v, int | str) for v in values):
        wrong = next(v for v in values if isinstance(v, bool) or not isinstance(v, int | str))
        raise DataError(
            f"labels must be whole numbers or texts; got {wrong!r} in column {label} of {where}; "
            f"use --set data.label_column=NAME"
        )
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))

    def pictures(index: NDArray[np.int64]) -> Pictures:
        for start in range(0, len(index), 1000):
            chunk = index[start : start + 1000].tolist()
            for row, cell in zip(chunk, table[chunk][image], strict=True):
                yield _cell(cell, f"row {row} of {where}", image)

    return Rows(np.array(values), pictures, where, names)


def _column(table: Any, asked: str, known: tuple[str, ...], what: str, where: str) -> str:
    for name in (asked,) if asked else known:
        if name in table.column_names:
            return name
    raise DataError(
        f"there must be a column of {what}s, {asked or ' or '.join(known)}; got "
        f"{', '.join(table.column_names)} in {where}; use --set data.{what}_column=NAME"
    )


def _cell(cell: Any, place: str, column: str) -> tuple[str, Image.Image]:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return place, open_image(io.BytesIO(cell), place)
    if isinstance(cell, str):
        return f"{cell} ({place})", open_image(Path(cell), f"{cell} ({place})")
    raise DataError(
        f"a cell of images must hold an encoded image or its path; got {type(cell).__name__} in "
        f"column {column}, {place}; use --set data.image_column=NAME"
    )
