"""Loading image data: every source, the splits, and that a search never reads the test set."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from netwright.data.images import (
    DataSettings,
    ImageSet,
    load_final_data,
    load_search_data,
    stratified,
)
from netwright.errors import DataError

CIFAR10 = Path(__file__).parents[1].parent / "shared" / "data" / "cifar10"


def unopened() -> None:
    """What to give as `opened` where it does not matter."""


def numbered(count: int, start: int = 0, side: int = 4) -> NDArray[np.uint8]:
    """Grey images that are told apart by their grey: image i is all start + i."""
    greys = np.arange(start, start + count, dtype=np.uint8)
    return np.broadcast_to(greys[:, None, None], (count, side, side)).copy()


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def greys(images: ImageSet) -> list[int]:
    """The numbers that `numbered` gave, in order."""
    return [int(grey) for grey in images.images[:, 0, 0, 0]]


def write_npz(path: Path, count: int = 60, test: int = 0) -> Path:
    arrays: dict[str, Any] = {"x_train": numbered(count), "y_train": np.arange(count) % 3}
    if test:
        arrays |= {"x_test": numbered(test, 200), "y_test": np.arange(test) % 3}
    np.savez(path, **arrays)
    return path


def write_parquet(
    path: Path, pixels: NDArray[np.uint8], labels: list[int] | list[str], names: str = "img,label"
) -> Path:
    image, label = names.split(",")
    cells = [{"bytes": png(p), "path": None} for p in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({image: pa.array(cells, kind), label: labels}), path)
    return path


def write_folders(root: Path, classes: dict[str, NDArray[np.uint8]]) -> Path:
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for i, pixels in enumerate(images):
            (root / name / f"{i:03}.png").write_bytes(png(pixels))
    return root


def settings(source: Path | str, **values: object) -> DataSettings:
    return DataSettings(source=str(source), **values)  # type: ignore[arg-type]


# --- sources ------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_scaled_to_bytes() -> None:
    data = load_final_data(DataSettings(test=0.2), 0, unopened)
    assert len(data.train) + len(data.test) == 1797
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.min() == 0
    assert data.train.images.max() == 255
    assert len(torch.unique(data.train.images)) == 17


def test_npz_images_keep_their_labels_and_pixels(tmp_path: Path) -> None:
    data = load_search_data(settings(write_npz(tmp_path / "x.npz", test=9)), 1)
    assert sorted(greys(data.train) + greys(data.valid)) == list(range(60))
    for part in (data.train, data.valid):
        assert part.labels.tolist() == [grey % 3 for grey in greys(part)]
    final = load_final_data(settings(tmp_path / "x.npz"), 1, unopened)
    assert greys(final.test) == list(range(200, 209))
    assert greys(final.train) == list(range(60))


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((8, 5, 6), (1, 5, 6)),
        ((8, 5, 6, 1), (1, 5, 6)),
        ((8, 5, 6, 3), (3, 5, 6)),
        ((8, 3, 5, 6), (3, 5, 6)),
        ((8, 1, 5, 6), (1, 5, 6)),
    ],
)
def test_npz_layouts_become_channels_first(
    tmp_path: Path, stored: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, stored, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(8)[:, None] % 2)
    data = load_final_data(settings(tmp_path / "x.npz"), 0, unopened)
    assert data.shape == shape
    order = images if stored[1] in (1, 3) or len(stored) == 3 else images.transpose(0, 3, 1, 2)
    expected = {pixels.tobytes() for pixels in order}
    everything = torch.cat([data.train.images, data.test.images])
    assert {pixels.numpy().tobytes() for pixels in everything} == expected


def test_npz_floats_are_scaled_to_bytes(tmp_path: Path) -> None:
    images = np.broadcast_to(np.linspace(0, 1, 8)[:, None, None], (8, 2, 2))
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(["b", "a"] * 4))
    data = load_final_data(settings(tmp_path / "x.npz"), 0, unopened)
    assert data.classes == ("a", "b")
    assert sorted(greys(data.train) + greys(data.test)) == [0, 36, 73, 109, 146, 182, 219, 255]


def test_one_parquet_file_is_split_three_ways(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", numbered(60), [7, 5, 9] * 20)
    search = load_search_data(settings(file, test=0.25), 0)
    final = load_final_data(settings(file, test=0.25), 0, unopened)
    assert search.classes == ("5", "7", "9")
    assert len(final.test) == 15
    both = sorted(greys(search.train) + greys(search.valid))
    assert both == greys(final.train)
    assert sorted(both + greys(final.test)) == list(range(60))
    assert final.test.labels.tolist() == [[1, 0, 2][grey % 3] for grey in greys(final.test)]


def test_a_folder_of_parquet_shards_is_one_training_set(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000.parquet", numbered(20), [0, 1] * 10)
    write_parquet(tmp_path / "train-00001.parquet", numbered(20, 20), [0, 1] * 10)
    write_parquet(tmp_path / "test.parquet", numbered(6, 100), [1, 0] * 3)
    before = sorted(tmp_path.rglob("*"))
    final = load_final_data(settings(tmp_path), 0, unopened)
    assert greys(final.train) == list(range(40))
    assert greys(final.test) == list(range(100, 106))
    assert final.test.labels.tolist() == [1, 0] * 3
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet_columns_are_found_by_their_usual_names_or_by_setting(tmp_path: Path) -> None:
    pixels, labels = numbered(10), [0, 1] * 5
    usual = write_parquet(tmp_path / "a.parquet", pixels, labels, "image,fine_label")
    odd = write_parquet(tmp_path / "b.parquet", pixels, labels, "picture,kind")
    found = load_final_data(settings(usual), 0, unopened)
    named = load_final_data(settings(odd, image_column="picture", label_column="kind"), 0, unopened)
    assert torch.equal(found.train.images, named.train.images)
    assert torch.equal(found.train.labels, named.train.labels)


def test_class_names_come_from_the_parquet_files_own_features(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "ant", "dog"])}
    )
    rows = {"image": [Image.fromarray(p) for p in numbered(12)], "label": [0, 1, 2] * 4}
    table = datasets.Dataset.from_dict(rows, features=features)
    with io.BytesIO() as file:
        table.to_parquet(file)
        (tmp_path / "a.parquet").write_bytes(file.getvalue())
    data = load_final_data(settings(tmp_path / "a.parquet"), 0, unopened)
    assert data.classes == ("cat", "ant", "dog")
    assert data.train.labels.tolist() == [grey % 3 for grey in greys(data.train)]


def test_a_folder_a_class_names_the_classes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pics", {"dogs": numbered(5, 50), "cats": numbered(5)})
    (root / "cats" / "notes.txt").write_text("no image")
    data = load_final_data(settings(root), 0, unopened)
    assert data.classes == ("cats", "dogs")
    assert data.train.labels.tolist() == [int(grey >= 50) for grey in greys(data.train)]
    assert len(data.train) + len(data.test) == 10


def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"a": numbered(4), "b": numbered(4, 50)})
    write_folders(tmp_path / "test", {"a": numbered(2, 100), "b": numbered(2, 150)})
    data = load_final_data(settings(tmp_path), 0, unopened)
    assert greys(data.train) == [0, 1, 2, 3, 50, 51, 52, 53]
    assert greys(data.test) == [100, 101, 150, 151]


def test_the_hubs_train_split_is_read_without_opening_its_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `datasets` takes owner/name for a folder where there is one, and reads it as it reads the hub.
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    write_parquet(folder / "train.parquet", numbered(20), [0, 1] * 10, "image,label")
    write_parquet(folder / "test.parquet", numbered(4, 100), [1, 0] * 2, "image,label")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    final = load_final_data(DataSettings(source="hub:owner/name"), 0, unopened)
    assert greys(final.train) == list(range(20))
    assert greys(final.test) == list(range(100, 104))
    (folder / "test.parquet").write_bytes(b"PAR1 damaged")
    search = load_search_data(DataSettings(source="hub:owner/name"), 0)
    assert sorted(greys(search.train) + greys(search.valid)) == list(range(20))
    with pytest.raises(DataError, match=r"^a data set of the hub must .*owner/name.*give a path$"):
        load_final_data(DataSettings(source="hub:owner/name"), 0, unopened)


def test_one_coloured_image_makes_all_three_channels(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "train", {"a": numbered(4), "b": numbered(4, 50)})
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[..., 0] = 255
    (root / "b" / "last.png").write_bytes(png(colour))
    write_folders(tmp_path / "test", {"a": numbered(2, 100), "b": numbered(2, 150)})
    data = load_final_data(settings(tmp_path), 0, unopened)
    assert load_search_data(settings(tmp_path), 0).shape == data.shape == (3, 4, 4)
    assert data.train.images[-1, :, 0, 0].tolist() == [255, 0, 0]
    assert data.train.images[4, :, 0, 0].tolist() == [50, 50, 50]
    assert data.test.images[0, :, 0, 0].tolist() == [100, 100, 100]


def test_test_images_get_the_channels_of_the_training_images(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"a": numbered(4), "b": numbered(4, 50)})
    white = np.full((2, 4, 4, 3), 255, np.uint8)
    write_folders(tmp_path / "test", {"a": white, "b": white})
    data = load_final_data(settings(tmp_path), 0, unopened)
    assert data.shape == (1, 4, 4)
    assert greys(data.test) == [255] * 4


def test_images_are_resized_to_a_square_side(tmp_path: Path) -> None:
    halves = np.zeros((6, 9, 12), np.uint8)
    halves[:, :, 6:] = 200
    np.savez(tmp_path / "x.npz", images=halves, labels=[0, 1] * 3)
    data = load_search_data(settings(tmp_path / "x.npz", size=4), 0)
    assert data.shape == (1, 4, 4)
    assert (data.train.images[:, :, :, 0] < 20).all()
    assert (data.train.images[:, :, :, 3] > 180).all()


# --- splits -------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=6),
    st.floats(0, 1),
    st.integers(0, 2**63 - 1),
)
def test_stratified_draws_the_number_asked_and_each_class_by_its_share(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    low, high = len(counts), len(labels) - len(counts)
    take = low + round(share * (high - low))
    drawn, rest = stratified(labels, take, seed)
    assert len(drawn) == take
    assert sorted([*drawn, *rest]) == list(range(len(labels)))
    got = np.bincount(labels[drawn], minlength=len(counts))
    assert (got >= 1).all()
    assert (got <= np.array(counts) - 1).all()
    exact = np.array(counts) * take / len(labels)
    if (exact >= 1).all() and (exact <= np.array(counts) - 1).all():
        assert (np.abs(got - exact) < 1 + 1e-9).all()


def ids(data: ImageSet) -> set[bytes]:
    return {pixels.numpy().tobytes() for pixels in data.images}


def test_parts_are_disjoint_and_the_search_and_the_final_step_split_alike() -> None:
    chosen = DataSettings(validation=0.25, test=0.2)
    search = load_search_data(chosen, 3)
    final = load_final_data(chosen, 3, unopened)
    assert not ids(search.train) & ids(search.valid)
    assert not ids(final.train) & ids(final.test)
    assert ids(search.train) | ids(search.valid) == ids(final.train)
    assert len(search.train) + len(search.valid) == len(final.train)
    assert (len(final.test), len(search.valid)) == (359, round(0.25 * (1797 - 359)))


def test_every_part_has_each_class_by_its_share() -> None:
    search = load_search_data(DataSettings(validation=0.25), 3)
    final = load_final_data(DataSettings(validation=0.25), 3, unopened)
    whole = torch.cat([final.train.labels, final.test.labels]).bincount().double()
    for part in (search.train, search.valid, final.test):
        exact = whole * len(part) / whole.sum()
        assert (part.labels.bincount() - exact).abs().max() < 2


def test_the_same_seed_splits_alike_and_another_seed_otherwise() -> None:
    one, again, other = (load_search_data(DataSettings(train_limit=300), s) for s in (5, 5, 6))
    assert torch.equal(one.train.images, again.train.images)
    assert torch.equal(one.valid.images, again.valid.images)
    assert ids(one.train) != ids(other.train)
    assert ids(one.valid) != ids(other.valid)
    tests = [load_final_data(DataSettings(), s, unopened).test for s in (5, 5, 6)]
    assert torch.equal(tests[0].images, tests[1].images)
    assert ids(tests[0]) != ids(tests[2])


def test_the_seed_alone_draws_the_validation_images_beside_a_test_set(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "x.npz", test=9)
    drawn = [greys(load_search_data(settings(source), s).valid) for s in (5, 5, 6)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_limits_and_a_number_for_validation_are_kept_to() -> None:
    chosen = DataSettings(train_limit=200, test_limit=50, validation=40)
    search, final = load_search_data(chosen, 0), load_final_data(chosen, 0, unopened)
    assert (len(search.train), len(search.valid)) == (160, 40)
    assert (len(final.train), len(final.test)) == (200, 50)
    assert final.train.labels.bincount().tolist() == pytest.approx([20] * 10, abs=1)
    assert final.test.labels.bincount().tolist() == pytest.approx([5] * 10, abs=1)


def test_a_limit_above_what_there_is_takes_all() -> None:
    data = load_final_data(DataSettings(train_limit=9999, test_limit=9999), 0, unopened)
    assert len(data.train) + len(data.test) == 1797


# --- the test set -------------------------------------------------------------------------------


def spoil_npz(root: Path) -> Path:
    path = write_npz(root / "x.npz", test=9)
    data = bytearray(path.read_bytes())
    at = data.index(bytes([200] * 16))  # the first test image, stored without compression
    data[at : at + 16] = bytes(16)
    path.write_bytes(data)
    return path


def spoil_parquet(root: Path) -> Path:
    write_parquet(root / "train.parquet", numbered(30), [0, 1, 2] * 10)
    (root / "test.parquet").write_bytes(b"PAR1 damaged")
    return root


def spoil_folders(root: Path) -> Path:
    write_folders(root / "train", {"a": numbered(4), "b": numbered(4, 50)})
    write_folders(root / "test", {"a": numbered(2), "b": numbered(2)})
    (root / "test" / "b" / "001.png").write_bytes(b"damaged")
    return root


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_npz, r"an \.npz file must be readable, .*x\.npz is not"),
        (spoil_parquet, r"a parquet file must be readable; .*/test\.parquet is not"),
        (spoil_folders, r"an image must be readable; .*/test/b/001\.png is not"),
    ],
)
def test_a_damaged_test_set_is_no_obstacle_to_a_search_and_is_opened_only_after_saying_so(
    tmp_path: Path, spoil: Callable[[Path], Path], says: str
) -> None:
    source = spoil(tmp_path)
    assert len(load_search_data(settings(source), 0).valid) >= 2
    calls: list[str] = []
    with pytest.raises(DataError, match=says):
        load_final_data(settings(source), 0, lambda: calls.append("opened"))
    assert calls == ["opened"]


def test_a_damaged_test_image_of_one_file_is_not_read_by_a_search(tmp_path: Path) -> None:
    cells = numbered(30)
    path = write_parquet(tmp_path / "a.parquet", cells, [0, 1, 2] * 10)
    held = greys(load_final_data(settings(path), 0, unopened).test)
    images = [b"damaged" if i == held[0] else png(cells[i]) for i in range(30)]
    pq.write_table(pa.table({"img": images, "label": [0, 1, 2] * 10}), path)
    assert len(load_search_data(settings(path), 0).train) > 0
    with pytest.raises(DataError, match=rf"must be readable; row {held[0]} of .*/a\.parquet is"):
        load_final_data(settings(path), 0, unopened)


def test_opened_is_not_called_when_the_training_images_are_damaged(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"a": numbered(4), "b": numbered(4)})
    write_folders(tmp_path / "test", {"a": numbered(2), "b": numbered(2)})
    (tmp_path / "train" / "a" / "000.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"an image must be readable; .*/train/a/000\.png is not"):
        load_final_data(settings(tmp_path), 0, lambda: pytest.fail("the test set was opened"))


# --- CIFAR-10 -----------------------------------------------------------------------------------


@pytest.mark.data
def test_a_part_of_cifar10_is_loaded_at_half_its_size() -> None:
    if not (CIFAR10 / "train.parquet").is_file():
        pytest.skip(f"{CIFAR10}/train.parquet is not there")
    data = load_search_data(settings(CIFAR10, train_limit=500, size=16, validation=0.2), 0)
    assert data.shape == (3, 16, 16)
    assert data.classes == tuple("0123456789")
    assert data.train.labels.bincount().tolist() == [40] * 10
    assert data.valid.labels.bincount().tolist() == [10] * 10
    mean: Tensor = data.train.images.float().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.491, 0.482, 0.447], abs=0.03)  # CIFAR-10's own
