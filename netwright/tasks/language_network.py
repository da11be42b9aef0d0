"""Trained language models: saved, loaded and used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from netwright.evaluators.language import FinalLanguage
from netwright.spaces import architecture_to_dict
from netwright.tasks.files import write_network
from netwright.tasks.results import Finished

FORMAT = "netwright-language/1"


@dataclass(frozen=True, kw_only=True)
class FinishedLanguage(Finished):
    """A language model as its final training left it."""

    result: FinalLanguage

    def save(self, folder: Path) -> None:
        """Write it to `folder`."""
        result = self.result
        description = {
            "format": FORMAT,
            "architecture": architecture_to_dict(self.space, self.architecture),
            "child": asdict(result.model.settings),
            "width": result.model.width,
            "unit": result.unit,
            "vocabulary": list(result.vocabulary.units),
            "result": dict(self.record),
        }
        write_network(folder, result.model.cpu().eval(), description)
