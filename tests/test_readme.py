"""What the README shows is taken and runs as it stands there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import netwright as nw
from netwright.config import load_config
from netwright.errors import ConfigError

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README shows no {language}"
    return [str(block) for block in found]


@pytest.mark.parametrize("text", blocks("toml"))
def test_its_configurations_are_read_and_make_a_space(text: str, tmp_path: Path) -> None:
    place = tmp_path / "mine.toml"
    place.write_text(text, encoding="utf-8")
    config = load_config(str(place))
    assert f'name = "{config.name}"' in text
    assert config.make_space().size() > 1
    assert len(config.grid()) > 1


def test_its_settings_are_taken() -> None:
    """Every `--set` that it shows is a setting, with a value that is taken, of some task's."""
    given = re.findall(r"--set (?:'([^']+)'|([a-z_.]+=[^\s`),;]+))", README)
    assert len(given) > 5
    for setting in [quoted or plain for quoted, plain in given]:
        refused = []
        for preset in ("digits", "ptb-small", "nats"):
            try:
                load_config(preset, [setting])
            except ConfigError as error:
                refused.append(str(error))
        assert len(refused) < 3, refused


@pytest.mark.parametrize("text", [b for b in blocks("python") if "self." not in b])
def test_its_lines_of_python_run(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "optuna" in text:
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "my_training_function": lambda architecture: architecture["rate"] * architecture["units1"],
        "objective": lambda trial: trial.suggest_int("layers", 1, 8),
    }
    exec(compile(text, os.fspath(tmp_path / "README.md"), "exec"), names)
    study = names["study"]
    if isinstance(study, nw.Study):
        assert study.best.score == 0.03 * 256
        assert len(study.trials) == 100
    else:
        assert study.best_value == 8
        assert len(study.trials) == 200
