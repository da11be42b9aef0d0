"""Tables through Hugging Face `datasets`: parquet files, and data sets of the hub."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netwright.data.transforms import error_line
from netwright.errors import DataError


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars and logging; errors are raised all the same."""
    import datasets

    bars = not datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_parquet(files: Sequence[Path], where: str) -> Any:
    """Return parquet files as one `Dataset` in memory; raises `DataError`, which names `where`."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        with _quiet(), tempfile.TemporaryDirectory() as cache:
            return datasets.Dataset.from_parquet(
                [str(file) for file in files], cache_dir=cache, keep_in_memory=True
            )
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"a parquet file must be readable; {where} is not ({error_line(error)}); "
            f"write or download it again"
        ) from error


@dataclass(frozen=True)
class HubData:
    """A data set of the hub whose parts are known and not read yet.

    config: of a data set that has several; None is its default. named: what names it, for errors.
    files: of each part.
    """

    name: str
    config: str | None
    named: str
    files: Mapping[str, Sequence[str]]

    def read(self, part: str) -> Any:
        """Return a part as a `Dataset`; raises `DataError`."""
        import datasets

        # Only this part's files are named: load_dataset(split=...) would prepare every part.
        chosen = {part: list(self.files[part])}
        with _reaching(self.name, self.named), _quiet():
            return datasets.load_dataset(
                self.name, self.config, data_files=chosen, split=part, verification_mode="no_checks"
            )


@contextmanager
def _reaching(name: str, named: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"a data set of the hub must be reachable and readable; hub:{name} is not "
            f"({error_line(error)}); check {named} and the network, or download it and give a path"
        ) from error


def open_hub(name: str, config: str | None = None, named: str = "the name") -> HubData:
    """Return a data set of the hub that has a training part, see `HubData`; raises `DataError`."""
    import datasets

    if len(name.split("/")) != 2 or not all(name.split("/")):
        raise DataError(
            f'a data set of the hub must be named "hub:owner/name"; got {"hub:" + name!r}; '
            f"use --set data.source=hub:owner/name"
        )
    with _reaching(name, named), _quiet():
        found = datasets.load_dataset_builder(name, config).config.data_files or {}
        files = {str(part): list(urls) for part, urls in found.items()}
    if "train" not in files:
        raise DataError(
            f"a data set of the hub must have a train split; got {', '.join(files) or 'none'} in "
            f"hub:{name}; use another, or download it and give a path"
        )
    return HubData(name, config, named, files)
