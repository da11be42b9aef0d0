"""Where children run: settings, and how many workers a machine feeds best."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from netwright import machine
from netwright.children.compiled import kept_on_disk
from netwright.config import load_config
from netwright.errors import ConfigError, DataError, UsageError
from netwright.evaluators.image import ImageEvaluator
from netwright.executors import probe, processes
from netwright.executors.local import InProcess
from netwright.executors.probe import Crew, Subject, best_workers
from netwright.executors.processes import Processes
from netwright.protocols import Evaluator
from netwright.space import Architecture
from netwright.tasks import execution
from netwright.tasks.execution import ExecutionSettings
from netwright.tasks.language import LanguageConfig
from netwright.training.numerics import Numerics, child_step
from netwright.trial import Evaluation
from netwright.workspace import Workspace
from tests.strategies import small_space

STEP = Subject("float32 channels_last", partial(child_step, Numerics()))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "cores", lambda: 8)
    monkeypatch.setattr(probe, "busy", lambda: False)
    return tmp_path / "netwright" / "workers.json"


def test_the_fastest_case_is_chosen_and_kept(cache: Path) -> None:
    asked: list[tuple[int, int]] = []

    def measure(workers: int, threads: int) -> float:
        asked.append((workers, threads))
        return {1: 10.0, 2: 18.0, 4: 30.0, 8: 31.0}[workers]

    said: list[str] = []
    chosen = best_workers(STEP, say=said.append, measure=measure)
    assert asked == [(1, 8), (2, 4), (4, 2), (8, 1)]
    assert chosen == Crew(4, 2, "4 workers of 2 threads: 3.0 times as fast as 1 of 8")
    assert best_workers(STEP, say=said.append, measure=measure) == chosen
    assert len(asked) == 4  # kept
    assert said == ["measuring how many workers this machine feeds best, once"]
    key = next(iter(json.loads(cache.read_text())))
    assert "8 processors" in key
    assert best_workers(replace(STEP, name="narrow"), measure=measure) == chosen
    assert len(asked) == 8  # children of other numerics are measured apart
    cache.write_text("not json")
    assert best_workers(STEP, measure=measure) == chosen
    assert len(asked) == 12


def test_one_worker_where_more_are_no_faster() -> None:
    assert best_workers(STEP, measure=lambda workers, threads: 10.0).workers == 1


def test_fixed_threads_and_devices_leave_less_to_choose() -> None:
    chosen = best_workers(STEP, threads=2, measure=lambda workers, threads: float(workers))
    assert (chosen.workers, chosen.threads) == (4, 2)
    assert best_workers(STEP, ("cuda:0", "cuda:1")).workers == 2


def test_one_processor_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "cores", lambda: 1)
    assert best_workers(STEP) == Crew(1, 1, "1 worker: there is one processor")


def test_a_real_measurement_counts_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.3)
    assert probe._measured(2, 1, STEP.make) > 0


def test_a_measurement_that_fails_counts_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert probe._measured(1, 1, partial(float, "no step")) == 0.0
    assert "could not convert string to float: 'no step'" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["digits", "cell-demo"])
def test_what_is_measured_is_a_step_of_what_is_trained(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model of the child's size for language, whose text is not read for it."""
    monkeypatch.setattr(probe, "SECONDS", 0.1)
    config = load_config(name, ["training.precision=float32"])
    subject = config.subject()
    assert subject is not None
    assert subject.name.startswith("float32 channels_last" if name == "digits" else "language 1 x")
    assert probe._measured(1, 1, subject.make) > 0


def test_children_that_take_no_time_have_one_worker() -> None:
    config = load_config("synthetic-conv")
    with replace(config.execution, workers=0).running(config.subject()) as (executor, said):
        assert (type(executor), said) == (InProcess, "")


def test_one_worker_that_was_measured_with_threads_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def best(*given: object) -> Crew:
        asked.append(given)
        return Crew(1, 2, "1 of 2")

    monkeypatch.setattr(execution, "best_workers", best)
    before = torch.get_num_threads()
    with ExecutionSettings(workers=0).running(STEP) as (executor, _):
        assert isinstance(executor, InProcess)
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    assert asked == [(STEP, ("cpu",), 0, None)]


