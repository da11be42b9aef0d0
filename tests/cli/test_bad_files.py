"""Bad architectures, networks and images: one line, exit code 2, nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netwright import cli
from netwright.space import Choice, SearchSpace
from netwright.spaces import load_architecture, save_architecture
from tests.cli.conftest import (
    Run,
    pictures,
    refused,
    tree,
)

# --- bad input: architectures -------------------------------------------------------------------


def written(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write v1's file with a change."""
    space, architecture = load_architecture("v1")
    save_architecture(path, space, architecture)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def changed(*keys: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


ARCHITECTURES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("format", changed("format", to="other/1"), "must have format"),
    ("no space", lambda data: data.pop("space"), "a space and values"),
    ("kind", changed("space", "kind", to="cell"), "kind of a space"),
    ("setting", changed("space", "settings", "depths", to=7), "must describe a space"),
    ("decisions", changed("space", to={"kind": "decisions", "decisions": 5}), "describe a space"),
    ("settings", changed("space", "settings", to=[1]), "must describe a space"),
    ("fingerprint", changed("fingerprint", to="0" * 16), "the fingerprint must be"),
    ("other space", changed("space", "settings", "filters", to=[24]), "the fingerprint must be"),
    ("option", changed("values", "layer1.height", to=4), "must be one of 1, 3, 5, 7; got 4"),
    ("type", changed("values", "layer1.height", to=[3]), "must be one of 1, 3, 5, 7; got [3]"),
    ("extra", changed("values", "layer99.height", to=3), "remove it"),
    ("missing", lambda data: data["values"].pop("layer3.width"), "must decide 'layer3.width'"),
    ("later input", changed("values", "layer2.inputs", to=["layer9"]), "may take layer1"),
    ("value", changed("values", "layer1.height", to=5), "the digest must be that of the values"),
    ("digest", changed("digest", to=5), "the digest must be that of the values"),
]


@pytest.mark.parametrize("command", ["show", "train"])
@pytest.mark.parametrize(
    ("change", "word"), [c[1:] for c in ARCHITECTURES], ids=[c[0] for c in ARCHITECTURES]
)
def test_a_bad_architecture_file_is_refused(
    command: str, change: Callable[[dict[str, Any]], object], word: str, run: Run, tmp_path: Path
) -> None:
    path = written(tmp_path / "bad.json", change)
    args = ["show", path] if command == "show" else ["train", "--architecture", path]
    before = tree(tmp_path)
    refused(run(*args, *(["--out", tmp_path / "out"] if command == "train" else [])), word)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, None]
)
def test_no_architecture_file_at_all(content: bytes | None, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    refused(run("show", path), "a.json")
    refused(run("train", "--architecture", path), "a.json")


def test_a_folder_is_no_architecture(run: Run, tmp_path: Path) -> None:
    refused(run("show", tmp_path), "must have a journal")
    refused(run("train", "--architecture", tmp_path), str(tmp_path))


def test_a_digest_holds_the_values_and_may_be_left_out(tmp_path: Path) -> None:
    space, architecture = load_architecture("v1")
    path = written(tmp_path / "by-hand.json", lambda data: data.pop("digest"))
    assert load_architecture(path)[1] == architecture
    shipped = Path(cli.__file__).parent / "architectures" / "v1.json"
    save_architecture(tmp_path / "v1.json", space, architecture)
    assert (tmp_path / "v1.json").read_text() == shipped.read_text()
    digest = json.loads(shipped.read_text())["digest"]
    text = f"{space.fingerprint}\n{architecture.to_json()}"
    assert digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_an_architecture_of_another_kind_of_space_is_shown_and_not_trained(
    run: Run, tmp_path: Path
) -> None:
    space = SearchSpace("mine", [Choice("x", (1, 2))])
    save_architecture(tmp_path / "x.json", space, space.architecture({"x": 1}))
    before = tree(tmp_path)
    code, out, _ = run("show", tmp_path / "x.json")
    assert (code, "1 decisions" in out) == (0, True)
    args = ("train", "--architecture", tmp_path / "x.json", "--config", "digits")
    refused(run(*args, "--out", tmp_path / "out"), "decisions space")
    assert tree(tmp_path) == before


def test_train_takes_one_of_study_and_architecture(study: Path, run: Run) -> None:
    before = tree(study)
    refused(run("train", study, "--architecture", "v1"), "one of them")
    refused(run("train"), "one of them")
    assert tree(study) == before


@pytest.mark.parametrize("config", ["cifar10-v1", "nope", "digits.toml"])
def test_training_a_file_without_data_writes_nothing(
    config: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("train", "--architecture", "v1", "--config", config))
    assert tree(tmp_path) == {}


# --- bad input: networks and images -------------------------------------------------------------


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def described(*keys: str, to: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / "network.json").read_text())
        changed(*keys, to=to)(data)
        (folder / "network.json").write_text(json.dumps(data))

    return change


