"""Language models on disk: every form equals the model in memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from torch import Tensor

from netwright.children.cell_source import language_source
from netwright.children.language import LanguageChildSettings, LanguageModel
from netwright.data.text import Vocabulary
from netwright.errors import ArchitectureError, DataError
from netwright.evaluators.language import FinalLanguage, core_of
from netwright.exporting import export_network
from netwright.network import load_network
from netwright.spaces import load_architecture
from netwright.spaces.recurrent import Cell
from netwright.tasks.language_network import FinishedLanguage, LanguageNetwork, Predictor
from netwright.training.language import LanguageRecipe, perplexity
from tests.strategies import cells

WORDS = Vocabulary(("<unk>", "<eos>", *"abcdefghij"))
CHILDREN = {
    "plain": LanguageChildSettings(width=9),
    "shared": LanguageChildSettings(width=9, shared=True, cutoffs=(3, 7)),
    "wide": LanguageChildSettings(budget=3000, embedding=5, bias=True, layers=1),
}


def _finished(
    name: str = "nascell", child: str = "plain", unit: str = "words", strip: bool = False
) -> FinishedLanguage:
    space, architecture = load_architecture(name)
    torch.manual_seed(1)
    model = LanguageModel(core_of(space, architecture), len(WORDS), CHILDREN[child], scale=1.0)
    torch.nn.init.normal_(model.output.bias)
    return FinishedLanguage(
        space=space,
        architecture=architecture,
        record={"test_perplexity": 9.0},
        result=FinalLanguage(
            model=model.eval(),
            vocabulary=WORDS,
            unit=unit,
            strip=strip,
            valid_score=9.0,
            test_score=9.0,
            curve=(9.0,),
            seconds=1.0,
        ),
    )


def _saved(folder: Path, *args: Any) -> tuple[LanguageModel, LanguageNetwork]:
    finished = _finished(*args)
    finished.save(folder)
    network = load_network(folder)
    assert isinstance(network, LanguageNetwork)
    return finished.result.model, network


@torch.no_grad()
def _same(one: Callable[..., Any], other: Callable[..., Any], inputs: tuple[Tensor, ...]) -> bool:
    return all(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(one(*inputs), other(*inputs), strict=True)
    )


@pytest.mark.parametrize("child", sorted(CHILDREN))
@pytest.mark.parametrize("name", ["nascell", "lstm", "gru"])
def test_saved_networks_load_to_the_same_bits(name: str, child: str, tmp_path: Path) -> None:
    model, network = _saved(tmp_path, name, child)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.json", "weights.safetensors"]
    inputs = network.example_inputs()
    with torch.no_grad():
        for one, other in zip(network.module(*inputs), Predictor(model)(*inputs), strict=True):
            assert torch.equal(one, other)
    assert network.vocabulary == WORDS
    shared = network.model.output.weight is network.model.embedding.weight
    assert shared == CHILDREN[child].shared
    assert len(model.state_dict()) == len(dict(model.named_parameters())) + shared


def test_step_by_step_is_the_whole_text_at_once(tmp_path: Path) -> None:
    model, network = _saved(tmp_path, "nascell", "shared")
    text = torch.randint(len(WORDS), (6, 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, _ = model(text, model.start(3))
        h = c = torch.zeros(3, 2, 9)
        for tokens, expected in zip(text, features, strict=True):
            got, h, c = network.module(tokens, h, c)
            assert torch.allclose(got, model.output.log_probabilities(expected), atol=1e-5)
            assert torch.allclose(got.exp().sum(1), torch.ones(3), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(cells(), st.sampled_from(sorted(CHILDREN)))
def test_the_written_python_equals_the_network(cell: Cell, child: str) -> None:
    torch.manual_seed(1)
    model = LanguageModel(cell, len(WORDS), CHILDREN[child], scale=0.5).eval()
    source = language_source(model)
    assert "netwright" not in source.replace("written by Netwright", "")
    assert all(len(line) <= 100 for line in source.splitlines())
    namespace: dict[str, Any] = {}
    exec(compile(source, "network.py", "exec"), namespace)
    net = namespace["LanguageModel"]()
    net.load_state_dict(model.state_dict())
    shape = (3, len(model.layers), model.width)
    inputs = (torch.tensor([1, 4, 1]), 2 * torch.rand(shape) - 1, 2 * torch.rand(shape) - 1)
    assert _same(net.eval(), Predictor(model), inputs)
    layer, own = namespace["Recurrent"](5, 4), model.layers[0]
    x = torch.rand(6, 2, 5)
    out, (h, c) = layer(x)
    assert out.shape == (6, 2, 4)
    assert h.shape == c.shape == (1, 2, 4)
    x = torch.rand(6, 2, model.embedding.embedding_dim)
    zero = torch.zeros(2, model.width)
    with torch.no_grad():
        expected, _ = own(x, (zero, zero))
        assert torch.allclose(net.layers[0](x)[0], expected, atol=1e-4)


@pytest.mark.parametrize(("name", "child"), [("nascell", "shared"), ("gru", "plain")])
def test_every_form_is_written_and_checked(name: str, child: str, tmp_path: Path) -> None:
    _saved(tmp_path / "network", name, child)
    lines = export_network(tmp_path / "network", tmp_path / "out")
    assert set(lines) == {"weights", "python", "torch.export", "onnx"}
    for form in ("python", "torch.export", "onnx"):
        assert "equal to torch within" in lines[form]
    network = load_network(tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / "network.pt2").module()
    session = InferenceSession(tmp_path / "out" / "network.onnx")

    def onnx(*inputs: Tensor) -> list[Tensor]:
        fed = {name: x.numpy() for name, x in zip(network.inputs, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(list(network.outputs), fed)]

    for n in (1, 5):
        inputs = tuple(tensor[:n] for tensor in network.example_inputs())
        assert inputs[0].shape[0] == n != network.example_inputs()[0].shape[0]
        assert _same(program, network.module, inputs)
        assert _same(onnx, network.module, inputs)


def test_the_written_python_runs_without_netwright(tmp_path: Path) -> None:
    _, network = _saved(tmp_path, "lstm", "wide")
    (tmp_path / "network.py").write_text(network.source())
    inputs = network.example_inputs()
    torch.save(inputs, tmp_path / "inputs.pt")
    code = """
