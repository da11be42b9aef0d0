"""Trained networks, found and loaded; `netwright.exporting` adds forms without Netwright."""

from __future__ import annotations

from pathlib import Path

from netwright.errors import StudyError
from netwright.tasks import image_network, language_network
from netwright.tasks.files import DESCRIPTION, Maker, read_network
from netwright.tasks.results import Network

FORMATS: dict[str, Maker] = {
    image_network.FORMAT: image_network.make_network,
    language_network.FORMAT: language_network.make_network,
}


def find_network(place: Path) -> Path:
    """Return the network's folder: `place`, or the one in a study's folder."""
    for folder in (place, place / "network"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise StudyError(
        f"a trained network must hold {DESCRIPTION}; there is none in {place}; run netwright train "
        f"{place} first"
    )


def load_network(folder: str | Path) -> Network:
    """Read a network's folder; raises `ArchitectureError` for files that are not what they say."""
    return read_network(Path(folder), FORMATS)
