"""What a controller has been through, and going through it again from the events of a journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from netwright.protocols import Controller, Event, Remembering
from netwright.trial import Trial

AT_ONCE = 200  # events whose trials are read together
STEPS = ("propose", "tell")  # the events that change a controller


@dataclass
class Steps:
    """The proposals and tells that a controller has been through: how many, and a digest of them.

    after: the sequence of the event that they follow.
    """

    after: int = 0
    count: int = 0
    digest: int = 0

    def add(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Take in what happened, as an event says it; other kinds concern no controller."""
        if kind in STEPS:
            what = tuple(payload["numbers"]) if kind == "tell" else payload["n"]
            self.digest = hash((self.digest, kind, what))
            self.count += 1


def replay(
    controller: Controller,
    load: Callable[[Iterable[int]], list[Trial]],
    events: Iterable[Event],
) -> Iterator[list[int]]:
    """Bring a controller on by the events of its journal; yield the numbers of each tell."""
    remembering = controller if isinstance(controller, Remembering) else None
    rest = iter(events)
    while part := list(islice(rest, AT_ONCE)):
        tells = [event.payload["numbers"] for event in part if event.kind == "tell"]
        wanted = {int(number) for numbers in tells for number in numbers}
        if remembering is not None:
            n = sum(event.payload["n"] for event in part if event.kind == "propose")
            wanted.update(range(remembering.proposed, remembering.proposed + n))
        whole = {trial.number: trial for trial in load(sorted(wanted))}
        for event in part:
            if event.kind == "propose":
                n = event.payload["n"]
                controller.replay_propose(n, event.payload["given"])
                if remembering is not None:
                    last = range(remembering.proposed - n, remembering.proposed)
                    remembering.remember([whole[number].architecture for number in last])
            elif event.kind == "tell":
                numbers = [int(number) for number in event.payload["numbers"]]
                controller.tell([whole[number] for number in numbers])
                yield numbers
