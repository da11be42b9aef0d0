"""The depth schedule of a study."""

from __future__ import annotations

from dataclasses import dataclass

from netwright.errors import ConfigError
from netwright.space import Choice, Option, SearchSpace


@dataclass(frozen=True, kw_only=True)
class DepthSchedule:
    """Layers as the search goes on (paper, 4.1: 6 at first, 2 more every 1,600 samples).

    Fixes the space's choice `depth` to min(start + step * (trials so far // every), last).
    """

    start: int = 6
    step: int = 2
    every: int = 1600
    last: int = 20

    def __post_init__(self) -> None:
        for name in ("start", "step", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"study.depth.{name} must be 1 or more; got {getattr(self, name)}; raise it"
                )
        if self.last < self.start:
            raise ConfigError(
                f"study.depth.last must be at least start ({self.start}); got {self.last}; raise it"
            )

    def depths(self) -> tuple[int, ...]:
        """Return every depth that comes up, in order."""
        steps = range(self.start, self.last, self.step)
        return (*steps, self.last)

    def check(self, space: SearchSpace) -> None:
        """Raise a `ConfigError` where the space has no choice `depth` of these depths."""
        found = [d for d in space.decisions if isinstance(d, Choice) and d.name == "depth"]
        if not found or not {*self.depths()} <= {*found[0].options}:
            options = list(found[0].options) if found else "none"
            raise ConfigError(
                f"study.depth needs a space with a choice of its depths, {list(self.depths())}; "
                f"got {options}; set space.depths to two or more, or leave study.depth out"
            )

    def given(self, trials: int) -> dict[str, Option]:
        """Return the choice fixed for the proposal after `trials` trials."""
        return {"depth": min(self.start + self.step * (trials // self.every), self.last)}
