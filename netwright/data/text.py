"""Text data of a study: its vocabulary, its parts as numbers, and batches of them.

A search sees `load_search_text` only, which never uses the test text; `load_final_text` opens it,
once, and says so before it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from netwright.data.corpora import Corpus, Part, TextSettings, open_corpus
from netwright.data.digest import digest_of
from netwright.errors import DataError

UNKNOWN = "<unk>"
END = "<eos>"

__all__ = [
    "END",
    "UNKNOWN",
    "FinalText",
    "SearchText",
    "TextSettings",
    "Vocabulary",
    "batchify",
    "load_final_text",
    "load_search_text",
    "units_of",
    "windows",
]


def units_of(text: str, unit: str, strip: bool = False) -> Sequence[str]:
    """Return the units of `text`, as `TextSettings.unit` and `strip` say.

    Words are parted by white space, and "<eos>" ends each line that has a word (the convention of
    the Penn Treebank). Characters are those of the text, newlines included; line ends must be
    "\\n".
    """
    if unit == "words":
        words: list[str] = []
        for line in text.split("\n"):
            found = line.split()
            if found:
                words += found
                words.append(END)
        return words
    return "\n".join(line.strip() for line in text.split("\n")) if strip else text


# --- vocabulary ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """The units of a text, each known by its place: different ones, "<unk>" among them.

    Raises `DataError` for units that are not so.
    """

    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if UNKNOWN not in self._places or len(self._places) != len(self.units):
            raise DataError(
                f"a vocabulary must hold different units and {UNKNOWN}; got {len(self.units)} "
                f"units, {len(self._places)} different ones, in a vocabulary; make it again"
            )

    def __len__(self) -> int:
        return len(self.units)

    def __contains__(self, unit: object) -> bool:
        return unit in self._places

    @cached_property
    def _places(self) -> dict[str, int]:
        return {unit: place for place, unit in enumerate(self.units)}

    @property
    def unknown(self) -> int:
        """The place of "<unk>"."""
        return self._places[UNKNOWN]

    def encode(self, units: Sequence[str]) -> Tensor:
        """Return the places of `units`, int64 [N]; that of "<unk>" for those not held."""
        places = map(self._places.get, units, repeat(self.unknown))
        return torch.from_numpy(np.fromiter(places, dtype=np.int64, count=len(units)))

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the units at the places `tokens`, [N] in 0..len - 1, else `ValueError`."""
        places = tokens.tolist()
        if places and not 0 <= min(places) <= max(places) < len(self):
            raise ValueError(
                f"tokens must be in 0..{len(self) - 1}; got {min(places)}..{max(places)}"
            )
        return [self.units[place] for place in places]

    @classmethod
    def of(cls, units: Sequence[str], unit: str, limit: int = 0, least: int = 1) -> Vocabulary:
        """Return the vocabulary of a training text, by falling frequency, then by text.

        "<unk>" always belongs to it, and "<eos>" where units are words. `limit` is the most units
        it may hold, those two included, 3 or more; 0 is no limit. The most frequent others stay,
        and the rest count as "<unk>"; so do those that stand there fewer than `least` times.
        """
        counts = Counter(units)
        special = (UNKNOWN, END) if unit == "words" else (UNKNOWN,)
        held = Counter({name: counts.pop(name, 0) for name in special})
        rare = [name for name, count in counts.items() if count < least]
        held[UNKNOWN] += sum(counts.pop(name) for name in rare)
        ranked = sorted(counts.items(), key=_rank)
        room = limit - len(special) if limit else len(ranked)
        held.update(dict(ranked[:room]))
        held[UNKNOWN] += sum(count for _, count in ranked[room:])
        return cls(tuple(name for name, _ in sorted(held.items(), key=_rank)))


