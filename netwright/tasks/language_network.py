"""Trained language models: saved, loaded and used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netwright.children.cell_source import language_source
from netwright.children.language import LanguageChildSettings, LanguageModel, solve_width
from netwright.data.corpora import UNITS, part_of_file
from netwright.data.text import END, Vocabulary, units_of
from netwright.errors import DataError
from netwright.evaluators.language import FinalLanguage, core_of, score_of
from netwright.spaces import architecture_from_dict, architecture_to_dict
from netwright.tasks.files import visible, write_network
from netwright.tasks.results import Finished, Network
from netwright.toml import build
from netwright.training.language import LanguageRecipe, perplexity

FORMAT = "netwright-language/1"
SCORES = {"words": "perplexity", "characters": "bits_per_character"}
TIED, ITS = "output.weight", "embedding.weight"  # one tensor where child.shared is true


class Predictor(nn.Module):
    """A language model that takes one token of each of N texts at a time.

    Its state is that of the model; of weights shared by embedding and output it needs one.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.register_load_state_dict_pre_hook(_as_own)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read a token of each text -> (log-probabilities of the next one [N, V], h, c).

        tokens: int64 [N]. h, c: [N, layers, width], zeros before a text.
        """
        before = [(h[:, i].contiguous(), c[:, i].contiguous()) for i in range(h.shape[1])]
        features, after = self.model(tokens.unsqueeze(0), before)
        log_probabilities = self.model.output.log_probabilities(features.squeeze(0))
        hs, cs = zip(*after, strict=True)
        return log_probabilities, torch.stack(hs, 1), torch.stack(cs, 1)


def _as_own(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    """Turn a `LanguageModel`'s stored state into a `Predictor`'s."""
    assert isinstance(module, Predictor)
    stored = dict(state)
    if module.model.settings.shared and ITS in stored:
        stored[TIED] = stored[ITS]
    state.clear()
    state.update({f"model.{name}": tensor for name, tensor in stored.items()})


def _once(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    """Leave out what is the same tensor as another; safetensors holds no two such."""
    del state[TIED]


@dataclass(frozen=True, kw_only=True)
class FinishedLanguage(Finished):
    """A language model as its final training left it."""

    result: FinalLanguage

    def save(self, folder: Path) -> None:
        """Write it to `folder`."""
        result = self.result
        model = result.model.cpu().eval()
        description = {
            "format": FORMAT,
            "architecture": architecture_to_dict(self.space, self.architecture),
            "child": asdict(model.settings),
            "width": model.width,
            "unit": result.unit,
            "strip": result.strip,
            "vocabulary": list(result.vocabulary.units),
            "training": self.training,
            "result": dict(self.record),
        }
        if not model.settings.shared:
            write_network(folder, model, description)
            return
        hook = model.register_state_dict_post_hook(_once)  # type: ignore[no-untyped-call]
        try:
            write_network(folder, model, description)
        finally:
            hook.remove()


@dataclass(frozen=True, kw_only=True)
class LanguageNetwork(Network):
    """A trained language model.

    unit: "words" or "characters", which the vocabulary holds. strip: as in `TextSettings`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "h", "c")
    outputs: ClassVar[tuple[str, ...]] = ("log_probabilities", "h_next", "c_next")

    module: Predictor
    vocabulary: Vocabulary
    unit: str
    strip: bool

    @property
    def model(self) -> LanguageModel:
        """The language model, which takes whole texts."""
        return self.module.model

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return 8 random tokens, int64 [N], and states h and c, [N, layers, width] in [-1, 1]."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(len(self.vocabulary), (8,), generator=generator)
        shape = (2, 8, len(self.model.layers), self.model.width)
        h, c = 2 * torch.rand(shape, generator=generator) - 1
        return tokens, h, c

    def source(self) -> str:
        """Return the network as plain PyTorch text."""
        return language_source(self.model)

    def predict(self, place: Path) -> list[dict[str, Any]]:
        """Return how well each text in `place` (a file, or a folder searched for .txt) is told.

        Rows have text, tokens, unknown (units that the vocabulary lacks) and perplexity, or
        bits_per_character where units are characters. A text is read from its first unit, which
        is not scored, to its last. Raises `DataError` for a text that cannot be read or has fewer
        than 2 units, or where there is none.
        """
        return [self._row(path) for path in _texts(place)]

    def _row(self, path: Path) -> dict[str, Any]:
        units = units_of(part_of_file(path, "text").text, self.unit, self.strip)
        if len(units) < 2:
            raise DataError(
                f"a text must have at least 2 tokens; got {len(units)} in {path}; use more text"
            )
        tokens = self.vocabulary.encode(units)
        value = perplexity(self.model, tokens, LanguageRecipe(eval_batch=1))
        return {
            "text": str(path),
            "tokens": len(units),
            "unknown": sum(unit not in self.vocabulary for unit in units),
            SCORES[self.unit]: score_of(value, self.unit),
        }

    def say(self, row: Mapping[str, Any]) -> str:
        """Return score, size and text in a line."""
        name = SCORES[self.unit]
        return (
            f"{name.replace('_', ' ')} {row[name]:.4f}  {row['tokens']:,} {self.unit}, "
            f"{row['unknown']:,} unknown  {row['text']}"
        )


def make_network(data: Mapping[str, Any], where: str) -> LanguageNetwork:
    """Return the network that `network.json` describes, without its weights."""
    space, architecture = architecture_from_dict(data["architecture"], where)
    if space.kind not in ("recurrent", "gated"):
        raise ValueError(f"a language model cannot be of a {space.kind} space")
    unit, strip, units, width = (data[n] for n in ("unit", "strip", "vocabulary", "width"))
    if unit not in UNITS or not isinstance(strip, bool):
        raise ValueError("its unit is not words or characters, or strip not true or false")
    if not isinstance(units, list) or not all(isinstance(text, str) for text in units):
        raise ValueError("its vocabulary is not a list of texts")
    vocabulary = Vocabulary(tuple(units))
    if unit == "words" and END not in vocabulary:
        raise ValueError(f"its vocabulary of words lacks {END}")
    core = core_of(space, architecture)
    child = build(LanguageChildSettings, data["child"], where, "child")
    solved = solve_width(core, len(vocabulary), child)
    if width != solved or not isinstance(width, int):
        raise ValueError(f"its width is {width}, that of its settings {solved}")
    return LanguageNetwork(
        module=Predictor(LanguageModel(core, len(vocabulary), child)),
        space=space,
        architecture=architecture,
        description=data,
        vocabulary=vocabulary,
        unit=unit,
        strip=strip,
    )


def _texts(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = sorted(p for p in visible(place) if p.suffix.lower() == ".txt" and p.is_file())
    if not found:
        raise DataError(
            f"predict needs a text or a folder with some (.txt); found none at {place}; check the "
            f"path"
        )
    return found
