"""Training a language model by truncated backpropagation, read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netwright.children.language import Dropouts, LanguageModel, State
from netwright.data.text import batchify, windows
from netwright.errors import ChildError
from netwright.rules import Section
from netwright.training.limits import Deadline, no_denormals
from netwright.training.numerics import PRECISIONS, UNFRAMED, Numerics
from netwright.training.schedules import SCHEDULES, cosine_rate, decay_rate, step_rate
from netwright.training.seeded import start

PLAIN, NARROW = UNFRAMED
LOOK = 50  # steps between looks at the loss


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """How a language model is trained and rewarded.

    epochs: >= 1 (35; paper, 4.2). batch: texts side by side, >= 1 (20). steps: of one truncated
        backpropagation, >= 1 (35). eval_batch: texts side by side in validation and test, >= 1.
    optimiser: "sgd" or "adam". learning_rate: > 0; the loss is summed over the steps and averaged
        over the batch (Zaremba et al. 2014), which only matters to "sgd" and `clip`.
    weight_decay: >= 0. clip: largest norm of the gradient, > 0 (5). scale: weights start uniform in
        [-scale, scale], > 0 (0.05). frequency_bias: the output's biases start at the training
        text's frequencies instead of zero, which saves the first part of a short training.
    schedule: "constant"; "decay": times decay_factor each epoch after the first decay_after;
        "drops": times decay_factor at each of `drops`, shares of the epochs that rise in (0, 1);
        "cosine": to zero over the run.
    embedding_dropout, input_dropout, hidden_dropout, output_dropout, recurrent_dropout: in [0, 1).
    variational: one dropout mask for all steps of a window, see `Dropouts`.
    reward_scale: c of the reward c / perplexity^2, > 0 (80).
    give_up: a loss above this many times that of a uniform guess, after `LOOK` steps, fails the
        child, > 1.
    time_limit: seconds, 0 for none. memory_limit: GiB allocated beyond the start, 0 for none.
    precision: "float32", "bfloat16" or "auto", what is faster here
        (netwright.training.language_numerics).
    """

    epochs: int = 35
    batch: int = 20
    steps: int = 35
    eval_batch: int = 10
    optimiser: str = "sgd"
    learning_rate: float = 1.0
    weight_decay: float = 0.0
    clip: float = 5.0
    scale: float = 0.05
    frequency_bias: bool = False
    schedule: str = "decay"
    decay_after: int = 6
    decay_factor: float = 1 / 1.2
    drops: tuple[float, ...] = (0.5, 0.75)
    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    variational: bool = True
    reward_scale: float = 80.0
    give_up: float = 2.0
    time_limit: float = 0.0
    memory_limit: float = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        section = Section("training", self)
        section.at_least(1, "epochs", "batch", "steps", "eval_batch")
        section.at_least(0, "weight_decay", "time_limit", "memory_limit", "decay_after")
        section.above(0, "learning_rate", "clip", "scale", "reward_scale")
        section.above(1, "give_up")
        section.within("[0, 1)", "embedding_dropout", "input_dropout", "hidden_dropout")
        section.within("[0, 1)", "output_dropout", "recurrent_dropout")
        section.within("(0, 1]", "decay_factor")
        section.rising("drops", "must rise within (0, 1)", 0, 1)
        section.one_of("optimiser", ("sgd", "adam"))
        section.one_of("schedule", SCHEDULES)
        section.one_of("precision", PRECISIONS)

    @property
    def dropouts(self) -> Dropouts:
        """The dropout rates of the model."""
        return Dropouts(
            embedding=self.embedding_dropout,
            input=self.input_dropout,
            hidden=self.hidden_dropout,
            output=self.output_dropout,
            recurrent=self.recurrent_dropout,
            variational=self.variational,
        )

    def rate(self, epoch: int, share: float) -> float:
        """Return the learning rate in `epoch` (from 0), the share in [0, 1) of it done."""
        base = self.learning_rate
        if self.schedule == "decay":
            return decay_rate(base, epoch, self.decay_after, self.decay_factor)
        if self.schedule == "drops":
            return step_rate(base, epoch, self.epochs, self.drops, self.decay_factor)
        if self.schedule == "cosine":
            return cosine_rate(base, (epoch + share) / self.epochs)
        return base


def reward_of(perplexity: float, recipe: LanguageRecipe) -> float:
    """Return c / perplexity^2 (paper, 4.2)."""
    return recipe.reward_scale / perplexity**2


def make_optimiser(
    model: LanguageModel, recipe: LanguageRecipe, device: str = "cpu"
) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe; its steps are fused where they can be."""
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.SGD
    fused = torch.device(device).type in ("cpu", "cuda")
    made: torch.optim.Optimizer = kind(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused
    )
    return made


