"""A search like that of the preset digits, in a few lines; then build the best network."""

from __future__ import annotations

import netwright as nw
from netwright.data.images import DataSettings
from netwright.evaluators.image import ImageEvaluator
from netwright.spaces import conv
from netwright.training.image import Recipe


def main(trials: int = 20, epochs: int = 8, train_limit: int = 0) -> nw.Study:
    space = conv.space("mine", conv.ConvSettings(depths=(4,), filters=(8, 16, 32), pools=(2,)))
    data = DataSettings(source="digits", pad=1, train_limit=train_limit)
    evaluator = ImageEvaluator(space, data, Recipe(epochs=epochs, batch=32))
    controller = nw.PolicyGradient(space, nw.PolicySettings(batch=5, learning_rate=0.01))
    study = nw.Study(space, controller, evaluator)
    study.run(trials=trials, on_trial=lambda trial: print(trial.number, trial.score))
    return study


if __name__ == "__main__":
    study = main()
    network = nw.build(study.space, study.best.architecture, image=(1, 8, 8), classes=10)
    print(f"validation {study.best.score:.3f}")
    print(network)
