"""`netwright.nn.Recurrent` in the place of `nn.LSTM`: tag words by the words on both sides."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from netwright.nn import Recurrent

WORDS, TAGS, LONGEST = 8, 4, 12
OPENS, CLOSES = 0, 1  # two of the words


class Tagger(nn.Module):
    """Tags each word of sentences of many lengths."""

    def __init__(self, cell: str | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.layer: nn.Module = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        if cell is not None:
            self.layer = Recurrent(cell, 8, 16, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * 16, TAGS)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """`words` int64 [N, T], `lengths` int64 [N] -> logits [N, T, TAGS]."""
        packed = pack_padded_sequence(
            self.embedding(words), lengths, batch_first=True, enforce_sorted=False
        )
        features, _ = self.layer(packed)
        padded, _ = pad_packed_sequence(features, batch_first=True, total_length=LONGEST)
        logits: Tensor = self.output(padded)
        return logits


def sentences(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return words and tags [n, LONGEST], lengths [n] and which places are words.

    A tag says whether OPENS stands at its word or before (1), CLOSES there or after (2), or
    both (3).
    """
    words = torch.randint(WORDS, (n, LONGEST))
    lengths = torch.randint(4, LONGEST + 1, (n,))
    there = torch.arange(LONGEST) < lengths[:, None]
    opened = (words == OPENS).cumsum(1) > 0
    closes = ((words == CLOSES) & there).flip(1).cumsum(1).flip(1) > 0
    return words, opened.long() + 2 * closes.long(), lengths, there


def main(cell: str | None = None, steps: int = 100) -> float:
    """Train on new sentences at every step; return the share of right tags on others."""
    torch.manual_seed(0)
    model = Tagger(cell)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        words, tags, lengths, there = sentences(64)
        loss = nn.functional.cross_entropy(model(words, lengths)[there], tags[there])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    words, tags, lengths, there = sentences(500)
    with torch.no_grad():
        right = model(words, lengths).argmax(2) == tags
    return float(right[there].float().mean())


if __name__ == "__main__":
    for cell in (None, "nascell"):
        accuracy = main(cell)
        print(f"{cell or 'nn.LSTM'}: {accuracy:.3f} of the tags are right")
        assert accuracy > 0.95