def take_step(
    model: LanguageModel,
    optimiser: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    state: State,
    recipe: LanguageRecipe,
    numerics: Numerics,
) -> tuple[Tensor, State]:
    """Learn from one window, int64 [T, N] both; return the mean loss and the state after it."""
    device = str(inputs.device)
    with numerics.cast(device):
        features, state = model(inputs, state)
        total = model.output.loss(features.flatten(0, 1), targets.flatten()).float()
    optimiser.zero_grad(set_to_none=True)
    (total / inputs.shape[1]).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if inputs.device.type != "cpu" or not norm <= recipe.clip:  # elsewhere to look would wait
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip, norm)
    optimiser.step()
    return total.detach() / targets.numel(), [(h.detach(), c.detach()) for h, c in state]


@no_denormals()
def train(
    model: LanguageModel,
    text: Tensor,
    valid: Tensor | None,
    recipe: LanguageRecipe,
    seed: int,
    device: str = "cpu",
    deadline: Deadline | None = None,
    on_epoch: Callable[[int, float | None], None] | None = None,
    stop: Callable[[Sequence[float]], bool] | None = None,
    numerics: Numerics | None = None,
) -> list[float]:
    """Train `model` on `text`, int64 [N]; return its perplexity on `valid` after each epoch.

    `seed` draws the dropout. `on_epoch` gets the epoch, from 1, and the perplexity. stop: asked
    after each epoch with the perplexities so far; True ends the training there. numerics: the
    precision, float32 by default unless the recipe has another. Raises `ChildError` where the loss
    is not finite or far above that of a guess, and `TimeLimitError` past the deadline.
    """
    start(seed, device)
    numerics = numerics or (NARROW if recipe.precision == "bfloat16" else PLAIN)
    deadline = deadline or Deadline(recipe.time_limit)
    columns = batchify(text, recipe.batch).to(device)  # [N / batch, batch]
    if recipe.frequency_bias:
        model.output.start_from(torch.bincount(text, minlength=len(model.output.bias)))
    model = model.to(device)
    optimiser = make_optimiser(model, recipe, device)
    losses = _Watch(recipe, len(model.output.bias))
    steps = math.ceil((len(columns) - 1) / recipe.steps)
    curve: list[float] = []
    for epoch in range(recipe.epochs):
        model.train()
        state = model.start(columns.shape[1])
        for i, (inputs, targets) in enumerate(windows(columns, recipe.steps)):  # [T, batch] each
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(epoch, i / steps)
            loss, state = take_step(model, optimiser, inputs, targets, state, recipe, numerics)
            losses.take(loss)
            deadline.check()
        losses.look()
        value = None
        if valid is not None:
            value = perplexity(model, valid, recipe, device, deadline, numerics)
        if value is not None:
            curve.append(value)
        if on_epoch is not None:
            on_epoch(epoch + 1, value)
        if stop is not None and stop(curve):
            break
    return curve


class _Watch:
    """Gives a child up whose loss is lost."""

    def __init__(self, recipe: LanguageRecipe, vocabulary: int) -> None:
        self.seen = 0
        self._limit = recipe.give_up * math.log(vocabulary)
        self._recent: list[Tensor] = []

    def take(self, loss: Tensor) -> None:
        self._recent.append(loss)
        self.seen += 1
        if self.seen % LOOK == 0:
            self.look()

    def look(self) -> None:
        """Raise `ChildError` if the mean loss since the last look is not finite or too high."""
        if not self._recent:
            return
        mean = float(torch.stack(self._recent).mean())
        self._recent = []
        if not mean <= self._limit:
            raise ChildError(
                f"the loss diverged: {mean:.3g} nats a unit by step {self.seen}, the limit is "
                f"{self._limit:.3g}"
            )


@torch.no_grad()
def perplexity(
    model: LanguageModel,
    text: Tensor,
    recipe: LanguageRecipe,
    device: str = "cpu",
    deadline: Deadline | None = None,
    numerics: Numerics | None = None,
) -> float:
    """Return exp of the mean loss over `text`, int64 [N], read in `eval_batch` columns.

    The state is carried from window to window; each column's first unit is only read. numerics:
    float32 by default, in which a network is used. Raises `ChildError` where it is not finite.
    """
    model.eval()
    numerics = numerics or PLAIN
    columns = batchify(text, min(recipe.eval_batch, max(1, len(text) // 2))).to(device)
    state = model.start(columns.shape[1])
    losses, count = [], 0
    for inputs, targets in windows(columns, recipe.steps):
        with numerics.cast(device):
            features, state = model(inputs, state)
            losses.append(model.output.loss(features.flatten(0, 1), targets.flatten()))
        count += targets.numel()
        if deadline is not None:
            deadline.check()
    total = 0.0
    for loss in torch.stack(losses).tolist():  # read at once: each look would wait for the device
        total += loss
    mean = total / count
    if not mean < 100:
        raise ChildError(f"the loss on a text was not finite or absurd: {mean:.3g} nats a unit")
    return math.exp(mean)
