"""Imports go down (docs/architecture.md), and there is no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import netwright

ROOT = Path(netwright.__file__).parent

FLOORS = {
    "errors": 0,
    "machine": 1,
    "rules": 1,
    "seeding": 0,
    "writing": 0,
    "space": 1,
    "decisions": 1,
    "stopping": 1,
    "toml": 1,
    "trial": 2,
    "spaces": 2,
    "protocols": 3,
    "depth": 3,
    "journal": 4,
    "store": 4,
    "scheduling": 4,
    "history": 4,
    "replaying": 4,
    "keeper": 4,
    "loop": 4,
    "study": 4,
    "controllers": 4,
    "children": 4,
    "data": 4,
    "training": 5,
    "nn": 5,
    "executors": 5,
    "evaluators": 6,
    "report": 6,
    "tasks": 7,
    "integrations": 7,
    "config": 8,
    "workspace": 9,
    "progress": 9,
    "interrupts": 0,
    "searching": 9,
    "comparing": 9,
    "outcomes": 9,
    "compare_command": 9,
    "network_commands": 9,
    "options": 9,
    "console": 9,
    "tuning": 9,
    "finishing": 9,
    "fitting": 9,
    "network": 9,
    "exporting": 9,
    "showing": 9,
    "reporting": 9,
    "demo": 9,
    "cli": 10,
}
# Within a floor, modules that lie beside one another and may use each other; folders may not.
FREE = {
    1: {"rules", "stopping", "space", "decisions", "toml"},
    4: {"journal", "store", "scheduling", "history", "replaying", "keeper", "loop", "study"},
    9: set(FLOORS),
}


def _place(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def _imports() -> dict[str, set[str]]:
    """Return, for each module, the netwright modules it imports, those inside functions too."""
    modules = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
        modules[name] = {module for module in found if module.startswith("netwright.")}
    return modules


def test_every_module_has_a_floor() -> None:
    assert {_place(name) for name in _imports() if name != "netwright"} == set(FLOORS)


def test_imports_go_down_and_never_sideways_between_folders() -> None:
    wrong = []
    for module, imported in _imports().items():
        if module == "netwright":
            continue
        for other in imported:
            here, there = _place(module), _place(other)
            free = FREE.get(FLOORS[here], set())
            beside = here == there or (here in free and there in free)
            if FLOORS[there] > FLOORS[here] or (FLOORS[there] == FLOORS[here] and not beside):
                wrong.append(f"{module} -> {other}")
    # The one door out of the floors: `run` without an executor uses the one in this process.
    assert wrong == ["netwright.study -> netwright.executors.local"]


def test_there_is_no_circle() -> None:
    graph = {m: {o for o in others if o in _imports_cache} for m, others in _imports_cache.items()}
    graph.pop("netwright")
    done: set[str] = set()
    while len(done) < len(graph):
        free = {m for m, others in graph.items() if m not in done and others - {m} <= done}
        assert free, f"a circle among {sorted(set(graph) - done)}"
        done |= free


_imports_cache = _imports()


def test_the_lower_floors_import_no_heavy_library() -> None:
    heavy = {"torch", "sklearn", "datasets", "matplotlib", "ray", "onnx"}
    for path in [*ROOT.glob("*.py"), *(ROOT / "spaces").glob("*.py")]:
        if FLOORS.get(_place(f"netwright.{path.stem}"), 0) > 4 and path.parent == ROOT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not heavy & {name.split(".")[0] for name in names}, path
