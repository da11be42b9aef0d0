"""What a terminal sees: results on stdout, progress and errors on stderr, one line an error."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console

from netwright.errors import NetwrightError, UsageError, out_of_memory
from netwright.machine import telling

out = Console(highlight=False, soft_wrap=True, emoji=False)


class _Errors(Console):
    """Stderr, which goes nowhere once its reader is gone; rich would end the command half-way."""

    def on_broken_pipe(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


err = _Errors(stderr=True, highlight=False, soft_wrap=True, emoji=False)

_hints: list[str] = []


def say(text: str) -> None:
    """Print a line of the result."""
    out.print(text, markup=False)


def print_json(data: Any) -> None:
    """Print the result for a program."""
    print(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: Any) -> Any:
    """Return plain data with null for numbers that JSON does not have."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def resume_from(study: str) -> None:
    """Name the study that an interrupt should tell how to go on with."""
    _hints.append(f"go on with: netwright resume {shlex.quote(study)}")


def goes_on(kept: str) -> None:
    """Say what an interrupt leaves for the same command to go on with."""
    _hints.append(f"run the same command again to go on; {kept} are kept")


def note(text: str, console: Console = err) -> None:
    """Say a line of this program among its errors."""
    console.print(f"netwright: {text}", markup=False)


def run(app: typer.Typer) -> None:
    """Run a command and exit: 0; 2 for bad input, 1 for a failure, each in one line; 130."""
    telling(note)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(app)
    finally:
        telling(None)
        if "netwright.store" in sys.modules:
            sys.modules["netwright.store"].close_all()
    sys.exit(code)


def _run(app: typer.Typer) -> int:
    _hints.clear()
    try:
        code = app(standalone_mode=False)
        return _interrupted() if code == 130 else int(code or 0)
    except UsageError as error:
        return _fail(str(error), 2)
    except NetwrightError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        place = error.filename or "one of them"
        reason = error.strerror or error
        return _fail(f"files must be usable; {place} is not ({reason}); check path and disk", 2)
    except Exception as error:
        if out_of_memory(error):
            return _fail(
                f"memory must suffice; it does not ({_first_line(error)}); set less, such as "
                f"data.train_limit, controller.batch or execution.workers, or end other programs",
                1,
            )
        return _click_error(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _fail(text: str, code: int) -> int:
    note(" ".join(text.splitlines()))
    return code


def _interrupted() -> int:
    hint = _hints[-1] if _hints else "run the same command again"
    return _fail(f"interrupted; {hint}", 130)


def _click_error(error: Exception) -> int:
    """Say what is wrong with the command line; typer may bring a click of its own."""
    kind = type(error).__name__
    if kind == "Abort":
        return _interrupted()
    if kind == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    if not hasattr(error, "format_message"):
        raise error
    context = getattr(error, "ctx", None)
    command = context.info_name if context is not None and context.parent else ""
    text = error.format_message().rstrip(".")
    return _fail(f"{text}; see netwright {command} --help".replace("  ", " "), 2)
