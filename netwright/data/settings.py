"""The settings of image data, and the images they lead to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from netwright.rules import Section

WHITENINGS = ("channel", "zca", "none")
MOST_PIXELS = 4096  # of a side


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, how they are split and what they go through.

    source: "digits" (scikit-learn's, offline), "hub:owner/name", or a path: a parquet file, a
        folder with train*.parquet and perhaps test*.parquet, a folder with one folder of images a
        class (or train/ and perhaps test/ of such), or an .npz with x_train, y_train and perhaps
        x_test, y_test, or images, labels.
    size: side in pixels, at most 4096, that images are resized to, square; 0 keeps them, then all
        must be equal.
    train_limit: at most this many training and validation images, stratified; 0 takes all.
    test_limit: the same for the test set.
    validation: in (0, 1) a share of the training images, from 1 on a number of images
        (the paper's is 5,000).
    test: in (0, 1), the share held out where the source has no test set.
    image_column, label_column: of parquet and the hub; "" finds the usual names.
    whiten: "channel" (mean and deviation of each channel), "zca" (0.01 added to the eigenvalues)
        or "none"; the paper says only "whitening".
    upsample: side in pixels that training images are enlarged to before a random crop back; 0 is
        off. pad: zeros in pixels around an image before the random crop; 0 is off; not both.
    flip: mirror training images left to right at even odds.

    Raises `ConfigError` for a value out of range.
    """

    source: str = "digits"
    size: int = 0
    train_limit: int = 0
    test_limit: int = 0
    validation: float = 0.1
    test: float = 0.2
    image_column: str = ""
    label_column: str = ""
    whiten: str = "channel"
    upsample: int = 0
    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        section = Section("data", self)
        if not self.source:
            section.refuse("source", "must name a data set")
        section.at_least(0, "train_limit", "test_limit")
        section.within(f"[0, {MOST_PIXELS}]", "size", "upsample", "pad")
        if not 0 < self.validation < 1 and not (self.validation >= 1 and self.validation % 1 == 0):
            section.refuse("validation", "must be a share in (0, 1) or a whole number of images")
        section.within("(0, 1)", "test")
        section.one_of("whiten", WHITENINGS)
        if self.upsample and self.pad:
            section.refuse("pad", f"must be 0 with data.upsample={self.upsample}")
        if self.size and self.pad >= self.size:
            section.refuse("pad", f"must be below data.size={self.size}")
        if self.size and self.upsample and self.upsample <= self.size:
            rule = f"must be 0 or more than data.size={self.size}"
            section.refuse("upsample", rule, self.size + max(1, self.size // 8))


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: uint8 [N, C, H, W], C of 1 or 3, and int64 [N] in 0..classes - 1."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """An image's (C, H, W)."""
        _, c, h, w = self.images.shape
        return c, h, w
