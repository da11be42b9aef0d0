"""Sampling a policy in numpy: one decision at a time on tiny matrices, where a call is the cost.

A step of torch costs several times its arithmetic at n = 8. The plain form of what is computed here
is `Policy.score`, and tests hold the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    """The weights as numpy arrays, and the tensors of `Encoded` while they are drawn."""

    def __init__(self, policy: Policy, n: int, generator: torch.Generator) -> None:
        encoding = policy.encoding
        self.encoding, self.n, self.units = encoding, n, policy.units
        self.group = policy.group.tolist()
        own = {name: p.detach().numpy() for name, p in policy.named_parameters()}
        self.own = own
        self.dtype = own["start"].dtype
        self.lstm = _Lstm(own, policy.lstm.num_layers, n, self.units)
        d_, a_ = len(encoding.index), len(encoding.anchor)
        self.anchor_at = policy.anchor_position
        kind = policy.start.dtype
        self.uniform = torch.rand(d_, n, generator=generator, dtype=kind).numpy()
        self.uniform_links = torch.rand(a_, n, a_, generator=generator, dtype=kind).numpy()
        self.active = np.zeros((n, d_), dtype=bool)
        self.learned = np.zeros((n, d_), dtype=bool)
        self.choice = np.zeros((n, d_), dtype=np.int64)
        self.links = np.zeros((n, a_, a_), dtype=bool)
        self.open = np.zeros((n, a_, a_), dtype=bool)
        self.log_prob = np.zeros(n, dtype=self.dtype)
        self.projected = np.zeros((n, max(a_, 1), self.units), dtype=self.dtype)
        self.conditions = [
            [(parent, allowed.numpy()) for parent, allowed in met] for met in encoding.conditions
        ]

    def run(self, fixed: Mapping[int, int]) -> tuple[Encoded, Tensor]:
        x = np.broadcast_to(self.own["start"], (self.n, self.units))
        for d, decision in enumerate(self.encoding.space.decisions):
            active = self._holds(d)
            everywhere = bool(active.all())
            if not everywhere and not active.any():
                continue
            h = self.lstm.step(x, None if everywhere else active[:, None])
            if isinstance(decision, Connections):
                fed = self._connect(d, self.encoding.anchor[decision.anchor], h)
            else:
                fed = self._choose(d, len(decision.options), h, fixed.get(d))
            x = fed if everywhere else np.where(active[:, None], fed, x)
        found = (self.active, self.learned, self.choice, self.links, self.open)
        return Encoded(*map(torch.from_numpy, found)), torch.from_numpy(self.log_prob)

    def _holds(self, d: int) -> Array:
        active: Array = np.ones(self.n, dtype=bool)
        for parent, allowed in self.conditions[d]:
            active &= self.active[:, parent] & allowed[self.choice[:, parent]]
        self.active[:, d] = self.learned[:, d] = active
        return active

    def _choose(self, d: int, options: int, h: Array, fixed: int | None) -> Array:
        g = self.group[d]
        active = self.active[:, d]
        if fixed is not None:
            self.learned[:, d] = False
            self.choice[:, d] = np.where(active, fixed, 0)
        else:
            logits = h @ self.own["head_weight"][g, :options].T + self.own["head_bias"][g, :options]
            logits -= logits.max(1, keepdims=True)
            p = np.exp(logits)
            whole = p.sum(1, keepdims=True)
            passed = p.cumsum(1)[:, :-1] <= self.uniform[d][:, None] * whole
            drawn = passed.sum(1)
            taken = logits[np.arange(self.n), drawn] - np.log(whole[:, 0])
            self.log_prob += np.where(active, taken, 0.0).astype(self.dtype)
            self.choice[:, d] = np.where(active, drawn, 0)
        fed: Array = self.own["option_embedding"][g][self.choice[:, d]]
        return fed

    def _connect(self, d: int, i: int, h: Array) -> Array:
        sources = self.encoding.sources[i]
        self.projected[:, i] = h @ self.own["w_prev"].T
        if sources:
            at = [self.anchor_at[j] for j in sources]
            reached = self.active[:, at] & self.active[:, d, None]
            inner = self.projected[:, sources] + (h @ self.own["w_curr"].T)[:, None]
            logits = np.tanh(inner) @ self.own["v"]
            log_yes, log_no = -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)
            bits = (self.uniform_links[i][:, sources] < np.exp(log_yes)) & reached
            self.links[:, i, sources] = bits
            self.open[:, i, sources] = reached
            log_p = np.where(reached, np.where(bits, log_yes, log_no), 0.0)
            self.log_prob += log_p.sum(1).astype(self.dtype)
        taken = self.links[:, i].astype(self.dtype)
        mean = taken @ self.own["anchor_embedding"] / np.maximum(taken.sum(1, keepdims=True), 1)
        fed: Array = self.own["anchor_token"] + mean
        return fed


class _Lstm:
    """The state of an LSTM that takes one step at a time."""

    def __init__(self, own: Mapping[str, Array], layers: int, n: int, units: int) -> None:
        self.units = units
        self.layers = []
        for k in range(layers):
            weight = np.concatenate(
                [own[f"lstm.weight_ih_l{k}"], own[f"lstm.weight_hh_l{k}"]], 1
            ).T.copy()
            bias = own[f"lstm.bias_ih_l{k}"] + own[f"lstm.bias_hh_l{k}"]
            self.layers.append((weight, bias))
        zero = np.zeros((n, units), dtype=own["start"].dtype)
        self.state = [(zero, zero) for _ in self.layers]

    def step(self, x: Array, keep: Array | None) -> Array:
        """Take `x` [n, units] in; return the top hidden state. keep: bool [n, 1], who steps."""
        u = self.units
        for k, ((weight, bias), (h, c)) in enumerate(zip(self.layers, self.state, strict=True)):
            gates = np.concatenate([x, h], 1) @ weight
            gates += bias
            g = np.tanh(gates[:, 2 * u : 3 * u])
            np.negative(gates, out=gates)
            np.exp(gates, out=gates)
            gates += 1
            np.reciprocal(gates, out=gates)
            c_new = gates[:, u : 2 * u] * c + gates[:, :u] * g
            h_new = gates[:, 3 * u :] * np.tanh(c_new)
            if keep is not None:
                h_new, c_new = np.where(keep, h_new, h), np.where(keep, c_new, c)
            self.state[k] = (h_new, c_new)
            x = h_new
        return x
