"""The task of the paper's section 4.1: convolutional networks that classify images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

from torch import Tensor

from netwright.children.conv import build
from netwright.children.plan import ChildSettings, Plan, compile_plan
from netwright.data.images import DataSettings, Preprocess, load_search_data
from netwright.errors import ConfigError
from netwright.evaluators.image import Built, ImageEvaluator, train_final
from netwright.executors.probe import Subject
from netwright.rules import Section
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv
from netwright.tasks.base import Config, OnEpoch, combinations
from netwright.tasks.image_network import FinishedClassifier
from netwright.tasks.image_shown import ShownNetwork
from netwright.training.image import Recipe
from netwright.training.numerics import Numerics, child_step, chosen
from netwright.trial import Evaluation, Metric

CIFAR: Mapping[str, Any] = {"image": [3, 32, 32], "classes": [str(i) for i in range(10)]}


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The small grid after the search (paper, 4.1): every combination on the best few.

    top: architectures, >= 1. learning_rates, weight_decays, epsilons (of batch normalisation):
    > 0, the decay may be 0. drops: pairs as in training.drops. epochs: of each run, 0 takes
    training.epochs.
    """

    top: int = 3
    learning_rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    weight_decays: tuple[float, ...] = (1e-4, 5e-4)
    epsilons: tuple[float, ...] = (1e-5, 1e-3)
    drops: tuple[tuple[float, ...], ...] = ((0.5, 0.75), (0.6, 0.8))
    epochs: int = 0

    def __post_init__(self) -> None:
        section = Section("tune", self)
        section.at_least(1, "top")
        section.above(0, "learning_rates", "epsilons")
        section.at_least(0, "weight_decays", "epochs")
        for drops in self.drops:
            if not all(a < b for a, b in itertools.pairwise((0, *drops, 1))):
                section.refuse("drops", "must each rise within (0, 1)", value=drops)
        for name in ("learning_rates", "weight_decays", "epsilons", "drops"):
            if not getattr(self, name):
                section.refuse(name, "must have a value")


@dataclass(frozen=True, kw_only=True)
class FinalSettings:
    """The final training on training and validation data.

    epochs: 0 takes training.epochs. widen: filters added to each layer, beyond child.widen.
    """

    epochs: int = 0
    widen: int = 0

    def __post_init__(self) -> None:
        Section("final", self).at_least(0, "epochs", "widen")


def maker(space: SearchSpace, architecture: Architecture, child: ChildSettings) -> Built:
    """Return what builds the child once image shape and classes are known."""
    return lambda image, classes: build(space, architecture, image, classes, child)


