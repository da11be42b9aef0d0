"""Whole-batch arithmetic on images: whitening statistics, crops, flips (paper, 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STD_FLOOR = 1e-6
ZCA_EPSILON = 1e-2


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
    for part in flat.split(chunk):
        centred = part.double() / 255 - mean
        covariance += centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance / len(flat))
    scale = (values.clamp_min(0) + ZCA_EPSILON).rsqrt()
    return mean, (vectors * scale) @ vectors.T


def upsample(images: Tensor, side: int) -> Tensor:
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
    number = torch.arange(len(images), device=images.device)[:, None, None]
    rows = top[:, None, None] + torch.arange(height, device=images.device)[None, :, None]
    columns = left[:, None, None] + torch.arange(width, device=images.device)[None, None, :]
    return images[number, :, rows, columns].permute(0, 3, 1, 2)


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
