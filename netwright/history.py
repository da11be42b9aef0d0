"""The finished trials that stopping rules are worked out of; as few as these need."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence

from netwright.journal.ledger import ENDED, Ledger
from netwright.space import Option
from netwright.stopping import Donor, Record, Rule, StoppingSettings, rule_of
from netwright.trial import Trial, TrialState

AT_ONCE = 200  # trials read together
Given = tuple[tuple[str, Option], ...]


class History:
    """The first and the latest trials of a study by number, but failed ones and duplicates.

    And, for each `given`, the first that were trained whole, whose weights others begin with.

    Which trials it holds depends on which have finished, not on the order in which they did. It is
    read from the journal when first used.
    """

    def __init__(self, ledger: Ledger, settings: StoppingSettings, lower: bool) -> None:
        self.settings = settings
        self._ledger = ledger
        self._lower = lower
        self._begin = max(settings.warmup, settings.donors)
        self._first: list[tuple[int, Given, Record]] | None = None
        self._latest: list[tuple[int, Given, Record]] = []
        self._donors: dict[Given, list[tuple[int, Given, Record]]] = {}

    def rule(self, given: Mapping[str, Option]) -> Rule | None:
        """Return the rule for children proposed now, compared with those of equal `given`."""
        if self.settings.method == "none":
            return None
        if self._first is None:
            self._read()
        first, key = self._first or [], _key(given)
        newer = self._latest[0][0] if self._latest else 0
        return rule_of(
            [record for _, own, record in self._latest if own == key],
            [record for number, own, record in first if own == key and number < newer],
            self.settings,
            self._lower,
            [record for _, _, record in self._donors.get(key, ())],
        )

    def add(self, trial: Trial) -> None:
        """Take in a trial that finished."""
        if self._first is not None:
            self._add(trial)

    def _add(self, trial: Trial) -> None:
        evaluation = trial.evaluation
        if evaluation is None or trial.duplicate_of is not None or trial.state not in ENDED:
            return
        assert self._first is not None
        assert trial.reward is not None
        record = Record(
            curve=evaluation.judged,
            reward=trial.reward,
            whole=trial.state is TrialState.COMPLETED,
            made=Donor(architecture=trial.architecture.to_json(), seed=trial.seed),
        )
        entry = (trial.number, _key(trial.given), record)
        places = [(self._first, self._begin, -1), (self._latest, self.settings.window, 0)]
        if record.whole and self.settings.donors:
            places.append((self._donors.setdefault(entry[1], []), self.settings.donors, -1))
        for kept, most, drop in places:
            insort(kept, entry, key=lambda e: e[0])
            if len(kept) > most:
                del kept[drop]

    def _read(self) -> None:
        """Read from the front and from the back until both are full; all where there are donors."""
        self._first = []
        numbers = [n for n, o in enumerate(self._ledger.outlines) if o.state in ENDED]
        seen: set[int] = set()
        for part in _parts(numbers):
            if len(self._first) >= self._begin and not self.settings.donors:
                break
            seen.update(part)
            for trial in self._ledger.trials(part):
                self._add(trial)
        for part in _parts(numbers[::-1]):
            full = len(self._latest) >= self.settings.window
            if full and part[0] < self._latest[0][0]:
                break
            for trial in self._ledger.trials(n for n in part if n not in seen):
                self._add(trial)


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), AT_ONCE):
        yield numbers[start : start + AT_ONCE]


def _key(given: Mapping[str, Option]) -> Given:
    return tuple(sorted(given.items()))