@dataclass(frozen=True, kw_only=True)
class ImageConfig(Config):
    """The configuration of a search for image classifiers.

    A point of its grid has learning_rate, weight_decay, epsilon (of batch normalisation) and drops.
    """

    kind: ClassVar[str] = "conv"
    trains: ClassVar[tuple[str, ...]] = ("conv",)

    task: str = "images"
    space: conv.ConvSettings = field(default_factory=conv.ConvSettings)
    child: ChildSettings = field(default_factory=ChildSettings)
    data: DataSettings = field(default_factory=DataSettings)
    training: Recipe = field(default_factory=Recipe)
    tune: TuneSettings = field(default_factory=TuneSettings)
    final: FinalSettings = field(default_factory=FinalSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule = self.study.depth
        if schedule is not None and (
            schedule.last != self.space.depths[-1] or self.space.depths != schedule.depths()
        ):
            raise ConfigError(
                f"space.depths must be the schedule's, from {schedule.start} to {schedule.last} "
                f"in steps of {schedule.step}; got {list(self.space.depths)}; set it to those, or "
                f"leave study.depth out"
            )

    @property
    def metric(self) -> Metric:
        """Accuracy."""
        return Metric("accuracy", lower=False)

    def fixed(self) -> dict[str, Any]:
        """Return what stays as it is after a search: also the space and the images' split."""
        split = ("validation", "test", "train_limit")
        data = {f"data.{name}": getattr(self.data, name) for name in split}
        return {**super().fixed(), "space": self.space, **data}

    def settled(self, numerics: str = "") -> Self:
        """Return it with `execution.numerics` filled in."""
        execution = self.execution.settled(
            numerics, lambda device: chosen(self.training.precision, device)
        )
        return replace(self, execution=execution)

    def subject(self) -> Subject:
        """Return a small child's training in the search's numerics."""
        case = self.numerics(self.training) or Numerics()
        return Subject(str(case), partial(child_step, case))

    def numerics(self, recipe: Recipe) -> Numerics | None:
        """Return how a child is computed, None where that is yet to be measured."""
        return self.execution.noted(recipe.precision)

    def make_space(self) -> SearchSpace:
        """Return the search space."""
        return conv.space(self.name, self.space)

    def make_evaluator(self, space: SearchSpace) -> ImageEvaluator:
        """Return the evaluator, which reads no data before it is used."""
        return ImageEvaluator(
            space,
            self.data,
            self.training,
            self.child,
            seed=self.study.seed,
            numerics=self.numerics(self.training),
        )

    def settle(self, evaluator: ImageEvaluator) -> None:
        """Have an evaluator of before `settled` train in what is noted now."""
        evaluator.numerics = self.numerics(self.training)

    def describe(self, evaluator: ImageEvaluator) -> dict[str, Any]:
        """Read the images; return their shape, classes, numbers and digest."""
        data = evaluator.data
        return {
            "image": list(data.shape),
            "classes": list(data.classes),
            "images": {"training": len(data.train), "validation": len(data.valid)},
            "digest": data.digest(),
        }

    def prepare(self, evaluator: ImageEvaluator) -> dict[str, Any]:
        """Do as `describe`, and whiten the images."""
        evaluator.pipelines(self.execution.here)
        return self.describe(evaluator)

    # --- tune -------------------------------------------------------------------------------

    @property
    def tune_top(self) -> int:
        """How many of the best architectures `tune` takes."""
        return self.tune.top

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the tune section."""
        t = self.tune
        return combinations(
            {
                "learning_rate": t.learning_rates,
                "weight_decay": t.weight_decays,
                "epsilon": t.epsilons,
                "drops": [list(d) for d in t.drops],
            }
        )

    def at(self, point: Mapping[str, Any] | None) -> tuple[Recipe, ChildSettings]:
        """Return recipe and child settings with a point's values, their own for None."""
        if point is None:
            return self.training, self.child
        recipe = replace(
            self.training,
            learning_rate=point["learning_rate"],
            weight_decay=point["weight_decay"],
            drops=tuple(point["drops"]),
        )
        return recipe, replace(self.child, batch_norm_epsilon=point["epsilon"])

    def tuned_at(self, point: Mapping[str, Any] | None) -> tuple[Recipe, ChildSettings]:
        """Return how `tune` trains at a point: as `at` says, for tune.epochs."""
        recipe, child = self.at(point)
        return replace(recipe, epochs=self.tune.epochs or recipe.epochs), child

    def evaluate_point(
        self,
        evaluator: ImageEvaluator,
        architecture: Architecture,
        point: Mapping[str, Any] | None,
        seed: int,
    ) -> Evaluation:
        """Train at a point of the grid, whose rate goes before the architecture's."""
        recipe, child = self.tuned_at(point)
        if point is None:
            recipe = self._own_rate(evaluator.space, architecture, recipe, child)
        make = maker(evaluator.space, architecture, child)
        return evaluator.evaluate_module(make, recipe, seed, self.execution.here)

    # --- the final training -----------------------------------------------------------------

    @property
    def final_epochs(self) -> int:
        """The epochs of the final training."""
        return self.final.epochs or self.training.epochs

    def check_final(
        self, space: SearchSpace, architecture: Architecture, evaluator: Any = None
    ) -> None:
        """Read the data and compile the architecture for them."""
        own = self.make_evaluator(space)
        if evaluator and (evaluator.settings, evaluator.seed) == (own.settings, own.seed):
            own = evaluator
        data = own.data
        Preprocess(data.shape, self.data.whiten, self.data.upsample)
        compile_plan(space, architecture, data.shape, len(data.classes), self.child)

    def final_recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the final training."""
        return replace(recipe, epochs=self.final.epochs or recipe.epochs)

    def rated(self, space: SearchSpace) -> bool:
        """Say whether the space has the learning-rate token."""
        return any(decision.name == "learning_rate" for decision in space.decisions)

    @staticmethod
    def _own_rate(
        space: SearchSpace, architecture: Architecture, recipe: Recipe, child: ChildSettings
    ) -> Recipe:
        """Return the recipe with the rate of the architecture's token, where it has one."""
        rate = compile_plan(space, architecture, (1, 8, 8), 2, child).learning_rate
        return replace(recipe, learning_rate=rate) if rate else recipe

    def for_good(
        self, space: SearchSpace, architecture: Architecture, point: Mapping[str, Any] | None
    ) -> tuple[Recipe, ChildSettings]:
        """Return how `train_final` trains an architecture at a point, and how wide it makes it."""
        recipe, child = self.at(point)
        child = replace(child, widen=child.widen + self.final.widen)
        if point is None:
            recipe = self._own_rate(space, architecture, recipe, child)
        return self.final_recipe(recipe), child

    def train_final(
        self,
        space: SearchSpace,
        architecture: Architecture,
        *,
        point: Mapping[str, Any] | None,
        child_seed: int,
        opened: Callable[[], None],
        on_epoch: OnEpoch | None = None,
    ) -> FinishedClassifier:
        """Train on training and validation images, test once; see `Config.train_final`."""
        recipe, child = self.for_good(space, architecture, point)
        result = train_final(
            maker(space, architecture, child),
            self.data,
            recipe,
            seed=self.study.seed,
            child_seed=child_seed,
            opened=opened,
            device=self.execution.here,
            on_epoch=on_epoch,
            numerics=self.numerics(recipe),
        )
        record = {
            "test_accuracy": result.test_accuracy,
            "parameters": sum(p.numel() for p in result.model.parameters()),
            "seconds": result.seconds,
            "recipe": asdict(recipe),
            "child": asdict(child),
        }
        return FinishedClassifier(
            space=space, architecture=architecture, record=record, child=child, result=result
        )

    def summary(self, record: Mapping[str, Any]) -> str:
        """Return test accuracy, size and time."""
        return (
            f"test accuracy {record['test_accuracy']:.4f}, {record['parameters']:,} parameters, "
            f"{record['seconds']:.0f} s"
        )

    def example_inputs(self, n: int) -> tuple[Tensor, ...]:
        """Return up to n validation images, float [N, C, H, W] in [0, 1]."""
        return (load_search_data(self.data, self.study.seed).valid.images[:n].float() / 255,)

    # --- looking ----------------------------------------------------------------------------

    def plan_of(
        self, space: SearchSpace, architecture: Architecture, notes: Mapping[str, Any] | None
    ) -> Plan:
        """Return the plan for the images of `notes`, for CIFAR-10's without."""
        about = CIFAR if notes is None else notes
        channels, height, width = about["image"]
        shape, classes = (channels, height, width), len(about["classes"])
        return compile_plan(space, architecture, shape, classes, self.child)

    def show(
        self,
        title: str,
        space: SearchSpace,
        architecture: Architecture,
        notes: Mapping[str, Any] | None,
    ) -> ShownNetwork:
        """Return the plan as `netwright show` prints it."""
        plan = self.plan_of(space, architecture, notes)
        return ShownNetwork(title=title, space=space, architecture=architecture, plan=plan)
