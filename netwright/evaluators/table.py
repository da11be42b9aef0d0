"""Tables of cells that others have trained, as a space and an evaluator (NAS-Bench-201 and alike).

A table is a CSV file with the columns architecture, valid_accuracy and test_accuracy (percent), one
row for every cell of its space. An architecture is written `|op~0|+|op~0|op~1|+...`: node i has an
operation `op~j` of each earlier node j that it takes, once. The evaluator knows validation
accuracies alone; test accuracies are read by `test_accuracies`, for reports after a search.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import re
from pathlib import Path

from netwright.errors import ChildError, DataError
from netwright.space import Architecture, Choice, SearchSpace
from netwright.trial import Evaluation

COLUMNS = ("architecture", "valid_accuracy", "test_accuracy")
NODE = re.compile(r"\|([^|~+]+~(0|[1-9][0-9]{0,5})\|)+")

Edges = tuple[tuple[str, str], ...]  # (decision, operation)
Row = tuple[int, Edges, float]  # line, cell and accuracy


def table_space(path: str | Path) -> SearchSpace:
    """Return the space of a table: one choice of operation for each edge; raises `DataError`."""
    return _loaded(*_version(path))[0]


class TableEvaluator:
    """Looks a cell's validation accuracy up, in [0, 1]: reward and score.

    Raises `DataError` for a file that is no such table.
    """

    def __init__(self, path: str | Path) -> None:
        self.space, self._scores = _loaded(*_version(path))

    def digest(self) -> str:
        """Return 32 hexadecimal digits that tables of equal cells and accuracies share."""
        cells = sorted((a.to_json(), score) for a, score in self._scores.items())
        return hashlib.sha256(repr(cells).encode()).hexdigest()[:32]

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Return the table's accuracy; raises `ChildError` for a cell that is not in it."""
        if architecture not in self._scores:
            raise ChildError("the table has no such cell")
        score = self._scores[architecture]
        return Evaluation(reward=score, score=score)


def test_accuracies(path: str | Path) -> dict[Architecture, float]:
    """Return the test accuracy of every cell, in [0, 1]; never to be looked at in a search."""
    rows = _read(path, "test_accuracy")
    return _by_architecture(_space(path, rows), rows)


test_accuracies.__test__ = False  # type: ignore[attr-defined]


def _version(path: str | Path) -> tuple[str, int]:
    """Return the path, and when the file last changed; 0 where there is none."""
    try:
        return str(path), Path(path).stat().st_mtime_ns
    except (OSError, ValueError):
        return str(path), 0


@functools.lru_cache(maxsize=2)
def _loaded(path: str, changed: int) -> tuple[SearchSpace, dict[Architecture, float]]:
    """Return space and validation accuracies, read once a process while the file stays."""
    rows = _read(path, "valid_accuracy")
    space = _space(path, rows)
    return space, _by_architecture(space, rows)


def _read(path: str | Path, column: str) -> list[Row]:
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            read = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"a table must be a readable CSV file; {str(path)!r} is not ({error}); check the path"
        ) from error
    names = list(reader.fieldnames or ())
    if not read or any(names.count(name) != 1 for name in COLUMNS):
        raise DataError(
            f"a table must have rows and the columns {', '.join(COLUMNS)}, each once; {path} has "
            f"{', '.join(names) if read else 'no rows'}; mend it there"
        )
    rows = [_row(path, line, row, column) for line, row in read]
    if all(value <= 0.01 for _, _, value in rows):
        raise DataError(
            f"{column} must be percentages; all of {path} are in [0, 1], as fractions are; "
            f"multiply them by 100"
        )
    return rows


def _row(path: str | Path, line: int, row: dict[str, str], column: str) -> Row:
    text = (row["architecture"] or "").strip()
    edges = _edges(text)
    if not edges:
        raise DataError(
            f"an architecture must be written |op~0|+|op~0|op~1|, where a node takes earlier ones, "
            f"each once; got {text[:60]!r} in line {line} of {path}; mend it there"
        )
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value <= 100:
        raise DataError(
            f"{column} must be a percentage in [0, 100]; got {row[column]!r} in line {line} of "
            f"{path}; mend it there"
        )
    return line, edges, value / 100


def _edges(text: str) -> Edges:
    """Return the edges of a cell as it is written, none where it is no cell."""
    edges: list[tuple[str, str]] = []
    for i, node in enumerate(text.split("+"), 1):
        if not NODE.fullmatch(node):
            return ()
        taken = [edge.split("~") for edge in node[1:-1].split("|")]
        sources = [int(j) for _, j in taken]
        if max(sources) >= i or len(set(sources)) < len(sources):
            return ()
        edges += [(f"node{i}.from{j}", operation) for operation, j in taken]
    return tuple(edges)


def _space(path: str | Path, rows: list[Row]) -> SearchSpace:
    names = [name for name, _ in rows[0][1]]
    operations: list[set[str]] = [set() for _ in names]
    for line, edges, _ in rows:
        if [name for name, _ in edges] != names:
            raise DataError(
                f"every cell of a table must have the same edges, {', '.join(names)}; line {line} "
                f"of {path} has others; mend it there"
            )
        for seen, (_, operation) in zip(operations, edges, strict=True):
            seen.add(operation)
    space = SearchSpace(
        "table",
        [
            Choice(name, sorted(own), kind="operation")
            for name, own in zip(names, operations, strict=True)
        ],
    )
    different = len({edges for _, edges, _ in rows})
    if not different == len(rows) == space.size():
        raise DataError(
            f"a table must have each of its {space.size()} cells once; {path} has {len(rows)} rows "
            f"and {different} different cells; add or remove rows"
        )
    return space


def _by_architecture(space: SearchSpace, rows: list[Row]) -> dict[Architecture, float]:
    return {Architecture(space.fingerprint, edges): value for _, edges, value in rows}
