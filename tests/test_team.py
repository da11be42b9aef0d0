from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from netwright.children import convolution, openmp, passes
from netwright.children.convolution import alone, backward, convolved
from netwright.children.joints import halved, handed
from netwright.children.layers import ConvNormRelu
from netwright.children.tiled import threads
from tests.layers import LAST, images, last, needs_openmp

THREADS = 3

pytestmark = [pytest.mark.usefixtures("one_thread"), needs_openmp]


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, ...]]:
    """Note of each pass, by its place, how often each thread met the others."""
    found: dict[int, tuple[int, ...]] = {}
    library = openmp.openmp()
    assert library is not None
    run = library.run

    def noted(function: int, numbers: tuple[int, ...], many: int) -> None:
        run(function, numbers, many)
        told = (ctypes.c_int64 * (2 * many)).from_address(numbers[0])
        found[numbers[1]] = tuple(told[::2])

    monkeypatch.setattr(library, "run", noted)
    monkeypatch.setattr(passes, "WORTH", 1)  # every pass is shared
    torch.set_num_threads(THREADS)
    return found


def test_passes_meet_as_often_as_is_said(met: dict[int, tuple[int, ...]]) -> None:
    layer = last(ConvNormRelu(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)))
    x = images(6, 4, 8, 8)
    y, again = halved(layer(x), 2)
    torch.autograd.backward((y + again).sum())
    taken = layer.handed(x, 2)
    torch.autograd.backward(torch.stack(taken).sum())
    one, other = handed(x, 2)
    torch.autograd.backward((one + other).sum())
    with torch.no_grad():
        layer.eval()(x)
    assert met == {k: (many,) * THREADS for k, many in enumerate(passes._MEETS)}


@pytest.mark.skipif(not convolution._able(), reason="a processor without AVX512-BF16")
def test_convolutions_in_tiles_meet_as_often_as_is_said(met: dict[int, tuple[int, ...]]) -> None:
    x, weight = images(6, 4, 8, 8, torch.bfloat16).detach(), torch.randn(5, 4, 3, 3).bfloat16()
    where = (1, 1), (1, 1)
    y = convolved(alone(x), weight.contiguous(memory_format=LAST), where)
    backward(y, alone(x), weight, where, (True, True))
    assert met == {k: (many,) * THREADS for k, many in enumerate(threads._MEETS)}


def test_memory_that_lacks_in_one_thread_ends_a_pass_in_all(tmp_path: Path) -> None:
    """Before, between and after they meet, in any of three threads and in several."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.starved"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{2**3 + 3**3 + 4**3} cases\n"
    assert done.stderr == ""
