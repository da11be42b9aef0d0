"""What a comparison keeps of its searches: files that are written whole, and checked when read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netwright.errors import ArchitectureError, StudyError
from netwright.space import SearchSpace
from netwright.writing import write_whole

KEPT = {"controller": dict, "rewards": list, "scores": list, "costs": list, "best": dict}
LARGEST = sys.float_info.max


def best_so_far(rewards: Sequence[float], scores: Sequence[float | None]) -> list[int]:
    """Return, after each trial, the index of the highest reward, the earliest of equals.

    One without a score, which failed or was stopped, leads only before there is one with a score;
    of these the first does.
    """
    best, found = 0, []
    for n, (reward, score) in enumerate(zip(rewards, scores, strict=True)):
        if score is not None and (scores[best] is None or reward > rewards[best]):
            best = n
        found.append(best)
    return found


def write(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, json.dumps(data))


def read(
    path: Path, keys: Mapping[str, type], otherwise: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what was written there, an object with these keys of these types.

    otherwise: for keys that older files lack. Raises `StudyError`.
    """
    try:
        found = {**(otherwise or {}), **json.loads(path.read_text(encoding="utf-8"))}
        why = next(
            (f"no sound {k!r}" for k, kind in keys.items() if type(found[k]) is not kind), ""
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found, why = {}, f"no {error}" if isinstance(error, KeyError) else str(error)
    if why:
        raise _damaged(path, why)
    return found


def read_run(path: Path, space: SearchSpace) -> dict[str, Any]:
    """Return what was kept of a search, whose leaders are of `space`; raises `StudyError`."""
    found = read(path, KEPT)
    rewards, scores, costs = found["rewards"], found["scores"], found["costs"]
    if not len(rewards) == len(scores) == len(costs):
        raise _damaged(path, "rewards, scores and costs are not of the same trials")
    for name, values in (("rewards", rewards), ("costs", costs)):
        if not all(map(_is_number, values)):
            raise _damaged(path, f"no sound {name!r}")
    if not all(score is None or _is_number(score) for score in scores):
        raise _damaged(path, "no sound 'scores'")
    for n in sorted(set(best_so_far(rewards, scores))):
        values = found["best"].get(str(n))
        if not isinstance(values, dict):
            raise _damaged(path, f"no trial {n} in 'best', which leads")
        try:
            space.architecture(values, f"trial {n}")
        except (ArchitectureError, TypeError) as error:
            raise _damaged(path, f"no sound trial {n} in 'best'") from error
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= LARGEST


def _damaged(path: Path, why: str) -> StudyError:
    return StudyError(
        f"a comparison's file must be JSON that it wrote; {path} is not ({why}); remove it"
    )
