"""Files are UTF-8 whatever the locale, and an architecture file is written whole."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import netwright
from netwright.journal.lease import _process
from netwright.space import Choice, SearchSpace
from netwright.spaces import load_architecture, save_architecture

ROOT = Path(netwright.__file__).parent.parent
FILES = sorted(path for name in ("netwright", "benchmarks") for path in (ROOT / name).rglob("*.py"))
SPACE = SearchSpace("größe", [Choice("größe", (1, 2))])


def left_to_the_locale(path: Path) -> Iterator[int]:
    """The lines that read or write text and name no encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        opens = name in ("open", "fdopen") and (isinstance(node.func, ast.Name) or modes)
        if name in ("read_text", "write_text") or (opens and not any("b" in str(m) for m in modes)):
            yield node.lineno


def test_no_file_is_left_to_the_locale() -> None:
    assert [f"{path}:{line}" for path in FILES for line in left_to_the_locale(path)] == []


def test_an_architecture_file_of_another_hand_is_read_in_any_locale(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    save_architecture(path, SPACE, SPACE.architecture({"größe": 2}))
    held = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(held, ensure_ascii=False), encoding="utf-8")
    program = """if True:
        import sys
        from netwright.spaces import load_architecture
        print(ascii(dict(load_architecture(sys.argv[1])[1])))
    """
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        env={**os.environ, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == ascii({"größe": 2}), done.stderr


def test_an_architecture_that_cannot_be_saved_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    save_architecture(path, SPACE, SPACE.architecture({"größe": 1}))

    def fails(self: Path, target: Path) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        save_architecture(path, SPACE, SPACE.architecture({"größe": 2}))
    monkeypatch.undo()
    assert load_architecture(path)[1] == SPACE.architecture({"größe": 1})
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="needs Linux")
def test_a_process_whose_name_is_no_text_is_known() -> None:
    program = "open('/proc/self/comm', 'wb').write(b'\\xff) x'); print(flush=True); input()"
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert _process(child.pid).isdecimal()
        child.stdin.write(b"\n")
