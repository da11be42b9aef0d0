"""Recurrent layers of any cell, with the interface of `torch.nn.LSTM`."""

from __future__ import annotations

import itertools
import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from netwright.children.aligned import linear
from netwright.children.small import small_layer, suits
from netwright.children.steps import run_layer
from netwright.errors import ArchitectureError, ConfigError
from netwright.spaces import load_architecture, shipped
from netwright.spaces.recurrent import Cell, cell_of

State = tuple[Tensor, Tensor]


def load_cell(source: str | Path) -> Cell:
    """Return the cell of an architecture file, or a shipped one by its name ("nascell").

    Raises `ArchitectureError` for anything else.
    """
    space, architecture = load_architecture(source, ("recurrent",))
    if space.kind != "recurrent":
        names = ", ".join(shipped(("recurrent",)))
        raise ArchitectureError(
            f"a cell must be of a recurrent space; {str(source)!r} is of a {space.kind} space; "
            f"take the file of a cell, or {names}"
        )
    return cell_of(architecture)


class Recurrent(nn.Module):
    """Layers of a recurrent cell; takes and returns what `torch.nn.LSTM` does.

    cell: a `Cell`, an architecture file, or "nascell", the published one (Zoph & Le 2017).
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in
    `torch.nn.LSTM`; there is no proj_size. recurrent_dropout: share in [0, 1) of h_(t-1) that is
    dropped in training, the same units at every step of a call (Gal and Ghahramani 2016).

    Parameters are named as those of `torch.nn.LSTM`, with B * hidden_size rows, leaf after leaf,
    for a cell of base number B. On the processor the steps run compiled, elsewhere as plain
    PyTorch.
    """

    def __init__(
        self,
        cell: Cell | str | Path,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            if not isinstance(size, Integral) or size < 1:
                raise ConfigError(
                    f"{name} must be a whole number, 1 or more; got {size!r} at Recurrent; use 1 "
                    f"or more"
                )
        for name, share in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not isinstance(share, Real) or not 0 <= share < 1:
                raise ConfigError(f"{name} must be in [0, 1); got {share!r} at Recurrent; use 0")
        self.cell = cell if isinstance(cell, Cell) else load_cell(cell)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional = dropout, bidirectional
        self.recurrent_dropout = recurrent_dropout
        rows = self.cell.base * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * self._directions
            for suffix in self._suffixes(layer):
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, hidden_size),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(name + suffix, weight)
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    def reset_parameters(self) -> None:
        """Draw all parameters uniform in [-s, s], s = 1 / sqrt(hidden_size)."""
        scale = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -scale, scale)

    def flatten_parameters(self) -> None:
        """Do nothing; `torch.nn.LSTM` has it."""

    def extra_repr(self) -> str:
        """Return the settings that are not the defaults."""
        text = f"{self.input_size}, {self.hidden_size}, base={self.cell.base}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        defaults |= {"bidirectional": False, "recurrent_dropout": 0.0}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text

    def forward(self, input: Tensor | PackedSequence, hx: State | None = None) -> tuple[Any, State]:
        """Run all layers over all steps.

        input: [T, N, input_size], [N, T, input_size] with batch_first, [T, input_size] for one
        sequence, or packed. hx: (h_0, c_0), each [num_layers * directions, N, hidden_size], zeros
        without it. Returns (output, (h_n, c_n)) with output [.., directions * hidden_size].
        Raises `ValueError` for other shapes.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"input must have 2 or 3 dimensions; got {input.dim()}; see nn.LSTM")
        single = input.dim() == 2
        x = input.unsqueeze(1) if single else input
        if self.batch_first and not single:
            x = x.transpose(0, 1)
        if single and hx is not None:
            hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        steps, batch = x.shape[:2]
        if steps == 0 or batch == 0:
            raise ValueError(f"input must have a step and a sequence; got {tuple(input.shape)}")
        h, c = self._state(hx, batch, x)
        flat, (h, c) = self._layers(x.reshape(steps * batch, -1), (batch,) * steps, h, c)
        out = flat.view(steps, batch, -1)
        if single:
            return out.squeeze(1), (h.squeeze(1), c.squeeze(1))
        return (out.transpose(0, 1) if self.batch_first else out), (h, c)

    def first(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, State]:
        """Run the first layer alone, over x [T, N, input_size] from h and c, [N, hidden_size].

        Returns [T, N, hidden_size] and (h_n, c_n); `forward` without what one layer has no use for.
        """
        steps, batch = x.shape[:2]
        out, cs = self._layer(x.flatten(0, 1), "_l0", h, c, (batch,) * steps)
        return out.view(steps, batch, -1), (out[-batch:], cs[-batch:])

    def _packed(self, packed: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        sizes = tuple(int(n) for n in packed.batch_sizes)
        order, back = packed.sorted_indices, packed.unsorted_indices
        h, c = self._state(hx, sizes[0], packed.data)
        if order is not None and hx is not None:
            h, c = h.index_select(1, order), c.index_select(1, order)
        flat, (h, c) = self._layers(packed.data, sizes, h, c)
        if back is not None:
            h, c = h.index_select(1, back), c.index_select(1, back)
        return PackedSequence(flat, packed.batch_sizes, order, back), (h, c)

    def _state(self, hx: State | None, batch: int, like: Tensor) -> State:
        if like.shape[-1] != self.input_size:
            raise ValueError(
                f"input's last dimension must be input_size, {self.input_size}; got "
                f"{like.shape[-1]}; give the layer that size"
            )
        shape = (self.num_layers * self._directions, batch, self.hidden_size)
        if hx is None:
            zero = torch.zeros(shape, dtype=like.dtype, device=like.device)
            return zero, zero
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            if tuple(state.shape) != shape:
                raise ValueError(f"{name} must be {list(shape)}; got {list(state.shape)}")
        return hx

    def _layers(
        self, x: Tensor, sizes: tuple[int, ...], h: Tensor, c: Tensor
    ) -> tuple[Tensor, State]:
        """Run packed rows x [N, width] through all layers; h and c [layers * directions, .., H]."""
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for k, suffix in enumerate(self._suffixes(layer)):
                at = layer * self._directions + k
                taken = _turned(x, sizes) if k else x
                out, cs = self._layer(taken, suffix, h[at], c[at], sizes)
                ends.append((_last(out, sizes), _last(cs, sizes)))
                outputs.append(_turned(out, sizes) if k else out)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        if len(ends) == 1:
            return x, (ends[0][0].unsqueeze(0), ends[0][1].unsqueeze(0))
        return x, (torch.stack([h for h, _ in ends]), torch.stack([c for _, c in ends]))

    def _layer(self, x: Tensor, suffix: str, h: Tensor, c: Tensor, sizes: tuple[int, ...]) -> State:
        bias_ih = getattr(self, f"bias_ih{suffix}") if self.bias else None
        bias_hh = getattr(self, f"bias_hh{suffix}") if self.bias else None
        w, u = getattr(self, f"weight_ih{suffix}"), getattr(self, f"weight_hh{suffix}")
        mask = None
        if self.training and self.recurrent_dropout:
            mask = F.dropout(torch.ones_like(h), self.recurrent_dropout)
        if not self.bias and suits(x, w, u, sizes):
            return small_layer(self.cell, x, w, u, h, c, sizes, mask)
        return run_layer(self.cell, linear(x, w, bias_ih), u, bias_hh, h, c, sizes, mask)


def _last(rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the row of each sequence's last step, [sizes[0], ..]."""
    if sizes[0] == sizes[-1]:
        return rows[-sizes[0] :]
    starts = [0, *itertools.accumulate(sizes)]
    at = [starts[length - 1] + i for i, length in enumerate(_lengths(sizes))]
    return rows.index_select(0, torch.tensor(at, device=rows.device))


def _turned(rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the rows with each sequence's steps in the opposite order."""
    if sizes[0] == sizes[-1]:
        return rows.view(len(sizes), sizes[0], -1).flip(0).flatten(0, 1)
    starts, lengths = [0, *itertools.accumulate(sizes)], _lengths(sizes)
    at = [starts[lengths[i] - 1 - t] + i for t, n in enumerate(sizes) for i in range(n)]
    return rows.index_select(0, torch.tensor(at, device=rows.device))


def _lengths(sizes: tuple[int, ...]) -> list[int]:
    """Return the steps of each sequence."""
    return [sum(n > i for n in sizes) for i in range(sizes[0])]
