"""What is compiled and kept on disk, where the disk is full or what lies there is damaged."""

from __future__ import annotations

from pathlib import Path

from netwright.children import compiled
from tests.compiled_pieces import printed

SCRIPT = """
from tests.compiled_pieces import half, twice
print(twice(21), half().ctypes(84))
stats = twice.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_damaged_files_are_made_anew(tmp_path: Path) -> None:
    assert printed(SCRIPT, tmp_path) == ["42 42", "0 1"]
    files = sorted(path for path in tmp_path.rglob("*.nb*") if path.is_file())
    assert len(files) == 4
    for path, left in zip(files, (0, 40, 40, 1), strict=True):
        path.write_bytes(path.read_bytes()[:left])
    assert printed(SCRIPT, tmp_path) == ["42 42", "0 1"]
    assert printed(SCRIPT, tmp_path) == ["42 42", "1 0"]


def test_a_full_disk_keeps_nothing_and_fails_nothing() -> None:
    class Full:
        def load_overload(self, *given: object) -> object:
            raise EOFError("cut off")

        def save_overload(self, *given: object) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    cache = Full()
    compiled._careful(cache)
    assert cache.load_overload() is None
    cache.save_overload()
