"""Search a multilayer perceptron with one's own training function, journalled in a file."""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

import netwright as nw

space = nw.SearchSpace(
    "mlp",
    [
        nw.Choice("layers", (1, 2, 3)),
        nw.Choice("units1", (4, 16, 64)),
        nw.Choice("units2", (4, 16, 64), when={"layers": (2, 3)}),
        nw.Choice("units3", (4, 16, 64), when={"layers": (3,)}),
        nw.Choice("activation", ("relu", "tanh")),
        nw.Choice("rate", (0.001, 0.01, 0.1)),
    ],
)


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = load_breast_cancer(return_X_y=True)
    # The test part is split off and not looked at here.
    x, _, y, _ = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    x_train, x_valid, y_train, y_valid = train_test_split(x, y, test_size=0.3, random_state=0)
    mean, std = x_train.mean(0), x_train.std(0)
    tensors = [torch.tensor((part - mean) / std).float() for part in (x_train, x_valid)]
    return tensors[0], torch.tensor(y_train), tensors[1], torch.tensor(y_valid)


def network(architecture: nw.Architecture) -> nn.Module:
    layers: list[nn.Module] = []
    for name, units in architecture.items():
        if name.startswith("units") and isinstance(units, int):
            layers += [nn.LazyLinear(units)]
            layers += [nn.ReLU() if architecture["activation"] == "relu" else nn.Tanh()]
    return nn.Sequential(*layers, nn.LazyLinear(2))


def train(architecture: nw.Architecture, seed: int) -> float:
    """Return the validation accuracy after 40 full-batch steps."""
    torch.manual_seed(seed)
    x_train, y_train, x_valid, y_valid = data()
    model = network(architecture)
    model(x_train)
    rate = architecture["rate"]
    assert isinstance(rate, float)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x_train), y_train)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float((model(x_valid).argmax(1) == y_valid).float().mean())


def main(storage: str = "sqlite://", trials: int = 40) -> nw.Study:
    controller = nw.PolicyGradient(space, nw.PolicySettings(batch=5, learning_rate=0.02), seed=1)
    study = nw.Study(space, controller, train, storage=storage, seed=1)
    study.run(trials=trials)
    return study


if __name__ == "__main__":
    found = main(sys.argv[1] if len(sys.argv) > 1 else "sqlite://")
    print(f"validation {found.best.score:.3f}: {dict(found.best.architecture)}")
