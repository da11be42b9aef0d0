"""Sampling a policy: one decision at a time on tiny matrices, where a call is the cost.

A step of nn.LSTM costs several times its arithmetic at n = 8. Arrays are [.., n], architectures
last, so that each gate is one run of memory. The plain form of what is computed is `Policy.score`,
and tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netwright.controllers.encoding import Encoded
from netwright.space import Connections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netwright.controllers.policy import Policy

Array = NDArray[Any]


def sample(
    policy: Policy, n: int, generator: torch.Generator, fixed: Mapping[int, int]
) -> tuple[Encoded, Tensor]:
    """Draw n architectures; return them and their log-probabilities [n].

    fixed: decision index -> option index, of given choices, on which nothing is learned.
    """
    return _Sampler(policy, n, generator).run(fixed)


class _Sampler:
    """The weights, and the tensors of `Encoded` while they are drawn, [.., n]."""

    def __init__(self, policy: Policy, n: int, generator: torch.Generator) -> None:
        encoding = policy.encoding
        self.encoding, self.n, self.units = encoding, n, policy.units
        self.group = policy.group.tolist()
        self.own = {name: p.detach().numpy() for name, p in policy.named_parameters()}
        kind = policy.start.dtype
        self.lstm = _Steps([_Gates.of(policy.lstm, k) for k in range(policy.lstm.num_layers)], n)
        self._tabulate()
        d_, a_ = len(encoding.index), len(encoding.anchor)
        self.anchor_at = policy.anchor_position
        uniform = torch.rand(d_, n, generator=generator, dtype=kind)
        links = torch.rand(a_, n, a_, generator=generator, dtype=kind)
        self.uniform = uniform.numpy()
        self.dtype = self.uniform.dtype
        self.uniform_links = links.transpose(1, 2).contiguous().numpy()
        self.active = np.zeros((d_, n), dtype=bool)
        self.learned = np.zeros((d_, n), dtype=bool)
        self.choice = np.zeros((d_, n), dtype=np.int64)
        self.links = np.zeros((a_, a_, n), dtype=bool)
        self.open = np.zeros((a_, a_, n), dtype=bool)
        self.log_prob = np.zeros(n, dtype=self.dtype)
        self.against: list[Array] = []  # logits of what the links are not, [J, n] each
        self.projected = np.zeros((self.units, max(a_, 1), n), dtype=self.dtype)
        self.columns = np.arange(n)
        self.conditions = [
            [(parent, allowed.numpy()) for parent, allowed in met] for met in encoding.conditions
        ]

    def _tabulate(self) -> None:
        """Work out once what the first layer makes of all that can be fed to it."""
        own, first = self.own, self.lstm.layers[0]
        inputs, bias = first.inputs.numpy(), first.bias.numpy()
        self.start = inputs @ own["start"][:, None] + bias  # [4 * units, 1]
        # [groups, 4 * units, K]
        self.options = inputs @ own["option_embedding"].transpose(0, 2, 1) + bias
        token = inputs @ own["anchor_token"][:, None] + bias
        self.anchors = np.concatenate([inputs @ own["anchor_embedding"].T, token], 1)

    def run(self, fixed: Mapping[int, int]) -> tuple[Encoded, Tensor]:
        x = np.repeat(self.start, self.n, 1)
        for d, decision in enumerate(self.encoding.space.decisions):
            active = self._holds(d)
            everywhere = bool(active.all())
            if not everywhere and not active.any():
                continue
            h = self.lstm.step(x, None if everywhere else active)
            if isinstance(decision, Connections):
                fed = self._connect(d, self.encoding.anchor[decision.anchor], h)
            else:
                fed = self._choose(d, len(decision.options), h, fixed.get(d))
            if everywhere:
                x = fed
            else:
                np.copyto(x, fed, where=active)
        if self.against:
            self.log_prob -= _softplus(np.concatenate(self.against)).sum(0)
        found = (self.active.T, self.learned.T, self.choice.T)
        links = (self.links.transpose(2, 0, 1), self.open.transpose(2, 0, 1))
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (*found, *links)]
        return Encoded(*tensors), torch.from_numpy(self.log_prob)

    def _holds(self, d: int) -> Array:
        active: Array = np.ones(self.n, dtype=bool)
        for parent, allowed in self.conditions[d]:
            active &= self.active[parent] & allowed[self.choice[parent]]
        self.active[d] = self.learned[d] = active
        return active

    def _choose(self, d: int, options: int, h: Array, fixed: int | None) -> Array:
        g = self.group[d]
        active = self.active[d]
        if fixed is not None:
            self.learned[d] = False
            self.choice[d] = np.where(active, fixed, 0)
        else:
            logits = self.own["head_weight"][g, :options] @ h
            logits += self.own["head_bias"][g, :options, None]
            logits -= logits.max(0)
            p = np.exp(logits)
            whole = p.sum(0)
            drawn = (p.cumsum(0)[:-1] <= self.uniform[d] * whole).sum(0)
            self.log_prob += (logits[drawn, self.columns] - np.log(whole)) * active
            self.choice[d] = drawn * active
        taken = np.arange(options)[:, None] == self.choice[d]
        fed: Array = self.options[g, :, :options] @ taken.astype(self.dtype)
        return fed

    def _connect(self, d: int, i: int, h: Array) -> Array:
        sources = self.encoding.sources[i]
        self.projected[:, i] = self.own["w_prev"] @ h
        if sources:
            reached = self.active[[self.anchor_at[j] for j in sources]] & self.active[d]
            whole = sources == list(range(len(sources)))
            at = slice(len(sources)) if whole else sources
            inner = self.projected[:, at]  # [units, J, n]
            inner = inner + (self.own["w_curr"] @ h)[:, None]
            np.tanh(inner, out=inner)
            logits = (self.own["v"] @ inner.reshape(self.units, -1)).reshape(-1, self.n)
            p = np.tanh(logits * 0.5) * 0.5 + 0.5
            bits = (self.uniform_links[i][sources] < p) & reached
            self.links[i, sources] = bits
            self.open[i, sources] = reached
            self.against.append(np.where(reached, np.where(bits, -logits, logits), -np.inf))
        taken = np.ones((len(self.links) + 1, self.n), dtype=self.dtype)  # the last is the token's
        taken[:-1] = self.links[i]
        taken[:-1] /= np.maximum(taken[:-1].sum(0), 1)
        fed: Array = self.anchors @ taken
        return fed


def _softplus(x: Array) -> Array:
    """Return log(1 + exp(x))."""
    y: Array = np.maximum(x, 0) + np.log(1 + np.exp(-np.abs(x)))
    return y


@dataclass(frozen=True)
class _Gates:
    """One layer's weights by gate: output, input, forget, cell; the first three are halved.

    inputs, hidden: [4 * units, inputs or units]. bias: [4 * units, 1]. sigmoid(x) is
    tanh(x / 2) / 2 + 1 / 2, so that one call serves all gates.
    """

    inputs: Tensor
    hidden: Tensor
    bias: Tensor

    @classmethod
    def of(cls, lstm: nn.LSTM, layer: int) -> _Gates:
        """Return those of a layer of `lstm`."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return cls.from_weights(*(getattr(lstm, f"{n}_l{layer}").detach() for n in names))

    @classmethod
    def from_weights(cls, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> _Gates:
        """Return those of the parameters of `nn.LSTM`."""
        bias = (b_ih + b_hh)[:, None]
        return cls(*(_halved(_ordered(weight)) for weight in (w_ih, w_hh, bias)))


def _ordered(rows: Tensor) -> Tensor:
    """Return torch's rows (input, forget, cell, output) as output, input, forget, cell."""
    return rows.roll(len(rows) // 4, 0)


def _halved(rows: Tensor) -> Tensor:
    rows[: 3 * (len(rows) // 4)] *= 0.5
    return rows


def _activate(gates: Array) -> None:
    """Take the sums of `_Gates` [4, units, n] to the gates, in place."""
    np.tanh(gates, out=gates)
    gates[:3] *= 0.5
    gates[:3] += 0.5


class _Steps:
    """The state of an LSTM that takes one step at a time, in place."""

    def __init__(self, layers: list[_Gates], n: int) -> None:
        self.layers = layers
        units = layers[0].hidden.shape[1]
        # Side by side, so that a layer's input and its own state are one matrix.
        self.weights = [layers[0].hidden.numpy()]
        self.weights += [torch.cat([by.inputs, by.hidden], 1).numpy() for by in layers[1:]]
        self.bias = [by.bias.numpy() for by in layers]
        dtype = self.bias[0].dtype
        h = np.zeros((len(layers) * units, n), dtype=dtype)
        self.c = np.zeros((len(layers), units, n), dtype=dtype)
        self.sums = np.empty((4 * units, n), dtype=dtype)
        self.gates = self.sums.reshape(4, units, n)
        self.h = h.reshape(-1, units, n)
        self.taken = [h[max(k - 1, 0) * units : (k + 1) * units] for k in range(len(layers))]

    def step(self, x: Array, keep: Array | None) -> Array:
        """Take the first layer's products of the input in; return the top hidden state [units, n].

        x: [4 * units, n]. keep: bool [n], who steps, None for all.
        """
        gates = self.gates
        for k, (weight, taken, h, c) in enumerate(
            zip(self.weights, self.taken, self.h, self.c, strict=True)
        ):
            np.matmul(weight, taken, out=self.sums)
            self.sums += self.bias[k] if k else x
            _activate(gates)
            o, i, f, g = gates
            i *= g
            if keep is None:
                c *= f
                c += i
                np.tanh(c, out=h)
                h *= o
            else:
                f *= c
                f += i
                np.copyto(c, f, where=keep)
                o *= np.tanh(f)
                np.copyto(h, o, where=keep)
        top: Array = self.h[-1]
        return top
