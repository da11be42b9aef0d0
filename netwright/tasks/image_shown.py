"""A convolutional architecture, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from netwright.children.plan import IMAGE, Plan
from netwright.report.drawing import draw_network
from netwright.spaces import architecture_to_dict
from netwright.tasks.results import Shown, titled


@dataclass(frozen=True, kw_only=True)
class ShownNetwork(Shown):
    """An architecture compiled for one kind of image."""

    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "title": self.title,
            "parameters": self.plan.parameters,
            "convolution_weights": self.plan.convolution_weights,
            "image": list(self.plan.image),
            "classes": self.plan.classes,
            "layers": [asdict(layer) for layer in self.plan.layers],
            "outputs": list(self.plan.outputs),
            "architecture": architecture_to_dict(self.space, self.architecture),
        }

    def table(self) -> Table:
        """Return the layers as a table."""
        table = Table(title=titled(self.title), title_justify="left")
        for heading in ("layer", "what", "takes", "size", "parameters"):
            table.add_column(heading, justify="right" if heading == "parameters" else "left")
        for i, layer in enumerate(self.plan.layers):
            takes = " ".join(
                "image" if j == IMAGE else self.plan.layers[j].label for j in layer.inputs
            )
            size = f"{layer.channels} x {layer.size[0]} x {layer.size[1]}"
            last = "  -> classifier" if i in self.plan.outputs else ""
            row = (layer.label, layer.describe() + last, takes, size, f"{layer.parameters:,}")
            table.add_row(*map(Text, row))
        head = (self.plan.features + 1) * self.plan.classes
        table.add_row("", "average pooling, linear", "", str(self.plan.classes), f"{head:,}")
        return table

    def summary(self) -> str:
        """Return how large it is."""
        return (
            f"{self.plan.parameters:,} parameters, {self.plan.convolution_weights:,} of them "
            f"convolution weights"
        )

    def svg(self) -> str:
        """Return a drawing of the network."""
        return draw_network(self.plan, self.title)
