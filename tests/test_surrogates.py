"""The synthetic evaluators over spaces of the paper's size."""

from __future__ import annotations

import pickle
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwright.controllers.neighbours import mutate
from netwright.errors import SpaceError
from netwright.evaluators.cell_moments import Signal, portrait
from netwright.evaluators.surrogates import CellSurrogate, ConvSurrogate
from netwright.space import Architecture, SearchSpace
from netwright.spaces import conv, recurrent
from netwright.spaces.recurrent import (
    ACTIVATIONS,
    COMBINATIONS,
    Cell,
    RecurrentSettings,
    architecture_of,
    cell_from_tokens,
)
from tests.strategies import PUBLISHED

CONV = {
    "v1": conv.v1(15),
    "v2": conv.v2(8),
    "v3": conv.space("v3", conv.ConvSettings(depths=(5,), filters=(6, 12), block=3, pools=(4, 9))),
    "free": conv.space(
        "free", conv.ConvSettings(depths=(1, 4, 9), learning_rates=(0.1, 0.03, 0.01))
    ),
}
CELLS = {
    "paper": recurrent.space("paper"),
    "whole": recurrent.space(
        "whole", RecurrentSettings(base=5, combinations=COMBINATIONS, activations=ACTIVATIONS)
    ),
    "small": recurrent.space("small", RecurrentSettings(base=2, activations=("tanh", "relu"))),
}
CONV_TASKS = {(n, seed): ConvSurrogate(s, seed) for n, s in CONV.items() for seed in range(3)}
CELL_TASKS = {(n, seed): CellSurrogate(s, seed) for n, s in CELLS.items() for seed in range(3)}
SEEDS = st.integers(0, 2**32)


@given(st.sampled_from(sorted(CONV_TASKS)), SEEDS, SEEDS)
def test_accuracies_lie_between_floor_and_the_planted_optimum(
    key: tuple[str, int], drawn: int, mutations: int
) -> None:
    task = CONV_TASKS[key]
    assert task.expected(task.optimum) == pytest.approx(0.95, abs=1e-12)
    for architecture in _some(task.space, task.optimum, drawn, mutations):
        assert 0.1 < task.expected(architecture) <= 0.95
        assert all(cost >= 0 for cost in task.costs(architecture).values())
        assert 0 <= task.evaluate(architecture, 3, "cpu").score <= 1


@given(st.sampled_from(sorted(CELL_TASKS)), SEEDS, SEEDS)
def test_perplexities_lie_between_the_planted_optimum_and_worst(
    key: tuple[str, int], drawn: int, mutations: int
) -> None:
    task = CELL_TASKS[key]
    assert task.expected(task.optimum) == pytest.approx(100, abs=1e-9)
    for architecture in _some(task.space, task.optimum, drawn, mutations):
        perplexity = task.expected(architecture)
        assert 100 - 1e-9 <= perplexity <= 1000
        found = task.evaluate(architecture, 3, "cpu")
        assert found.finite
        assert found.reward == pytest.approx(1e4 / found.score**2)


def _some(
    space: SearchSpace, optimum: Architecture, drawn: int, mutations: int
) -> list[Architecture]:
    """Return a random architecture and one a few mutations from the optimum."""
    generator = random.Random(mutations)
    near = optimum
    for _ in range(generator.randint(1, 4)):
        near = mutate(space, near, generator)
    return [space.sample(random.Random(drawn)), near]


@given(st.sampled_from(sorted(CONV)), SEEDS)
def test_networks_that_build_the_same_child_are_equal(name: str, drawn: int) -> None:
    space, task = CONV[name], CONV_TASKS[name, 1]
    architecture = space.sample(random.Random(drawn))
    same = space.canonical(architecture)
    assert task.evaluate(same, 5, "cpu") == task.evaluate(architecture, 5, "cpu")


@given(st.sampled_from(sorted(CELLS)), SEEDS)
def test_cells_that_compute_the_same_are_equal(name: str, drawn: int) -> None:
    space, task = CELLS[name], CELL_TASKS[name, 1]
    architecture = space.sample(random.Random(drawn))
    same = space.canonical(architecture)
    assert task.evaluate(same, 5, "cpu") == task.evaluate(architecture, 5, "cpu")


def test_a_turned_cell_and_a_renumbered_network_are_equal() -> None:
    cells = CellSurrogate(CELLS["paper"], 2)
    order = [1, 0, *range(2, 15)]  # leaves 0 and 1 are the operands of node 8
    turned = Cell(tuple(PUBLISHED.nodes[i] for i in order), PUBLISHED.inject, 12, 8)
    assert turned != PUBLISHED
    one, other = (architecture_of(cells.space, cell) for cell in (PUBLISHED, turned))
    assert cells.expected(one) == cells.expected(other) < 1000

    space = conv.v1(3)
    shape = {"layer1.height": 1, "layer2.height": 3, "layer1.filters": 24, "layer2.filters": 64}
    rest = {"layer1.width": 5, "layer2.width": 5, "layer3.width": 3, "layer3.height": 3}
    links = {
        "layer3.filters": 36,
        "layer1.inputs": [],
        "layer2.inputs": [],
        "layer3.inputs": ["layer1", "layer2"],
    }
    swapped = {k.translate(str.maketrans("12", "21")): v for k, v in shape.items()}
    networks = ConvSurrogate(space, 2)
    first = space.architecture({**shape, **rest, **links})
    second = space.architecture({**swapped, **rest, **links})
    assert first != second
    assert networks.expected(first) == networks.expected(second)


