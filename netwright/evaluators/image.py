"""Train one convolutional child and score it on validation data; and the one final step.

`ImageEvaluator` never holds a test image. `train_final` is the only function that opens the test
set, and says so through `opened` before it reads one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from netwright.children import compiling
from netwright.children.conv import ConvNet, build
from netwright.children.inherit import inherit, likest
from netwright.children.plan import ChildSettings, Plan, compile_plan
from netwright.data.images import (
    DataSettings,
    FinalData,
    Pipeline,
    Preprocess,
    SearchData,
    load_final_data,
    load_search_data,
)
from netwright.space import Architecture, SearchSpace
from netwright.stopping import Donor, Rule
from netwright.training.image import Recipe, evaluate, reward_of, train
from netwright.training.limits import Deadline, load_torch, memory_limit
from netwright.training.numerics import Numerics, chosen, clock
from netwright.training.seeded import seeded
from netwright.trial import STOPPED, Evaluation, Stop, trained

Built = Callable[[tuple[int, int, int], int], nn.Module]


class ImageEvaluator:
    """Trains architectures of a convolutional space on the training part of `data`.

    `seed` splits validation off. numerics: layout and precision, measured where it is None. The
    data are read when first needed, once a process.
    """

    def __init__(
        self,
        space: SearchSpace,
        data: DataSettings,
        recipe: Recipe | None = None,
        child: ChildSettings | None = None,
        *,
        seed: int = 0,
        numerics: Numerics | None = None,
    ) -> None:
        self.space = space
        self.settings = data
        self.recipe = recipe or Recipe()
        self.child = child or ChildSettings()
        self.seed = seed
        self.numerics = numerics
        self._data: SearchData | None = None
        self._pipelines: dict[str, tuple[Pipeline, Pipeline]] = {}
        self._donors: dict[Donor, ConvNet] = {}  # that were trained in this process

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None, "_pipelines": {}, "_donors": {}}

    @property
    def data(self) -> SearchData:
        """The training and validation images."""
        if self._data is None:
            self._data = load_search_data(self.settings, self.seed)
        return self._data

    def pipelines(self, device: str) -> tuple[Pipeline, Pipeline]:
        """Return the training and validation pipelines on `device`, made once."""
        if device not in self._pipelines:
            fitted = Preprocess.fit(self.data.train, self.settings)
            self._pipelines[device] = (
                Pipeline(self.data.train, fitted, self.settings, device),
                Pipeline(self.data.valid, fitted, self.settings, device),
            )
        return self._pipelines[device]

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Train the child and return its validation accuracy and reward (paper, 4.1)."""
        return self.evaluate_until(architecture, seed, device, None)

    def evaluate_until(
        self, architecture: Architecture, seed: int, device: str, rule: Rule | None
    ) -> Evaluation:
        """Do as `evaluate`, but end where `rule` stops the child.

        A donor's weights are kept where it was trained; elsewhere it is trained again, which gives
        the same ones, and counts as cost of the child that asked for it.
        """
        donors = () if rule is None else rule.donors
        plans = [self._plan(self._made(donor)) for donor in donors]
        weights, spent = None, 0.0
        if donors:
            giver = donors[likest(self._plan(architecture), plans)]
            if giver not in self._donors:
                again, net = self._trained(self._made(giver), giver.seed, device, None)
                self._donors[giver], spent = net, again.cost
            weights = self._donors[giver]
        found, net = self._trained(architecture, seed, device, rule, weights)
        found = replace(found, cost=found.cost + spent)
        if rule is not None and len(donors) < rule.wanted and STOPPED not in found.details:
            self._donors[Donor(architecture=architecture.to_json(), seed=seed)] = net
        return found

    def _made(self, donor: Donor) -> Architecture:
        return self.space.architecture(json.loads(donor.architecture))

    def _plan(self, architecture: Architecture) -> Plan:
        shape, classes = self.data.shape, len(self.data.classes)
        return compile_plan(self.space, architecture, shape, classes, self.child)

    def _trained(
        self,
        architecture: Architecture,
        seed: int,
        device: str,
        rule: Rule | None,
        weights: ConvNet | None = None,
    ) -> tuple[Evaluation, ConvNet]:
        """Train a child whose first training begins with `weights`; return its last network too."""
        rate = self._plan(architecture).learning_rate
        recipe = replace(self.recipe, learning_rate=rate) if rate else self.recipe
        nets: list[ConvNet] = []

        def make(image: tuple[int, int, int], classes: int) -> ConvNet:
            nets.append(build(self.space, architecture, image, classes, self.child))
            if weights is not None and len(nets) == 1:
                inherit(nets[0], weights)
            return nets[-1]

        return self.evaluate_module(make, recipe, seed, device, rule), nets[-1]

    def evaluate_module(
        self,
        make: Built,
        recipe: Recipe,
        seed: int,
        device: str = "cpu",
        rule: Rule | None = None,
    ) -> Evaluation:
        """Train any network by the same loop; `make` gets the image shape and the classes."""
        pipelines = self.pipelines(device)
        load_torch()  # all of this before the child's time runs
        numerics = self.numerics or chosen(recipe.precision, device)
        now = clock(device)
        started = now()
        deadline = Deadline(recipe.time_limit)
        sizes: list[int] = []

        def fit(share: float, stop: Stop | None) -> list[float]:
            with memory_limit(recipe.memory_limit), seeded(seed, device):
                model = make(self.data.shape, len(self.data.classes))
                sizes.append(sum(p.numel() for p in model.parameters()))
                return train(
                    model,
                    *pipelines,
                    recipe,
                    seed,
                    device,
                    deadline,
                    numerics=numerics,
                    stop=stop,
                    share=share,
                )

        curve, judged, details = trained(fit, rule, recipe.epochs)
        score, reward = reward_of(judged, recipe)
        return Evaluation(
            reward=reward,
            score=score,
            curve=curve,
            cost=now() - started,
            parameters=sizes[0],
            details=details,
        )


