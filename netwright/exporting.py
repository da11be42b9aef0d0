"""A trained network in forms that need no Netwright, each checked against torch."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netwright.errors import MissingExtraError, NetwrightError, StudyError
from netwright.network import load_network
from netwright.tasks.files import DESCRIPTION, WEIGHTS, noted
from netwright.tasks.results import Network
from netwright.workspace import Workspace


def export_network(
    source: Path, target: Path, inputs: tuple[Tensor, ...] | None = None, onnx: bool = True
) -> dict[str, str]:
    """Write every form of the network in `source` to `target`; return a line on each.

    `weights.safetensors` and `network.json` (what Netwright loads), `network.py` (plain PyTorch
    that loads the weights), `network.pt2` (torch.export) and, with `onnx`, `network.onnx`.
    inputs: what each form is checked on against torch (images: float [N, C, H, W] in [0, 1]);
    random ones where none are given. Raises `MissingExtraError` for ONNX without its packages,
    `StudyError` where `target` holds another network, and `NetwrightError` for a form that differs
    by more than rounding.
    """
    if onnx:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "onnx", "the ONNX form")
    network = load_network(source)
    there = [name for name in (WEIGHTS, DESCRIPTION) if (target / name).exists()]
    if there and noted(target, "weights") != noted(source, "weights"):
        raise StudyError(
            f"a folder holds one network; {target} holds another one's {there[0]}; use --out with "
            f"another folder"
        )
    inputs = network.example_inputs() if inputs is None else inputs
    target.mkdir(parents=True, exist_ok=True)
    if target.resolve() != source.resolve():
        for name in (WEIGHTS, DESCRIPTION):
            (target / name).write_bytes((source / name).read_bytes())
    with torch.no_grad():
        sample = _Sample(network, inputs, _outputs(network.module(*inputs)))
    lines = {
        "weights": f"{target / WEIGHTS} (with {DESCRIPTION})",
        "python": _source(sample, target / "network.py"),
        "torch.export": _torch_export(sample, target / "network.pt2"),
    }
    if onnx:
        lines["onnx"] = _onnx(sample, target / "network.onnx")
    return lines


def _outputs(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


@dataclass(frozen=True)
class _Sample:
    """A network with inputs, and its outputs for them."""

    network: Network
    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]

    @property
    def shapes(self) -> tuple[dict[int, Any], ...]:
        """Say that the first dimension of every input is free."""
        return tuple({0: torch.export.Dim.DYNAMIC} for _ in self.inputs)

    def check(self, got: Tensor | Sequence[Tensor], path: Path) -> str:
        """Say how far `got` is from torch; raise where it is more than rounding."""
        largest = 0.0
        for expected, other in zip(self.expected, _outputs(got), strict=True):
            off = float((expected - other).abs().max())
            if not off <= 1e-4 * max(1.0, float(expected.abs().max())):
                path.unlink()
                raise NetwrightError(
                    f"an exported form must equal torch; {path.name} differs by {off:g}; it was "
                    f"removed"
                )
            largest = max(largest, off)
        on = f"{len(self.inputs[0])} {self.network.inputs[0]}"
        return f"{path} (equal to torch within {largest:.1e} on {on})"


def _source(sample: _Sample, path: Path) -> str:
    text = sample.network.source()
    path.write_text(text)
    namespace: dict[str, Any] = {}
    exec(compile(text, str(path), "exec"), namespace)
    with torch.no_grad():
        return sample.check(namespace["load"](path.with_name(WEIGHTS))(*sample.inputs), path)


def _torch_export(sample: _Sample, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            sample.network.module, sample.inputs, dynamic_shapes=sample.shapes
        )
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    with torch.no_grad():
        return sample.check(loaded(*sample.inputs), path)


def _onnx(sample: _Sample, path: Path) -> str:
    import onnxruntime

    names = sample.network.inputs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            sample.network.module,
            sample.inputs,
            path,
            input_names=list(names),
            output_names=list(sample.network.outputs),
            dynamic_shapes=sample.shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = [tensor.numpy() for tensor in sample.inputs]
    got = session.run(list(sample.network.outputs), dict(zip(names, arrays, strict=True)))
    return sample.check([torch.from_numpy(array) for array in got], path)


def find_inputs(folder: Path, n: int = 64) -> tuple[Tensor, ...] | None:
    """Return up to n inputs from the validation data of the study in `folder`.

    None where there is no study, or its task gives none; the test set is not opened.
    """
    place = Workspace(folder)
    return place.config().example_inputs(n) if place.exists() else None
