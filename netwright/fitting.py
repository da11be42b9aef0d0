"""What `netwright train` does with a study's winner, or any architecture and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from netwright import finishing
from netwright.config import Config, load_config, task_of
from netwright.console import err, goes_on
from netwright.errors import UsageError
from netwright.progress import counting
from netwright.searching import grid_workers
from netwright.showing import named, said
from netwright.space import Architecture, SearchSpace
from netwright.spaces import shipped
from netwright.study import Study
from netwright.tasks.results import Finished
from netwright.tuning import points
from netwright.workspace import Workspace

PAPER = "cifar10-v1"  # for networks of images that come without a configuration
EXAMPLES = {"images": PAPER, "language": "ptb-small"}


def fit(
    cell: str, source: str | None, settings: Sequence[str]
) -> tuple[Config, str, SearchSpace, Architecture]:
    """Return the configuration, and name, space and architecture of what it is to train.

    source: names the configuration. Raises `UsageError` where the two do not belong together.
    """
    config = load_config(PAPER) if source is None else load_config(source, settings)
    name, space, architecture = named(cell, config if source else None)
    if space.kind not in config.trains:
        raise UsageError(_unfit(said(cell), space, config, source))
    return (config if source else load_config(PAPER, settings)), name, space, architecture


def _unfit(cell: str, space: SearchSpace, config: Config, source: str | None) -> str:
    example = EXAMPLES.get(task_of(space))
    if example is None or not config.trains:
        return (
            f"train needs a network or a cell and a configuration that trains it; {cell!r} is of a "
            f"{space.kind} space, {config.name} of task {config.task}; use netwright train "
            f"{PAPER} --architecture v1, or ptb-small --cell nascell"
        )
    if source is None:
        return (
            f"--cell {cell} needs a configuration, which has the data and the recipe; got none; "
            f"use netwright train {example} --cell {cell}, or a file of your own"
        )
    names = ", ".join(shipped(config.trains))
    kind = "convolutional" if config.kind == "conv" else config.kind
    return (
        f"an architecture for {config.task} must be of a {kind} space; {cell!r} is of a "
        f"{space.kind} space; with {source} use {names}, a file or STUDY:best, or take another "
        f"configuration, such as {example}"
    )


def train_fitted(
    config: Config,
    name: str,
    space: SearchSpace,
    architecture: Architecture,
    target: Path | None,
    tune: bool,
) -> tuple[Finished, Path, int]:
    """Train and test with a bar, and save it.

    Return the network, its folder, and how often its training there has opened the test data.
    """
    target = target or Path("runs") / f"{config.name}-{name}" / "network"
    finishing.check_file(config, space, architecture, target, tune)
    runs = len(points(config, space)) if tune else 0
    if tune:
        goes_on("finished runs of the grid")
    with counting(err, "training", config.final_epochs + runs) as advance:
        finished = finishing.train_file(
            config,
            space,
            architecture,
            name,
            target,
            lambda epoch, _: advance(f"epoch {epoch}"),
            (lambda record: advance(f"tuning: {record['score']}")) if tune else None,
            partial(grid_workers, config, err),
        )
    times = finishing.tests_opened(target)
    return finished, finishing.save(finished, target), times


def train_winner(
    place: Workspace, config: Config, study: Study, target: Path | None
) -> tuple[Finished, Path, int]:
    """Do the same with the winner of the study at `place`; it is the study that is counted.

    Its journal notes, as "saved", a folder that is not the study's own.
    """
    target = target or place.network
    finishing.check_best(config, study, target)
    with counting(err, "training", config.final_epochs) as advance:
        finished = finishing.train_best(config, study, lambda epoch, _: advance(f"epoch {epoch}"))
    target = finishing.save(finished, target)
    if target != place.network:
        study.store.add_event("saved", {"network": str(target.absolute())})
    return finished, target, len(study.events("open_test"))


def say_setting(point: Mapping[str, Any] | None) -> str:
    """Return a point of the grid in words."""
    if not point:
        return "the configuration's own settings"
    return ", ".join(f"{name} {value}" for name, value in point.items())