def test_settings_give_the_executor_that_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "best_workers", lambda *given: Crew(3, 2, "3"))
    made: list[tuple[int, object]] = []

    class Fake(Processes):
        def __init__(self, workers: int, devices: object, **settings: object) -> None:
            made.append((workers, settings["threads"]))

        def shutdown(self) -> None:
            return

    monkeypatch.setattr("netwright.executors.processes.Processes", Fake)
    with ExecutionSettings(workers=0).running(STEP) as (executor, said):
        assert isinstance(executor, Fake)
        assert said == "3"
    with ExecutionSettings(workers=2, threads=1).running():
        pass
    with ExecutionSettings(executor="processes").running():
        pass
    assert made == [(3, 2), (2, 1), (1, 0)]
    with ExecutionSettings().running() as (executor, said):
        assert isinstance(executor, InProcess)


def test_one_worker_has_the_first_of_the_devices() -> None:
    with ExecutionSettings(devices=("meta", "cpu")).running() as (executor, _):
        assert isinstance(executor, InProcess)
        assert executor.device == "meta"


@pytest.mark.parametrize("source", ["digits", "ptb-small"])
def test_what_no_worker_does_has_the_first_of_the_devices_too(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(source, ['execution.devices=["meta", "cpu"]', "execution.device=cpu"])
    seen: list[object] = []

    class Asked:
        space = config.make_space()

        def evaluate_module(self, *given: object) -> None:
            seen.append(given[-1])

        evaluate_core = evaluate_module

        def limited(self, limit: int) -> Asked:
            return self

    architecture = Asked.space.sample(random.Random(0))
    config.evaluate_point(cast(Evaluator, Asked()), architecture, None, 0)
    task = sys.modules[type(config).__module__]
    monkeypatch.setattr(task, "train_final", lambda *_, device, **__: seen.append(device))
    with pytest.raises(AttributeError):  # nothing was trained
        config.train_final(
            Asked.space, architecture, point=None, child_seed=0, opened=lambda: None, on_epoch=None
        )
    assert seen == ["meta", "meta"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"executor": "cloud"}, "execution.executor must be one of auto, in_process"),
        ({"executor": "in_process", "workers": 2}, "execution.workers must be 1 in this process"),
        ({"executor": "ray", "cpus": 0.0}, "execution.cpus must be above 0"),
        ({"recycle": -1}, "execution.recycle must be 0 or more; got -1"),
        ({"devices": ("tpuu",)}, "must be a torch device; got 'tpuu'"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ExecutionSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"devices": ("cpu", "cuda:1")}])
def test_a_child_of_rays_that_is_to_train_on_a_gpu_must_take_one(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # refused without it, too
    settings = ExecutionSettings(executor="ray", **asked)
    with pytest.raises(ConfigError, match=r"^execution\.gpus .* cuda.*; got 0\.0; use .*gpus=1$"):
        settings._made(None, None)
    replace(settings, gpus=0.5).check_children()
    replace(settings, executor="processes").check_children()
    ExecutionSettings(executor="ray").check_children()


class Leaking:
    """Keeps what it has allocated, and says who it is."""

    kept: list[bytes] = []  # noqa: RUF012

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        self.kept.append(bytes(1000))
        return Evaluation(reward=float(len(self.kept)), score=float(os.getpid()))


def test_a_worker_that_leaks_is_started_afresh() -> None:
    executor = Processes(1, threads=0, recycle=2)
    architecture = next(iter(small_space().enumerate()))
    evaluator = Leaking()
    found = [executor.submit(evaluator, architecture, i).result(60) for i in range(4)]
    executor.shutdown()
    assert [e.reward for e in found] == [1.0, 2.0, 1.0, 2.0]
    assert len({e.score for e in found}) == 2


def test_a_child_that_may_hang_has_a_process_of_its_own() -> None:
    with ExecutionSettings(hang_limit=5.0).running() as (executor, _):
        assert isinstance(executor, Processes)
        assert executor.time_limit == 5.0
    with ExecutionSettings(recycle=3).running() as (executor, _):
        assert isinstance(executor, Processes)
    with pytest.raises(ConfigError, match=r"execution\.hang_limit must be 0 in this process"):
        ExecutionSettings(executor="in_process", hang_limit=5.0)


def test_a_measurement_that_failed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "cores", lambda: 2)
    kept: list[object] = []
    monkeypatch.setattr(probe, "kept", lambda *_: None)
    monkeypatch.setattr(probe, "keep", lambda *given: kept.append(given))
    assert best_workers(STEP, measure=lambda *_: 0.0).workers == 1
    assert kept == []
    best_workers(STEP, measure=lambda *_: 1.0)
    assert len(kept) == 1


