"""`netwright.nn.Recurrent` in the place of `nn.LSTM`: an encoder hands its state to a decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netwright.nn import Recurrent

DIGITS, START, LENGTH = 10, 10, 4


class Reverser(nn.Module):
    """Reads digits and says them backwards."""

    def __init__(self, cell: str | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(DIGITS + 1, 16)
        self.encoder: nn.Module = nn.LSTM(16, 48)
        self.decoder: nn.Module = nn.LSTM(16, 48)
        if cell is not None:
            self.encoder, self.decoder = Recurrent(cell, 16, 48), Recurrent(cell, 16, 48)
        self.output = nn.Linear(48, DIGITS)

    def forward(self, digits: Tensor, said: Tensor) -> Tensor:
        """`digits`, and `said` before each step, int64 [T, N] -> logits [T, N, DIGITS]."""
        _, (h, c) = self.encoder(self.embedding(digits))
        features, _ = self.decoder(self.embedding(said), (h, c))
        logits: Tensor = self.output(features)
        return logits

    @torch.no_grad()
    def reverse(self, digits: Tensor) -> Tensor:
        """`digits` int64 [T, N] -> the digits that it says, each after its own last one."""
        _, state = self.encoder(self.embedding(digits))
        word = torch.full_like(digits[:1], START)
        said = []
        for _ in digits:
            features, state = self.decoder(self.embedding(word), state)
            word = self.output(features).argmax(2)
            said.append(word)
        return torch.cat(said)


def main(cell: str | None = None, steps: int = 200) -> float:
    """Train on random digits; return the share of others that are said right."""
    torch.manual_seed(0)
    model = Reverser(cell)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        digits = torch.randint(DIGITS, (LENGTH, 64))
        wanted = digits.flip(0)
        said = torch.cat([torch.full_like(wanted[:1], START), wanted[:-1]])
        loss = nn.functional.cross_entropy(model(digits, said).flatten(0, 1), wanted.flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    digits = torch.randint(DIGITS, (LENGTH, 500))
    return float((model.reverse(digits) == digits.flip(0)).float().mean())


if __name__ == "__main__":
    for cell in (None, "nascell"):
        accuracy = main(cell)
        print(f"{cell or 'nn.LSTM'}: {accuracy:.3f} of the digits are right")
        assert accuracy > 0.9
