"""Where children run: no part of what a study is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from netwright.errors import ConfigError
from netwright.executors.probe import Crew, Subject, best_workers
from netwright.protocols import Executor
from netwright.rules import Section
from netwright.training.numerics import Numerics

EXECUTORS = ("auto", "in_process", "processes", "ray")
MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """Where children run; no part of what a study is.

    executor: "auto" (this process with one worker, processes with more, or where there is a
    hang_limit or recycle), "in_process", "processes" or "ray". device: a torch device. devices: of
    the workers, handed out evenly, the first also of what no worker does, such as the final
    training; `device` where there are none. threads: of torch, in each worker, at most 1024; 0
    leaves its own number. workers: children at once, >= 0; 0 measures what this machine does
    best, or is as many as a Ray cluster has room for. numerics: precision of children and
    layout of their images where training.precision is "auto", such as "bfloat16 channels_last";
    "" measures what is fastest, and a study notes what it began with. retries: how often a
    child whose worker died or was killed is tried again, >= 0. hang_limit: seconds after which
    a child is killed with its worker, 0 for none. recycle: children after which a worker of
    "processes" is started afresh, 0 for never; what one leaks is gone with it. address: of a
    Ray cluster, "" starts one here. cpus, gpus: what a child takes of a Ray cluster, fractions
    too, >= 0: it trains on cuda where it takes a GPU.
    """

    executor: str = "auto"
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    threads: int = 0
    workers: int = 1
    numerics: str = ""
    retries: int = 1
    hang_limit: float = 0.0
    recycle: int = 0
    address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        section = Section("execution", self)
        section.one_of("executor", EXECUTORS)
        section.within(f"[0, {MOST_THREADS}]", "threads")
        section.at_least(0, "workers", "retries", "recycle")
        section.at_least(0, "hang_limit", "cpus", "gpus")
        if self.executor == "in_process" and self.workers > 1:
            section.refuse("workers", "must be 1 in this process")
        if self.executor == "in_process" and self.hang_limit:
            section.refuse("hang_limit", "must be 0 in this process, which cannot kill itself", 0)
        if self.executor == "ray" and not self.cpus + self.gpus > 0:
            section.refuse("cpus", "must be above 0 where a child takes no GPU")
        for name in (self.device, *self.devices):
            _check_name(name)
        if self.numerics:
            Numerics.parse(self.numerics, "execution.numerics")

    @property
    def here(self) -> str:
        """The device of what this process itself does."""
        return self.devices[0] if self.devices else self.device

    def settled(self, numerics: str, measure: Callable[[str], Numerics]) -> Self:
        """Return it with `numerics` filled in, or what stands in it, or what is measured."""
        found = numerics or self.numerics
        if not found:
            found = str(measure(self.here))
        return replace(self, numerics=found)

    def noted(self, precision: str) -> Numerics | None:
        """Return how children of this `precision` are computed, None where that is not noted."""
        if self.numerics:
            noted = Numerics.parse(self.numerics, "execution.numerics")
            if precision in ("auto", noted.precision):
                return noted
        return None

    @contextmanager
    def running(
        self, subject: Subject | None = None, say: Callable[[str], None] | None = None
    ) -> Iterator[tuple[Executor, str]]:
        """Give what trains the children, and a word on it; shut it down in the end.

        subject: what is measured where `workers` is 0, None where children take no time. say: told
        of a measurement.
        """
        before = torch.get_num_threads()
        made, said = self._made(subject, say)
        try:
            yield made, said
        finally:
            made.shutdown()
            torch.set_num_threads(before)

    def _made(
        self, subject: Subject | None, say: Callable[[str], None] | None
    ) -> tuple[Executor, str]:
        from netwright.executors.local import InProcess
        from netwright.executors.processes import Processes

        limits: dict[str, Any] = {"time_limit": self.hang_limit, "retries": self.retries}
        if self.executor == "ray":
            self.check_children()
            from netwright.executors.cluster import RayExecutor

            share: dict[str, Any] = {"cpus": self.cpus, "gpus": self.gpus, "threads": self.threads}
            cluster = RayExecutor(self.workers, self.address, **share, **limits)
            return cluster, f"Ray, {cluster.workers} children at once"
        chosen, devices = self._choice(subject, say), self.devices or (self.device,)
        killed = self.hang_limit > 0 or (self.recycle > 0 and self.executor == "auto")
        if self.executor != "processes" and chosen.workers == 1 and not killed:
            if chosen.threads:
                torch.set_num_threads(chosen.threads)
            return InProcess(self.here), chosen.said
        limits |= {"threads": chosen.threads, "recycle": self.recycle}
        return Processes(chosen.workers, devices, **limits), chosen.said

    def _choice(self, subject: Subject | None, say: Callable[[str], None] | None) -> Crew:
        if self.workers or self.executor == "in_process" or subject is None:
            return Crew(max(self.workers, 1), self.threads, "")
        return best_workers(subject, self.devices or (self.device,), self.threads, say)

    def check_children(self) -> None:
        """Raise `ConfigError` where Ray would train children on another device than was asked for.

        A child of Ray's that takes no GPU trains on processors alone.
        """
        others = [n for n in self.devices or (self.device,) if torch.device(n).type != "cpu"]
        if self.executor == "ray" and others and not self.gpus:
            rule = f"must be above 0 where a child of Ray's is to train on {others[0]}"
            Section("execution", self).refuse("gpus", rule, 1)

    def check_device(self) -> None:
        """Raise `ConfigError` where this machine has no such device."""
        for name in (self.device, *self.devices):
            try:
                torch.empty(1, device=name).cpu()
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                raise ConfigError(
                    f"execution.device must be a device of this machine; {name!r} is not "
                    f"({str(error).splitlines()[0][:80]}); use --set execution.device=cpu"
                ) from error


def _check_name(name: str) -> None:
    try:
        torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"execution.device must be a torch device; got {name!r}; use cpu or cuda"
        ) from error
