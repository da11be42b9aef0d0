"""This machine: its processors, and what was measured of it, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from netwright.writing import write_whole

_tell: list[Callable[[str], None]] = []


def telling(say: Callable[[str], None] | None) -> None:
    """Have `say` told of what takes long, once a machine; None, as at first: nobody is."""
    _tell[:] = [] if say is None else [say]


def watched() -> bool:
    """Say whether anybody is told."""
    return bool(_tell)


def tell(text: str) -> None:
    """Say it to who watches, where somebody does."""
    for say in _tell:
        say(text)


def cores() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def busy() -> bool:
    """Say whether more has run here in the last minute than all processors could do.

    By half as much again: a search of one's own that has just ended is no such thing. False where
    the machine does not tell.
    """
    try:
        return os.getloadavg()[0] >= 1.5 * cores()
    except (AttributeError, OSError):
        return False


def processor() -> str:
    """Return the processor's name."""
    return _about("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return 8 hex digits that name the processor's instructions, "" where they are not told.

    Virtual machines give processors that differ in them one name.
    """
    flags = _about("flags")
    return hashlib.sha256(flags.encode()).hexdigest()[:8] if flags else ""


def _about(what: str) -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in told.splitlines():
            if line.startswith(what):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def torch_version() -> str:
    """Return torch's version without importing it."""
    return metadata.version("torch")


def cache_file(name: str) -> Path:
    """Return where the measurements called `name` are kept."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        base = Path(tempfile.gettempdir())
    return Path(base) / "netwright" / f"{name}.json"


def kept(name: str, key: str) -> list[float] | None:
    """Return the figures kept under `key`, None where there are none."""
    try:
        found = json.loads(cache_file(name).read_text(encoding="utf-8"))[key]
        return [float(figure) for figure in found]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(name: str, key: str, figures: Sequence[float]) -> None:
    """Keep figures under `key`; where nothing can be written they are measured again next time."""
    path = cache_file(name)
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**known, key: list(figures)}, indent=1))
    except OSError:
        return
