"""The task of the paper's section 4.2: recurrent cells for language models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

from netwright.children.language import LanguageChildSettings, parameters_at, solve_width
from netwright.data.text import TextSettings
from netwright.errors import DataError
from netwright.evaluators.language import LanguageEvaluator, core_of, train_final
from netwright.executors.probe import Subject
from netwright.rules import Section
from netwright.space import Architecture, SearchSpace
from netwright.spaces import recurrent
from netwright.spaces.recurrent import Cell
from netwright.tasks.base import Config, OnEpoch, combinations
from netwright.tasks.language_network import FinishedLanguage
from netwright.tasks.language_shown import ShownCell
from netwright.training.language import PLAIN, LanguageRecipe
from netwright.training.language_numerics import chosen_for, probe_of
from netwright.trial import Evaluation, Metric

PTB: Mapping[str, Any] = {"vocabulary": 10_000}
GUESSED = {"words": 10_000, "characters": 100}


@dataclass(frozen=True, kw_only=True)
class LanguageTune:
    """The grid after the search (paper, 4.2): every combination; an empty list keeps training's.

    top: architectures, >= 1. learning_rates, scales, decay_afters: as in training. dropouts: pairs
    of a rate for input, hidden and output and one for recurrent dropout, in [0, 1). epochs: of
    each run, 0 takes training.epochs. train_limit: units of training text, 0 takes
    data.train_limit.
    """

    top: int = 3
    learning_rates: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    dropouts: tuple[tuple[float, ...], ...] = ()
    decay_afters: tuple[int, ...] = ()
    epochs: int = 0
    train_limit: int = 0

    def __post_init__(self) -> None:
        section = Section("tune", self)
        section.at_least(1, "top")
        section.above(0, "learning_rates", "scales")
        section.at_least(0, "decay_afters", "epochs", "train_limit")
        for pair in self.dropouts:
            if len(pair) != 2 or not all(0 <= rate < 1 for rate in pair):
                rule = "must hold pairs of rates in [0, 1)"
                section.refuse("dropouts", rule, ((0.2, 0.1),), pair)


@dataclass(frozen=True, kw_only=True)
class LanguageFinal:
    """The final training.

    epochs: 0 takes training.epochs. train_limit: units of training text, 0 for all. budget:
    parameters, 0 takes child.budget (the paper trains three sizes).
    """

    epochs: int = 0
    train_limit: int = 0
    budget: int = 0

    def __post_init__(self) -> None:
        Section("final", self).at_least(0, "epochs", "train_limit", "budget")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Config):
    """The configuration of a search for recurrent cells.

    A point of its grid has learning_rate, scale, dropout (a pair) and decay_after, those that
    the tune section lists.
    """

    kind: ClassVar[str] = "recurrent"
    trains: ClassVar[tuple[str, ...]] = ("recurrent", "gated")

    task: str = "language"
    space: recurrent.RecurrentSettings = field(default_factory=recurrent.RecurrentSettings)
    child: LanguageChildSettings = field(default_factory=LanguageChildSettings)
    data: TextSettings = field(default_factory=TextSettings)
    training: LanguageRecipe = field(default_factory=LanguageRecipe)
    tune: LanguageTune = field(default_factory=LanguageTune)
    final: LanguageFinal = field(default_factory=LanguageFinal)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_depth("cells")
        if self.stopping.donors:
            rule = f"must be 0 for {self.task}, whose children inherit nothing"
            Section("stopping", self.stopping).refuse("donors", rule)
        least = 2 * self.training.batch
        rule = f"must be 0, or {least} or more for training.batch={self.training.batch}"
        for name in ("data", "tune", "final"):
            section = Section(name, getattr(self, name))
            if 0 < section.settings.train_limit < least:
                section.refuse("train_limit", rule)

    @property
    def metric(self) -> Metric:
        """Perplexity of words, bits per character of characters."""
        words = self.data.unit == "words"
        return Metric("perplexity" if words else "bits per character", lower=True)

    def fixed(self) -> dict[str, Any]:
        """Return what stays as it is after a search: also the space and the split of the text."""
        split = ("unit", "strip", "validation", "test", "train_limit", "vocabulary")
        data = {f"data.{name}": getattr(self.data, name) for name in split}
        return {**super().fixed(), "space": self.space, **data}

    def settled(self, numerics: str = "") -> Self:
        """Return it with `execution.numerics` filled in.

        What is measured is a model of the children's size over `GUESSED` units where the vocabulary
        is not set.
        """
        execution = self.execution.settled(
            numerics, lambda device: chosen_for(self.training, self.child, self._units, device)
        )
        return replace(self, execution=execution)

    @property
    def _units(self) -> int:
        """How many the vocabulary has, or may have."""
        least = 2 * max(self.child.cutoffs, default=0)
        return self.data.vocabulary or max(GUESSED[self.data.unit], least)

    def subject(self) -> Subject:
        """Return the training of a model of the children's size, as `settled` measures it."""
        case = self.execution.noted(self.training.precision) or PLAIN
        probe = probe_of(self.training, self.child, self._units)
        return Subject(f"language {probe}, {case}", partial(probe.step, case))

    def make_space(self) -> SearchSpace:
        """Return the search space."""
        return recurrent.space(self.name, self.space)

    def make_evaluator(self, space: SearchSpace) -> LanguageEvaluator:
        """Return the evaluator, which reads no text before it is used."""
        numerics = self.execution.noted(self.training.precision)
        return LanguageEvaluator(space, self.data, self.training, self.child, numerics=numerics)

    def settle(self, evaluator: LanguageEvaluator) -> None:
        """Have an evaluator of before `settled` train in what is noted now."""
        evaluator.numerics = self.execution.noted(self.training.precision)

    def describe(self, evaluator: LanguageEvaluator) -> dict[str, Any]:
        """Read the text; return its numbers, when children of this budget have a width."""
        data = evaluator.data
        self._check_length(len(data.train))
        if evaluator.space.kind == "recurrent":
            base = int(evaluator.space.settings["base"])
            solve_width(base, len(data.vocabulary), self.child)
        return {
            "unit": data.unit,
            "vocabulary": len(data.vocabulary),
            "tokens": {"training": len(data.train), "validation": len(data.valid)},
            "unknown": {"validation": data.valid_unknown},
            "digest": data.digest(),
        }

    def _check_length(self, tokens: int) -> None:
        if tokens < 2 * self.training.batch:
            raise DataError(
                f"a training text must have 2 tokens or more for each of the columns of "
                f"training.batch={self.training.batch}; got {tokens} in {self.data.source!r}; use "
                f"--set training.batch={tokens // 2}, or more text"
            )

    # --- tune -------------------------------------------------------------------------------

    @property
    def tune_top(self) -> int:
        """How many of the best cells `tune` takes."""
        return self.tune.top

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the tune section."""
        t = self.tune
        options: dict[str, list[Any]] = {
            "learning_rate": list(t.learning_rates),
            "scale": list(t.scales),
            "dropout": [list(pair) for pair in t.dropouts],
            "decay_after": list(t.decay_afters),
        }
        return combinations({name: values for name, values in options.items() if values})

    def at(self, point: Mapping[str, Any] | None) -> LanguageRecipe:
        """Return the recipe with a point's values, its own for None."""
        changes = dict(point or {})
        pair = changes.pop("dropout", None)
        if pair is not None:
            changes |= {f"{n}_dropout": pair[0] for n in ("input", "hidden", "output")}
            changes["recurrent_dropout"] = pair[1]
        return replace(self.training, **changes)

    def evaluate_point(
        self,
        evaluator: LanguageEvaluator,
        architecture: Architecture,
        point: Mapping[str, Any] | None,
        seed: int,
    ) -> Evaluation:
        """Train at a point of the grid, for tune.epochs on tune.train_limit."""
        recipe = self.at(point)
        recipe = replace(recipe, epochs=self.tune.epochs or recipe.epochs)
        return evaluator.limited(self.tune.train_limit).evaluate_core(
            core_of(evaluator.space, architecture), recipe, self.child, seed, self.execution.here
        )

    # --- the final training -----------------------------------------------------------------

    @property
    def final_epochs(self) -> int:
        """The epochs of the final training."""
        return self.final.epochs or self.training.epochs

    def check_final(
        self, space: SearchSpace, architecture: Architecture, evaluator: Any = None
    ) -> None:
        """Read the text and solve the width for the final size."""
        if space.kind not in self.trains:
            super().check_final(space, architecture)
        own = self.make_evaluator(space)
        data = (evaluator if evaluator and evaluator.settings == own.settings else own).data
        self._check_length(len(data.train))
        solve_width(core_of(space, architecture), len(data.vocabulary), self._final_child)

    @property
    def _final_child(self) -> LanguageChildSettings:
        if not self.final.budget:
            return self.child
        return replace(self.child, budget=self.final.budget, width=0)

    def train_final(
        self,
        space: SearchSpace,
        architecture: Architecture,
        *,
        point: Mapping[str, Any] | None,
        child_seed: int,
        opened: Callable[[], None],
        on_epoch: OnEpoch | None = None,
    ) -> FinishedLanguage:
        """Train on the training text, test once; see `Config.train_final`."""
        recipe = replace(self.at(point), epochs=self.final_epochs)
        result = train_final(
            core_of(space, architecture),
            replace(self.data, train_limit=self.final.train_limit),
            recipe,
            self._final_child,
            seed=child_seed,
            opened=opened,
            device=self.execution.here,
            on_epoch=on_epoch,
            numerics=self.execution.noted(recipe.precision),
        )
        name = self.metric.name.replace(" ", "_")
        record = {
            f"test_{name}": result.test_score,
            f"final_validation_{name}": result.valid_score,
            "parameters": sum(p.numel() for p in result.model.parameters()),
            "width": result.model.width,
            "seconds": result.seconds,
            "curve": list(result.curve),
            "stopped": result.stopped,
            "recipe": asdict(recipe),
            "child": asdict(self._final_child),
        }
        return FinishedLanguage(
            space=space, architecture=architecture, record=record, result=result
        )

    def summary(self, record: Mapping[str, Any]) -> str:
        """Return test score, size and time."""
        score = record[f"test_{self.metric.name.replace(' ', '_')}"]
        epochs = f"after epoch {len(record['curve'])}"
        where = epochs if math.isfinite(score) else "on the test text"
        early = f", lost {where}" if record.get("stopped") else ""
        return (
            f"test {self.metric.name} {score:.4g}, {record['parameters']:,} parameters, "
            f"{record['seconds']:.0f} s{early}"
        )

    # --- looking ----------------------------------------------------------------------------

    def plan_of(
        self, space: SearchSpace, architecture: Architecture, notes: Mapping[str, Any] | None
    ) -> Cell | None:
        """Return the cell; None for a layer that is not one."""
        core = core_of(space, architecture)
        return core if isinstance(core, Cell) else None

    def show(
        self,
        title: str,
        space: SearchSpace,
        architecture: Architecture,
        notes: Mapping[str, Any] | None,
    ) -> ShownCell:
        """Return the cell as `netwright show` prints it, sized for the text of `notes` or PTB."""
        vocabulary = int((notes or PTB)["vocabulary"])
        core = core_of(space, architecture)
        width = solve_width(core, vocabulary, self.child)
        return ShownCell(
            title=title,
            space=space,
            architecture=architecture,
            core=core,
            width=width,
            vocabulary=vocabulary,
            parameters=parameters_at(core, vocabulary, self.child, width),
            dead=isinstance(core, Cell) and core.dead and not self.child.bias,
        )
