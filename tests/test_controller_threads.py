"""One thread for the controller's matrices, whatever the process has."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from threadpoolctl import ThreadpoolController

from netwright.controllers import threads
from netwright.controllers.guided import Guided, GuidedSettings
from netwright.controllers.likeness import Likeness
from netwright.controllers.threads import single_thread
from netwright.controllers.value import ValueModel
from netwright.trial import Trial
from tests.strategies import small_space

LIBRARIES = ThreadpoolController().select(user_api="blas")
pytestmark = pytest.mark.skipif(
    not LIBRARIES.lib_controllers
    or any(each.get("threading_layer") == "openmp" for each in LIBRARIES.info()),
    reason="no BLAS whose threads are the process's and can be set",
)

LATER = """
import sys
from threadpoolctl import ThreadpoolController
from netwright.controllers.threads import single_thread
with single_thread():
    pass
assert "scipy.linalg" not in sys.modules
import scipy.linalg
libraries = ThreadpoolController().select(user_api="blas")
with libraries.limit(limits=2), single_thread():
    print({each["num_threads"] for each in libraries.info()})
"""


def _counts() -> set[int]:
    return {each["num_threads"] for each in LIBRARIES.info()}


def _set(limits: Any) -> None:
    """Set them from a thread that ends, as threadpoolctl heeds the last that lives."""
    thread = threading.Thread(target=LIBRARIES.limit, kwargs={"limits": limits})
    thread.start()
    thread.join(60)


@pytest.fixture(autouse=True)
def two_threads(one_thread: None) -> Iterator[None]:
    """Two threads for products of numpy and scipy, and for torch."""
    before = LIBRARIES.info()
    torch.set_num_threads(2)
    _set(2)
    assert _counts() == {2}
    yield
    _set(before)


def test_products_have_one_thread_inside_and_what_they_had_after() -> None:
    with single_thread():
        with single_thread():
            assert (_counts(), torch.get_num_threads()) == ({1}, 1)
        assert (_counts(), torch.get_num_threads()) == ({1}, 1)
    assert (_counts(), torch.get_num_threads()) == ({2}, 2)
    with pytest.raises(KeyError), single_thread():
        raise KeyError
    assert (_counts(), torch.get_num_threads()) == ({2}, 2)


def test_who_leaves_does_not_take_the_one_thread_from_others() -> None:
    entered, inside, left = threading.Event(), threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def first() -> None:
        with single_thread():
            entered.set()
            inside.wait(0.2)
        left.set()

    def second() -> None:
        assert entered.wait(60)
        with single_thread():
            inside.set()
            assert left.wait(60)
            seen.append(_counts())

    running = [threading.Thread(target=each) for each in (first, second)]
    for each in running:
        each.start()
    for each in running:
        each.join(60)
    assert seen == [{1}]
    assert _counts() == {2}


def test_a_library_that_is_loaded_later_has_one_too() -> None:
    command = [sys.executable, "-c", LATER]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "{1}\n"


def test_torch_has_its_own_number_back_where_a_library_sets_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def shared() -> Iterator[None]:
        yield
        torch.set_num_threads(4)

    monkeypatch.setattr(threads, "_products_alone", shared)
    for own in (1, 2):
        torch.set_num_threads(own)
        with single_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == own


def test_nothing_is_said_of_openmp_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def warning() -> ThreadpoolController:
        warnings.warn("two OpenMP libraries", RuntimeWarning, stacklevel=1)
        return LIBRARIES

    monkeypatch.setattr(threads, "ThreadpoolController", warning)
    found = threads._libraries.__wrapped__(True)
    assert found.info() == LIBRARIES.info()


def test_all_of_a_guided_search_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, set[int]]] = []

    def noted(kind: type, name: str) -> None:
        plain = getattr(kind, name)

        def watched(self: Any, *given: Any, **named: Any) -> Any:
            seen.append((f"{kind.__name__}.{name}", _counts()))
            return plain(self, *given, **named)

        monkeypatch.setattr(kind, name, watched)

    for kind, name in ((Likeness, "__init__"), (Likeness, "of"), (ValueModel, "__init__")):
        noted(kind, name)
    controller = Guided(small_space(), GuidedSettings(start=2))
    for number in range(4):
        (drawn,) = controller.propose(1)
        trial = Trial(number=number, batch=number, architecture=drawn, seed=0, reward=number / 4)
        controller.tell([trial])
    state = controller.state_dict()
    assert {name for name, _ in seen} == {"Likeness.__init__", "Likeness.of", "ValueModel.__init__"}
    Guided(small_space()).load_state_dict(state)
    assert [counts for _, counts in seen] == [{1}] * len(seen)
