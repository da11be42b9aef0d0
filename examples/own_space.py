"""A search space of one's own, in ten lines, searched with a function that returns a number."""

from __future__ import annotations

import netwright as nw

space = nw.SearchSpace(
    "pipeline",
    [
        nw.Choice("scaling", ("none", "standard", "minmax")),
        nw.Choice("model", ("trees", "linear")),
        nw.Choice("trees", (10, 30, 100), when={"model": "trees"}),
        nw.Choice("penalty", (0.01, 0.1, 1.0), when={"model": "linear"}),
        nw.Connections("stage1.inputs", "stage1"),
        nw.Connections("stage2.inputs", "stage2", sources=("stage1",)),
    ],
)


def score(architecture: nw.Architecture) -> float:
    """Stand in for a real validation score, in [0, 1]."""
    right = (
        0.5 * (architecture["scaling"] == "standard"),
        0.3 * (architecture.get("penalty") == 0.1),
        0.2 * (architecture["stage2.inputs"] == ("stage1",)),
    )
    return sum(right)


def main(trials: int = 200) -> nw.Study:
    controller = nw.PolicyGradient(space, nw.PolicySettings(batch=5, learning_rate=0.02))
    study = nw.Study(space, controller, score, retrain_duplicates=True)
    study.run(trials=trials)
    return study


if __name__ == "__main__":
    found = main()
    print(f"{space.size()} architectures; best {found.best.score}: {dict(found.best.architecture)}")
