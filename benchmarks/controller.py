"""What a proposal and an update of the controller cost, against the usual loop.

    python -m benchmarks.controller [--depths 15 39] [--batches 8 64] [--rounds 7]

v1 with anchors (at 15 layers 60 decisions, 105 links), one thread. The reference is the loop that
public implementations have: one architecture at a time, one token at a time through `nn.LSTMCell`,
the graph of every log-probability kept for one backward pass, the links of an anchor point at
once. It has the policy's parameters, and the benchmark first checks that its log-probabilities are
`Policy.score`'s. Milliseconds of the processor an architecture (time.process_time: what other
work on the machine takes is not counted in), by turns in one run, medians. Then the draws alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import shared
from benchmarks.shared import count
from netwright.controllers.policy import Policy
from netwright.controllers.policy_gradient import PolicyGradient, PolicySettings
from netwright.space import Architecture, Choice, SearchSpace, Value
from netwright.spaces import conv
from netwright.trial import Trial

FEW = 4  # architectures of the loop a turn: they share no work


class TokenLoop:
    """REINFORCE as public implementations write it, on the parameters of `policy`."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.encoding = policy, policy.encoding
        self.cells = []
        for weights in policy.lstm.all_weights:
            cell = nn.LSTMCell(policy.units, policy.units)
            cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh = weights
            self.cells.append(cell)
        self.adam = torch.optim.Adam(policy.parameters(), lr=0.0006)
        self.baseline = 0.5

    def draw(self) -> tuple[Architecture, Tensor]:
        """Sample one architecture; return it and its log-probability."""
        policy, space = self.policy, self.encoding.space
        zero = torch.zeros(1, policy.units)
        state = [(zero, zero) for _ in self.cells]
        values: dict[str, Value] = {}
        seen: dict[str, Tensor] = {}  # anchor points and their hidden states
        log_prob = torch.zeros(())
        x = policy.start[None]
        for d, decision in enumerate(space.decisions):
            if not space.holds(decision, values):
                continue
            for k, cell in enumerate(self.cells):
                state[k] = cell(x, state[k])
                x = state[k][0]
            if isinstance(decision, Choice):
                g, width = int(policy.group[d]), len(decision.options)
                logits = F.linear(x, policy.head_weight[g, :width], policy.head_bias[g, :width])
                option = int(torch.multinomial(logits.softmax(1), 1))
                log_prob = log_prob + logits.log_softmax(1)[0, option]
                values[decision.name] = decision.options[option]
                x = policy.option_embedding[g, option][None]
                continue
            sources = space.sources(decision, values)
            links = torch.zeros(1, len(self.encoding.anchor))
            if sources:
                before = torch.cat([seen[source] for source in sources])
                inner = before @ policy.w_prev.T + x @ policy.w_curr.T
                logit = torch.tanh(inner) @ policy.v
                bits = torch.bernoulli(logit.sigmoid())
                log_prob = log_prob + F.logsigmoid(torch.where(bits > 0, logit, -logit)).sum()
                links[0, [self.encoding.anchor[source] for source in sources]] = bits.detach()
            taken = [s for s in sources if links[0, self.encoding.anchor[s]] > 0]
            values[decision.name] = tuple(taken)
            seen[decision.anchor] = x
            mean = links @ policy.anchor_embedding / links.sum().clamp_min(1)
            x = policy.anchor_token + mean
        return Architecture(space.fingerprint, tuple(values.items())), log_prob

    def batch(self, n: int) -> None:
        """Sample n architectures and learn from them."""
        drawn = [self.draw() for _ in range(n)]
        self.adam.zero_grad()
        rewards = [0.4 + 0.01 * i for i in range(n)]
        losses = [
            -log_prob * (reward - self.baseline)
            for (_, log_prob), reward in zip(drawn, rewards, strict=True)
        ]
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        self.adam.step()


class Ours:
    """`PolicyGradient` past its first batch, which only sets the baseline."""

    def __init__(self, space: SearchSpace, batch: int) -> None:
        self.controller = PolicyGradient(space, PolicySettings(batch=batch))
        self.controller.baseline = 0.5
        self.proposals = 0

    def batch(self, n: int) -> None:
        """Propose n architectures and tell their rewards."""
        trials = [
            Trial(number=i, batch=self.proposals, architecture=a, seed=0, reward=0.4 + 0.01 * i)
            for i, a in enumerate(self.controller.propose(n))
        ]
        self.proposals += 1
        self.controller.tell(trials)


def check(loop: TokenLoop) -> None:
    """Fail unless the loop computes what `Policy.score` does."""
    drawn = [loop.draw() for _ in range(4)]
    expected = loop.policy.score(loop.encoding.encode([a for a, _ in drawn])).log_prob
    torch.testing.assert_close(torch.stack([p for _, p in drawn]), expected, rtol=1e-4, atol=1e-4)


def milliseconds(
    functions: dict[str, tuple[Callable[[], object], int]], rounds: int
) -> list[float]:
    """Return the median of each, an architecture, by turns; with how many one call takes."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, (function, n) in functions.items():
            started = time.process_time()
            function()
            if turn:
                times[name].append((time.process_time() - started) / n * 1e3)
    return [statistics.median(taken) for taken in times.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depths", type=count, nargs="+", default=[15, 39])
    parser.add_argument("--batches", type=count, nargs="+", default=[8, 64])
    parser.add_argument("--draws", type=count, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=count, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for depth in args.depths:
        space = conv.v1(depth)
        policy = PolicyGradient(space).policy
        loop = TokenLoop(policy)
        check(loop)
        functions: dict[str, tuple[Callable[[], object], int]] = {
            "loop": (partial(loop.batch, FEW), FEW)
        }
        for batch in args.batches:
            ours = Ours(space, batch)
            functions[str(batch)] = (partial(ours.batch, batch), batch)
        reference, *own = milliseconds(functions, args.rounds)
        for batch, each in zip(args.batches, own, strict=True):
            print(
                f"depth {depth}, batch {batch}: {each:.2f} ms an architecture; token by token "
                f"{reference:.1f} ms ({reference / each:.1f} times)",
                flush=True,
            )
        generator = torch.Generator().manual_seed(0)
        for n in args.draws:
            draw = partial(policy.sample, n, generator)
            (each,) = milliseconds({"draw": (draw, 1)}, args.rounds)
            print(f"depth {depth}: {n} draws in {each:.1f} ms", flush=True)


if __name__ == "__main__":
    shared.run(main)
