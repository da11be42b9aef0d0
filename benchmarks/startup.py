"""How long does `import netwright` take beyond Python itself?

    python -m benchmarks.startup

Best of 7 fresh processes each, alternating with the control `python -c pass`. Goal: under 0.3 s.
Last result (2 cores, Python 3.11.7, busy): import 0.032 s, python alone 0.015 s, 0.017 s for it.
"""

from __future__ import annotations

import subprocess
import sys
import time


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    pairs = [(seconds("import netwright"), seconds("pass")) for _ in range(7)]
    ours, plain = (min(times) for times in zip(*pairs, strict=True))
    print(f"import netwright {ours:.3f} s, python alone {plain:.3f} s: {ours - plain:.3f} s for it")


if __name__ == "__main__":
    main()
