"""Convolutions of inputs side by side: by torch, and in the processor's tiles where it has them."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config
from torch import Tensor

from netwright.children import compiled, convolution, joints, openmp
from netwright.children.conv import build
from netwright.children.convolution import Inputs, backward, convolved, in_tiles
from netwright.children.joints import join, parts_of
from netwright.seeding import rng
from netwright.spaces import conv

LAST = torch.channels_last
BOUND = 2**-7  # of the largest: bfloat16 rounds what comes out to 2^-8 of itself
Where = tuple[tuple[int, int], tuple[int, int]]

pytestmark = pytest.mark.usefixtures("one_thread")
tiles = pytest.mark.skipif(not convolution._able(), reason="a processor without AVX512-BF16")


def _images(n: int, channels: int, height: int, width: int) -> Tensor:
    return torch.randn(n, channels, height, width).bfloat16().contiguous(memory_format=LAST)


@st.composite
def _drawn(draw: st.DrawFn) -> tuple[Inputs, Tensor, Where]:
    """Inputs side by side of which one has the whole size, a weight, stride and padding."""
    size, n = (draw(st.integers(1, 18)), draw(st.integers(1, 36))), draw(st.integers(1, 5))
    channels = st.sampled_from([1, 3, 5, 16, 17, 36, 40])
    torch.manual_seed(draw(st.integers(0, 99)))
    images = [
        _images(n, draw(channels), draw(st.integers(1, size[0])), draw(st.integers(1, size[1])))
        for _ in range(draw(st.integers(0, 4)))
    ]
    images.insert(draw(st.integers(0, len(images))), _images(n, draw(channels), *size))
    kernel = draw(st.sampled_from([1, 3, 5, 7])), draw(st.sampled_from([1, 3, 5, 7]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (3, 3)]))
    total = sum(x.shape[1] for x in images)
    weight = torch.randn(draw(st.sampled_from([1, 4, 16, 24, 33, 36])), total, *kernel)
    weight = (weight / weight[0].numel() ** 0.5).bfloat16()
    return Inputs(tuple(images), size), weight, (stride, (kernel[0] // 2, kernel[1] // 2))


def _by_torch(inputs: Inputs, weight: Tensor, where: Where, g: Tensor) -> list[Tensor]:
    """What comes out, the gradients of the inputs, and of the weight, in float32."""
    x = join([x.float() for x in inputs.images], inputs.size).requires_grad_()
    w = weight.float().requires_grad_()
    y = torch.convolution(x, w, None, *where, (1, 1), False, (0, 0), 1)
    g_x, g_w = torch.autograd.grad(y, (x, w), g.float())
    return [y.detach(), *parts_of(g_x, [x.shape for x in inputs.images]), g_w]


def _ours(inputs: Inputs, weight: Tensor, where: Where, g: Tensor) -> list[Tensor]:
    g_inputs, g_weight = backward(g, inputs, weight, where, (True, True))
    assert g_inputs is not None
    assert g_weight is not None
    return [convolved(inputs, weight, where), *g_inputs, g_weight]


def _gradient(inputs: Inputs, weight: Tensor, where: Where) -> Tensor:
    rows, columns = (
        (inputs.size[k] + 2 * where[1][k] - weight.shape[2 + k]) // where[0][k] + 1 for k in (0, 1)
    )
    return _images(len(inputs.images[0]), len(weight), rows, columns)


@tiles
@settings(max_examples=60)
@given(_drawn())
def test_in_tiles_it_is_torchs_convolution_of_the_inputs_joined(
    drawn: tuple[Inputs, Tensor, Where],
) -> None:
    g = _gradient(*drawn)
    assert in_tiles(g)
    wanted, found = _by_torch(*drawn, g), _ours(*drawn, g)
    largest = [float(each.abs().max()) for each in wanted]
    largest[1:-1] = [max(largest[1:-1])] * (len(wanted) - 2)  # one gradient, in parts
    for one, other, most in zip(found, wanted, largest, strict=True):
        assert one.shape == other.shape
        assert one.is_contiguous(memory_format=LAST)
        assert float((one.float() - other).abs().max()) <= BOUND * most + 1e-6
    assert found[-1].dtype == torch.float32


@tiles
@settings(max_examples=15)
@given(_drawn())
def test_threads_share_images_and_find_the_same(drawn: tuple[Inputs, Tensor, Where]) -> None:
    if openmp.openmp() is None:
        pytest.skip("torch has another OpenMP library")
    g = _gradient(*drawn)
    alone = _ours(*drawn, g)
    torch.set_num_threads(3)
    shared, again = _ours(*drawn, g), _ours(*drawn, g)
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(shared, again, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(shared[:-1], alone[:-1], strict=True))
    torch.testing.assert_close(shared[-1], alone[-1], rtol=1e-4, atol=1e-4)  # sums of sums


@tiles
def test_what_is_not_wanted_is_not_worked_out() -> None:
    inputs, where = Inputs((_images(2, 3, 5, 5),), (5, 5)), ((1, 1), (1, 1))
    weight = torch.randn(4, 3, 3, 3).bfloat16()
    assert backward(_images(2, 4, 5, 5), inputs, weight, where, (False, False)) == (None, None)


@tiles
def test_images_that_are_not_finite_stay_so_and_leave_the_others_alone() -> None:
    x, where = _images(3, 5, 6, 7), ((1, 1), (1, 1))
    weight = torch.randn(4, 5, 3, 3).bfloat16()
    clean = convolved(Inputs((x,), (6, 7)), weight, where)
    x[1, 2, 3, 4] = float("nan")
    found = convolved(Inputs((x,), (6, 7)), weight, where)
    assert found[1, :, 2:5, 3:6].isnan().all()
    assert torch.equal(found[::2], clean[::2])


@tiles
def test_a_child_in_tiles_is_as_near_to_float32_as_by_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = conv.v2()
    architecture = space.sample(rng(0, 0, "test"))
    torch.manual_seed(0)
    child = build(space, architecture, (3, 20, 20), 10).to(memory_format=LAST)  # type: ignore[call-overload]
    images, labels = torch.randn(8, 3, 20, 20), torch.randint(10, (8,))
    images = images.contiguous(memory_format=LAST)

    def gradients(narrow: bool) -> Tensor:
        one = copy.deepcopy(child)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = torch.nn.functional.cross_entropy(one(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])

    def near(one: Tensor, other: Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(one, other, dim=0))

    full, found = gradients(False), gradients(True)
    monkeypatch.setattr(convolution, "_able", lambda: False)
    by_torch = gradients(True)
    assert near(found, full) > near(by_torch, full) - 0.02
    assert near(found, full) > 0.9


def test_by_torch_there_is_one_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_able", lambda: False)
    torch.manual_seed(0)
    inputs, where = Inputs((_images(2, 3, 5, 6),), (5, 6)), ((2, 1), (1, 1))
    weight = torch.randn(4, 3, 3, 3).bfloat16()
    g = _gradient(inputs, weight, where)
    assert not in_tiles(g)
    for one, other in zip(
        _ours(inputs, weight, where, g), _by_torch(inputs, weight, where, g), strict=True
    ):
        assert float((one.float() - other).abs().max()) <= BOUND * float(other.abs().max())


@pytest.mark.parametrize("size", [(1, 1), (7, 1), (1, 7), (2, 2), (5, 2), (2, 5), (5, 3)])
def test_a_stride_as_long_as_the_images_by_torch(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_able", lambda: False)
    torch.manual_seed(0)
    for kernel in itertools.product((1, 3, 7), repeat=2):
        for stride in ((1, 2), (2, 1), (2, 2), (3, 3)):
            inputs = Inputs((_images(16, 36, *size),), size)
            weight = (torch.randn(24, 36, *kernel) / 8).bfloat16().contiguous(memory_format=LAST)
            where = stride, (kernel[0] // 2, kernel[1] // 2)
            g = _gradient(inputs, weight, where)
            for low, full in zip(
                _ours(inputs, weight, where, g), _by_torch(inputs, weight, where, g), strict=True
            ):
                assert low.shape == full.shape
                worst = float((low.float() - full).abs().max())
                assert worst <= BOUND * float(full.abs().max()), (kernel, stride)


def test_float32_and_processors_held_to_less_take_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_tiles(torch.zeros(1))
    for name, value in (("CPU_NAME", "haswell"), ("ENABLE_AVX", 0)):
        with monkeypatch.context() as held:
            held.setattr(config, name, value)
            assert not compiled.made_for.__wrapped__()
    assert compiled.made_for.__wrapped__()


NOT_COMPILED = """
import torch
from netwright.children.conv import build
from netwright.children.output import Output
from netwright.seeding import rng
from netwright.spaces import conv
space = conv.v2()
child = build(space, space.sample(rng(0, 0, "test")), (3, 8, 8), 10)
child(torch.randn(4, 3, 8, 8)).sum().backward()
output = Output(20, 5, (8,))
output.loss(torch.randn(6, 5), 3 * torch.arange(6)).backward()
print(all(p.grad is not None for p in [*child.parameters(), *output.parameters()]))
"""


def test_where_numba_is_told_to_compile_nothing_all_is_torchs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_COMPILED],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert done.stdout.strip() == "True", done.stderr[-2000:]


@tiles
def test_nothing_outside_of_images_and_weights_is_read_or_written() -> None:
    """In a process of its own, where memory that ends at one nobody may touch is everything."""
    script = Path(__file__).parent / "guarded.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "nothing touched"


@tiles
@pytest.mark.parametrize("products", ["vectors", "tiles"])
def test_the_products_of_other_processors_find_the_same(products: str, tmp_path: Path) -> None:
    """In a process of its own: which products there are is settled when they are imported."""
    if (products == "tiles") == compiled.has_tiles():
        pytest.skip("this processor's own")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "tests.other_products", products],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"5 cases in {products}")


def test_compiled_code_is_kept_by_all_the_code_it_may_call() -> None:
    def some() -> None: ...

    before = some.__qualname__
    assert compiled.named(some).__qualname__ == f"{before}_{compiled._sources()}"


def test_a_plain_block_takes_torchs_layers() -> None:
    with joints.plain():
        assert not joints.fast(_images(2, 3, 4, 4))
