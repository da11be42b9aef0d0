"""A trained network in forms that need no Netwright; all take images in [0, 1], give logits."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netwright.children.plan import ChildSettings
from netwright.children.source import module_source
from netwright.data.images import load_search_data
from netwright.errors import MissingExtraError, NetwrightError
from netwright.network import DESCRIPTION, WEIGHTS, Network, load_network
from netwright.workspace import Workspace


def export_network(
    source: Path, target: Path, images: Tensor | None = None, onnx: bool = True
) -> dict[str, str]:
    """Write every form of the network in `source` to `target`; return a line on each.

    `weights.safetensors` and `network.json` (what Netwright loads), `network.py` (plain PyTorch
    that loads the weights), `network.pt2` (torch.export) and, with `onnx`, `network.onnx`.
    images: float [N, C, H, W] in [0, 1] on which each form is checked against torch; random ones
    where none are given. Raises `MissingExtraError` for ONNX without its packages, and
    `NetwrightError` for a form that differs by more than rounding.
    """
    if onnx:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "onnx", "the ONNX form")
    network = load_network(source)
    if images is None:
        images = torch.rand(8, *network.shape, generator=torch.Generator().manual_seed(0))
    target.mkdir(parents=True, exist_ok=True)
    if target.resolve() != source.resolve():
        for name in (WEIGHTS, DESCRIPTION):
            (target / name).write_bytes((source / name).read_bytes())
    with torch.no_grad():
        expected = network.module(images)
    lines = {
        "weights": f"{target / WEIGHTS} (with {DESCRIPTION})",
        "python": _source(network, images, expected, target / "network.py"),
        "torch.export": _torch_export(network, images, expected, target / "network.pt2"),
    }
    if onnx:
        lines["onnx"] = _onnx(network, images, expected, target / "network.onnx")
    return lines


def _checked(expected: Tensor, got: Tensor, path: Path) -> str:
    """Say how far `got` is from torch; raise where it is more than rounding."""
    largest = float((expected - got).abs().max())
    if not largest <= 1e-4 * max(1.0, float(expected.abs().max())):
        path.unlink()
        raise NetwrightError(
            f"an exported form must equal torch; {path.name} differs by {largest:g}; it was removed"
        )
    return f"{path} (equal to torch within {largest:.1e} on {len(expected)} images)"


def _source(network: Network, images: Tensor, expected: Tensor, path: Path) -> str:
    settings = ChildSettings(**network.description["child"])
    preprocess = network.description["preprocess"]
    text = module_source(network.plan, settings, network.classes, **preprocess)
    path.write_text(text)
    namespace: dict[str, Any] = {}
    exec(compile(text, str(path), "exec"), namespace)
    with torch.no_grad():
        got = namespace["load"](path.with_name(WEIGHTS))(images)
    return _checked(expected, got, path)


def _torch_export(network: Network, images: Tensor, expected: Tensor, path: Path) -> str:
    batch = {0: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network.module, (images,), dynamic_shapes=(batch,))
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    with torch.no_grad():
        return _checked(expected, loaded(images), path)


def _onnx(network: Network, images: Tensor, expected: Tensor, path: Path) -> str:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.module,
            (images,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(["logits"], {"images": images.numpy()})
    return _checked(expected, torch.from_numpy(got), path)


def find_images(folder: Path, n: int = 64) -> Tensor | None:
    """Return up to n validation images of the study in `folder`, None where it is none.

    Float [N, C, H, W] in [0, 1]; the test set is not opened.
    """
    place = Workspace(folder)
    if not place.exists():
        return None
    config = place.config()
    data = load_search_data(config.data, config.study.seed)
    return data.valid.images[:n].float() / 255
