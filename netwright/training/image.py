"""Training a child on images: the paper's recipe (4.1), read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.children.kept import forget
from netwright.data.images import Pipeline
from netwright.errors import ChildError
from netwright.rules import Section
from netwright.training.limits import Deadline, keep_memory
from netwright.training.numerics import PRECISIONS, Numerics, chosen
from netwright.training.schedules import step_rate


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a child is trained and rewarded; the defaults are the paper's.

    epochs: >= 1 (50). batch: images a step, >= 2 (64, DenseNet's).
    learning_rate: of Nesterov's method, > 0 (0.1). momentum: in [0, 1) (0.9).
    weight_decay: >= 0 (1e-4).
    drops: shares of the epochs, in (0, 1) and rising, after which the rate is multiplied by
        drop_factor in (0, 1] (0.5 and 0.75; 0.1).
    reward_epochs: the reward is the best validation accuracy of this many last epochs, >= 1 (5),
    reward_power: to this power, > 0 (3).
    time_limit: seconds, 0 for none. memory_limit: GiB allocated beyond the start, 0 for none.
    precision: "float32", "bfloat16" or "auto", what is faster here (netwright.training.numerics).
    """

    epochs: int = 50
    batch: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drops: tuple[float, ...] = (0.5, 0.75)
    drop_factor: float = 0.1
    reward_epochs: int = 5
    reward_power: float = 3.0
    time_limit: float = 0.0
    memory_limit: float = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        section = Section("training", self)
        section.at_least(1, "epochs", "reward_epochs")
        section.at_least(2, "batch")
        section.at_least(0, "weight_decay", "time_limit", "memory_limit")
        section.above(0, "learning_rate", "reward_power")
        section.within("[0, 1)", "momentum")
        section.within("(0, 1]", "drop_factor")
        section.rising("drops", "must rise within (0, 1)", 0, 1)
        section.one_of("precision", PRECISIONS)


def reward_of(curve: Sequence[float], recipe: Recipe) -> tuple[float, float]:
    """Return (score, reward): the best accuracy of the last epochs, and its power (4.1)."""
    score = max(curve[-recipe.reward_epochs :])
    return score, score**recipe.reward_power


def make_optimiser(model: nn.Module, recipe: Recipe, device: str = "cpu") -> torch.optim.SGD:
    """Return the optimiser of a recipe; its steps are fused where they can be."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=torch.device(device).type in ("cpu", "cuda"),
    )


def train(
    model: nn.Module,
    data: Pipeline,
    valid: Pipeline | None,
    recipe: Recipe,
    seed: int,
    device: str = "cpu",
    deadline: Deadline | None = None,
    on_epoch: Callable[[int, float | None], None] | None = None,
    numerics: Numerics | None = None,
    stop: Callable[[Sequence[float]], bool] | None = None,
    share: float = 1.0,
) -> list[float]:
    """Train `model` and return its accuracy on `valid` after each epoch (empty without one).

    `seed` orders and augments the data. `on_epoch` gets the epoch, from 1, and its accuracy.
    numerics: layout and precision, by default what `recipe.precision` leads to on this machine.
    stop: asked with the accuracies so far after each epoch; True ends the training there.
    share: of each epoch's batches, in (0, 1]; below 1 only the last epoch ends with validation.
    Raises `ChildError` when the loss is not finite and `TimeLimitError` past the deadline.
    """
    generator = torch.Generator().manual_seed(seed)
    deadline = deadline or Deadline(recipe.time_limit)
    numerics = numerics or chosen(recipe.precision, device)
    model = numerics.model(model, device)
    keep_memory()
    optimiser = make_optimiser(model, recipe, device)
    steps = max(1, round(share * math.ceil(len(data) / recipe.batch)))
    curve: list[float] = []
    for epoch in range(recipe.epochs):
        rate = step_rate(
            recipe.learning_rate, epoch, recipe.epochs, recipe.drops, recipe.drop_factor
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        model.train()
        total = torch.zeros((), device=device)
        for images, labels in islice(data.train_batches(recipe.batch, generator), steps):
            with numerics.cast(device):
                logits = model(numerics.images(images))
            loss = F.cross_entropy(logits.float(), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.detach()
            deadline.check()
        if not bool(torch.isfinite(total)):
            raise ChildError(f"the loss was not finite in epoch {epoch + 1} (rate {rate:g})")
        accuracy = None
        if valid is not None and (share == 1 or epoch + 1 == recipe.epochs):
            accuracy = evaluate(model, valid, deadline, numerics)
            curve.append(accuracy)
        if on_epoch is not None:
            on_epoch(epoch + 1, accuracy)
        if stop is not None and stop(curve):
            break
    forget(model)
    return curve


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Pipeline,
    deadline: Deadline | None = None,
    numerics: Numerics | None = None,
) -> float:
    """Return the share of images whose largest logit is their label's, in [0, 1].

    numerics: float32 by default, in which a network is used.
    """
    model.eval()
    numerics = numerics or Numerics()
    device = data.labels.device
    right = torch.zeros((), dtype=torch.int64, device=device)
    for images, labels in data.eval_batches():
        with numerics.cast(str(device)):
            logits: Tensor = model(numerics.images(images))
        right += (logits.argmax(1) == labels).sum()
        if deadline is not None:
            deadline.check()
    return int(right) / len(data)