def _rank(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


# --- loading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchText:
    """What a search may see: no test text.

    train, valid: int64 [N], places in `vocabulary`. unit: "words" or "characters".
    valid_unknown: how many validation units the vocabulary lacks; a "<unk>" that stands in the
    text is not counted.
    """

    train: Tensor
    valid: Tensor
    vocabulary: Vocabulary
    unit: str
    valid_unknown: int

    def digest(self) -> str:
        """Return 16 hexadecimal digits that no other numbers have."""
        return digest_of(self.train, self.valid)


@dataclass(frozen=True)
class FinalText:
    """The three parts; train and valid are those of `SearchText`, and test is like valid."""

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: Vocabulary
    unit: str
    valid_unknown: int
    test_unknown: int


def load_search_text(settings: TextSettings) -> SearchText:
    """Return the training and validation text, without the test text.

    A test file or a test split of the hub is not opened, with one exception: a test file as long
    in bytes as the training or the validation file is compared with it, and refused where they are
    equal. A source without a test part is read whole, and its end, the test text, is dropped
    unseen. The vocabulary and the parts are those of `load_final_text`. Raises `DataError`.
    """
    corpus = open_corpus(settings)
    corpus.check()
    return _search(corpus, settings)


def load_final_text(settings: TextSettings, opened: Callable[[], None]) -> FinalText:
    """Return the training, validation and test text.

    `opened` is called once, after the training and validation text are loaded and before a test
    file or split is opened (or the end of the one text is used). Raises `DataError`, also where
    the test text equals one of the others.
    """
    corpus = open_corpus(settings)
    seen = _search(corpus, settings)
    opened()
    test, test_unknown = _encoded(corpus.test(), seen.vocabulary, settings)
    return FinalText(
        seen.train, seen.valid, test, seen.vocabulary, seen.unit, seen.valid_unknown, test_unknown
    )


def _search(corpus: Corpus, settings: TextSettings) -> SearchText:
    units = units_of(corpus.train.text, settings.unit, settings.strip)
    different = set(units) - {UNKNOWN, END}
    if len(different) < 2:
        raise DataError(
            f"a training text must have at least 2 different {settings.unit}; got "
            f"{len(different)} in {corpus.train.where}; use more text"
        )
    vocabulary = _vocabulary(units, settings)
    train = vocabulary.encode(units[: settings.train_limit or len(units)])
    valid, valid_unknown = _encoded(corpus.valid, vocabulary, settings)
    return SearchText(train, valid, vocabulary, settings.unit, valid_unknown)


def _vocabulary(units: Sequence[str], settings: TextSettings) -> Vocabulary:
    """Return the vocabulary of a training text, see `TextSettings.vocabulary`."""
    vocabulary = Vocabulary.of(units, settings.unit, settings.vocabulary)
    if settings.unit != "words" or UNKNOWN in units or {*units} - {*vocabulary.units}:
        return vocabulary
    repeated = Vocabulary.of(units, settings.unit, least=2)
    return repeated if len(set(repeated.units) - {UNKNOWN, END}) > 1 else vocabulary


def _encoded(part: Part, vocabulary: Vocabulary, settings: TextSettings) -> tuple[Tensor, int]:
    """Return the tokens of a part, and how many of its units the vocabulary lacks."""
    units = units_of(part.text, settings.unit, settings.strip)
    if len(units) < 2:
        raise DataError(
            f"each part of a text must have at least 2 tokens; got {len(units)} in {part.where}; "
            f"use more text"
        )
    return vocabulary.encode(units), len(units) - sum(map(vocabulary.__contains__, units))


# --- batches ------------------------------------------------------------------------------------


def batchify(tokens: Tensor, batch: int) -> Tensor:
    """Return `tokens`, [N], as [N // batch, batch]: each column a run of the text, in order.

    What is over is dropped. Raises `DataError` where a column would have fewer than 2 tokens.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more; got {batch}")
    steps = len(tokens) // batch
    if steps < 2:
        raise DataError(
            f"a text must have 2 tokens or more for each of the {batch} columns of a batch; got "
            f"{len(tokens)} tokens; use a batch of at most {max(1, len(tokens) // 2)}, or more text"
        )
    return tokens[: steps * batch].view(batch, steps).t().contiguous()


def windows(columns: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return pairs of inputs and targets, [T, batch] each, T of `steps` or, at the end, fewer.

    They follow one another through `columns`, [N, batch]; the targets are the tokens one step
    after the inputs. So every token but a column's last is an input once.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more; got {steps}")
    last = len(columns) - 1
    ends = ((start, min(start + steps, last)) for start in range(0, last, steps))
    return ((columns[a:b], columns[a + 1 : b + 1]) for a, b in ends)
