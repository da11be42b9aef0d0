"""Recorded steps of small children: bit for bit those that are not recorded, or none."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from netwright.children import convolution, kept, recording, ways
from netwright.children.conv import ConvNet, build
from netwright.data.images import DataSettings, ImageSet, Pipeline, Preprocess
from netwright.seeding import rng
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv
from netwright.training.image import Recipe, make_optimiser, train
from netwright.training.numerics import Numerics
from tests.strategies import conv_architectures

pytestmark = [
    pytest.mark.skipif(not convolution._able(), reason="a processor without AVX512-BF16"),
    pytest.mark.usefixtures("one_thread"),
]
IMAGE = (3, 9, 8)


def _child(seed: int = 0) -> ConvNet:
    space = conv.v2()
    return _last(build(space, space.sample(rng(seed, 0, "kept")), IMAGE, 5))


def _last(child: ConvNet) -> ConvNet:
    return child.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _twin(child: ConvNet) -> ConvNet:
    """Return a copy of which no step is recorded."""
    twin = copy.deepcopy(child)
    twin._steps = _None()
    return twin


class _None(kept.Steps):
    def begin(self, child: object, images: Tensor) -> None:
        return None


def _images(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *IMAGE, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def _forward(child: ConvNet, n: int, seed: int) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = child(_images(n, seed))
    return F.cross_entropy(logits, torch.arange(n) % 5)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _litter() -> None:
    """Fill what memory is free with what is not a number."""
    gc.collect(1)  # what a step made is young; all of the heap takes .2 s
    torch.set_num_threads(1)
    held = [torch.full((n,), torch.nan) for n in (2**k for k in range(4, 18)) for _ in range(8)]
    del held


def _same(one: ConvNet, other: ConvNet) -> None:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    for (name, a), b in pairs:
        assert torch.equal(a, b), name
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None, name
        assert torch.equal(p.grad, q.grad), name


@settings(max_examples=20, deadline=None)
@given(conv_architectures())
def test_steps_are_those_that_are_not_recorded(drawn: tuple[SearchSpace, Architecture]) -> None:
    torch.manual_seed(0)
    child = _last(build(*drawn, IMAGE, 5))
    both = child, _twin(child)
    optimisers = [make_optimiser(one, Recipe()) for one in both]
    for step, n in enumerate((6, 6, 4, 6, 3, 4, 6)):
        for one, optimiser in zip(both, optimisers, strict=True):
            loss = _forward(one, n, step)
            optimiser.zero_grad()
            _backward(loss)
            optimiser.step()
            del loss
            _litter()
        _same(*both)
        assert all(bool(torch.isfinite(p).all()) for p in child.parameters())
    assert len(child._steps._steps) == (kept.SIZES if child._steps._steps else 0)


def test_calls_are_made_again_and_no_tensor_is_given_twice() -> None:
    child = _child()
    _backward(_forward(child, 4, 0))
    (step,) = child._steps._steps.values()
    first = [p.grad for p in child.parameters()]
    child.zero_grad()
    _backward(_forward(child, 4, 1))
    assert list(child._steps._steps.values()) == [step]
    places = {g.data_ptr() for g in first if g is not None}
    held = {g.data_ptr() for g in step._found if g is not None}
    assert not held & (
        places | {p.grad.data_ptr() for p in child.parameters() if p.grad is not None}
    )


def test_gradients_of_several_steps_add_up() -> None:
    child = _child()
    twin = _twin(child)
    for one in (child, twin):
        for step in range(3):
            _backward(_forward(one, 4, step))
    _same(child, twin)


def test_a_step_is_not_made_on_memory_whose_way_back_is_to_come() -> None:
    child = _child()
    twin = _twin(child)
    for one in (child, twin):
        _backward(_forward(one, 4, 0))
        one.zero_grad()
        first, second = _forward(one, 4, 1), _forward(one, 4, 2)
        third = _forward(one, 4, 3)
        del third
        _backward(second)
        first.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        with pytest.raises(RuntimeError, match="once; run it forward again"):
            _backward(first)
    _same(child, twin)


def test_a_way_ahead_without_its_way_back_leaves_the_next_one_right() -> None:
    child = _child()
    twin = _twin(child)
    for one in (child, twin):
        _forward(one, 4, 0)
        _backward(_forward(one, 4, 1))
        _forward(one, 4, 2)
        _backward(_forward(one, 4, 3))
    _same(child, twin)


def test_copies_and_new_weights_have_steps_of_their_own() -> None:
    child = _child()
    _backward(_forward(child, 4, 0))
    child.zero_grad()
    for other in (copy.deepcopy(child), pickle.loads(pickle.dumps(child))):
        assert not other._steps._steps
        _backward(_forward(other, 4, 1))
    assert all(p.grad is None for p in child.parameters())
    twin = _twin(child)
    for one in (child, twin):
        for p in one.parameters():
            p.data = p.data * 2  # other memory
        _litter()
        _backward(_forward(one, 4, 2))
    _same(child, twin)
    for one in (child, twin):
        one.load_state_dict({k: v / 2 for k, v in one.state_dict().items()})  # the same memory
        one.zero_grad()
        _backward(_forward(one, 4, 3))
    _same(child, twin)


def test_a_trained_child_holds_no_recordings() -> None:
    child = _child()
    data = ImageSet(torch.randint(0, 256, (8, *IMAGE), dtype=torch.uint8), torch.arange(8) % 5)
    settings = DataSettings(pad=1)
    pipeline = Pipeline(data, Preprocess.fit(data, settings), settings)
    seen: list[int] = []

    def after(epoch: int, accuracy: float | None) -> None:
        seen.append(len(child._steps._steps))

    numerics = Numerics("bfloat16", "channels_last")
    train(child, pipeline, None, Recipe(epochs=2, batch=4), 0, on_epoch=after, numerics=numerics)
    assert seen == [1, 1]
    assert not child._steps._steps


def test_several_threads_and_large_children(monkeypatch: pytest.MonkeyPatch) -> None:
    child = _child()
    for threads in (1, 3, 1):
        torch.set_num_threads(threads)
        twin = _twin(child)
        for one in (child, twin):
            one.zero_grad()
            for step in range(2):
                _backward(_forward(one, 4, step))
        _same(child, twin)
    child = _child()
    monkeypatch.setattr(kept, "LARGE", 4)
    _backward(_forward(child, 4, 0))
    assert not child._steps._steps


class _Broken(BaseException):
    """As `KeyboardInterrupt` is."""


def _break(patch: pytest.MonkeyPatch, where: str, call: int) -> None:
    """Let a call of the next step be interrupted: of its way ahead or back, recorded or again."""
    if where.startswith("again"):
        calls = recording.Recording.again
        wanted, seen = where.removeprefix("again "), []

        def again(self: recording.Recording) -> None:
            seen.append(self)
            if len(seen) == ("ahead", "back").index(wanted) + 1:
                for what, given_ in self.calls[: len(self.calls) * call // 3]:
                    what(*given_)
                raise _Broken
            calls(self)

        patch.setattr(recording.Recording, "again", again)
        return
    name = {"ahead": "convolve", "back": "layer_back"}[where]
    function, done = getattr(ways, name), []

    def once(*given_: Any, **named: Any) -> Any:
        done.append(name)
        if len(done) == call:
            raise _Broken
        return function(*given_, **named)

    patch.setattr(ways, name, once)


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("where", ["ahead", "back", "again ahead", "again back"])
def test_a_step_that_was_broken_off_is_not_made_again(
    where: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = _child()
    if where.startswith("again"):
        _backward(_forward(child, 4, 0))
    steps = list(child._steps._steps.values())
    with monkeypatch.context() as patch:
        _break(patch, where, call)
        with pytest.raises(_Broken):
            _backward(_forward(child, 4, 1))
    steps += child._steps._steps.values()
    child.zero_grad()
    twin = _twin(child)
    for step in (2, 3, 4):
        for one in (child, twin):
            _backward(_forward(one, 4, step))
            _litter()
        _same(child, twin)
    (kept_step,) = child._steps._steps.values()
    assert kept_step not in steps


def test_a_step_that_another_thread_makes_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    child = _child()
    _backward(_forward(child, 4, 0))
    child.zero_grad()
    twin = _twin(child)
    again, seen = recording.Recording.again, []

    def other() -> None:
        torch.set_num_threads(1)
        _backward(_forward(child, 4, 1))
        seen.append("other")

    def between(self: recording.Recording) -> None:
        """Make the other's whole step after this one's images have come."""
        if not seen:
            seen.append("one")
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        again(self)

    monkeypatch.setattr(recording.Recording, "again", between)
    _backward(_forward(child, 4, 2))
    assert seen == ["one", "other"]
    for step in (1, 2):
        _backward(_forward(twin, 4, step))
    _same(child, twin)
