"""What a comparison keeps of a search: who leads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netwright.outcomes import best_so_far


def _finite(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most, allow_nan=False)


@given(st.lists(st.tuples(_finite(-3, 3), st.none() | _finite(0, 1)), min_size=1))
def test_what_has_no_score_never_leads_over_what_has_one(
    trials: list[tuple[float, float | None]],
) -> None:
    found = best_so_far([r for r, _ in trials], [s for _, s in trials])
    for n, best in enumerate(found):
        scored = [
            (-reward, k) for k, (reward, score) in enumerate(trials[: n + 1]) if score is not None
        ]
        assert best == (min(scored)[1] if scored else 0)
