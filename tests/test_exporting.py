"""Networks on disk: every form equals the network in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netwright import exporting
from netwright.children.conv import build
from netwright.children.plan import ChildSettings
from netwright.children.source import module_source
from netwright.config import load_config
from netwright.data.images import DataSettings, ImageSet, Preprocess
from netwright.errors import NetwrightError
from netwright.evaluators.image import FinalResult
from netwright.exporting import export_network, find_inputs
from netwright.network import load_network
from netwright.space import Architecture, SearchSpace
from netwright.tasks.image_network import (
    Classifier,
    FinishedClassifier,
    ImageNetwork,
    read_image,
)
from netwright.workspace import Workspace
from tests.strategies import CONV_SPACES, conv_architectures


def _finished(
    space: SearchSpace,
    architecture: Architecture,
    image: tuple[int, int, int] = (3, 9, 9),
    child: ChildSettings | None = None,
    **data: object,
) -> FinishedClassifier:
    """Return a network as training leaves it: its statistics are not the start's."""
    torch.manual_seed(1)
    child = child or ChildSettings()
    pixels = torch.randint(0, 256, (60, *image), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(60, dtype=torch.int64))
    preprocess = Preprocess.fit(images, DataSettings(**data))  # type: ignore[arg-type]
    model = build(space, architecture, image, 4, child)
    model.train()
    for _ in range(3):
        model(preprocess(pixels.float() / 255))
    classes = ("cat", 'dog "x"', "bird", "frog")
    result = FinalResult(model.eval(), preprocess, classes, image, 0.5, 1.0)
    return FinishedClassifier(
        space=space,
        architecture=architecture,
        record={"test_accuracy": 0.5},
        child=child,
        result=result,
    )


