"""The examples run, and do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples import ask_tell, encoder_decoder, images, own_space, own_training, tagger
from netwright import build


def test_a_space_of_ones_own_is_ten_lines_and_is_learned() -> None:
    source = Path(own_space.__file__).read_text()
    body = source[source.index("space = ") : source.index("\n\n\ndef score")].splitlines()
    assert len(body) <= 12
    study = own_space.main(200)
    scores = [t.score or 0.0 for t in study.trials]
    assert study.best.score == 1.0
    assert sum(scores[-50:]) > sum(scores[:50])


def test_ones_own_training_function_is_searched_and_journalled(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'mlp.db'}"
    study = own_training.main(storage, trials=6)
    assert 0.5 < (study.best.score or 0.0) <= 1.0
    again = own_training.main(storage, trials=6)
    assert [t.score for t in again.trials] == [t.score for t in study.trials]


def test_images_in_a_few_lines() -> None:
    study = images.main(trials=2, epochs=1, train_limit=200)
    network = build(study.space, study.best.architecture, image=(1, 8, 8), classes=10)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_loop_of_ones_own() -> None:
    study = ask_tell.main(30)
    assert len([t for t in study.trials if t.duplicate_of is None]) == 30


@pytest.mark.parametrize("cell", [None, "nascell"])
def test_a_cell_stands_where_an_lstm_stood(cell: str | None) -> None:
    assert tagger.main(cell) > 0.95
    assert encoder_decoder.main(cell) > 0.9
