"""Tables and plots of comparisons, from values made by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from netwright.report.comparison import (
    NONE,
    Measure,
    _on_costs,
    at_equal_cost,
    cells,
    markdown,
    plot,
)

FIRST = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 0.8]])
OTHER = np.array([[0.2, 0.4, 0.5], [0.3, 0.5, 0.6]])


def _measure(lower: bool = False) -> Measure:
    return Measure(name="quality <&>", lower=lower, values={"first": FIRST, "other": OTHER})


def test_cells_say_who_is_ahead() -> None:
    found = cells(_measure(), [1, 3])
    assert list(found) == ["first", "other"]
    assert [cell.value.mean for cell in found["first"]] == pytest.approx([0.15, 0.85])
    assert [cell.value.mean for cell in found["other"]] == pytest.approx([0.25, 0.55])
    assert [(cell.ahead, cell.p) for cell in found["first"]] == [(None, None)] * 2
    early, late = found["other"]
    assert early.ahead is not None
    assert late.ahead is not None
    assert (early.ahead.mean, early.ahead.low, early.ahead.high) == pytest.approx((-0.1,) * 3)
    assert (late.ahead.mean, late.ahead.low, late.ahead.high) == pytest.approx((0.3, 0.2, 0.4))
    assert (early.p, late.p) == (0.5, 0.5)  # two of four signs, each way


def test_where_less_is_better_the_other_is_ahead() -> None:
    higher, lower = (cells(_measure(l), [1, 2, 3])["other"] for l in (False, True))  # noqa: E741
    for one, two in zip(higher, lower, strict=True):
        assert one.ahead is not None
        assert two.ahead is not None
        assert two.ahead.mean == pytest.approx(-one.ahead.mean)
        assert one.value == two.value
        assert one.p == two.p


def test_the_table_by_hand() -> None:
    assert markdown(_measure(), [1, 3], digits=2).splitlines() == [
        "quality <&> of the best so far (higher is better): mean over seeds, 95% interval",
        "",
        "| controller | 1 trials | 3 trials |",
        "|---|---|---|",
        "| first | 0.15 (0.10 to 0.20) | 0.85 (0.80 to 0.90) |",
        "| other | 0.25 (0.20 to 0.30) | 0.55 (0.50 to 0.60) |",
        "",
        "How far first is ahead on the same seeds: mean difference, 95% interval, p of a paired "
        "permutation test",
        "",
        "| first against | 1 trials | 3 trials |",
        "|---|---|---|",
        "| other | -0.10 (-0.10 to -0.10), p 0.5000 | +0.30 (+0.20 to +0.40), p 0.5000 |",
    ]
    assert "(lower is better)" in markdown(_measure(lower=True), [1])


@pytest.mark.parametrize(
    ("scale", "said"),
    [(1.0, "0.8500"), (10.0, "8.500"), (100.0, "85.00"), (1e3, "850.0"), (1e5, "85000")],
)
def test_numbers_have_four_digits(scale: float, said: str) -> None:
    large = Measure(name="quality", lower=False, values={"first": FIRST * scale})
    row = markdown(large, [1, 3]).splitlines()[-1]
    assert row.split(" | ")[2].startswith(f"{said} (")


def test_one_controller_is_compared_with_none() -> None:
    alone = Measure(name="quality", lower=False, values={"first": FIRST})
    assert "against" not in markdown(alone, [3])
    assert "0.8500" in markdown(alone, [3])


def test_the_best_at_equal_cost_by_hand() -> None:
    # One seed has its best so far after 1, 2 and 4 seconds, the other after 2, 3 and 6.
    costs = np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 6.0]])
    x, curves = _on_costs(FIRST, costs)
    assert (x[0], x[-1], len(x)) == (2.0, 4.0, 200)  # what both seeds reached
    assert curves.shape == (2, 200)
    assert curves[:, 0].tolist() == [0.5, 0.2]
    assert curves[:, -1].tolist() == [0.9, 0.6]
    before, after = curves[1][x < 3.0], curves[1][x >= 3.0]
    assert set(before) == {0.2}
    assert set(after) == {0.6}
    assert set(curves[0][x < 4.0]) == {0.5}


def test_equal_cost_is_a_seed_s_own() -> None:
    costs = {
        "first": np.array([[1.0, 2.0, 4.0], [20.0, 30.0, 60.0]]),
        "other": np.array([[1.0, 4.0, 8.0], [10.0, 20.0, 40.0]]),
    }
    equal, labels = at_equal_cost(_measure(), costs)
    assert labels == [f"{s} s of training" for s in ("5.5", "11.0", "16.5", "22.0")]
    for scale, shown in ((0.01, "0.055"), (10.0, "55")):
        short = {name: scale * cost for name, cost in costs.items()}
        assert at_equal_cost(_measure(), short)[1][0] == f"{shown} s of training"
    first, other = (_measure().values[name] for name in ("first", "other"))
    assert equal.values["first"][0].tolist() == [first[0, k] for k in (0, 1, 1, 2)]  # at 1, 2, 3, 4
    assert equal.values["other"][0].tolist() == [other[0, k] for k in (0, 0, 0, 1)]
    assert equal.values["first"][1].tolist() == [first[1, k] for k in (0, 0, 1, 1)]  # 10, ... 40
    assert equal.values["other"][1].tolist() == [other[1, k] for k in (0, 1, 1, 2)]


def _texts(svg: str) -> str:
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "quality <&> of the best so far against" in root.attrib["aria-label"]
    return " ".join(root.itertext())


@pytest.mark.parametrize("lower", [False, True])
def test_a_plot_is_one_well_formed_picture(lower: bool) -> None:
    text = _texts(plot(_measure(lower)))
    assert "finished trials" in text
    assert "first" in text
    assert "other" in text
    assert plot(_measure(lower)) == plot(_measure(lower))


def test_a_plot_against_cost_says_so() -> None:
    costs = {name: np.cumsum(np.ones((2, 3)), axis=1) for name in ("first", "other")}
    text = _texts(plot(_measure(), costs))
    assert "seconds of training" in text
    assert "finished trials" not in text


@pytest.mark.parametrize("known", [2, 0])
def test_seeds_without_a_score_are_said_and_not_counted(known: int) -> None:
    late = OTHER.copy()
    late[0, : 3 - known] = np.nan
    measure = Measure(name="quality <&>", lower=False, values={"first": FIRST, "other": late})
    rows = markdown(measure, [1, 3]).splitlines()
    for row in (rows[5], rows[-1]):
        assert row.split(" | ")[1] == NONE
        assert (NONE in row.split(" | ")[2]) == (known == 0)
        assert "nan" not in row
    assert "other" in _texts(plot(measure))
    nothing = Measure(name="quality <&>", lower=False, values={"other": late * np.nan})
    assert "other" in _texts(plot(nothing))
