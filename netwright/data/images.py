"""Image data of a study: read, split by seed, whitened and augmented (paper, 4.1).

A search sees `load_search_data` only, which never reads a test image; `load_final_data` opens the
test set, once, and says so before it does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.data import transforms
from netwright.data.digest import digest_of
from netwright.data.settings import DataSettings, ImageSet
from netwright.data.sources import Rows, Source, open_source
from netwright.data.transforms import Preprocess, decode
from netwright.errors import DataError, out_of_range
from netwright.seeding import derive_seed

Indices = NDArray[np.int64]

__all__ = [
    "DataSettings",
    "FinalData",
    "ImageSet",
    "Pipeline",
    "Preprocess",
    "SearchData",
    "load_final_data",
    "load_search_data",
]


@dataclass(frozen=True)
class SearchData:
    """What a search may see: no test image. classes: names by label."""

    train: ImageSet
    valid: ImageSet
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """An image's (C, H, W)."""
        return self.train.shape

    def digest(self) -> str:
        """Return 16 hexadecimal digits that no other images, labels or split have."""
        train, valid = self.train, self.valid
        return digest_of(train.labels, valid.labels, train.images, valid.images)


@dataclass(frozen=True)
class FinalData:
    """Training and validation images together, and the test images. classes: names by label."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """An image's (C, H, W)."""
        return self.train.shape


# --- splits -------------------------------------------------------------------------------------


def stratified(
    labels: Indices, take: int, seed: int, *, least: int = 1, keep: int = 1
) -> tuple[Indices, Indices]:
    """Draw `take` of the rows, each class by its share, and return (drawn, the rest), sorted.

    labels: int64 [N] in 0..K-1. From each class at least `least` rows are drawn and `keep` left,
    or as many as it has; `take` must allow that. Rounding goes to the classes that it takes most
    from, so the counts are within one of the exact shares wherever those bounds leave room.
    """
    counts = np.bincount(labels)
    low = np.minimum(counts, least)
    high = np.maximum(counts - keep, low)
    if not low.sum() <= take <= high.sum():
        raise ValueError(f"take must be in [{low.sum()}, {high.sum()}]; got {take}")
    exact = counts * (take / len(labels))
    quota = np.clip(np.floor(exact).astype(np.int64), low, high)
    while (short := take - int(quota.sum())) != 0:
        step = 1 if short > 0 else -1
        free = quota < high if short > 0 else quota > low
        quota[np.argmax(np.where(free, (exact - quota) * step, -np.inf))] += step
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(labels), dtype=bool)
    for label, number in enumerate(quota):
        drawn[generator.permutation(np.flatnonzero(labels == label))[:number]] = True
    return np.flatnonzero(drawn), np.flatnonzero(~drawn)


@dataclass(frozen=True)
class _Chosen:
    """An open source and which of its rows are used; `held` are test rows split off from it."""

    source: Source
    labels: Indices
    values: dict[object, int]
    classes: tuple[str, ...]
    used: Indices
    held: Indices | None

    def read(self, index: Indices, size: int) -> ImageSet:
        return ImageSet(
            decode(self.source.train.pictures(index), size), torch.from_numpy(self.labels[index])
        )


def _choose(settings: DataSettings, seed: int) -> _Chosen:
    source = open_source(settings.source, settings.image_column, settings.label_column)
    rows = source.train
    values, labels, classes = _classes(rows)
    counts = np.bincount(labels)
    least = 3 if source.test is None else 2
    if counts.min() < least:
        name = classes[int(counts.argmin())]
        parts = (
            "training, validation and test" if source.test is None else "training and validation"
        )
        raise DataError(
            f"a class must have at least {least} images, one each for {parts}; got {counts.min()} "
            f"of {name} in {rows.where}; add images or take the class out"
        )
    used, held = np.arange(len(labels)), None
    if source.test is None:
        take = max(len(classes), round(settings.test * len(labels)))
        _check(
            "test", settings.test, take, len(labels) - 2 * len(classes), len(classes), rows.where
        )
        held, used = stratified(labels, take, derive_seed(seed, 0, "test split"), keep=2)
    if settings.train_limit and settings.train_limit < len(used):
        limit, low = settings.train_limit, 2 * len(classes)
        _check("train_limit", limit, limit, len(used), low, rows.where)
        part, _ = stratified(
            labels[used], limit, derive_seed(seed, 0, "train limit"), least=2, keep=0
        )
        used = used[part]
    return _Chosen(source, labels, values, classes, used, held)


def _classes(rows: Rows) -> tuple[dict[object, int], Indices, tuple[str, ...]]:
    """Return {label in the file: 0..K-1}, the latter for every row, and the classes' names."""
    if len(rows.labels) == 0:
        raise DataError(f"image data must have images; got none in {rows.where}; add some")
    found, labels = np.unique(rows.labels, return_inverse=True)
    raw = found.tolist()
    if rows.names is not None and not 0 <= raw[0] <= raw[-1] < len(rows.names):
        wrong = raw[0] if raw[0] < 0 else raw[-1]
        raise DataError(
            f"labels must be in 0..{len(rows.names) - 1}, the named classes; got {wrong} in "
            f"{rows.where}; take out the rows without a class"
        )
    classes = tuple(rows.names[value] if rows.names else str(value) for value in raw)
    if len(classes) < 2:
        raise DataError(
            f"image data must have at least 2 classes; got 1 ({classes[0]}) in {rows.where}; "
            f"add images of another class"
        )
    return {value: i for i, value in enumerate(raw)}, labels.astype(np.int64), classes