def test_a_measurement_on_a_busy_machine_is_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine's first search, on which others ran, all later ones would have the workers."""
    monkeypatch.setattr(probe, "busy", machine.busy)
    monkeypatch.setattr(machine, "cores", lambda: 4)
    for load, is_kept in ((6.0, False), (5.9, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        said: list[str] = []
        found = best_workers(STEP, say=said.append, measure=lambda workers, _: float(workers))
        assert found.workers == 8
        assert cache.exists() == is_kept
        assert said[0].endswith("best, once") == is_kept
    monkeypatch.delattr(os, "getloadavg")
    assert not machine.busy()


def test_larger_cutoffs_than_a_vocabulary_is_guessed_to_have_are_measured() -> None:
    sets = ["child.cutoffs=[2000, 20000]", "training.precision=float32"]
    config = load_config("ptb-small", sets).settled("float32 contiguous")
    subject = config.subject()
    assert subject is not None
    assert "40000 units" in subject.name


def test_a_final_budget_holds_beside_a_width_of_the_children() -> None:
    config = load_config("ptb-small", ["child.width=64", "final.budget=2000000"])
    assert isinstance(config, LanguageConfig)
    assert (config._final_child.width, config._final_child.budget) == (0, 2_000_000)
    plain = load_config("ptb-small", ["child.width=64"])
    assert isinstance(plain, LanguageConfig)
    assert plain._final_child.width == 64


def test_what_is_measured_is_kept_elsewhere_for_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert machine.cache_file("probe") == Path(tempfile.gettempdir()) / "netwright" / "probe.json"


def test_code_is_compiled_where_nothing_can_be_kept() -> None:
    asked: list[dict[str, object]] = []

    def compile_as(**options: object) -> Callable[[object], object]:
        def decorate(function: object) -> object:
            asked.append(options)
            if "cache" in options:
                raise RuntimeError(
                    "cannot cache function 'f': no locator available for file 'f.py'"
                )
            return function

        return decorate

    assert kept_on_disk(compile_as, nogil=True)("function") == "function"
    assert asked == [{"cache": True, "nogil": True}, {"nogil": True}]

    def broken(**options: object) -> Callable[[object], object]:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        kept_on_disk(broken)("function")


def test_workers_that_cannot_start_are_no_failures_of_children() -> None:
    executor, outer = Processes(1), Future[Evaluation]()
    outer.set_running_or_notify_cancel()
    inner: Future[object] = Future()
    inner.set_exception(BrokenProcessPool("All workers expired"))
    task = processes._Task("key", b"", Architecture("x", ()), 0, "cpu", None)
    executor._ended(outer, task, 0, inner)
    executor.shutdown()
    with pytest.raises(UsageError, match="workers must start and stay"):
        outer.result(0)


def test_what_a_breaking_pool_took_in_last_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        active = False

    monkeypatch.setattr(processes, "SETTLED", 0.01)
    executor, outer = Processes(1), Future[Evaluation]()
    pool = executor._pool
    monkeypatch.setattr(executor, "_pool", Broken())
    executor._watch(outer, Future())
    with pytest.raises(UsageError, match="workers must start and stay"):
        outer.result(10)
    monkeypatch.setattr(executor, "_pool", pool)
    executor.shutdown()


def test_bad_data_are_told_before_the_machine_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def settled(self: LanguageConfig, numerics: str = "") -> LanguageConfig:
        asked.append(numerics)
        return self

    monkeypatch.setattr(LanguageConfig, "settled", settled)
    config = load_config("ptb-small", [f"data.source={tmp_path / 'none'}"])
    with pytest.raises(DataError, match="none"):
        Workspace(tmp_path / "study").begin(config)
    assert asked == []


@pytest.mark.parametrize("noted", ["float32 channels_last", "float32 contiguous"])
def test_children_are_trained_in_what_a_new_study_notes(noted: str, tmp_path: Path) -> None:
    config = load_config("digits")
    settled = type(config).settled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(config), "settled", lambda self: settled(self, noted))
        study = Workspace(tmp_path / "study").begin(config)
    assert str(cast(ImageEvaluator, study.evaluator).numerics) == noted
    assert study.store.header()["notes"]["config"]["execution"]["numerics"] == noted
    study.store.close()
