"""Sampling a policy: one decision at a time on tiny matrices, where a call is the cost.

A step of nn.LSTM costs several times its arithmetic at n = 8. Arrays are [.., n], architectures
last, so that each gate is one run of memory. Products are torch's, which keep to the caller's one
thread; all else is numpy's, whose calls are cheaper. The plain form of what is computed is
`Policy.score`, and tests hold the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netwright.controllers.encoding import Encoded
from netwright.controllers.lstm import Gates, activate
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
        own = {name: p.detach() for name, p in policy.named_parameters()}
        self.own = own
        self.kind = kind = policy.start.dtype
        self.lstm = _Steps([Gates.of(policy.lstm, k) for k in range(policy.lstm.num_layers)], n)
        self._tabulate()
        d_, a_ = len(encoding.index), len(encoding.anchor)
        self.anchor_at = policy.anchor_position
        uniform = torch.rand(d_, n, generator=generator, dtype=kind)
        links = torch.rand(a_, n, a_, generator=generator, dtype=kind)
        self.uniform = uniform.numpy()
        self.uniform_links = links.transpose(1, 2).contiguous().numpy()
        self.active = np.zeros((d_, n), dtype=bool)
        self.learned = np.zeros((d_, n), dtype=bool)
        self.choice = np.zeros((d_, n), dtype=np.int64)
        self.links = np.zeros((a_, a_, n), dtype=bool)
        self.open = np.zeros((a_, a_, n), dtype=bool)
        self.log_prob = np.zeros(n, dtype=uniform.numpy().dtype)
        self.against: list[Array] = []  # logits of what the links are not, [J, n] each
        self.projected = torch.zeros(self.units, max(a_, 1), n, dtype=kind)
        self.columns = np.arange(n)
        self.conditions = [
            [(parent, allowed.numpy()) for parent, allowed in met] for met in encoding.conditions
        ]

    def _tabulate(self) -> None:
        """Work out once what the first layer makes of all that can be fed to it."""
        own, first = self.own, self.lstm.layers[0]
        self.start = first.inputs @ own["start"][:, None] + first.bias  # [4 * units, 1]
        # [groups, 4 * units, K]
        self.options = first.inputs @ own["option_embedding"].transpose(1, 2) + first.bias
        token = first.inputs @ own["anchor_token"][:, None] + first.bias
        self.anchors = torch.cat([first.inputs @ own["anchor_embedding"].T, token], 1)

    def run(self, fixed: Mapping[int, int]) -> tuple[Encoded, Tensor]:
        x = self.start.expand(4 * self.units, self.n).contiguous()
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
                np.copyto(x.numpy(), fed.numpy(), where=active)
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

    def _choose(self, d: int, options: int, h: Tensor, fixed: int | None) -> Tensor:
        g = self.group[d]
        active = self.active[d]
        if fixed is not None:
            self.learned[d] = False
            self.choice[d] = np.where(active, fixed, 0)
        else:
            weight, bias = self.own["head_weight"][g, :options], self.own["head_bias"][g, :options]
            logits = torch.addmm(bias[:, None], weight, h).numpy()
            logits -= logits.max(0)
            p = np.exp(logits)
            whole = p.sum(0)
            drawn = (p.cumsum(0)[:-1] <= self.uniform[d] * whole).sum(0)
            self.log_prob += (logits[drawn, self.columns] - np.log(whole)) * active
            self.choice[d] = drawn * active
        taken = np.arange(options)[:, None] == self.choice[d]
        return self.options[g, :, :options] @ torch.from_numpy(taken).to(self.kind)

    def _connect(self, d: int, i: int, h: Tensor) -> Tensor:
        sources = self.encoding.sources[i]
        self.projected[:, i] = self.own["w_prev"] @ h
        if sources:
            reached = self.active[[self.anchor_at[j] for j in sources]] & self.active[d]
            projected, now = self.projected.numpy(), (self.own["w_curr"] @ h).numpy()
            whole = sources == list(range(len(sources)))
            inner = projected[:, : len(sources)] if whole else projected[:, sources]
            inner = inner + now[:, None]  # [units, J, n]
            np.tanh(inner, out=inner)
            flat = torch.from_numpy(inner).view(self.units, -1)
            logits = (self.own["v"] @ flat).numpy().reshape(len(sources), self.n)
            p = np.tanh(logits * 0.5) * 0.5 + 0.5
            bits = (self.uniform_links[i][sources] < p) & reached
            self.links[i, sources] = bits
            self.open[i, sources] = reached
            self.against.append(np.where(reached, np.where(bits, -logits, logits), -np.inf))
        taken = self.links[i].astype(self.log_prob.dtype)
        taken /= np.maximum(taken.sum(0), 1)
        one = np.ones((1, self.n), dtype=taken.dtype)
        return self.anchors @ torch.from_numpy(np.concatenate([taken, one]))


def _softplus(x: Array) -> Array:
    """Return log(1 + exp(x))."""
    y: Array = np.maximum(x, 0) + np.log(1 + np.exp(-np.abs(x)))
    return y


class _Steps:
    """The state of an LSTM that takes one step at a time, in place."""

    def __init__(self, layers: list[Gates], n: int) -> None:
        self.layers = layers
        self.units = units = layers[0].hidden.shape[1]
        kind = layers[0].hidden.dtype
        # Side by side, so that a layer's input and its own state are one matrix.
        self.weights = [layers[0].hidden]
        self.weights += [torch.cat([gates.inputs, gates.hidden], 1) for gates in layers[1:]]
        self.h = torch.zeros(len(layers) * units, n, dtype=kind)
        self.c = np.zeros((len(layers), units, n), dtype=self.h.numpy().dtype)
        self.gates = torch.empty(4 * units, n, dtype=kind)

    def step(self, x: Tensor, keep: Array | None) -> Tensor:
        """Take the first layer's products of the input in; return the top hidden state [units, n].

        x: [4 * units, n]. keep: bool [n], who steps, None for all.
        """
        u = self.units
        for k, weight in enumerate(self.weights):
            end = (k + 1) * u
            taken, added = self.h[max(k - 1, 0) * u : end], x if k == 0 else self.layers[k].bias
            torch.addmm(added, weight, taken, out=self.gates)
            gates = self.gates.numpy().reshape(4, u, -1)
            activate(gates)
            o, i, f, g = gates
            h, c = self.h[end - u : end].numpy(), self.c[k]
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
        return self.h[-u:]
