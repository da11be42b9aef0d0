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

from netwright.controllers import sampling
from netwright.controllers.encoding import Encoded, Encoding
from netwright.controllers.threads import single_thread
from netwright.protocols import PolicySnapshot
from netwright.seeding import derive_seed
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
        return sampling.sample(self, n, generator, self.encoding.given_options(given or {}))


def snapshot(
    policy: Policy, seed: int, samples: int, given: Mapping[str, Option] | None = None
) -> PolicySnapshot:
    """Average the probabilities of each decision over `samples` drawn architectures."""
    with single_thread(), torch.no_grad():
        generator = torch.Generator().manual_seed(derive_seed(seed, 0, "snapshot"))
        encoded, _ = policy.sample(samples, generator, given)
        scores = policy.score(encoded)
    options, connections = {}, {}
    for d, choice in policy.encoding.choices:
        holds = encoded.active[:, d]
        if not bool(holds.any()):
            continue
        width = len(choice.options)
        p = scores.options[holds, d, :width].exp().mean(0)
        if given and choice.name in given:
            p = torch.tensor([float(o == given[choice.name]) for o in choice.options])
        options[choice.name] = tuple(p.tolist())
    for d, connection in policy.encoding.connections:
        holds = encoded.active[:, d]
        i = policy.encoding.anchor[connection.anchor]
        if bool(holds.any()):
            p = scores.links[holds, i][:, policy.encoding.sources[i]].mean(0)
            connections[connection.name] = tuple(p.tolist())
    return PolicySnapshot(
        entropy=float(scores.entropy.mean()), options=options, connections=connections
    )
