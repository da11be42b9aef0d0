"""A recurrent cell, equation by equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from netwright.children.language import Core
from netwright.errors import UsageError
from netwright.report.cells import draw_cell
from netwright.spaces import architecture_to_dict
from netwright.spaces.recurrent import Cell
from netwright.tasks.results import Shown, titled


@dataclass(frozen=True, kw_only=True)
class ShownCell(Shown):
    """A cell, or "lstm" or "gru", and the size of its language model.

    width: hidden units. vocabulary: units of the text. parameters: of the whole model. dead: its
    output is always 0, see `Cell.dead`.
    """

    core: Core
    width: int
    vocabulary: int
    parameters: int
    dead: bool = False

    def _equations(self) -> list[str]:
        return self.core.equations() if isinstance(self.core, Cell) else []

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "title": self.title,
            "parameters": self.parameters,
            "width": self.width,
            "vocabulary": self.vocabulary,
            "equations": self._equations(),
            "dead": self.dead,
            "architecture": architecture_to_dict(self.space, self.architecture),
        }

    def table(self) -> Table:
        """Return the equations as a table."""
        table = Table(title=titled(self.title), title_justify="left", show_header=False, box=None)
        for line in self._equations() or [f"PyTorch's own {self.core}"]:
            table.add_row(Text(line))
        return table

    def summary(self) -> str:
        """Return how large its language model is."""
        size = (
            f"{self.parameters:,} parameters at width {self.width} for a vocabulary of "
            f"{self.vocabulary:,}"
        )
        return (
            f"{size}\ndead: h_t is 0 at every step, so only frequencies are learned"
            if self.dead
            else size
        )

    def svg(self) -> str:
        """Return a drawing of the cell; raises `UsageError` for one of PyTorch's own."""
        if isinstance(self.core, Cell):
            return draw_cell(self.core, self.title)
        raise UsageError(
            f"a drawing must be of a cell of the space; got PyTorch's own {self.core}; leave --svg "
            f"out, or show nascell"
        )