def _check(name: str, value: float, take: int, most: int, least: int, where: str) -> None:
    if not least <= take <= most:
        raise DataError(
            f"data.{name} must leave every part enough images of each class, that is take {least} "
            f"to {most} of those in {where}; got {value:g}, which takes {take}; "
            f"{'lower' if take > most else 'raise'} it with --set data.{name}=..."
        )


def load_search_data(settings: DataSettings, seed: int) -> SearchData:
    """Return training and validation images, without reading a test image.

    A test file, folder or split of the source is not opened at all; where it has none, the test
    share is split off by label and its images are not decoded. Splits are stratified, depend on
    `seed` alone, and are the ones `load_final_data` makes. Raises `DataError`.
    """
    chosen = _choose(settings, seed)
    labels, count = chosen.labels[chosen.used], len(chosen.classes)
    if settings.validation < 1:
        take = max(count, round(settings.validation * len(labels)))
    else:
        take = int(settings.validation)
    where = chosen.source.train.where
    _check("validation", settings.validation, take, len(labels) - count, count, where)
    valid, train = stratified(labels, take, derive_seed(seed, 0, "validation split"))
    # One pass over both, so that one grey part and one coloured part get the same channels.
    both = chosen.read(chosen.used, settings.size)
    side = min(both.shape[1:])
    if settings.pad >= side:
        rule = f"must be below the {side} pixels that images of {where} have on a side"
        raise DataError(out_of_range("data.pad", rule, settings.pad, 0))
    sets = [ImageSet(both.images[index], both.labels[index]) for index in (train, valid)]
    return SearchData(sets[0], sets[1], chosen.classes)


def load_final_data(settings: DataSettings, seed: int, opened: Callable[[], None]) -> FinalData:
    """Return training and validation images together, and the test images.

    `opened` is called once, after the training images are read and before the test set is opened.
    Raises `DataError`.
    """
    chosen = _choose(settings, seed)
    train = chosen.read(chosen.used, settings.size)
    opened()
    if chosen.source.test is None:
        rows, labels = chosen.source.train, chosen.labels
        index: Indices = chosen.held if chosen.held is not None else np.arange(0)
    else:
        rows = chosen.source.test()
        labels = _test_labels(rows, chosen)
        index = np.arange(len(labels))
    if settings.test_limit and settings.test_limit < len(index):
        limit_seed = derive_seed(seed, 0, "test limit")
        part, _ = stratified(labels[index], settings.test_limit, limit_seed, least=0, keep=0)
        index = index[part]
    try:
        images = decode(rows.pictures(index), settings.size, like=train.shape)
    except DataError as error:
        if chosen.held is None:
            raise
        raise DataError(
            f"{error}; a search that has this as a test image goes on only with one in its place"
        ) from error
    return FinalData(train, ImageSet(images, torch.from_numpy(labels[index])), chosen.classes)


def _test_labels(rows: Rows, chosen: _Chosen) -> Indices:
    if len(rows.labels) == 0:
        raise DataError(f"a test set must have images; got none in {rows.where}; add some")
    if rows.names and chosen.source.train.names and rows.names != chosen.source.train.names:
        raise DataError(
            f"the test set must name the classes as the training set does; got "
            f"{', '.join(rows.names)} in {rows.where}; write both with the same classes"
        )
    labels = [chosen.values.get(value, -1) for value in rows.labels.tolist()]
    if -1 in labels:
        raise DataError(
            f"a test label must be one of the training set's; got "
            f"{rows.labels[labels.index(-1)]} in {rows.where}; the classes are "
            f"{', '.join(chosen.classes)}"
        )
    return np.array(labels, dtype=np.int64)


# --- batches ------------------------------------------------------------------------------------


class Pipeline:
    """The whitened images of one set, held once on `device`, and batches of them.

    `preprocess` is left where it is. Images are float32, labels int64.
    """

    def __init__(
        self, data: ImageSet, preprocess: Preprocess, settings: DataSettings, device: str = "cpu"
    ) -> None:
        self.settings = settings
        self.preprocess = copy.deepcopy(preprocess).to(device)
        self.labels = data.labels.to(device)
        self._framed: Tensor | None = None
        # Channels last is what `train` wants, and enlarging is three times quicker in it.
        self.images = torch.empty(
            data.images.shape,
            dtype=torch.float32,
            device=device,
            memory_format=torch.channels_last,
        )
        with torch.no_grad():
            for start in range(0, len(data), 1024):
                part = data.images[start : start + 1024].to(device).float() / 255
                self.images[start : start + 1024] = self.preprocess.whitened(part)

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(
        self, batch: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images [B, C, H, W], labels [B]), shuffled and augmented, for one epoch.

        `generator`, a CPU one, decides all. The last batch may be short; one image left over is
        dropped, for batch normalisation cannot train on it.
        """
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch):
            index = order[start : start + batch].to(self.images.device)
            if len(index) == 1 < batch:
                continue
            yield self._augmented(self.images[index], generator), self.labels[index]

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        if self.settings.upsample:
            images = transforms.enlarge(images, self.settings.upsample)
        elif self.settings.pad:
            images = transforms.pad_zero(images, self.settings.pad)
        if self.settings.upsample or self.settings.pad:
            images = transforms.random_crop(images, height, width, generator)
        return transforms.random_flip(images, generator) if self.settings.flip else images

    def eval_batches(self, batch: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) in order, as `Preprocess` gives them, without augmentation.

        With `upsample` they are framed once, not again in each epoch.
        """
        if self._framed is None:
            self._framed = self.images
            if self.settings.upsample:
                parts = torch.split(self.images, batch)
                self._framed = torch.cat([self.preprocess.framed(part) for part in parts])
        for start in range(0, len(self), batch):
            part = slice(start, start + batch)
            yield self._framed[part], self.labels[part]
