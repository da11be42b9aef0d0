"""A trained network's folder: `weights.safetensors` and `network.json`.

Loading runs no code from the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from netwright.errors import ArchitectureError, UsageError
from netwright.tasks.results import Network
from netwright.writing import write_whole

WEIGHTS, DESCRIPTION = "weights.safetensors", "network.json"
EXPORTS = ("network.py", "network.pt2", "network.onnx")

# From what network.json holds, and its path for errors, to the network with weights not yet its own
Maker = Callable[[Mapping[str, Any], str], Network]


def write_network(folder: Path, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Write both files, each whole or not at all; `description` has the key "format".

    Exports of other weights are removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    weights = safetensors.torch.save(state)
    data = {**description, "weights": hashlib.sha256(weights).hexdigest()}
    if (folder / DESCRIPTION).exists() and noted(folder, "weights") != data["weights"]:
        for name in EXPORTS:
            (folder / name).unlink(missing_ok=True)
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / DESCRIPTION, json.dumps(data, indent=1) + "\n")


def noted(folder: Path, key: str) -> Any:
    """Return what the network's description in `folder` has under `key`, None where it has not."""
    try:
        data = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data.get(key) if isinstance(data, dict) else None


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


def read_network(folder: Path, formats: Mapping[str, Maker]) -> Network:
    """Read a network by the maker of its format, then its weights.

    A maker may raise whatever a bad description makes it raise. Raises `ArchitectureError` for
    files that are not what they say.
    """
    where = str(folder / DESCRIPTION)
    try:
        data = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        make = formats.get(str(data.get("format"))) if isinstance(data, dict) else None
        if make is None:
            raise ValueError(f"its format is not {' or '.join(formats)}")
        network = make(data, where)
    except _BAD as error:
        raise ArchitectureError(
            f"{where} must describe a network; it does not ({_reason(error)}); take the original, "
            f"or train it again"
        ) from error
    try:
        weights = (folder / WEIGHTS).read_bytes()
        if data.get("weights") not in (None, hashlib.sha256(weights).hexdigest()):
            raise ValueError("their SHA-256 is another")
        network.module.load_state_dict(safetensors.torch.load(weights))
    except _BAD as error:
        raise ArchitectureError(
            f"{folder / WEIGHTS} must hold the weights of {where}; it does not "
            f"({_reason(error)}); take both from one training"
        ) from error
    network.module.eval()
    return network


def visible(folder: Path) -> Iterator[Path]:
    """Yield what lies below a folder, hidden files and what is in hidden folders left out."""
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
