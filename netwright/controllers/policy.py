"""The controller's recurrent network (Zoph & Le 2017, 3.1 and 3.3).

A two-layer LSTM writes one decision after another. Each choice is a softmax over its options; the
option taken is embedded and fed into the next step. At an anchor point the earlier anchors j are
taken independently with probability sigmoid(v^T tanh(W_prev h_j + W_curr h_i)). What is fed back
after an anchor point is unstated: here a learned vector plus the mean embedding of the anchors
taken, so that one teacher-forced pass scores a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.controllers.encoding import Encoded, Encoding
from netwright.space import Connections, Option


@dataclass(frozen=True)
class Scores:
    """What one teacher-forced pass gives for n architectures.

    log_prob: [n], of the learned decisions. entropy: [n], summed over them, given what came before.
    options: [n, D, K], log-probability of each option, -inf where there is none.
    links: [n, A, A], probability that anchor i takes anchor j.
    """

    log_prob: Tensor
    entropy: Tensor
    options: Tensor
    links: Tensor


class Policy(nn.Module):
    """The network; its distribution is over the architectures of `encoding.space`.

    units: width of the LSTM and of the embeddings (35 in the paper); layers: 2; scale: weights
    start uniform in [-scale, scale], drawn from `seed`. heads: "decision" gives every decision its
    own softmax and embeddings, "kind" shares them among decisions of one kind and equal options.
    """

    def __init__(
        self,
        encoding: Encoding,
        *,
        units: int = 35,
        layers: int = 2,
        scale: float = 0.08,
        heads: str = "decision",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.units = units
        anchors, width = len(encoding.anchor), encoding.width
        group = self._groups(heads)
        groups = int(group.max()) + 1
        option_mask = torch.zeros(len(encoding.index), width, dtype=torch.bool)
        for d, choice in encoding.choices:
            option_mask[d, : len(choice.options)] = True
        self.register_buffer("group", group, persistent=False)
        self.register_buffer("option_mask", option_mask, persistent=False)
        self.lstm = nn.LSTM(units, units, layers, batch_first=True)
        self.start = nn.Parameter(torch.empty(units))
        self.option_embedding = nn.Parameter(torch.empty(groups, width, units))
        self.head_weight = nn.Parameter(torch.empty(groups, width, units))
        self.head_bias = nn.Parameter(torch.empty(groups, width))
        self.anchor_embedding = nn.Parameter(torch.empty(anchors, units))
        self.anchor_token = nn.Parameter(torch.empty(units))
        self.w_prev = nn.Parameter(torch.empty(units, units))
        self.w_curr = nn.Parameter(torch.empty(units, units))
        self.v = nn.Parameter(torch.empty(units))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-scale, scale, generator=generator)
        self.group: Tensor
        self.option_mask: Tensor
        self.anchor_position = [d for d, _ in encoding.connections]

    def _groups(self, heads: str) -> Tensor:
        keys: dict[object, int] = {}
        group = []
        for d, decision in enumerate(self.encoding.space.decisions):
            if isinstance(decision, Connections):
                group.append(0)
                continue
            key: object = (decision.kind, decision.options) if heads == "kind" else d
            group.append(keys.setdefault(key, len(keys)))
        return torch.tensor(group)

    # --- the pieces both passes share -------------------------------------------------------

    def _fed_back(self, links_i: Tensor) -> Tensor:
        """Return what anchor points feed back: links `[..., A]` -> `[..., units]`."""
        taken = links_i.to(self.anchor_embedding.dtype)
        mean = taken @ self.anchor_embedding / taken.sum(-1, keepdim=True).clamp_min(1)
        return self.anchor_token + mean

    def _link_logits(self, h_j: Tensor, h_i: Tensor) -> Tensor:
        """Attention: h_j `[n, 1, J, units]`, h_i `[n, I, 1, units]` -> logits `[n, I, J]`."""
        return torch.tanh(h_j @ self.w_prev.T + h_i @ self.w_curr.T) @ self.v

    # --- scoring: one teacher-forced pass ---------------------------------------------------

    def score(self, encoded: Encoded) -> Scores:
        """Score n architectures in one pass; differentiable."""
        h = self._hidden(encoded)
        logits = torch.einsum("ndh,dkh->ndk", h, self.head_weight[self.group])
        logits = (logits + self.head_bias[self.group]).masked_fill(~self.option_mask, -torch.inf)
        is_choice = self.option_mask.any(1)
        options = torch.full_like(logits, -torch.inf)
        options[:, is_choice] = F.log_softmax(logits[:, is_choice], -1)
        learned = encoded.learned & is_choice
        taken = options.gather(2, encoded.choice.unsqueeze(2)).squeeze(2)
        log_prob = torch.where(learned, taken, 0.0).sum(1)
        p_log_p = torch.where(self.option_mask, options.exp() * options.nan_to_num(neginf=0.0), 0.0)
        entropy = -torch.where(learned, p_log_p.sum(2), 0.0).sum(1)
        links = h.new_zeros(encoded.links.shape)
        if self.anchor_position:
            at_anchor = h[:, self.anchor_position]
            link_logits = self._link_logits(at_anchor.unsqueeze(1), at_anchor.unsqueeze(2))
            learned_link = encoded.open & encoded.learned[:, self.anchor_position].unsqueeze(2)
            log_yes, log_no = F.logsigmoid(link_logits), F.logsigmoid(-link_logits)
            bits = torch.where(encoded.links, log_yes, log_no)
            log_prob = log_prob + torch.where(learned_link, bits, 0.0).sum((1, 2))
            links = link_logits.sigmoid()
            bit_entropy = -(links * log_yes + (1 - links) * log_no)
            entropy = entropy + torch.where(learned_link, bit_entropy, 0.0).sum((1, 2))
        return Scores(log_prob, entropy, options, links)

    def _hidden(self, encoded: Encoded) -> Tensor:
        """Return the top hidden state at each decision `[n, D, units]` (arbitrary where none)."""
        fed = self.option_embedding[self.group, encoded.choice]
        if self.anchor_position:
            fed = fed.clone()
            fed[:, self.anchor_position] = self._fed_back(encoded.links)
        # Decisions that do not hold take no step: the others move to the front.
        order = torch.argsort((~encoded.active).to(torch.int8), dim=1, stable=True)
        fed = fed.gather(1, order.unsqueeze(2).expand_as(fed))
        start = self.start.expand(len(encoded), 1, self.units)
        out, _ = self.lstm(torch.cat([start, fed[:, :-1]], 1))
        place = (encoded.active.cumsum(1) - 1).clamp_min(0)
        hidden: Tensor = out.gather(1, place.unsqueeze(2).expand_as(out))
        return hidden

    # --- sampling: all n advance one decision at a time -------------------------------------

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator, given: Mapping[str, Option] | None = None
    ) -> tuple[Encoded, Tensor]:
        """Draw n architectures; return them and their log-probabilities [n]."""
        encoding = self.encoding
        fixed = encoding.given_options(given or {})
        draws = _Draws(n, encoding, self.start.dtype)
        x = self.start.expand(n, self.units)
        step = _Step(self.lstm)
        state = [(x.new_zeros(n, self.units),) * 2 for _ in range(self.lstm.num_layers)]
        anchors = x.new_zeros(n, max(len(encoding.anchor), 1), self.units)
        for d, decision in enumerate(encoding.space.decisions):
            active = draws.holds(d)
            if not bool(active.any()):
                continue
            after = step(x, state)
            keep = active.unsqueeze(1)
            if not bool(active.all()):
                after = [
                    (torch.where(keep, h, h_before), torch.where(keep, c, c_before))
                    for (h, c), (h_before, c_before) in zip(after, state, strict=True)
                ]
            state, h = after, after[-1][0]
            if isinstance(decision, Connections):
                i = encoding.anchor[decision.anchor]
                anchors[:, i] = h
                self._sample_links(draws, i, d, h, anchors, generator)
                fed = self._fed_back(draws.links[:, i])
            else:
                g = int(self.group[d])
                logits = (h @ self.head_weight[g].T + self.head_bias[g])[:, : len(decision.options)]
                draws.choose(d, F.log_softmax(logits, -1), fixed.get(d), generator)
                fed = self.option_embedding[g][draws.choice[:, d]]
            x = torch.where(keep, fed, x)
        return draws.encoded(), draws.log_prob

    def _sample_links(
        self,
        draws: _Draws,
        i: int,
        d: int,
        h_i: Tensor,
        anchors: Tensor,
        generator: torch.Generator,
    ) -> None:
        sources = self.encoding.sources[i]
        if sources:
            h_j = anchors[:, sources].unsqueeze(1)
            logits = self._link_logits(h_j, h_i.view(len(h_i), 1, 1, -1))[:, 0]
            draws.connect(i, d, sources, logits, self.anchor_position, generator)


class _Step:
    """One step of an nn.LSTM, for whose call a step alone is too small."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self.layers = []
        for weights in lstm.all_weights:
            w_input, w_hidden, b_input, b_hidden = weights
            self.layers.append((torch.cat([w_input, w_hidden], 1).T, b_input + b_hidden))

    def __call__(
        self, x: Tensor, state: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """`x` [n, units] and each layer's (h, c) -> each layer's (h, c)."""
        after = []
        for (weight, bias), (h, c) in zip(self.layers, state, strict=True):
            gates = torch.addmm(bias, torch.cat([x, h], 1), weight)
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            after.append((x, c))
        return after


class _Draws:
    """The tensors of `Encoded` while they are being drawn."""

    def __init__(self, n: int, encoding: Encoding, dtype: torch.dtype) -> None:
        d_, a_ = len(encoding.index), len(encoding.anchor)
        self.conditions = encoding.conditions
        self.active = torch.zeros(n, d_, dtype=torch.bool)
        self.learned = torch.zeros(n, d_, dtype=torch.bool)
        self.choice = torch.zeros(n, d_, dtype=torch.int64)
        self.links = torch.zeros(n, a_, a_, dtype=torch.bool)
        self.open = torch.zeros(n, a_, a_, dtype=torch.bool)
        self.log_prob = torch.zeros(n, dtype=dtype)

    def holds(self, d: int) -> Tensor:
        """Mark decision d active where its conditions are met; return where."""
        active = torch.ones(len(self.active), dtype=torch.bool)
        for parent, allowed in self.conditions[d]:
            active &= self.active[:, parent] & allowed[self.choice[:, parent]]
        self.active[:, d] = self.learned[:, d] = active
        return active

    def choose(self, d: int, log_p: Tensor, fixed: int | None, generator: torch.Generator) -> None:
        if fixed is not None:
            self.learned[:, d] = False
            self.choice[:, d] = torch.where(self.active[:, d], fixed, 0)
            return
        drawn = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
        self.choice[:, d] = torch.where(self.active[:, d], drawn, 0)
        taken = log_p.gather(1, drawn.unsqueeze(1))[:, 0]
        self.log_prob += torch.where(self.active[:, d], taken, 0.0)

    def connect(
        self,
        i: int,
        d: int,
        sources: list[int],
        logits: Tensor,
        position: list[int],
        generator: torch.Generator,
    ) -> None:
        reached = self.active[:, [position[j] for j in sources]] & self.active[:, d].unsqueeze(1)
        uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
        bits = (uniform < logits.sigmoid()) & reached
        self.links[:, i, sources] = bits
        self.open[:, i, sources] = reached
        log_p = torch.where(bits, F.logsigmoid(logits), F.logsigmoid(-logits))
        self.log_prob += torch.where(reached, log_p, 0.0).sum(1)

    def encoded(self) -> Encoded:
        return Encoded(self.active, self.learned, self.choice, self.links, self.open)
