"""What images go through: decoding, whitening, crops and flips (paper, 4.1)."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from netwright.data.settings import WHITENINGS, DataSettings, ImageSet
from netwright.errors import DataError

Pictures = Iterator[tuple[str, Image.Image]]

STD_FLOOR = 1e-6
ZCA_EPSILON = 1e-2
ZCA_LARGEST = 3 * 64 * 64  # numbers of an image; their covariance alone takes 1.1 GiB
_IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


# --- decoding -----------------------------------------------------------------------------------


def decode(pictures: Pictures, size: int, like: tuple[int, int, int] | None = None) -> Tensor:
    """Return `pictures` as uint8 [N, C, H, W].

    size: the side that every image is resized to (bilinear with antialiasing); 0 keeps it. C is 1
    when every image is grey, else 3. like: a (C, H, W) to hold to instead. Raises `DataError` for
    an image that cannot be read or that differs in size.
    """
    pixels: list[NDArray[np.uint8]] = []
    wanted = like[1:] if like else None
    for place, image in pictures:
        picture = pixels_of(image, place, like[0] if like else 0, (size, size) if size else None)
        wanted = wanted or (picture.shape[0], picture.shape[1])
        if picture.shape[:2] != wanted:
            raise DataError(
                f"images must be equal in size; got {picture.shape[0]}x{picture.shape[1]} and "
                f"{wanted[0]}x{wanted[1]} pixels in {place}; "
                f"use --set data.size={min(wanted)} to resize them"
            )
        pixels.append(picture)
    if any(picture.ndim == 3 for picture in pixels):
        pixels = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pixels]
    images = torch.from_numpy(np.stack(pixels))
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def pixels_of(
    image: Image.Image, place: str, channels: int = 0, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return [H, W] of a grey image and [H, W, 3] of a colour one; channels 1 or 3 forces it.

    size: the (H, W) that it is resized to, bilinear with antialiasing; None keeps it. Raises
    `DataError`, which names `place`, for more than 8 bits a channel.
    """
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise DataError(
                f"an image must have 8 bits a channel; got mode {image.mode!r} in {place}; "
                f"convert it to 8 bits"
            )
        if image.mode == "P":
            image = image.convert("RGBA")
        grey = image.mode in ("L", "LA", "1")
        mode = {0: "L" if grey else "RGB", 1: "L", 3: "RGB"}[channels]
        if image.mode != mode:
            image = image.convert(mode)
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(image)
    except _IMAGE_ERRORS as error:
        raise _unreadable(place, error) from error


def open_image(file: Path | io.BytesIO, place: str) -> Image.Image:
    """Read an encoded image; `place` is named in the `DataError` for one that cannot be."""
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except _IMAGE_ERRORS as error:
        raise _unreadable(place, error) from error


def _unreadable(place: str, error: Exception) -> DataError:
    return DataError(
        f"an image must be readable; {place} is not ({error_line(error)}); "
        f"replace it or take it out"
    )


def error_line(error: BaseException) -> str:
    """Return an exception's cause, or itself, in one line."""
    text = " ".join(str(error.__cause__ or error).split())
    return text[:200] or type(error).__name__


# --- whitening ----------------------------------------------------------------------------------


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each channel, float64 [C], of x / 255.

    images: uint8 [N, C, H, W]. Exact, from counts of the 256 values; the deviation is at least
    1e-6.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        share = counts / counts.sum()
        mean = (share * levels).sum()
        means.append(mean)
        deviations.append((share * (levels - mean) ** 2).sum().sqrt())
    return torch.stack(means), torch.stack(deviations).clamp_min(STD_FLOOR)


