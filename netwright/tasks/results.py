"""What the steps after a search give back, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from netwright.space import Architecture, SearchSpace


@dataclass(frozen=True, kw_only=True)
class Finished(ABC):
    """The final network with all that its file and its report need.

    record: plain data for the journal, the report and `--json`. training: names what it came from,
    equal for equal trainings; "" where nobody asked.
    """

    space: SearchSpace
    architecture: Architecture
    record: Mapping[str, Any]
    training: str = ""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the network to `folder` with `netwright.tasks.files.write_network`."""


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """A trained network read from its folder.

    module: in evaluation mode; the first dimension of what it takes and gives is the batch.
    description: what `network.json` holds.
    """

    inputs: ClassVar[tuple[str, ...]]  # names of what the module takes
    outputs: ClassVar[tuple[str, ...]]

    module: nn.Module
    space: SearchSpace
    architecture: Architecture
    description: Mapping[str, Any]

    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return inputs of the module, the same every time."""

    @abstractmethod
    def source(self) -> str:
        """Return the network as plain PyTorch text; its `load(weights)` gives the module."""

    @abstractmethod
    def predict(self, place: Path) -> list[dict[str, Any]]:
        """Return a row of plain data for each thing in `place`; raises `DataError`."""

    @abstractmethod
    def say(self, row: Mapping[str, Any]) -> str:
        """Return a row of `predict` as a line."""


def titled(text: str) -> Text:
    """Return a table's title, which may look like markup."""
    return Text(text, style="table.title")


@dataclass(frozen=True, kw_only=True)
class Shown(ABC):
    """What `netwright show` prints of one architecture."""

    title: str
    space: SearchSpace
    architecture: Architecture

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""

    @abstractmethod
    def table(self) -> Table:
        """Return it as a table."""

    @abstractmethod
    def summary(self) -> str:
        """Return the line under the table."""

    @abstractmethod
    def svg(self) -> str:
        """Return a drawing."""
