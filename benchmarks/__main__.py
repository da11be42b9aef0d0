"""A short version of most measurements: `make bench`.

Left out are cells, compiling, economy, fidelity, landscapes, optuna_sampler and surrogates, and of
children, scale and faults what is not named below. Studies lie in a temporary folder, so that each
time everything is measured again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import (
    cell,
    children,
    controller,
    evidence,
    faults,
    overhead,
    scale,
    shared,
    startup,
    words,
    workers,
)
from netwright.compare_command import compare


def main() -> None:
    print("startup", flush=True)
    startup.main()
    print("controller", flush=True)
    controller.main()
    print("overhead of a proposal", flush=True)
    sys.argv = ["overhead", "--controllers", "guided", "evolution"]
    overhead.main()
    print("search quality: 40 trials on a closed form, 2 seeds", flush=True)
    short = ["data.layers=6", 'compare.controllers=["guided", "evolution", "random"]']
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "compare"
        compare("synthetic-conv", place, trials=40, seeds=2, workers="1", settings=short)
    print("cell, the published one and two sampled at two sizes", flush=True)
    sys.argv = ["cell", "--sizes", "128", "256", "--sampled", "2"]
    cell.main()
    print("children: two small ones against loops written by hand", flush=True)
    short = ["--networks", "digits", "cifar10-small", "--batch", "32", "--rounds", "3"]
    sys.argv = ["children", "speed", *short]
    children.main()
    print("words: tokens a second beside nn.LSTM, the small size", flush=True)
    sys.argv = ["words", "--sizes", "small", "--rounds", "5"]
    words.main()
    print("scale: a study of 5,000 trials", flush=True)
    sys.argv = ["scale", "open", "--trials", "5000"]
    scale.main()
    print("workers: 2 against 1, one round", flush=True)
    sys.argv = ["workers", "--rounds", "1"]
    workers.main()
    print("faults: a few of each", flush=True)
    sys.argv = ["faults", "--kills", "5", "--each", "3", "--orphans", "0", "--outage", "3"]
    faults.main()
    print(
        "evidence, 10 trials a search: too few to tell anything, enough to see it run", flush=True
    )
    short = ["--seeds", "1", "--finals", "1", "--set", "study.trials=10", "--set", "final.epochs=5"]
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["evidence", "digits", *short, "--out", folder]
        evidence.main()


if __name__ == "__main__":
    shared.run(main)