@pytest.mark.parametrize("kind", [ConvSurrogate, CellSurrogate])
def test_the_seed_and_a_pickle_decide_everything(
    kind: type[ConvSurrogate] | type[CellSurrogate],
) -> None:
    space = CONV["v1"] if kind is ConvSurrogate else CELLS["paper"]
    task, again, other = kind(space, 3), kind(space, 3), kind(space, 4)
    copy = pickle.loads(pickle.dumps(task))
    architectures = [space.sample(random.Random(i)) for i in range(20)]
    scores = [task.evaluate(a, i, "cpu") for i, a in enumerate(architectures)]
    assert scores == [again.evaluate(a, i, "cpu") for i, a in enumerate(architectures)]
    assert scores == [copy.evaluate(a, i, "cpu") for i, a in enumerate(architectures)]
    assert [task.expected(a) for a in architectures] != [other.expected(a) for a in architectures]


@pytest.mark.parametrize("name", ["v1", "paper"])
def test_a_mutation_nearly_always_changes_the_score(name: str) -> None:
    space, task = (
        (CONV[name], CONV_TASKS[name, 0]) if name == "v1" else (CELLS[name], CELL_TASKS[name, 0])
    )
    generator = random.Random(0)
    changed = 0
    for i in range(200):
        parent = space.sample(random.Random(i)) if name == "v1" else task.optimum
        changed += task.expected(parent) != task.expected(mutate(space, parent, generator))
    assert changed > 180


def test_noise_has_the_said_spread_and_depends_on_seed_and_child() -> None:
    space = CONV["v1"]
    task = ConvSurrogate(space, 0, noise=0.01)
    one, other = space.sample(random.Random(1)), space.sample(random.Random(2))
    found = [task.evaluate(one, seed, "cpu").score - task.expected(one) for seed in range(400)]
    # 400 draws: the mean within 5 standard errors of 0, the deviation within 15% of 0.01.
    assert abs(statistics.fmean(found)) < 5 * 0.01 / 20
    assert statistics.stdev(found) == pytest.approx(0.01, rel=0.15)
    assert task.evaluate(one, 1, "cpu") == task.evaluate(one, 1, "cpu")
    assert found[1] != task.evaluate(other, 1, "cpu").score - task.expected(other)
    assert ConvSurrogate(space, 0, 0.0).evaluate(one, 1, "cpu").score == task.expected(one)


def test_reward_is_a_power_of_the_accuracy() -> None:
    space = CONV["v1"]
    found = ConvSurrogate(space, power=3).evaluate(space.sample(random.Random(1)), 1, "cpu")
    assert found.reward == found.score**3


def test_more_than_single_decisions_and_pairs_count() -> None:
    """The third difference over three decisions far apart is not zero."""
    space, task = CONV["v1"], CONV_TASKS["v1", 0]
    total = 0.0
    for bits in range(8):
        values = dict(task.optimum)
        for k, layer in enumerate((2, 7, 13)):
            values[f"layer{layer}.height"] = 1 if bits >> k & 1 else 7
        total += (-1) ** bits.bit_count() * task.expected(space.architecture(values))
    assert abs(total) > 1e-4


def test_moments_of_the_smallest_cell() -> None:
    """Base 2, all add and identity: h_t = c_t = 2 x + 2 h (weights apart), plus c in the root."""
    tokens: list[str | int] = ["add", "identity"] * 4 + [2, 2]
    found = portrait(cell_from_tokens(tokens))
    # E[h^2], E[c^2] from (0.5, 0.5), c_t = 2 (1 + h), h_t = c_t + c: (3.5, 3), (12, 9), (35, 26).
    values = [2.0 ** values[0] for values, _, _ in found[:8] if values[0] > -19]
    assert values == pytest.approx([1, 2, 2, 2, 2, 35, 26])
    assert found[0][0][0] == pytest.approx(-19.93, abs=0.01)  # c_t has no part of c_(t-1): 1e-6
    assert Signal(2.0, 3.0).square == 7


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        (ConvSurrogate, CELLS["paper"]),
        (ConvSurrogate, conv.space("plain", conv.ConvSettings(skips=False))),
        (ConvSurrogate, conv.space("types", conv.ConvSettings(layer_types=conv.LAYER_TYPES))),
        (CellSurrogate, CONV["v1"]),
        (
            CellSurrogate,
            recurrent.space(
                "dead", RecurrentSettings(combinations=("elem_mult",), activations=("tanh",))
            ),
        ),
    ],
)
def test_another_space_is_refused(
    kind: type[ConvSurrogate] | type[CellSurrogate], space: SearchSpace
) -> None:
    with pytest.raises(SpaceError, match=space.name):
        kind(space)
