"""What `netwright show` prints of one architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from netwright.children.plan import IMAGE, ChildSettings, Plan, compile_plan
from netwright.config import config_from_dict, with_settings
from netwright.errors import UsageError
from netwright.space import Architecture, SearchSpace
from netwright.spaces import architecture_to_dict, load_architecture, shipped

CIFAR = ((3, 32, 32), 10)


@dataclass(frozen=True)
class Shown:
    """An architecture compiled for one kind of image."""

    title: str
    space: SearchSpace
    architecture: Architecture
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
        table = Table(title=self.title, title_justify="left")
        for heading in ("layer", "what", "takes", "size", "parameters"):
            table.add_column(heading, justify="right" if heading == "parameters" else "left")
        for i, layer in enumerate(self.plan.layers):
            takes = " ".join(
                "image" if j == IMAGE else self.plan.layers[j].label for j in layer.inputs
            )
            size = f"{layer.channels} x {layer.size[0]} x {layer.size[1]}"
            last = "  -> classifier" if i in self.plan.outputs else ""
            table.add_row(
                layer.label, layer.describe() + last, takes, size, f"{layer.parameters:,}"
            )
        head = (self.plan.features + 1) * self.plan.classes
        table.add_row("", "average pooling, linear", "", str(self.plan.classes), f"{head:,}")
        return table


def resolve(
    what: str, trial: int | None, settings: Sequence[str]
) -> tuple[str, SearchSpace, Architecture, tuple[tuple[int, int, int], int], ChildSettings]:
    """Return what a command line names: a study's trial (its best without one), or a file.

    A file's network is shown for CIFAR-10's images. `settings` may set child.*.
    """
    from pathlib import Path

    if what in shipped() or not Path(what).is_dir():
        if trial is not None:
            raise UsageError(
                f"a trial number goes with a study's folder; got {what!r}; leave it out"
            )
        space, architecture = load_architecture(what)
        config = config_from_dict(with_settings({}, settings), "--set")
        return what, space, architecture, CIFAR, config.child
    from netwright.workspace import Workspace

    place = Workspace(what)
    config, study = place.open()
    found = study.best if trial is None else study.trial(trial)
    changed = config_from_dict(with_settings(config.to_dict(), settings), "--set")
    score = f", validation {found.score:.4f}" if found.score is not None else f", {found.state}"
    title = f"{config.name}: trial {found.number}{score}"
    return title, study.space, found.architecture, place.shape(study), changed.child


def describe(
    title: str,
    space: SearchSpace,
    architecture: Architecture,
    shape: tuple[tuple[int, int, int], int],
    child: ChildSettings,
) -> Shown:
    """Compile and return it."""
    return Shown(title, space, architecture, compile_plan(space, architecture, *shape, child))
