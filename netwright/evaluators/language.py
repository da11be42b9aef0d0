"""Train one language model and score it on validation text; and the one final step.

`LanguageEvaluator` never holds test text. `train_final` is the only function that opens it, and
says so through `opened` before it does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netwright.children import compiling
from netwright.children.language import Core, LanguageChildSettings, LanguageModel
from netwright.data.text import (
    SearchText,
    TextSettings,
    Vocabulary,
    load_final_text,
    load_search_text,
)
from netwright.errors import ChildError
from netwright.space import Architecture, SearchSpace
from netwright.spaces.recurrent import cell_of
from netwright.stopping import Rule
from netwright.training.language import LanguageRecipe, perplexity, reward_of, train
from netwright.training.language_numerics import chosen_for
from netwright.training.limits import Deadline, load_torch, memory_limit
from netwright.training.numerics import Numerics, clock
from netwright.training.seeded import seeded
from netwright.trial import Evaluation, Stop, trained


def score_of(value: float, unit: str) -> float:
    """Return what people read: perplexity of words, bits per character of characters."""
    return value if unit == "words" else math.log2(value)


def core_of(space: SearchSpace, architecture: Architecture) -> Core:
    """Return the cell of an architecture, or "lstm" or "gru" for one of `spaces.gated`."""
    values = space.check(architecture)
    return str(values["layer"]) if space.kind == "gated" else cell_of(values)


class LanguageEvaluator:
    """Trains the cells of a recurrent space as language models of one size on one text.

    numerics: the precision, measured where it is None. The text is read when first needed, once a
    process.
    """

    def __init__(
        self,
        space: SearchSpace,
        data: TextSettings,
        recipe: LanguageRecipe | None = None,
        child: LanguageChildSettings | None = None,
        *,
        numerics: Numerics | None = None,
    ) -> None:
        self.space = space
        self.settings = data
        self.recipe = recipe or LanguageRecipe()
        self.child = child or LanguageChildSettings()
        self.numerics = numerics
        self._data: SearchText | None = None
        self._limited: dict[int, LanguageEvaluator] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None, "_limited": {}}

    @property
    def data(self) -> SearchText:
        """The training and validation text."""
        if self._data is None:
            self._data = load_search_text(self.settings)
        return self._data

    def limited(self, train_limit: int) -> LanguageEvaluator:
        """Return the one that trains on another part of the text; 0 leaves it as it is."""
        if train_limit in (0, self.settings.train_limit):
            return self
        if train_limit not in self._limited:
            data = replace(self.settings, train_limit=train_limit)
            self._limited[train_limit] = LanguageEvaluator(
                self.space, data, self.recipe, self.child, numerics=self.numerics
            )
        return self._limited[train_limit]

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Train the child; reward c / perplexity^2 on validation text (paper, 4.2)."""
        return self.evaluate_until(architecture, seed, device, None)

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        """Do as `evaluate`, but end where `rule` stops the child."""
        core = core_of(self.space, architecture)
        return self.evaluate_core(core, self.recipe, self.child, seed, device, rule)

    def evaluate_core(
        self,
        core: Core,
        recipe: LanguageRecipe,
        child: LanguageChildSettings,
        seed: int,
        device: str = "cpu",
        rule: Rule | None = None,
    ) -> Evaluation:
        """Train a model of any cell, of "lstm" or of "gru", by the same loop."""
        data, units = self.data, len(self.data.vocabulary)
        load_torch()
        numerics = self.numerics or chosen_for(recipe, child, units, device)
        now = clock(device)
        started = now()
        deadline = Deadline(recipe.time_limit)

        models: list[LanguageModel] = []
        values: list[float] = []

        def scores(found: Sequence[float]) -> list[float]:
            return [score_of(value, data.unit) for value in found]

        def fit(share: float, stop: Stop | None) -> list[float]:
            text = data.train[: max(2 * recipe.batch, round(share * len(data.train)))]
            with memory_limit(recipe.memory_limit), seeded(seed, device):
                model = LanguageModel(core, units, child, recipe.dropouts, recipe.scale)
                values[:] = train(
                    model,
                    text,
                    data.valid,
                    recipe,
                    seed,
                    device,
                    deadline,
                    stop=None if stop is None else lambda found: stop(scores(found)),
                    numerics=numerics,
                )
            models[:] = [model]
            return scores(values)

        curve, _, details = trained(fit, rule, recipe.epochs)
        best = min(values)
        return Evaluation(
            reward=reward_of(best, recipe),
            score=score_of(best, data.unit),
            curve=curve,
            cost=now() - started,
            parameters=sum(p.numel() for p in models[0].parameters()),
            details={"width": models[0].width, **details},
        )


