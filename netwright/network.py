"""Trained networks, found and loaded; `netwright.exporting` adds forms without Netwright."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from netwright.errors import NetwrightError, StudyError, UsageError
from netwright.protocols import Event
from netwright.tasks import image_network, language_network
from netwright.tasks.files import DESCRIPTION, Maker, noted, read_network
from netwright.tasks.results import Network
from netwright.workspace import Workspace, is_url

FORMATS: dict[str, Maker] = {
    image_network.FORMAT: image_network.make_network,
    language_network.FORMAT: language_network.make_network,
}


def find_network(place: str | Path) -> Path:
    """Return the network's folder: `place`, or the one in the folder of the study at `place`.

    Raises `StudyError` where there is none, and where a study at a URL did not train what lies
    there.
    """
    if is_url(place):
        return _of_url(Workspace(place))
    for folder in (Path(place), Path(place) / "network"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise _missing(Path(place), Workspace(place))


def _missing(where: Path, study: Workspace) -> NetwrightError:
    if study.exists() and not (config := study.config()).trains:
        return UsageError(
            f"export and predict need a network that was trained; the children of {study.name}, of "
            f"task {config.task!r}, are looked up or computed; use netwright top or show"
        )
    none = f"a trained network must hold {DESCRIPTION}; there is none in {where}"
    if not study.exists():
        return StudyError(
            f"{none}, which is no study either; give the folder that netwright train wrote, or the "
            f"study's"
        )
    return StudyError(f"{none}; run netwright train {study.name} first")


def _text(data: object) -> str:
    return json.dumps(data, sort_keys=True)  # in which one nan equals another


def holds(folder: Path, trained: Iterable[Event]) -> bool:
    """Say whether the network in `folder` is that of one of these events "train"."""
    return _text(noted(folder, "result")) in (_text(event.payload) for event in trained)


def _of_url(place: Workspace) -> Path:
    with closing(place.store()) as store:
        trained = store.events("train")
    if not (place.network / DESCRIPTION).is_file():
        raise _missing(place.network, place)
    if not holds(place.network, trained):
        raise StudyError(
            f"a study's network is one that it trained; {place.network} holds another's, not "
            f"that of {place.name}; name the folder that its netwright train wrote (--out)"
        )
    return place.network


def load_network(folder: str | Path) -> Network:
    """Read a network's folder; raises `ArchitectureError` for files that are not what they say."""
    return read_network(Path(folder), FORMATS)
