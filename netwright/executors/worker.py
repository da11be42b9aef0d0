"""What runs in a worker of any kind: an evaluator kept between children, and what can be sent."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from netwright.errors import (
    ChildError,
    TimeLimitError,
    UsageError,
    WorkerLostError,
    WorkersEndedError,
)
from netwright.protocols import Evaluator, Stoppable
from netwright.space import Architecture
from netwright.stopping import Rule
from netwright.toml import one_line, short
from netwright.trial import Evaluation

_evaluators: dict[str, Evaluator] = {}  # of this worker, so that data are read once


def set_threads(threads: int) -> None:
    """Give torch its number of threads in this worker; 0 leaves its own."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def evaluated(
    evaluator: Evaluator, architecture: Architecture, seed: int, device: str, rule: Rule | None
) -> Evaluation:
    """Return the evaluation, stopped early where the rule says so."""
    if rule is None:
        found: object = evaluator.evaluate(architecture, seed, device)
    else:
        assert isinstance(evaluator, Stoppable), "a study with rules has looked"
        found = evaluator.evaluate_until(architecture, seed, device, rule)
    if not isinstance(found, Evaluation):
        raise TypeError(f"an evaluator must return an Evaluation; got {short(found)}")
    return found


def evaluate(
    key: str,
    pickled: bytes,
    architecture: Architecture,
    seed: int,
    device: str,
    rule: Rule | None = None,
) -> bytes:
    """Return the pickled evaluation, so that what cannot be sent fails the child alone.

    key: names the pickled evaluator among those of all coordinators. Raises what can be sent.
    """
    if key not in _evaluators:
        _evaluators.clear()
        try:
            _evaluators[key] = pickle.loads(pickled)
        except UsageError as error:
            raise _sendable(error) from None
        except Exception as error:
            raise _unknown(error) from None
    try:
        result = evaluated(_evaluators[key], architecture, seed, device, rule)
    except Exception as error:
        raise _sendable(error) from None
    try:
        sent = pickle.dumps(result)
        pickle.loads(sent)
        return sent
    except Exception as error:
        raise ChildError(f"its result cannot be sent to another process: {error}") from error


def packed(evaluator: Evaluator, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """Return the evaluator as it is sent to workers; raises `UsageError` where it cannot be."""
    try:
        return dumps(evaluator)
    except Exception as error:
        raise _unknown(error) from error


def settle(outer: Future[Evaluation], result: Evaluation | BaseException) -> None:
    """End a child's future, where nothing did meanwhile."""
    with suppress(InvalidStateError):
        if isinstance(result, BaseException):
            outer.set_exception(result)
        else:
            outer.set_result(result)


def received(data: bytes) -> Evaluation | Exception:
    """Return what a worker sent; a `ChildError` for what this process cannot read."""
    try:
        result: Evaluation | Exception = pickle.loads(data)
    except Exception as error:
        return ChildError(f"its result cannot be read here: {type(error).__name__}: {error}")
    return result


def _unknown(error: Exception) -> UsageError:
    text = one_line(f"{type(error).__name__}: {error}")[:200]
    return UsageError(
        f"an evaluator must be importable by workers; got {text}; put it in a module of its own, "
        f"or search with one worker"
    )


def _sendable(error: Exception) -> Exception:
    if isinstance(error, TimeoutError):
        return ChildError(f"{type(error).__name__}: {error}")  # pools say so of a hung worker
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ChildError(f"{type(error).__name__}: {error}")
    return error


def stopped() -> ChildError:
    """Return what ended an evaluation whose executor was shut down."""
    return ChildError("stopped before it ended")


def killed(limit: float, times: int) -> ChildError:
    """Return what ended an evaluation whose worker was killed after `limit` s, so many times."""
    return TimeLimitError(f"killed with its worker after {limit:g} s{_often(times)}")


def died(how: str, times: int) -> ChildError:
    """Return what ended an evaluation whose worker died, so many times."""
    return WorkerLostError(f"the worker died: {how}{_often(times)}")


def ended() -> UsageError:
    """Return what ends a search whose workers ended without a child; no child has failed by it."""
    return WorkersEndedError(
        "workers must start and stay; theirs ended without a child, or all were killed; look at "
        "what they printed and at the machine's memory, and go on with the search; a script that "
        "searches begins with if __name__ == '__main__'"
    )


def _often(times: int) -> str:
    return "" if times == 1 else f", {times} times"
