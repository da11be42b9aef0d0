"""Layers for your own models: `Recurrent` stands where `torch.nn.LSTM` stood."""

from netwright.children.recurrent import Recurrent, load_cell

__all__ = ["Recurrent", "load_cell"]