def _expected(finished: FinishedClassifier, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = Classifier(finished.result.preprocess, finished.result.model)(images)
    return result


@pytest.mark.parametrize("name", sorted(CONV_SPACES))
def test_saved_networks_load_to_the_same_bits(name: str, tmp_path: Path) -> None:
    space = CONV_SPACES[name]
    finished = _finished(space, space.sample(random.Random(2)))
    finished.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.json", "weights.safetensors"]
    network = load_network(tmp_path)
    assert isinstance(network, ImageNetwork)
    images = torch.rand(5, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(network.module(images), _expected(finished, images))
    assert network.classes == finished.result.classes
    assert network.architecture == finished.architecture


@settings(max_examples=25, deadline=None)
@given(
    conv_architectures(),
    st.sampled_from(["channel", "zca", "none"]),
    st.sampled_from([0, 12]),
    st.booleans(),
)
def test_the_written_python_equals_the_network(
    drawn: tuple[SearchSpace, Architecture], whiten: str, upsample: int, batch_norm: bool
) -> None:
    child = ChildSettings(widen=2, batch_norm=batch_norm, batch_norm_epsilon=1e-3)
    finished = _finished(*drawn, child=child, whiten=whiten, upsample=upsample)
    model = finished.result.model
    module = Classifier(finished.result.preprocess, model).eval()
    source = module_source(model.plan, child, finished.result.classes, whiten, upsample)  # type: ignore[arg-type]
    namespace: dict[str, object] = {}
    exec(compile(source, "network.py", "exec"), namespace)
    assert namespace["CLASSES"] == list(finished.result.classes)
    net = namespace["Net"]()  # type: ignore[operator]
    state = module.state_dict()
    net.load_state_dict(
        {k.removeprefix("network.").removeprefix("preprocess."): v for k, v in state.items()}
    )
    images = torch.rand(3, 3, 9, 9)
    with torch.no_grad():
        assert torch.allclose(net.eval()(images), _expected(finished, images), atol=1e-5)


def test_every_form_is_written_checked_and_runs_without_netwright(tmp_path: Path) -> None:
    space = CONV_SPACES["types"]
    finished = _finished(space, space.sample(random.Random(11)), upsample=12)
    finished.save(tmp_path / "network")
    images = torch.rand(6, 3, 9, 9)
    lines = export_network(tmp_path / "network", tmp_path / "out", (images,))
    assert set(lines) == {"weights", "python", "torch.export", "onnx"}
    assert all(
        "equal to torch within" in lines[kind] for kind in ("python", "torch.export", "onnx")
    )
    torch.save(images, tmp_path / "images.pt")
    code = """
import sys, torch, onnxruntime
sys.path.insert(0, "out")
import network
images = torch.load("images.pt", weights_only=True)
plain = network.load("out/weights.safetensors")(images)
program = torch.export.load("out/network.pt2").module()(images[:4])
session = onnxruntime.InferenceSession("out/network.onnx")
onnx = [session.run(None, {"images": images[:n].numpy()})[0] for n in (6, 1, 5)]
assert not any(name.startswith("netwright") for name in sys.modules)
torch.save([plain.detach(), program.detach(), *map(torch.from_numpy, onnx)], "logits.pt")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = _expected(finished, images)
    plain, program, *onnx = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert torch.allclose(plain, expected, atol=1e-4)
    assert torch.allclose(program, expected[:4], atol=1e-4)
    for n, logits in zip((6, 1, 5), onnx, strict=True):
        assert logits.shape == (n, 4)
        assert torch.allclose(logits, expected[:n], atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_another_size_and_kind_are_brought_to_the_network_s(
    channels: int, tmp_path: Path
) -> None:
    """Of one colour they stay so in any size: red is 0.299 * 255 = 76 in grey (ITU-R 601)."""
    space = CONV_SPACES["types"]
    finished = _finished(space, space.sample(random.Random(11)), (channels, 6, 9))
    finished.save(tmp_path / "network")
    network = load_network(tmp_path / "network")
    grey, red = (100, 100, 100), (255, 0, 0)
    for size in ((9, 6), (31, 14), (5, 4)):  # width, height: the network's own, larger, smaller
        Image.new("L", size, 100).save(tmp_path / "grey.png")
        Image.new("RGB", size, red).save(tmp_path / "red.png")
        for name, colour in (("grey", grey), ("red", red if channels == 3 else (76,))):
            pixels = torch.tensor(colour[:channels]).view(1, -1, 1, 1).expand(1, -1, 6, 9) / 255
            probabilities = _expected(finished, pixels).softmax(1)[0]
            (row,) = network.predict(tmp_path / f"{name}.png")
            assert row["class"] == finished.result.classes[int(probabilities.argmax())]
            assert row["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)


def test_a_picture_keeps_its_sides_when_it_is_resized(tmp_path: Path) -> None:
    """Its left half is white: so are 4 of 8 columns, the next to the middle but for blending."""
    picture = Image.new("L", (80, 18), 0)
    picture.paste(255, (0, 0, 40, 18))
    picture.save(tmp_path / "wide.png")
    pixels = read_image(tmp_path / "wide.png", (1, 6, 8))
    assert pixels.shape == (1, 1, 6, 8)
    assert torch.equal(pixels[..., :3], torch.ones(1, 1, 6, 3))
    assert torch.equal(pixels[..., 5:], torch.zeros(1, 1, 6, 3))


def test_a_form_that_differs_is_not_written_nor_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = CONV_SPACES["types"]
    _finished(space, space.sample(random.Random(11))).save(tmp_path / "network")
    export_network(tmp_path / "network", tmp_path / "out", onnx=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(
        exporting,
        "_torch_export",
        lambda sample, path: sample.check([tensor + 1 for tensor in sample.expected], path.name),
    )
    with pytest.raises(NetwrightError, match=r"network\.pt2 differs by 1; nothing was written"):
        export_network(tmp_path / "network", tmp_path / "out", onnx=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    monkeypatch.undo()
    with pytest.raises(AssertionError):  # of another shape than the network's
        export_network(tmp_path / "network", tmp_path / "new", (torch.rand(2, 3, 8, 8),))
    assert not (tmp_path / "new").exists()


def test_a_network_of_another_shape_than_the_study_s_is_checked_on_random_inputs(
    tmp_path: Path,
) -> None:
    place = Workspace(tmp_path / "study")
    config = load_config("digits", ["space.depths=[2]", "space.pools=[1]", "study.trials=1"])
    place.begin(config)
    space = config.make_space()
    for side, known in ((8, True), (16, False)):
        folder = tmp_path / str(side)
        _finished(space, space.sample(random.Random(2)), (1, side, side)).save(folder)
        found = find_inputs(place.folder, folder)
        assert (found is not None) == known
        if found is not None:
            assert found[0].shape == (64, 1, 8, 8)
    assert find_inputs(tmp_path / "8", tmp_path / "8") is None


def test_inputs_whose_data_are_gone_are_random(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x_train=pixels, y_train=np.arange(40) % 2)
    sets = [f"data.source={tmp_path / 'd.npz'}", "space.depths=[2]", "space.pools=[1]"]
    config = load_config("digits", sets)
    place = Workspace(tmp_path / "study")
    place.begin(config)
    space = config.make_space()
    _finished(space, space.sample(random.Random(2)), (1, 8, 8)).save(tmp_path / "network")
    assert find_inputs(place.folder, tmp_path / "network") is not None
    (tmp_path / "d.npz").unlink()
    assert find_inputs(place.folder, tmp_path / "network") is None


def test_an_export_writes_what_its_links_lead_to(tmp_path: Path) -> None:
    space = CONV_SPACES["types"]
    _finished(space, space.sample(random.Random(11))).save(tmp_path / "network")
    link = tmp_path / "network" / "network.pt2"
    link.symlink_to(tmp_path / "kept.pt2")
    export_network(tmp_path / "network", tmp_path / "network", onnx=False)
    assert link.is_symlink()
    assert torch.export.load(tmp_path / "kept.pt2").module() is not None
