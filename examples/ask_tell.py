"""A loop of one's own: ask for a trial, evaluate it anywhere, tell what came out."""

from __future__ import annotations

import netwright as nw

space = nw.SearchSpace("knobs", [nw.Choice(f"knob{i}", (0, 1, 2, 3)) for i in range(6)])


def main(rounds: int = 60) -> nw.Study:
    study = nw.Study(space, nw.PolicyGradient(space, nw.PolicySettings(learning_rate=0.02)))
    for _ in range(rounds):
        trial = study.ask()
        total = sum(value for value in trial.architecture.values() if isinstance(value, int))
        study.tell(trial, total / 18)
    return study


if __name__ == "__main__":
    found = main()
    print(f"best {found.best.score:.3f}: {dict(found.best.architecture)}")