@dataclass(frozen=True)
class FinalLanguage:
    """The model of the epoch that validated best, and its one test.

    unit, strip: as in `TextSettings`.
    valid_score, test_score: perplexity of words, bits per character of characters.
    curve: the validation score after each epoch.
    seconds: of training and test, those aside in which was compiled once a machine.
    stopped: why the training ended before its last epoch, or why the test score is infinite; "".
    """

    model: LanguageModel
    vocabulary: Vocabulary
    unit: str
    strip: bool
    valid_score: float
    test_score: float
    curve: tuple[float, ...]
    seconds: float
    stopped: str = ""


class _Best:
    """The perplexity after each epoch of a model, and its weights after the lowest one."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.curve: list[float] = []
        self.value, self.weights = math.inf, model.state_dict()

    def keep(self, value: float | None) -> None:
        """Note an epoch; None where it was not validated."""
        if value is None:
            return
        self.curve.append(value)
        if value < self.value:
            self.value, self.weights = value, copy.deepcopy(self._model.state_dict())


def train_final(
    core: Core,
    data: TextSettings,
    recipe: LanguageRecipe,
    child: LanguageChildSettings,
    *,
    seed: int,
    opened: Callable[[], None],
    device: str = "cpu",
    on_epoch: Callable[[int, float | None], None] | None = None,
    numerics: Numerics | None = None,
) -> FinalLanguage:
    """Train on the training text, keep the epoch that validates best, then test once.

    Validation text only chooses the epoch, as is the custom for these corpora. A training that is
    lost after its first epoch ends there: the state of some cells overflows in the end. `opened` is
    called before the test text is read, which is before the training: a bad one must not cost a
    trained model. numerics: of the training, measured where it is None; the test is in float32, in
    which the network is used. The limits of `recipe` are a child's, and do not hold here.
    """
    recipe = replace(recipe, time_limit=0.0, memory_limit=0.0)
    text = load_final_text(data, opened)
    numerics = numerics or chosen_for(recipe, child, len(text.vocabulary), device)
    load_torch()  # before its time runs
    started = compiling.now()
    stopped = ""
    with memory_limit(recipe.memory_limit), seeded(seed, device):
        model = LanguageModel(core, len(text.vocabulary), child, recipe.dropouts, recipe.scale)
        best = _Best(model)

        def keep(epoch: int, value: float | None) -> None:
            best.keep(value)
            if on_epoch is not None:
                on_epoch(epoch, None if value is None else score_of(value, text.unit))

        parts = (text.train, text.valid)
        try:
            train(model, *parts, recipe, seed, device, on_epoch=keep, numerics=numerics)
        except ChildError as error:
            if not best.curve:
                raise
            stopped = str(error)
        model.load_state_dict(best.weights)
    try:
        value = perplexity(model, text.test, recipe, device)
    except ChildError as error:  # its state overflowed on this text: it is still a trained model
        value, stopped = math.inf, f"on the test text {error}"
    return FinalLanguage(
        model=model,
        vocabulary=text.vocabulary,
        unit=text.unit,
        strip=data.strip,
        valid_score=score_of(best.value, text.unit),
        test_score=score_of(value, text.unit),
        curve=tuple(score_of(v, text.unit) for v in best.curve),
        seconds=compiling.now() - started,
        stopped=stopped,
    )
