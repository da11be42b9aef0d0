"""The hand-designed recurrent layers that found cells are compared with, as a space of two."""

from __future__ import annotations

from netwright.space import Architecture, Choice, SearchSpace

LAYERS = ("lstm", "gru")


def space(name: str = "gated") -> SearchSpace:
    """Return the space of PyTorch's LSTM and GRU."""
    return SearchSpace(name, [Choice("layer", LAYERS)], kind="gated")


def architecture(layer: str) -> tuple[SearchSpace, Architecture]:
    """Return "lstm" or "gru" as an architecture of its space."""
    own = space()
    return own, own.architecture({"layer": layer}, "the layer")
