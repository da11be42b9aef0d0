"""Search spaces by name, and architecture files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from netwright.errors import ArchitectureError, SpaceError
from netwright.space import Architecture, SearchSpace, decision_from_dict
from netwright.spaces import conv, gated, recurrent
from netwright.writing import write_whole

FORMAT = "netwright-architecture/1"
WRITE = "write one with netwright show STUDY TRIAL --save FILE"


def space_from_dict(data: Mapping[str, Any]) -> SearchSpace:
    """Return the space that `SearchSpace.to_dict` described; raises `SpaceError`."""
    kind = data.get("kind")
    name = str(data.get("name", ""))
    if kind == "conv":
        return conv.from_settings(name, data.get("settings", {}))
    if kind == "recurrent":
        return recurrent.from_settings(name, data.get("settings", {}))
    if kind == "gated":
        return gated.space(name)
    if kind == "decisions":
        decisions = [decision_from_dict(d) for d in data.get("decisions", [])]
        return SearchSpace(name, decisions, settings=data.get("settings", {}))
    raise SpaceError(
        f"the kind of a space must be conv, recurrent, gated or decisions; got {kind!r}; mend the "
        f"file"
    )


def shipped(kinds: Collection[str] = ()) -> dict[str, Path]:
    """Return the architecture files that come with Netwright, by name.

    kinds: of their spaces, all by default.
    """
    folder = Path(str(resources.files("netwright"))) / "architectures"
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    return {name: path for name, path in found.items() if not kinds or _kind(path) in kinds}


def _kind(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))["space"]["kind"])


def architecture_to_dict(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """Return what an architecture file holds."""
    return {
        "format": FORMAT,
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        "digest": digest(space, architecture),
        "values": dict(space.check(architecture)),
    }


def digest(space: SearchSpace, architecture: Architecture) -> str:
    """Return 16 hex digits over the space's fingerprint and the values' canonical JSON."""
    text = f"{space.fingerprint}\n{architecture.to_json()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_architecture(path: str | Path, space: SearchSpace, architecture: Architecture) -> None:
    """Write an architecture file, whole or not at all: JSON that names its space and its values."""
    data = architecture_to_dict(space, architecture)
    write_whole(Path(path), json.dumps(data, indent=1) + "\n")


def load_architecture(
    source: str | Path, kinds: Collection[str] = ()
) -> tuple[SearchSpace, Architecture]:
    """Read an architecture file, or a shipped one by its name ("v1").

    kinds: of space, to name shipped ones by where there is no such file; others are read too.
    Raises `ArchitectureError` for a file that is missing, is no such file, or whose values,
    fingerprint or digest do not belong together. A file written by hand may leave the digest out.
    """
    path = shipped().get(str(source), Path(source))
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(shipped(kinds))
        raise ArchitectureError(
            f"an architecture must be a readable file or one of {names}; got {str(source)!r} "
            f"({error.strerror}); check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ArchitectureError(
            f"an architecture file must be JSON; {str(source)!r} is not ({error}); {WRITE}"
        ) from error
    return architecture_from_dict(data, str(source))


def architecture_from_dict(data: Any, where: str) -> tuple[SearchSpace, Architecture]:
    """Inverse of `architecture_to_dict`; `where` is named in errors."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ArchitectureError(
            f"an architecture file must have format {FORMAT!r}; got {found!r} in {where}; {WRITE}"
        )
    if not isinstance(data.get("space"), dict) or not isinstance(data.get("values"), dict):
        raise ArchitectureError(
            f"an architecture file must have a space and values; {where} lacks one; mend it"
        )
    try:
        space = space_from_dict(data["space"])
    except (SpaceError, TypeError, ValueError, AttributeError) as error:
        raise ArchitectureError(f"{where} must describe a space; it does not: {error}") from error
    if data.get("fingerprint") != space.fingerprint:
        raise ArchitectureError(
            f"the fingerprint must be that of the space, {space.fingerprint}; got "
            f"{data.get('fingerprint')!r} in {where}; the file was changed, take the original"
        )
    architecture = space.architecture(data["values"], where)
    expected = digest(space, architecture)
    if data.get("digest", expected) != expected:
        raise ArchitectureError(
            f"the digest must be that of the values, {expected}; got {data['digest']!r} in "
            f"{where}; the file was changed, take the original or leave the digest out"
        )
    return space, architecture