def zca_statistics(images: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Return the mean [D] and the ZCA matrix [D, D] of x / 255, float64, D = C * H * W.

    images: uint8 [N, C, H, W]. The matrix is U (L + 0.01)^(-1/2) U', where U L U' is the
    covariance of flattened images; it is symmetric, so whitened = (x - mean) @ matrix.
    """
    flat = images.flatten(1)
    size = flat.shape[1]
    mean = flat.sum(0, dtype=torch.float64) / (255 * len(flat))
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, len(flat), chunk):
        centred = flat[start : start + chunk].double() / 255 - mean
        covariance += centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance / len(flat))
    scale = (values.clamp_min(0) + ZCA_EPSILON).rsqrt()
    return mean, (vectors * scale) @ vectors.T


class Preprocess(nn.Module):
    """What a network's input goes through: whitening and, with `upsample`, the training scale.

    shape: an image's (C, H, W). whiten, upsample: as in `DataSettings`. A new one whitens with
    mean 0 and deviation 1; `fit` or `load_state_dict` fills it. Raises `DataError` for a whitening
    that there is none of, and for a shape that `upsample` does not suit or is too large for "zca".
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, shape: tuple[int, int, int], whiten: str = "channel", upsample: int = 0
    ) -> None:
        super().__init__()
        c, h, w = shape
        if whiten not in WHITENINGS:
            raise DataError(
                f"data.whiten must be one of {', '.join(WHITENINGS)}; got {whiten!r}; use "
                f"--set data.whiten=channel"
            )
        if upsample and (h != w or upsample <= h):
            raise DataError(
                f"data.upsample must exceed the side of square images; got {upsample} for "
                f"{h}x{w} pixels; use --set data.upsample={max(h, w) + max(1, max(h, w) // 8)} "
                f"--set data.size={max(h, w)}"
            )
        self.shape, self.whiten, self.upsample = shape, whiten, upsample
        flat = c * h * w
        if whiten == "zca" and flat > ZCA_LARGEST:
            raise DataError(
                f"data.whiten=zca must have images of {ZCA_LARGEST} numbers or fewer; got {flat}, "
                f"{c} x {h} x {w}; use --set data.whiten=channel or --set "
                f"data.size={math.isqrt(ZCA_LARGEST // c)}"
            )
        self.register_buffer("mean", torch.zeros(flat if whiten == "zca" else (c, 1, 1)))
        self.register_buffer("scale", torch.eye(flat) if whiten == "zca" else torch.ones(c, 1, 1))

    @classmethod
    def fit(cls, train: ImageSet, settings: DataSettings) -> Preprocess:
        """Return the preprocessing with the statistics of `train`, and of nothing else."""
        result = cls(train.shape, settings.whiten, settings.upsample)
        if settings.whiten == "channel":
            mean, deviation = channel_statistics(train.images)
            result.mean.copy_(mean[:, None, None])
            result.scale.copy_(deviation[:, None, None])
        elif settings.whiten == "zca":
            mean, matrix = zca_statistics(train.images)
            result.mean.copy_(mean)
            result.scale.copy_(matrix)
        return result

    def whitened(self, images: Tensor) -> Tensor:
        """Whiten float images [N, C, H, W] in [0, 1]; the shape stays."""
        if self.whiten == "zca":
            flat = (images.flatten(1) - self.mean) @ self.scale
            return flat.reshape(-1, *self.shape)
        return (images - self.mean) / self.scale if self.whiten == "channel" else images

    def framed(self, images: Tensor) -> Tensor:
        """Enlarge whitened images to `upsample` and cut the centre out; without it, do nothing."""
        if not self.upsample:
            return images
        enlarged = enlarge(images, self.upsample)
        return centre_crop(enlarged, self.shape[1], self.shape[2])

    def forward(self, images: Tensor) -> Tensor:
        """Return network input, float [N, C, H, W], of float images in [0, 1] of that shape."""
        return self.framed(self.whitened(images))


# --- augmentation -------------------------------------------------------------------------------


def enlarge(images: Tensor, side: int) -> Tensor:
    """Return float images [N, C, side, side], bilinear."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def centre_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Return the middle [N, C, height, width]; of an odd margin the smaller half is above/left."""
    top = (images.shape[2] - height) // 2
    left = (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def crop(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Return from each image its own window, [N, C, height, width].

    top, left: int64 [N], the window's first row and column in each image; it must lie inside.
    """
    windows = images.unfold(2, height, 1).unfold(3, width, 1)  # a view [N, C, tops, lefts, h, w]
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_crop(images: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return a window of each image, each place equally likely; `generator` is a CPU one."""
    count = (len(images),)
    top = torch.randint(images.shape[2] - height + 1, count, generator=generator)
    left = torch.randint(images.shape[3] - width + 1, count, generator=generator)
    return crop(images, top.to(images.device), left.to(images.device), height, width)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image as it is or mirrored left to right, even odds; `generator` is a CPU one."""
    mirrored = torch.randint(2, (len(images), 1, 1, 1), generator=generator).bool()
    return torch.where(mirrored.to(images.device), images.flip(3), images)


def pad_zero(images: Tensor, margin: int) -> Tensor:
    """Return images with `margin` zeros on every side, [N, C, H + 2m, W + 2m]."""
    return F.pad(images, (margin, margin, margin, margin))
