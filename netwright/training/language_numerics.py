"""The precision of language models, measured on a model of the child's size, once a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from netwright.children.language import (
    NARROWEST,
    LanguageChildSettings,
    LanguageModel,
    parameters_at,
    solve_width,
)
from netwright.children.recurrent import load_cell
from netwright.errors import ConfigError
from netwright.training.language import PLAIN, LanguageRecipe, make_optimiser, take_step
from netwright.training.numerics import UNFRAMED, Numerics, Speeds, chosen, race
from netwright.training.seeded import seeded

CELL = "nascell"
SMALL = 20_000  # parameters below which a step is calls more than arithmetic


def chosen_for(
    recipe: LanguageRecipe, child: LanguageChildSettings, vocabulary: int, device: str = "cpu"
) -> Numerics:
    """Return the precision in which such children are trained fastest on `device`.

    It is the recipe's where that is not "auto". Small models, and processors without bfloat16, are
    not measured but take float32.
    """
    if recipe.precision != "auto":
        return chosen(recipe.precision, device, cases=UNFRAMED)
    probe = probe_of(recipe, child, vocabulary)
    size = parameters_at(load_cell(CELL), vocabulary, child, probe.child.width)
    without = device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if size < SMALL or without:
        return PLAIN
    return chosen("auto", device, probe, UNFRAMED, f"language {probe}")


def probe_of(recipe: LanguageRecipe, child: LanguageChildSettings, vocabulary: int) -> Probe:
    """Return what is measured for such children."""
    try:
        width = solve_width(load_cell(CELL), vocabulary, child)
    except ConfigError:  # a smaller vocabulary than was guessed, and so a small child
        width = NARROWEST
    return Probe(replace(child, width=width), vocabulary, recipe.batch, recipe.steps)


@dataclass(frozen=True)
class Probe:
    """Steps a second of training a model of one size, in each precision."""

    child: LanguageChildSettings
    vocabulary: int
    batch: int
    steps: int

    def __str__(self) -> str:
        child = self.child
        return (
            f"{child.layers} x {child.width}, {self.vocabulary} units {list(child.cutoffs)}, "
            f"{self.batch} x {self.steps}"
        )

    def __call__(self, device: str) -> Speeds:
        """Return the speed of each precision."""
        return race([self.step(case, device) for case in UNFRAMED], device)

    def step(self, case: Numerics, device: str = "cpu") -> Callable[[], object]:
        """Return a step of training in one precision."""
        recipe = LanguageRecipe(batch=self.batch, steps=self.steps)
        with seeded(0):
            model = LanguageModel(load_cell(CELL), self.vocabulary, self.child).to(device)
            # Words as frequent as in a text, so that the ranges of an adaptive softmax are too.
            shares = 1 / torch.arange(1, self.vocabulary + 1, dtype=torch.float64)
            drawn = torch.multinomial(shares, (self.steps + 1) * self.batch, replacement=True)
        text = drawn.view(self.steps + 1, self.batch).to(device)
        optimiser = make_optimiser(model, recipe, device)
        state = model.start(self.batch)
        return lambda: take_step(model, optimiser, text[:-1], text[1:], state, recipe, case)