import sys, torch, network
outputs = network.load("weights.safetensors")(*torch.load("inputs.pt"))
assert not any(name.startswith("netwright") for name in sys.modules)
torch.save([tensor.detach() for tensor in outputs], "outputs.pt")
"""
    environment = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    assert _same(network.module, lambda *_: torch.load(tmp_path / "outputs.pt"), inputs)


# --- predict ------------------------------------------------------------------------------------


@pytest.mark.parametrize("child", ["plain", "shared"])
def test_predict_is_the_perplexity_of_one_column(child: str, tmp_path: Path) -> None:
    model, network = _saved(tmp_path / "network", "nascell", child)
    text = tmp_path / "some.txt"
    text.write_text("a b c\n\n  d zzz e\n" * 20)
    (row,) = network.predict(text)
    tokens = WORDS.encode(["a", "b", "c", "<eos>", "d", "zzz", "e", "<eos>"] * 20)
    expected = perplexity(model, tokens, LanguageRecipe(eval_batch=1, steps=7))
    assert row["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert {**row, "perplexity": 0} == {
        "text": str(text),
        "tokens": 160,
        "unknown": 20,
        "perplexity": 0,
    }
    assert network.say(row) == f"perplexity {expected:.4f}  160 words, 20 unknown  {text}"


def test_predict_reads_characters_and_folders(tmp_path: Path) -> None:
    model, network = _saved(tmp_path / "network", "gru", "plain", "characters", True)
    texts = tmp_path / "texts"
    (texts / "below").mkdir(parents=True)
    (texts / "below" / "one.TXT").write_text("  abc \nde")
    (texts / "two.txt").write_text("jihgfedcba")
    (texts / "note.md").write_text("no text")
    one, two = network.predict(texts)
    assert (one["tokens"], one["unknown"], two["tokens"]) == (6, 1, 10)
    expected = perplexity(model, WORDS.encode("abc\nde"), LanguageRecipe(eval_batch=1))
    assert one["bits_per_character"] == pytest.approx(math.log2(expected), rel=1e-5)
    assert network.say(two).startswith("bits per character ")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "white space"), (b"\xff\xfe\xff", "UTF-8"), (b"a", "at least 2 tokens")],
)
def test_texts_that_cannot_be_scored_are_one_line(
    content: bytes, words: str, tmp_path: Path
) -> None:
    _, network = _saved(tmp_path / "network", "gru", "plain", "characters")
    text = tmp_path / "bad.txt"
    text.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        network.predict(text)
    assert "\n" not in str(caught.value)
    assert str(text) in str(caught.value)


def test_a_place_without_texts_is_one_line(tmp_path: Path) -> None:
    _, network = _saved(tmp_path / "network")
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=f"predict needs a text .*; found none at {place};"):
            network.predict(place)


# --- bad files ----------------------------------------------------------------------------------


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def _with(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(changes)


def _child(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["child"].update(changes)


BAD: list[Callable[[dict[str, Any]], None]] = [
    *map(_without, ("architecture", "child", "width", "unit", "strip", "vocabulary")),
    *(_with(unit=value) for value in ("bytes", None, ["words"], 3)),
    *(_with(strip=value) for value in ("no", 0, None)),
    *(_with(width=value) for value in (8, 9.0, "9", None, True)),
    _with(vocabulary="abc"),
    _with(vocabulary=["a", "b"]),
    _with(vocabulary=["<unk>", "a", "a"]),
    _with(vocabulary=["<unk>", "<eos>", 3]),
    _with(vocabulary=["<unk>", "a", "b"]),
    _with(vocabulary=[]),
    _with(child=[]),
    _with(architecture={}),
    *(_child(**{name: "3"}) for name in ("layers", "budget", "width", "shared", "cutoffs")),
    *(_child(layers=value) for value in (0, -1, 1.5, None, True)),
    _child(width=12),
    _child(width=0, budget=5),
    _child(cutoffs=[5, 3]),
    _child(cutoffs=[50]),
    _child(shared=True, embedding=4),
    _child(colour="red"),
    _child(budget=10**400),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_description_is_one_line(number: int, tmp_path: Path) -> None:
    _finished().save(tmp_path)
    path = tmp_path / "network.json"
    data = json.loads(path.read_text())
    BAD[number](data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArchitectureError) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_image_architecture_is_no_language_model(tmp_path: Path) -> None:
    from netwright.spaces import architecture_to_dict

    _finished().save(tmp_path)
    path = tmp_path / "network.json"
    data = json.loads(path.read_text())
    data["architecture"] = architecture_to_dict(*load_architecture("v1"))
    path.write_text(json.dumps(data))
    with pytest.raises(ArchitectureError, match="cannot be of a conv space"):
        load_network(tmp_path)


@pytest.mark.parametrize("child", ["plain", "shared"])
def test_weights_of_another_network_are_one_line(child: str, tmp_path: Path) -> None:
    _finished("nascell", child).save(tmp_path)
    _finished("nascell", "wide").save(tmp_path / "other")
    (tmp_path / "weights.safetensors").write_bytes(
        (tmp_path / "other" / "weights.safetensors").read_bytes()
    )
    path = tmp_path / "network.json"
    data = json.loads(path.read_text())
    for hashed in (data["weights"], None):
        path.write_text(json.dumps({**data, "weights": hashed}))
        with pytest.raises(ArchitectureError, match="must hold the weights of") as caught:
            load_network(tmp_path)
        assert "\n" not in str(caught.value)
