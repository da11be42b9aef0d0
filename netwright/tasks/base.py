"""What every task shares: the sections of its configuration, and what the commands ask of it."""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from netwright.controllers.making import ControllerSettings, make_controller
from netwright.errors import ArchitectureError, ConfigError, StudyError
from netwright.executors.probe import Subject
from netwright.loop import Mode
from netwright.protocols import Controller, Evaluator
from netwright.rules import Section
from netwright.seeding import derive_seed
from netwright.space import Architecture, SearchSpace
from netwright.stopping import StoppingSettings
from netwright.study import Study
from netwright.tasks.execution import ExecutionSettings
from netwright.tasks.results import Finished, Shown
from netwright.tasks.sections import CompareSettings, StudySettings
from netwright.trial import Evaluation, Metric

ORDER = (
    "name",
    "about",
    "task",
    "space",
    "child",
    "controller",
    "data",
    "training",
    "study",
    "stopping",
)

OnEpoch = Callable[[int, float | None], None]


def combinations(options: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the options, the last name changing fastest."""
    points = itertools.product(*options.values())
    return [dict(zip(options, point, strict=True)) for point in points]


@dataclass(frozen=True)
class Judge:
    """What architectures are worth beyond what a search sees, where it is known.

    name: of `score`, which gives an architecture's. best: the best score there is.
    """

    name: str
    score: Callable[[Architecture], float]
    best: float


@dataclass(frozen=True, kw_only=True)
class Config(ABC):
    """A whole configuration of one task; a subclass for each, with its own sections.

    name: the study's. about: what it is for. task: the key of `netwright.config.TASKS`.

    A task also has a section `space`, and whatever else its children, data and training need. Its
    sections `tune` and `final`, of what comes after a search, are no part of what a study is.
    """

    kind: ClassVar[str]  # of its search space
    trains: ClassVar[tuple[str, ...]]  # the kinds of space whose architectures it trains
    instant: ClassVar[bool] = False  # an evaluation takes no time worth journalling

    name: str = "study"
    about: str = ""
    task: str
    controller: ControllerSettings = field(default_factory=ControllerSettings)
    study: StudySettings = field(default_factory=StudySettings)
    stopping: StoppingSettings = field(default_factory=StoppingSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    compare: CompareSettings = field(default_factory=CompareSettings)

    def __post_init__(self) -> None:
        bad = set(self.name) & set('/\\:?"') or not self.name.isprintable()
        if not 0 < len(self.name) <= 60 or bad or self.name.startswith("."):
            raise ConfigError(
                f"name must be a plain file name; got {self.name!r}; use letters, digits and dashes"
            )
        own = next(f.default for f in dataclasses.fields(self) if f.name == "task")
        if self.task != own:
            raise ConfigError(
                f"task must be {own!r} for a {type(self).__name__}; got {self.task!r}; leave it out"
            )
        if self.instant and self.stopping.method != "none":
            rule = f"must be none for {self.task}, whose children take no time"
            Section("stopping", self.stopping).refuse("method", rule)

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What its scores are."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `config_from_dict` takes, what a search needs first."""
        data = dataclasses.asdict(self)
        if data["study"]["depth"] is None:
            del data["study"]["depth"]
        rest = [name for name in data if name not in (*ORDER, "execution", "compare")]
        return {n: data[n] for n in (*ORDER, *rest, "execution", "compare") if n in data}

    def identity(self) -> dict[str, Any]:
        """Return what makes a study what it is: all but its length and where it runs.

        The task is not among it; it follows from the space. Nor is a precision that is left to the
        machine.
        """
        data = self.to_dict()
        del data["study"]["trials"]
        for name in ("name", "about", "task", "tune", "final", "execution", "compare"):
            data.pop(name, None)
        data["stopping"] = self.stopping.to_dict()
        if self.stopping.method == "none":
            del data["stopping"]  # studies of before there was the setting go on
        if data.get("training", {}).get("precision") == "auto":
            del data["training"]["precision"]  # likewise
        return data

    def fixed(self) -> dict[str, Any]:
        """Return, by key, what stays as it is after a search; a task adds space and data split."""
        return {
            "task": self.task,
            "controller": self.controller,
            "study": self.study,
            "stopping": self.stopping,
        }

    def check_same_search(self, other: Config) -> None:
        """Raise `ConfigError` where `other` would change the search or the split of its data."""
        now = other.fixed()
        for name, before in self.fixed().items():
            if now.get(name) != before:
                raise ConfigError(
                    f"after a search only what comes after it may be set; --set changes {name}; "
                    f"leave it out, or search again with it"
                )

    def settled(self, numerics: str = "") -> Self:
        """Return it with all that is measured of a machine written down, for a study to go on with.

        numerics: what was written down before, "" measures it.
        """
        return self

    def subject(self) -> Subject | None:
        """Return what `--workers auto` measures: a child's training; None where it takes no time.

        It is that of a configuration that is `settled`.
        """
        return None

    # --- the search -------------------------------------------------------------------------

    @abstractmethod
    def make_space(self) -> SearchSpace:
        """Return the search space."""

    @abstractmethod
    def make_evaluator(self, space: SearchSpace) -> Evaluator:
        """Return the evaluator, which reads no data before it is used."""

    @abstractmethod
    def describe(self, evaluator: Any) -> dict[str, Any]:
        """Read the data of `evaluator` (of `make_evaluator`); return what to note of them.

        The notes are plain data for the journal of a new study; what tells other data from these is
        among them. Nothing is written, so that bad data, which raise a `UsageError`, leave nothing
        behind.
        """

    def prepare(self, evaluator: Any) -> dict[str, Any]:
        """Do as `describe`, and all else that `evaluator` needs before the first child."""
        return self.describe(evaluator)

    @abstractmethod
    def settle(self, evaluator: Any) -> None:
        """Have an evaluator of before `settled` train as is noted now."""

    def refuse_depth(self, what: str) -> None:
        """Raise a `ConfigError` for a schedule of depths, which `what` of the task do not have."""
        if self.study.depth is not None:
            raise ConfigError(
                f"study.depth must be left out for {self.task}, whose {what} have one depth; got "
                f"a schedule; remove the section"
            )

    def reads_like(self, other: Config) -> bool:
        """Say whether `other` reads its data where this one does."""
        ours, theirs = (config.to_dict().get("data", {}) for config in (self, other))
        return bool(ours.get("source") == theirs.get("source"))

    def check_noted(self, notes: Mapping[str, Any], place: str, found: Mapping[str, Any]) -> None:
        """Raise a `StudyError` where the data are known to be others than those of `notes`.

        notes: of `describe`, when a study began; older ones may lack some. place: where they stand.
        found: what `describe` returns now.
        """
        changed = [name for name in found if name in notes and notes[name] != found[name]]
        if changed:
            data = self.to_dict().get("data", {})
            raise StudyError(
                f"a search goes on only with the data that it began with; those in "
                f"{data.get('source') or data.get('table')} are others ({', '.join(changed)}) than "
                f"when {place} began; put them back, or begin in another place"
            )

    def make_controller(self, space: SearchSpace) -> Controller:
        """Return a new controller, seeded from the study's seed."""
        seed = derive_seed(self.study.seed, 0, "controller")
        return make_controller(space, self.controller, seed)

    def judge(self) -> Judge | None:
        """Return what architectures are worth, for use once a search has ended; None: unknown."""
        return None

    def make_study(self, storage: str, notes: Mapping[str, Any] | None = None) -> Study:
        """Return the study at `storage`, gone on with, or begun with `notes` beside its header."""
        space = self.make_space()
        depth = self.study.depth
        return Study(
            space,
            self.make_controller(space),
            self.make_evaluator(space),
            storage,
            seed=self.study.seed,
            schedule=None if depth is None or depth.start == depth.last else depth,
            retrain_duplicates=self.study.retrain_duplicates,
            failure_reward=self.study.failure_reward,
            mode=Mode(queue=self.study.mode == "queue", replicas=self.study.replicas),
            stopping=self.stopping,
            lower=self.metric.lower,
            config=self.identity(),
            notes=notes,
        )

    # --- tune -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def tune_top(self) -> int:
        """How many of the best architectures `tune` takes."""

    @abstractmethod
    def grid(self) -> list[dict[str, Any]]:
        """Return the points that `tune` tries, plain data that JSON gives back as they are."""

    @abstractmethod
    def at(self, point: Mapping[str, Any] | None) -> Any:
        """Return how a child is trained at a point of the grid, by its own settings for None."""

    def rated(self, space: SearchSpace) -> bool:
        """Say whether architectures of `space` have a learning rate of their own."""
        return False

    @abstractmethod
    def evaluate_point(
        self, evaluator: Any, architecture: Architecture, point: Mapping[str, Any] | None, seed: int
    ) -> Evaluation:
        """Train at a point of the grid, on validation data; raises `ChildError` like evaluators."""

    # --- the final training -----------------------------------------------------------------

    @property
    @abstractmethod
    def final_epochs(self) -> int:
        """How often `train_final` calls `on_epoch`."""

    def check_final(
        self, space: SearchSpace, architecture: Architecture, evaluator: Any = None
    ) -> None:
        """Raise a `UsageError` where `train_final` could not go on; writes nothing.

        evaluator: perhaps of other settings; where not, what it has read is not read again.
        """
        if space.kind != self.kind:
            raise ArchitectureError(
                f"an architecture for {self.task} must be of a {self.kind} space; got one of kind "
                f"{space.kind!r}; use a configuration of another task"
            )
        self.prepare(self.make_evaluator(space))

    @abstractmethod
    def train_final(
        self,
        space: SearchSpace,
        architecture: Architecture,
        *,
        point: Mapping[str, Any] | None,
        child_seed: int,
        opened: Callable[[], None],
        on_epoch: OnEpoch | None = None,
    ) -> Finished:
        """Train an architecture of any space of this kind for good, and test it once.

        point: of the grid, None for the configuration's own settings. child_seed: of weights and
        order. opened: called before the test set is read. on_epoch: gets the epoch, from 1.
        """

    @abstractmethod
    def summary(self, record: Mapping[str, Any]) -> str:
        """Return a final training's record in half a line, the test score first."""

    def example_inputs(self, n: int) -> tuple[Tensor, ...] | None:
        """Return inputs of the trained network from validation data, to check exports on.

        n: the size of their first dimension, or less. None: the network makes its own.
        """
        return None

    # --- looking ----------------------------------------------------------------------------

    @abstractmethod
    def plan_of(
        self, space: SearchSpace, architecture: Architecture, notes: Mapping[str, Any] | None
    ) -> Any:
        """Return what the report draws of an architecture.

        notes: of the study (see `prepare`), None for data as the paper's.
        """

    @abstractmethod
    def show(
        self,
        title: str,
        space: SearchSpace,
        architecture: Architecture,
        notes: Mapping[str, Any] | None,
    ) -> Shown:
        """Return what `netwright show` prints of an architecture; `notes` as in `plan_of`."""
