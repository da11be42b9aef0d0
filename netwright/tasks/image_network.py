"""Trained image classifiers: saved, loaded and used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from netwright.children.conv import build
from netwright.children.plan import ChildSettings, Plan
from netwright.children.source import module_source
from netwright.data.images import Preprocess
from netwright.data.sources import IMAGE_SUFFIXES
from netwright.data.transforms import open_image, pixels_of
from netwright.errors import DataError
from netwright.evaluators.image import FinalResult
from netwright.spaces import architecture_from_dict, architecture_to_dict
from netwright.tasks.files import visible, write_network
from netwright.tasks.results import Finished, Network
from netwright.toml import build as build_section

FORMAT = "netwright-network/1"


class Classifier(nn.Module):
    """Preprocessing and network in one: images in [0, 1] -> logits."""

    def __init__(self, preprocess: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """`images` float [N, C, H, W] in [0, 1] -> logits [N, classes]."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits


@dataclass(frozen=True, kw_only=True)
class FinishedClassifier(Finished):
    """A classifier as its final training left it."""

    child: ChildSettings
    result: FinalResult

    def save(self, folder: Path) -> None:
        """Write it to `folder`."""
        result = self.result
        module = Classifier(result.preprocess.cpu(), result.model.cpu()).eval()
        description = {
            "format": FORMAT,
            "architecture": architecture_to_dict(self.space, self.architecture),
            "child": asdict(self.child),
            "image": list(result.shape),
            "classes": list(result.classes),
            "preprocess": {
                "whiten": result.preprocess.whiten,
                "upsample": result.preprocess.upsample,
            },
            "training": self.training,
            "result": dict(self.record),
        }
        write_network(folder, module, description)


@dataclass(frozen=True, kw_only=True)
class ImageNetwork(Network):
    """A trained classifier. shape: (channels, height, width) of an image."""

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    module: Classifier
    classes: tuple[str, ...]
    shape: tuple[int, int, int]

    @property
    def plan(self) -> Plan:
        """The plan it was built by."""
        plan = self.module.network.plan
        assert isinstance(plan, Plan)
        return plan

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return 8 random images, float [N, C, H, W] in [0, 1]."""
        return (torch.rand(8, *self.shape, generator=torch.Generator().manual_seed(0)),)

    def source(self) -> str:
        """Return the network as plain PyTorch text."""
        child = ChildSettings(**self.description["child"])
        return module_source(self.plan, child, self.classes, **self.description["preprocess"])

    def predict(self, place: Path) -> list[dict[str, Any]]:
        """Return for each image in `place` (a file, or a folder searched through) its class.

        Rows have image, class, probability. Images are converted to the network's channels and
        resized to its size. Raises `DataError` for an image that cannot be read, or where there is
        none.
        """
        rows = []
        for path in _images(place):
            with torch.no_grad():
                probabilities = self.module(read_image(path, self.shape)).softmax(1)[0]
            best = int(probabilities.argmax())
            rows.append(
                {
                    "image": str(path),
                    "class": self.classes[best],
                    "probability": float(probabilities[best]),
                }
            )
        return rows

    def say(self, row: Mapping[str, Any]) -> str:
        """Return class, probability and image in a line."""
        return f"{row['class']:<16} {row['probability']:.3f}  {row['image']}"


@dataclass(frozen=True)
class _Framing:
    """What `network.json` holds of `Preprocess`."""

    whiten: str = "channel"
    upsample: int = 0


def make_network(data: Mapping[str, Any], where: str) -> ImageNetwork:
    """Return the network that `network.json` describes, without its weights."""
    image = tuple(int(n) for n in data["image"])
    classes = tuple(str(name) for name in data["classes"])
    if len(classes) < 2 or len(image) != 3 or min(image) < 1:
        raise ValueError(f"image {list(image)} and {len(classes)} classes cannot be")
    child = build_section(ChildSettings, data["child"], where, "child")
    framing = build_section(_Framing, data["preprocess"], where, "preprocess")
    channels, height, width = image
    shape = (channels, height, width)
    preprocess = Preprocess(shape, framing.whiten, framing.upsample)
    space, architecture = architecture_from_dict(data["architecture"], where)
    return ImageNetwork(
        module=Classifier(preprocess, build(space, architecture, shape, len(classes), child)),
        space=space,
        architecture=architecture,
        description=data,
        classes=classes,
        shape=shape,
    )


def _images(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = sorted(p for p in visible(place) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise DataError(
            f"predict needs an image or a folder with some ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"found none at {place}; check the path"
        )
    return found


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Return an image file as float [1, C, H, W] in [0, 1]; raises `DataError`."""
    channels, height, width = shape
    image = open_image(path, str(path))
    pixels = np.array(pixels_of(image, str(path), 1 if channels == 1 else 3, (height, width)))
    whole = torch.from_numpy(pixels).view(height, width, channels)
    return whole.permute(2, 0, 1).unsqueeze(0).float() / 255
