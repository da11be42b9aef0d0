"""A trained network in forms that need no Netwright, each checked against torch."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netwright.errors import DataError, MissingExtraError, NetwrightError, StudyError
from netwright.network import load_network
from netwright.tasks.files import DESCRIPTION, EXPORTS, WEIGHTS, noted
from netwright.tasks.results import Network
from netwright.workspace import Workspace
from netwright.writing import write_whole

PYTHON, PROGRAM, ONNX = EXPORTS


def export_network(
    source: Path, target: Path, inputs: tuple[Tensor, ...] | None = None, onnx: bool = True
) -> dict[str, str]:
    """Write every form of the network in `source` to `target`; return a line on each.

    `weights.safetensors` and `network.json` (what Netwright loads), `network.py` (plain PyTorch
    that loads the weights), `network.pt2` (torch.export) and, with `onnx`, `network.onnx`. All are
    checked before the first is put there.
    inputs: what each form is checked on against torch (images: float [N, C, H, W] in [0, 1]);
    random ones where none are given. Raises `MissingExtraError` for ONNX without its packages,
    `StudyError` where `target` holds another network or a file that no export wrote, and
    `NetwrightError` for a form that differs by more than rounding.
    """
    missing = missing_for_onnx()
    if onnx and missing:
        raise MissingExtraError(missing, "onnx", "the ONNX form")
    network = load_network(source)
    text = network.source()
    _check_target(source, target, text)
    inputs = network.example_inputs() if inputs is None else inputs
    with torch.no_grad():
        sample = _Sample(network, inputs, _outputs(network.module(*inputs)))
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".export-") as folder:
        draft = Path(folder)
        (draft / PYTHON).write_text(text, encoding="utf-8", newline="\n")
        lines = {
            "weights": f"{target / WEIGHTS} (with {DESCRIPTION})",
            "python": f"{target / PYTHON} {_python(sample, draft / PYTHON, source / WEIGHTS)}",
            "torch.export": f"{target / PROGRAM} {_torch_export(sample, draft / PROGRAM)}",
        }
        if onnx:
            lines["onnx"] = f"{target / ONNX} {_onnx(sample, draft / ONNX)}"
        if target.resolve() != source.resolve():
            for name in (WEIGHTS, DESCRIPTION):
                write_whole(target / name, (source / name).read_bytes())
        for path in sorted(draft.iterdir()):
            write_whole(target / path.name, path.read_bytes())
    return lines


def missing_for_onnx() -> str:
    """Return the first package of the ONNX form that is missing, "" where none is."""
    packages = ("onnx", "onnxscript", "onnxruntime")
    return next((name for name in packages if importlib.util.find_spec(name) is None), "")


def _check_target(source: Path, target: Path, text: str) -> None:
    """Raise `StudyError` where an export would replace what is another's, or was changed."""
    weights = noted(target, "weights")
    own = target.resolve() == source.resolve() or (
        weights is not None and weights == noted(source, "weights")
    )
    for name in (WEIGHTS, DESCRIPTION, *EXPORTS):
        if not own and (target / name).exists():
            raise StudyError(
                f"a folder holds one network; {target} holds another one's {name}; use --out with "
                f"another folder"
            )
    python = target / PYTHON
    if python.exists() and python.read_bytes() != text.encode():
        raise StudyError(
            f"an export replaces no file that was changed; {python} is not what it would write; "
            f"move it away, or use --out with another folder"
        )


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

    def check(self, got: Tensor | Sequence[Tensor], form: str) -> str:
        """Say how far `got` is from torch; raise where it is more than rounding."""
        largest = 0.0
        for expected, other in zip(self.expected, _outputs(got), strict=True):
            off = float((expected - other).abs().max())
            if not off <= 1e-4 * max(1.0, float(expected.abs().max())):
                raise NetwrightError(
                    f"an exported form must equal torch; {form} differs by {off:g}; nothing was "
                    f"written"
                )
            largest = max(largest, off)
        on = f"{len(self.inputs[0])} {self.network.inputs[0]}"
        return f"(equal to torch within {largest:.1e} on {on})"


def _python(sample: _Sample, path: Path, weights: Path) -> str:
    namespace: dict[str, Any] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    with torch.no_grad():
        return sample.check(namespace["load"](weights)(*sample.inputs), path.name)


def _torch_export(sample: _Sample, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            sample.network.module, sample.inputs, dynamic_shapes=sample.shapes
        )
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    with torch.no_grad():
        return sample.check(loaded(*sample.inputs), path.name)


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
    return sample.check([torch.from_numpy(array) for array in got], path.name)


def find_inputs(study: str | Path, network: Path, n: int = 64) -> tuple[Tensor, ...] | None:
    """Return up to n inputs of the `network` from the validation data of the study at `study`.

    None where there is no study, its task gives none, its data cannot be read any more, or the
    network was trained for inputs of another shape; the test set is not opened.
    """
    place = Workspace(study)
    if not place.exists():
        return None
    try:
        found = place.config().example_inputs(n)
    except DataError:
        return None
    wanted = [tensor.shape[1:] for tensor in load_network(network).example_inputs()]
    fits = found is not None and [tensor.shape[1:] for tensor in found] == wanted
    return found if fits else None
