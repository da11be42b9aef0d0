"""Trained networks: saved, loaded and used.

A network's folder holds `weights.safetensors` and `network.json`; `netwright.exporting` adds forms
that need no Netwright. Loading runs no code from the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from netwright.children.conv import build
from netwright.children.plan import ChildSettings, Plan
from netwright.data.images import Preprocess
from netwright.data.sources import IMAGE_SUFFIXES
from netwright.data.transforms import open_image
from netwright.errors import ArchitectureError, DataError, StudyError, UsageError
from netwright.finishing import Finished
from netwright.space import Architecture, SearchSpace
from netwright.spaces import architecture_from_dict, architecture_to_dict

FORMAT = "netwright-network/1"
WEIGHTS, DESCRIPTION = "weights.safetensors", "network.json"


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


@dataclass(frozen=True)
class Network:
    """A trained network with what one needs to use it.

    module: in evaluation mode. shape: (channels, height, width) of an image. description: what
    `network.json` holds.
    """

    module: Classifier
    space: SearchSpace
    architecture: Architecture
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    description: Mapping[str, Any]

    @property
    def plan(self) -> Plan:
        """The plan it was built by."""
        plan = self.module.network.plan
        assert isinstance(plan, Plan)
        return plan


def save_network(folder: Path, finished: Finished) -> None:
    """Write `weights.safetensors` and `network.json`, each whole or not at all."""
    result = finished.result
    module = Classifier(result.preprocess.cpu(), result.model.cpu()).eval()
    description = {
        "format": FORMAT,
        "architecture": architecture_to_dict(finished.space, finished.architecture),
        "child": asdict(finished.child),
        "image": list(result.shape),
        "classes": list(result.classes),
        "preprocess": {
            "whiten": result.preprocess.whiten,
            "upsample": result.preprocess.upsample,
        },
        "result": dict(finished.record),
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    weights = safetensors.torch.save(state)
    description["weights"] = hashlib.sha256(weights).hexdigest()
    _replace(folder / WEIGHTS, weights)
    _replace(folder / DESCRIPTION, (json.dumps(description, indent=1) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)


def find_network(place: Path) -> Path:
    """Return the network's folder: `place`, or the one in a study's folder."""
    for folder in (place, place / "network"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise StudyError(
        f"a trained network must hold {DESCRIPTION}; there is none in {place}; run netwright train "
        f"{place} first"
    )


_BAD = (
    OSError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    UsageError,
)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"it has no {text}" if isinstance(error, KeyError) else text[:160]


def load_network(folder: str | Path) -> Network:
    """Read a network's folder; raises `ArchitectureError` for files that are not what they say."""
    folder = Path(folder)
    where = str(folder / DESCRIPTION)
    try:
        data = json.loads((folder / DESCRIPTION).read_text())
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        image = tuple(int(n) for n in data["image"])
        classes = tuple(str(name) for name in data["classes"])
        if len(classes) < 2 or len(image) != 3 or min(image) < 1:
            raise ValueError(f"image {list(image)} and {len(classes)} classes cannot be")
        child = ChildSettings(**data["child"])
        channels, height, width = image
        preprocess = Preprocess((channels, height, width), **data["preprocess"])
        space, architecture = architecture_from_dict(data["architecture"], where)
        shape = (channels, height, width)
        module = Classifier(preprocess, build(space, architecture, shape, len(classes), child))
    except _BAD as error:
        raise ArchitectureError(
            f"{where} must describe a network; it does not ({_reason(error)}); take the original, "
            f"or train it again"
        ) from error
    try:
        weights = (folder / WEIGHTS).read_bytes()
        if data.get("weights") not in (None, hashlib.sha256(weights).hexdigest()):
            raise ValueError("their SHA-256 is another")
        module.load_state_dict(safetensors.torch.load(weights))
    except _BAD as error:
        raise ArchitectureError(
            f"{folder / WEIGHTS} must hold the weights of {where}; it does not "
            f"({_reason(error)}); take both from one training"
        ) from error
    return Network(module.eval(), space, architecture, classes, shape, data)


# --- use ----------------------------------------------------------------------------------------


def predict(network: Network, place: Path) -> list[dict[str, Any]]:
    """Return for each image in `place` (a file, or a folder searched through) its class.

    Rows have image, class, probability. Images are converted to the network's channels and resized
    to its size. Raises `DataError` for an image that cannot be read, or where there is none.
    """
    rows = []
    for path in _images(place):
        with torch.no_grad():
            probabilities = network.module(read_image(path, network.shape)).softmax(1)[0]
        best = int(probabilities.argmax())
        rows.append(
            {
                "image": str(path),
                "class": network.classes[best],
                "probability": float(probabilities[best]),
            }
        )
    return rows


def _images(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = sorted(
        p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
    )
    if not found:
        raise DataError(
            f"predict needs an image or a folder with some ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"found none at {place}; check the path"
        )
    return found


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Return an image file as float [1, C, H, W] in [0, 1]; raises `DataError`."""
    channels, height, width = shape
    image = open_image(path, str(path)).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).view(height, width, channels)
    return pixels.permute(2, 0, 1).unsqueeze(0).float() / 255
