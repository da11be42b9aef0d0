"""What compiling takes: no training is charged for it, and who watches is told."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from numba.core.compiler_lock import global_compiler_lock
from torch import nn

from netwright.children import compiling
from netwright.children.language import LanguageChildSettings
from netwright.console import run
from netwright.data.images import DataSettings
from netwright.data.text import TextSettings
from netwright.errors import TimeLimitError
from netwright.evaluators import image, language
from netwright.evaluators.image import ImageEvaluator
from netwright.evaluators.language import LanguageEvaluator
from netwright.executors.processes import Processes
from netwright.machine import tell, telling
from netwright.protocols import Evaluator
from netwright.space import Architecture
from netwright.spaces import conv, recurrent
from netwright.training import numerics
from netwright.training.image import Recipe
from netwright.training.language import LanguageRecipe
from netwright.training.limits import Deadline
from netwright.training.numerics import Numerics, clock, race
from netwright.trial import Evaluation
from tests.compiled_pieces import printed
from tests.strategies import small_space

SCRIPT = """
import time
from netwright.children import compiling
from netwright.machine import telling
telling(print)
from tests.compiled_pieces import half, twice
twice(21), twice(1.5), half()
print(compiling.wall() > 0, 0 < compiling.processor() < time.process_time())
"""


class Now:
    """A time that goes on where a test says so."""

    def __init__(self) -> None:
        self.at = 100.0

    def passes(self, seconds: float) -> None:
        self.at += seconds

    def compiles(self, seconds: float) -> None:
        with global_compiler_lock, global_compiler_lock:
            self.at += seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    made = Now()
    names = ("monotonic", "perf_counter", "process_time", "thread_time")
    fake = SimpleNamespace(**{name: lambda: made.at for name in names})
    for module in (compiling, numerics):
        monkeypatch.setattr(module, "time", fake)
    return made


@pytest.fixture
def told() -> Iterator[list[str]]:
    found: list[str] = []
    telling(found.append)
    yield found
    telling(None)


def _images(limit: float) -> tuple[Evaluator, Architecture, Any]:
    space = conv.space("n", conv.ConvSettings(depths=(2,), filters=(12,)))
    recipe = Recipe(epochs=1, time_limit=limit, precision="float32")
    made = ImageEvaluator(space, DataSettings(), recipe, numerics=Numerics())
    return made, next(iter(space.enumerate())), image


def _words(limit: float) -> tuple[Evaluator, Architecture, Any]:
    space = recurrent.space("cells", recurrent.RecurrentSettings(base=2))
    recipe = LanguageRecipe(epochs=1, time_limit=limit, precision="float32")
    child = LanguageChildSettings(layers=1, budget=5000)
    data = TextSettings(source="stdlib", unit="characters", train_limit=5000)
    made = LanguageEvaluator(space, data, recipe, child, numerics=Numerics())
    return made, next(iter(space.enumerate())), language


@pytest.mark.parametrize("task", [_images, _words])
@pytest.mark.usefixtures("one_thread")
def test_a_child_is_not_charged_for_what_it_compiles(
    task: Callable[[float], tuple[Evaluator, Architecture, Any]],
    now: Now,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator, architecture, module = task(10.0)

    def train(*given: Any, **_: Any) -> list[float]:
        (deadline,) = (each for each in given if isinstance(each, Deadline))
        now.compiles(30)
        now.passes(4)
        deadline.check()
        return [0.5]

    monkeypatch.setattr(module, "train", train)
    assert evaluator.evaluate(architecture, 1, "cpu").cost == pytest.approx(4)


def _final_images() -> image.FinalResult:
    def make(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

    return image.train_final(
        make,
        DataSettings(),
        Recipe(epochs=1),
        seed=0,
        child_seed=1,
        opened=lambda: None,
        numerics=Numerics(),
    )


def _final_words() -> language.FinalLanguage:
    return language.train_final(
        "lstm",
        TextSettings(source="stdlib", unit="characters", train_limit=5000),
        LanguageRecipe(epochs=1),
        LanguageChildSettings(layers=1, budget=5000),
        seed=1,
        opened=lambda: None,
        numerics=Numerics(),
    )


@pytest.mark.parametrize(
    ("final", "module", "tests"),
    [(_final_images, image, "evaluate"), (_final_words, language, "perplexity")],
)
def test_nor_is_a_final_training(
    final: Callable[[], Any],
    module: Any,
    tests: str,
    now: Now,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(*_: Any, **__: Any) -> list[float]:
        now.compiles(30)
        now.passes(4)
        return [0.5]

    def tested(*_: Any) -> float:
        now.compiles(10)
        now.passes(2)
        return 0.5

    monkeypatch.setattr(module, "load_torch", lambda: now.passes(60))
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, tests, tested)
    assert final().seconds == pytest.approx(6)


@pytest.mark.parametrize("task", [_images, _words])
def test_a_child_is_not_charged_for_what_torch_loads(
    task: Callable[[float], tuple[Evaluator, Architecture, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, architecture, module = task(0.0)
    called: list[str] = []

    def begun(device: str) -> Callable[[], float]:
        called.append("clock")
        return lambda: 0.0

    monkeypatch.setattr(module, "load_torch", lambda: called.append("load"))
    monkeypatch.setattr(module, "clock", begun)
    monkeypatch.setattr(module, "train", lambda *_, **__: [0.5])
    evaluator.evaluate(architecture, 1, "cpu")
    assert called == ["load", "clock"]


@pytest.mark.usefixtures("one_thread")
def test_clocks_stand_still_meanwhile_and_go_on_after(now: Now) -> None:
    own, wall, deadline = clock("cpu"), clock("cuda"), Deadline(10)
    began = own(), wall()
    now.compiles(30)
    assert (own(), wall()) == pytest.approx(began)
    now.passes(9)
    assert (own(), wall()) == pytest.approx((began[0] + 9, began[1] + 9))
    deadline.check()
    now.passes(2)
    with pytest.raises(TimeLimitError, match="past its time limit of 10 s"):
        deadline.check()


@pytest.mark.usefixtures("one_thread")
def test_what_another_thread_compiles_is_its_own_time_and_the_process_s(now: Now) -> None:
    own, wall = clock("cpu"), clock("cuda")
    began = own(), wall()
    other = threading.Thread(target=now.compiles, args=(30,))
    other.start()
    other.join(60)
    assert (own(), wall()) == pytest.approx((began[0], began[1] + 30))


def test_a_probe_has_its_rounds_after_what_it_compiles(now: Now) -> None:
    taken: list[int] = []

    def step() -> None:
        if not taken:
            now.compiles(30)
        taken.append(1)
        now.passes(0.1)

    found = race([step], "cpu")
    assert len(taken) == numerics.ROUNDS + 1
    assert found.each == pytest.approx([10.0])


def test_what_is_compiled_is_said_once_and_what_was_kept_is_not(tmp_path: Path) -> None:
    assert printed(SCRIPT, tmp_path) == [compiling.NOTE, "True True"]
    assert printed(SCRIPT, tmp_path) == ["True True"]


def test_a_command_says_it_among_its_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(lambda: tell("compiling"))
    monkeypatch.setattr(sys, "argv", ["netwright"])
    with pytest.raises(SystemExit):
        run(app)
    tell("again, to nobody")
    assert capsys.readouterr() == ("", "netwright: compiling\n")


class Compiles:
    """Tells what a child that compiles tells."""

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        tell("compiling")
        return Evaluation(reward=1.0, score=1.0)


@pytest.mark.usefixtures("told")
def test_a_child_does_not_fail_where_nobody_reads_what_its_worker_says() -> None:
    read, write = os.pipe()
    os.close(read)
    before = os.dup(2)
    os.dup2(write, 2)
    try:
        executor = Processes(1)
        future = executor.submit(Compiles(), next(iter(small_space().enumerate())), 1)
        assert future.result(120).reward == 1.0
        executor.shutdown()
    finally:
        os.dup2(before, 2)
        for number in (write, before):
            os.close(number)


@pytest.mark.parametrize("watched", [True, False])
def test_one_worker_says_it_where_somebody_watches(
    watched: bool, told: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    if not watched:
        telling(None)
    architecture = next(iter(small_space().enumerate()))
    executor = Processes(2)
    try:
        futures = [executor.submit(Compiles(), architecture, seed) for seed in range(6)]
        assert [future.result(120).reward for future in futures] == [1.0] * 6
    finally:
        executor.shutdown()
    assert capfd.readouterr().err == ("netwright: compiling\n" if watched else "")
    assert told == []
