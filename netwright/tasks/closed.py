"""Tasks whose children need no training: tables of trained cells, and closed forms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from rich.table import Table
from rich.text import Text

from netwright.errors import ConfigError, UsageError
from netwright.evaluators.surrogates import CellSurrogate, ConvSurrogate
from netwright.evaluators.table import TableEvaluator, table_space, test_accuracies
from netwright.protocols import Evaluator
from netwright.rules import Section
from netwright.space import Architecture, SearchSpace
from netwright.spaces import architecture_to_dict, conv, recurrent
from netwright.tasks.base import Config, Judge
from netwright.tasks.results import Shown, titled
from netwright.trial import Metric


def _nothing(what: str) -> Any:
    """Return a method of `ClosedConfig` that raises `UsageError`: there is nothing to do for it."""

    def refuse(self: Config, *_: object, **__: object) -> NoReturn:
        raise UsageError(
            f"{what} needs children that are trained; those of task {self.task!r} are looked up or "
            f"computed; use netwright compare, search, top or show"
        )

    return refuse


class ClosedConfig(Config):
    """A task to compare controllers on; `tune` and `train` have nothing to do, and say so."""

    trains: ClassVar[tuple[str, ...]] = ()
    instant: ClassVar[bool] = True

    grid = at = evaluate_point = _nothing("tune")
    check_final = train_final = summary = _nothing("train")
    plan_of = _nothing("a report")
    tune_top = property(_nothing("tune"))
    final_epochs = property(_nothing("train"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_depth("architectures")

    def describe(self, evaluator: Any) -> dict[str, Any]:
        """Return nothing: making the evaluator has read all there is."""
        return {}

    def settle(self, evaluator: Any) -> None:
        """Do nothing: nothing is trained."""

    def show(
        self,
        title: str,
        space: SearchSpace,
        architecture: Architecture,
        notes: Mapping[str, Any] | None,
    ) -> Shown:
        """Return its decisions as `netwright show` prints them."""
        return ShownDecisions(title=title, space=space, architecture=architecture)

    @abstractmethod
    def judge(self) -> Judge:
        """Return what architectures are worth beyond the score that a search sees."""


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """table: a CSV file as `netwright.evaluators.table` reads it; a search must name one."""

    table: str = ""


@dataclass(frozen=True, kw_only=True)
class TableConfig(ClosedConfig):
    """Cells that others have trained (NAS-Bench-201 and tables like it)."""

    kind: ClassVar[str] = "decisions"

    task: str = "table"
    data: TableSettings = field(default_factory=TableSettings)

    @property
    def metric(self) -> Metric:
        """Validation accuracy."""
        return Metric("accuracy")

    def _path(self) -> str:
        if not self.data.table:
            raise ConfigError(
                "data.table must name a CSV file of trained cells; got none; use "
                "--set data.table=FILE"
            )
        return self.data.table

    def make_space(self) -> SearchSpace:
        """Return the table's space; raises `DataError` for a file that is none."""
        return table_space(self._path())

    def make_evaluator(self, space: SearchSpace) -> TableEvaluator:
        """Return the evaluator, which has read the validation accuracies."""
        return TableEvaluator(self._path())

    def describe(self, evaluator: TableEvaluator) -> dict[str, Any]:
        """Return a digest of the validation accuracies, which making the evaluator has read."""
        return {"table": evaluator.digest()}

    def judge(self) -> Judge:
        """Return test accuracies; to be called once a search has ended."""
        found = test_accuracies(self._path())
        return Judge("test accuracy", found.__getitem__, max(found.values()))


SURROGATES = ("conv", "cell")


@dataclass(frozen=True, kw_only=True)
class SurrogateSettings:
    """A closed form of `netwright.evaluators.surrogates`.

    surrogate: "conv" (networks of `layers` convolutions with connections) or "cell" (recurrent
    cells of the paper's base 8). layers: 1 to 1000. landscape: its seed, >= 0. noise: standard
    deviation of the score (of its logarithm for cells), >= 0.
    """

    surrogate: str = "conv"
    layers: int = 15
    landscape: int = 0
    noise: float = 0.004

    def __post_init__(self) -> None:
        section = Section("data", self)
        section.one_of("surrogate", SURROGATES)
        section.at_least(1, "layers")
        if self.layers > conv.MOST_LAYERS:
            section.refuse("layers", f"must be at most {conv.MOST_LAYERS}", conv.MOST_LAYERS)
        section.at_least(0, "landscape", "noise")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(ClosedConfig):
    """A closed form over a space of the paper's size: synthetic, nothing is trained."""

    kind: ClassVar[str] = "synthetic"

    task: str = "synthetic"
    data: SurrogateSettings = field(default_factory=SurrogateSettings)

    @property
    def metric(self) -> Metric:
        """Accuracy for networks, perplexity for cells."""
        cells = self.data.surrogate == "cell"
        return Metric("perplexity", lower=True) if cells else Metric("accuracy")

    def make_space(self) -> SearchSpace:
        """Return the paper's space v1 of so many layers, or its space of cells."""
        if self.data.surrogate == "cell":
            return recurrent.space(self.name)
        return conv.v1(self.data.layers)

    def make_evaluator(self, space: SearchSpace) -> Evaluator:
        """Return the closed form."""
        kind = CellSurrogate if self.data.surrogate == "cell" else ConvSurrogate
        return kind(space, self.data.landscape, self.data.noise)

    def judge(self) -> Judge:
        """Return the scores without noise."""
        space = self.make_space()
        form = self.make_evaluator(space)
        assert isinstance(form, CellSurrogate | ConvSurrogate)
        return Judge(
            f"{self.metric.name} without noise", form.expected, form.expected(form.optimum)
        )


@dataclass(frozen=True, kw_only=True)
class ShownDecisions(Shown):
    """An architecture decision by decision."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "title": self.title,
            "architecture": architecture_to_dict(self.space, self.architecture),
        }

    def table(self) -> Table:
        """Return the decisions as a table."""
        table = Table("decision", "value", title=titled(self.title), title_justify="left")
        for name, value in self.architecture.items():
            told = " ".join(value) if isinstance(value, tuple) else str(value)
            table.add_row(Text(name), Text(told))
        return table

    def summary(self) -> str:
        """Return how many there are."""
        return f"{len(self.architecture)} decisions"

    def svg(self) -> str:
        """Raise `UsageError`: there is no drawing of it."""
        raise UsageError(
            "a drawing needs a network or a cell that is trained; this architecture is of a table "
            "or a closed form; leave --svg out"
        )
