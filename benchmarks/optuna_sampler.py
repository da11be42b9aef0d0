"""Netwright's controller as an Optuna sampler, beside Optuna's own.

    python -m benchmarks.optuna_sampler               three examples, 5 paired seeds, 60 trials
    python -m benchmarks.optuna_sampler --example mlp --seeds 10 --trials 100

classifier: Optuna's scikit-learn example on digits: which classifier, then its own settings (40
    choices that hold under one classifier); every 4th image, 3-fold accuracy.
mlp: one to three layers, the width and the like of each, of scikit-learn's MLP on digits, a few
    epochs; accuracy on a fixed validation third.
additive: twenty conditional choices in closed form (synthetic; optimum 1), which says how the
    samplers search without the noise of training.

A seed fixes data split, training and sampler, so that samplers are paired. Printed: the best value
so far after a quarter, half and all of the trials, the mean of the last quarter, mean and standard
error over seeds, the difference to random search, and the sampler's own processor time a trial.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import optuna
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from benchmarks import shared
from benchmarks.shared import count
from netwright.integrations.optuna import NetwrightSampler
from netwright.seeding import rng

Objective = Callable[[optuna.Trial], float]


def classifier(seed: int) -> Objective:
    x, y = load_digits(return_X_y=True)
    _, x, _, y = train_test_split(x / 16, y, test_size=0.25, random_state=seed, stratify=y)

    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("classifier", ("svc", "forest", "neighbours"))
        if kind == "svc":
            model = SVC(
                C=trial.suggest_categorical("C", (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)),
                gamma=trial.suggest_categorical("gamma", (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)),
                kernel=trial.suggest_categorical("kernel", ("rbf", "poly", "sigmoid")),
            )
        elif kind == "forest":
            model = RandomForestClassifier(
                n_estimators=trial.suggest_int("trees", 2, 32, log=True),
                max_depth=trial.suggest_int("depth", 2, 12),
                max_features=trial.suggest_int("features", 2, 20, step=2),
                random_state=seed,
            )
        else:
            model = KNeighborsClassifier(
                n_neighbors=trial.suggest_int("k", 1, 15, step=2),
                weights=trial.suggest_categorical("weights", ("uniform", "distance")),
                p=trial.suggest_int("p", 1, 3),
            )
        return float(cross_val_score(model, x, y, cv=3).mean())

    return objective


def mlp(seed: int) -> Objective:
    x, y = load_digits(return_X_y=True)
    x, x_valid, y, y_valid = train_test_split(x / 16, y, test_size=1 / 3, random_state=seed)

    def objective(trial: optuna.Trial) -> float:
        layers = trial.suggest_int("layers", 1, 3)
        units = [trial.suggest_int(f"units{i}", 8, 64, step=8) for i in range(layers)]
        model = MLPClassifier(
            units,
            activation=trial.suggest_categorical("activation", ("relu", "tanh", "logistic")),
            learning_rate_init=trial.suggest_categorical("rate", (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
            batch_size=trial.suggest_categorical("batch", (32, 64, 128)),
            max_iter=4,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(model.fit(x, y).score(x_valid, y_valid))

    return objective


def additive(seed: int) -> Objective:
    @cache
    def worth(name: str) -> list[float]:
        values = [i / 5 for i in range(6)]
        rng(seed, 0, name).shuffle(values)
        return values

    def objective(trial: optuna.Trial) -> float:
        total, count = 0.0, 0
        for block in range(5):
            kind = trial.suggest_categorical(f"kind{block}", ("a", "b"))
            for i in range(3):
                name = f"{kind}{block}.{i}"
                total += worth(name)[trial.suggest_int(name, 0, 5)]
                count += 1
        return total / count

    return objective


def plain(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def grouped(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


EXAMPLES = {"classifier": classifier, "mlp": mlp, "additive": additive}
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": plain,
    "TPE": tpe,
    "TPE, multivariate, group": grouped,
    "Netwright": NetwrightSampler,
}


def values_of(
    make: Callable[[int], optuna.samplers.BaseSampler], objective: Objective, seed: int, trials: int
) -> tuple[list[float], float]:
    """Return each trial's value, and the sampler's processor seconds a trial."""
    sampler, spent = make(seed), [0.0]
    for name in ("infer_relative_search_space", "sample_relative", "sample_independent"):
        setattr(sampler, name, _timed(getattr(sampler, name), spent))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return [trial.value or 0.0 for trial in study.trials], spent[0] / trials


def _timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*arguments)
        finally:
            spent[0] += time.thread_time() - began

    return call


def said(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


def compare(example: str, seeds: int, trials: int) -> None:
    points = sorted({max(1, trials // 4), max(1, trials // 2), trials})
    found: dict[str, list[list[float]]] = {name: [] for name in SAMPLERS}
    seconds: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for seed in range(seeds):
        for name, make in SAMPLERS.items():
            values, own = values_of(make, EXAMPLES[example](seed), seed, trials)
            found[name].append(values)
            seconds[name].append(own)
    print(f"\n{example}: {seeds} seeds, {trials} trials; mean ± standard error")
    heads = [*(f"best of {n}" for n in points), "mean of last quarter", "best - random's", "ms"]
    print(f"{'':<26}" + "".join(f"{head:>22}" for head in heads))
    control = [max(values) for values in found["random"]]
    for name, runs in found.items():
        cells = [said([max(values[:n]) for values in runs]) for n in points]
        cells.append(said([float(np.mean(values[-(trials // 4) :])) for values in runs]))
        best = [max(values) - other for values, other in zip(runs, control, strict=True)]
        cells.append(said(best))
        cells.append(f"{statistics.median(seconds[name]) * 1e3:.1f}")
        print(f"{name:<26}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", choices=sorted(EXAMPLES))
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument("--trials", type=count, default=60)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for example in [arguments.example] if arguments.example else EXAMPLES:
        compare(example, arguments.seeds, arguments.trials)


if __name__ == "__main__":
    shared.run(main)