@dataclass(frozen=True)
class FinalResult:
    """The network trained on training and validation data, and its one test.

    test_accuracy: in [0, 1]. preprocess: what its inputs go through; it takes [0, 1] images.
    seconds: of training and test, those aside in which was compiled once a machine.
    """

    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    test_accuracy: float
    seconds: float


def train_final(
    make: Built,
    data: DataSettings,
    recipe: Recipe,
    *,
    seed: int,
    child_seed: int,
    opened: Callable[[], None],
    device: str = "cpu",
    on_epoch: Callable[[int, float | None], None] | None = None,
    numerics: Numerics | None = None,
) -> FinalResult:
    """Train on training and validation data together, then test once.

    `seed` is the study's, which split the data; `child_seed` draws weights and order. `opened` is
    called before the first test image is read. numerics: of the training, measured where it is
    None; the test is in float32, in which the network is used. The limits of `recipe` are a
    child's, and do not hold here.
    """
    recipe = replace(recipe, time_limit=0.0, memory_limit=0.0)
    loaded: FinalData = load_final_data(data, seed, opened)
    fitted = Preprocess.fit(loaded.train, data)
    numerics = numerics or chosen(recipe.precision, device)
    load_torch()  # before its time runs
    started = compiling.now()
    with memory_limit(recipe.memory_limit), seeded(child_seed, device):
        model = make(loaded.shape, len(loaded.classes))
        pipeline = Pipeline(loaded.train, fitted, data, device)
        train(
            model,
            pipeline,
            None,
            recipe,
            child_seed,
            device,
            on_epoch=on_epoch,
            numerics=numerics,
        )
    accuracy = evaluate(model, Pipeline(loaded.test, fitted, data, device))
    return FinalResult(
        model=model,
        preprocess=fitted,
        classes=loaded.classes,
        shape=loaded.shape,
        test_accuracy=accuracy,
        seconds=compiling.now() - started,
    )