def other_weights(folder: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    changed_ = {name: tensor + 1 for name, tensor in weights.items()}
    safetensors.torch.save_file(changed_, folder / "weights.safetensors")


def other_names(folder: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    renamed = {f"x.{name}": tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(renamed, folder / "weights.safetensors")
    described("weights", to=None)(folder)


NETWORKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "description cut": (lambda folder: cut(folder / "network.json"), "network.json"),
    "description gone": (lambda folder: (folder / "network.json").unlink(), "network.json"),
    "weights cut": (lambda folder: cut(folder / "weights.safetensors"), "weights.safetensors"),
    "weights gone": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors"),
    "weights empty": (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights"),
    "weights of another": (other_weights, "SHA-256"),
    "weights of other names": (other_names, "Missing key"),
    "format": (described("format", to="other/1"), "its format is not"),
    "child": (described("child", to={"widen": "x"}), "network.json"),
    "child key": (described("child", to={"wide": 1}), "network.json"),
    "image": (described("image", to=[1, 8]), "network.json"),
    "image size": (described("image", to=[-1, 8, 8]), "network.json"),
    "preprocess": (described("preprocess", to={"upsample": 4}), "network.json"),
    "whitening": (described("preprocess", "whiten", to="Channel"), "must be one of channel, zca"),
    "scale": (described("preprocess", "upsample", to=20.5), "preprocess.upsample must be"),
    "switch": (described("child", "batch_norm", to="false"), "child.batch_norm must be"),
    "classes": (described("classes", to=["a", "b"]), "weights"),
    "no classes": (described("classes", to=[]), "0 classes"),
    "architecture": (described("architecture", to={}), "network.json"),
    "value": (described("architecture", "values", "layer1.height", to=4), "network.json"),
}


@pytest.mark.parametrize("command", ["predict", "export"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_damaged_network_is_refused(
    command: str, name: str, network: Path, picture: Path, run: Run, tmp_path: Path
) -> None:
    damage, word = NETWORKS[name]
    damage(network)
    before = tree(tmp_path)
    more = [picture] if command == "predict" else ["--out", tmp_path / "out"]
    refused(run(command, network, *more), word)
    assert tree(tmp_path) == before


def test_a_network_of_before_digests_is_used(network: Path, picture: Path, run: Run) -> None:
    described("weights", to=None)(network)
    assert run("predict", network, picture)[0] == 0


def test_images_must_be_images(network: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    refused(run("predict", network, folder), "needs an image", str(folder))
    refused(run("predict", network, tmp_path / "none"), "found none")
    pictures(folder / "some", 3)
    (folder / "some" / "folder.png").mkdir()
    assert run("predict", network, folder)[0] == 0
    cut(folder / "some" / "1.png")
    refused(run("predict", network, folder), "some/1.png", "readable")
    (folder / "text.png").write_text("no image")
    refused(run("predict", network, folder / "text.png"), "text.png")


def test_what_training_refuses_is_not_guessed_at(network: Path, run: Run, tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    refused(run("predict", network, tmp_path / "deep.png"), "8 bits a channel", "deep.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tiff")
    refused(run("predict", network, tmp_path / "float.tiff"), "8 bits a channel", "float.tiff")


def test_a_name_that_is_no_text_is_named_all_the_same(
    network: Path, picture: Path, run: Run, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / os.fsdecode(b"caf\xe9.png")).write_bytes(picture.read_bytes())
    code, out, _ = run("predict", network, odd)
    assert code == 0
    assert "caf" in out
