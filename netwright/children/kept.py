"""Steps of a small child, recorded once and made again on the same memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from netwright.children.convolution import in_tiles
from netwright.children.recording import Recording, recorded
from netwright.children.ways import Child, Way, ahead, back

LARGE = 1 << 22  # numbers of all layers' outputs beyond which memory is dearer than calls
SIZES = 2  # numbers of images of which steps are kept: an epoch's last batch may be smaller


class Steps:
    """The steps of one child, a recording for each number of images.

    A copy of the child begins without any. While a step's way back is still to come, or another
    thread makes it, another one is not made on its memory.
    """

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._lock = threading.Lock()  # threads may share a child

    def __reduce__(self) -> tuple[type[Steps], tuple[()]]:
        return Steps, ()

    def clear(self) -> None:
        """Let go of all recordings, and of the memory that they work on."""
        self._steps.clear()

    def begin(self, child: Child, images: Tensor) -> Turn | None:
        """Make a step's way ahead, and return it; None where nothing is kept of such a child."""
        what = _addresses(child, images)
        step = self._steps.get(len(images))
        if step is None or step.broken or step.what != what:
            if not _small(child, images):
                return None
            step = _Step(what, child, images)
            made = step.taken()
            self._keep(step, len(images))
            return made
        with self._lock:  # before it is made
            turn = None if step.turn() is not None else step.taken()
        if turn is not None:
            step.again(images)
        return turn

    def _keep(self, step: _Step, n: int) -> None:
        with self._lock:
            self._steps.pop(n, None)
            if len(self._steps) == SIZES:
                del self._steps[next(iter(self._steps))]
            self._steps[n] = step


def forget(model: Module) -> None:
    """Let go of the recorded steps of all children in a model that is trained."""
    for module in model.modules():
        steps = getattr(module, "_steps", None)
        if isinstance(steps, Steps):
            steps.clear()


class Turn:
    """A step whose way ahead is made. leaves: the child's last outputs."""

    def __init__(self, step: _Step) -> None:
        self._step = step
        self.leaves: Sequence[Tensor] = step.leaves

    def end(self, child: Child, gains: Sequence[Tensor], g: Tensor) -> list[Tensor | None]:
        """Return the gradients of all that is learnt, `g` that of `Child.means`."""
        return self._step.end(child, gains, g)


def _nothing() -> None:
    return None


class _Step:
    """A recorded step. what: what it goes by. turn: the one that is being made.

    broken: an exception, or Ctrl-C, came between its calls; it is not made again.
    """

    def __init__(self, what: tuple[object, ...], child: Child, images: Tensor) -> None:
        self.what, self.broken = what, False
        self.turn: Any = _nothing
        self._images = torch.empty_like(images).copy_(images)
        self._way: Way | None
        with recorded() as self._ahead:
            self._way, self.leaves = ahead(child, self._images)
        shapes = [x.shape for x in self.leaves]
        self._given = [torch.empty(shape[:2], dtype=images.dtype, device="cpu") for shape in shapes]
        self._back: Recording | None = None
        self._found: list[Tensor | None] = []

    def taken(self) -> Turn:
        """Return a turn to make it; until that is let go of there is no other."""
        turn = Turn(self)
        self.turn = weakref.ref(turn)
        return turn

    def again(self, images: Tensor) -> None:
        try:
            self._images.copy_(images)
            self._ahead.again()
        except BaseException:
            self.broken = True
            raise

    def end(self, child: Child, gains: Sequence[Tensor], g: Tensor) -> list[Tensor | None]:
        try:
            self._go_back(child, gains, g)
            return [None if grad is None else grad.clone() for grad in self._found]
        except BaseException:
            self.broken = True
            raise

    def _go_back(self, child: Child, gains: Sequence[Tensor], g: Tensor) -> None:
        shapes = [x.shape for x in self.leaves]
        for given, part in zip(self._given, child.parts(g, shapes), strict=True):
            given.copy_(part)
        if self._back is not None:
            self._back.again()
            return
        way, self._way = self._way, None  # which is used up, whatever happens
        assert way is not None
        pixels = zip(self._given, shapes, strict=True)
        parts = [given[:, :, None, None].expand(shape) for given, shape in pixels]
        with recorded() as found:
            self._found = back(child.plan, way, gains, parts)
        self._back = found


def _addresses(child: Child, images: Tensor) -> tuple[object, ...]:
    """Return all that a recording's calls depend on, beside the child's plan."""
    found: list[object] = [images.shape, images.dtype, torch.get_num_threads()]
    found += [weight.data_ptr() for weight in child.learnt]
    for mean, var, count, *numbers in child.states:
        found += [mean.data_ptr(), var.data_ptr(), count is None or count.data_ptr(), *numbers]
    return tuple(found)


def _small(child: Child, images: Tensor) -> bool:
    pixels = sum(layer.channels * layer.size[0] * layer.size[1] for layer in child.plan.layers)
    return in_tiles(images) and len(images) * pixels <= LARGE
