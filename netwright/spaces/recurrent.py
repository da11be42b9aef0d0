"""Recurrent cells as binary trees over the input and the last output (Zoph & Le 2017, 3.4 and 4.2).

A cell of base number B has B leaves and B - 1 inner nodes, numbered leaves first; the last is the
root. Leaf i computes act(combine(W_i x_t, U_i h_(t-1))); inner node B + k has no weights and joins
nodes 2k and 2k + 1. The node `c_into` joins c_(t-1) in by the cell inject; the value of `c_from`
before its activation becomes c_t; the root's output is h_t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from netwright.errors import ConfigError, SpaceError
from netwright.rules import Section
from netwright.space import Architecture, Assignment, Choice, Decision, SearchSpace, Value
from netwright.toml import build

COMBINATIONS = ("add", "elem_mult", "max")
ACTIVATIONS = ("identity", "tanh", "sigmoid", "relu", "sin")
LARGEST_BASE = 64


@dataclass(frozen=True, kw_only=True)
class RecurrentSettings:
    """What a space of recurrent cells offers.

    base: leaves of the tree, in [2, 64] (8).
    combinations: of "add", "elem_mult" and "max" (the first two).
    activations: of "identity", "tanh", "sigmoid", "relu" and "sin" (the first four).
    """

    base: int = 8
    combinations: tuple[str, ...] = ("add", "elem_mult")
    activations: tuple[str, ...] = ("identity", "tanh", "sigmoid", "relu")

    def __post_init__(self) -> None:
        section = Section("space", self, SpaceError)
        section.within(f"[2, {LARGEST_BASE}]", "base")
        for name, known in (("combinations", COMBINATIONS), ("activations", ACTIVATIONS)):
            chosen = tuple(getattr(self, name))
            object.__setattr__(self, name, chosen)
            if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
                section.refuse(name, f"must be different ones of {', '.join(known)}")


def space(name: str, settings: RecurrentSettings | None = None) -> SearchSpace:
    """Return the space of `settings`: 2(2B - 1) + 4 choices in the paper's order.

    `node<i>.combine` and `node<i>.activation` node by node, `inject.combine`, `inject.activation`,
    then the cell indices `cell.from` and `cell.into`.
    """
    settings = settings or RecurrentSettings()
    nodes = range(2 * settings.base - 1)
    decisions: list[Decision] = []
    for owner in [*(f"node{i}" for i in nodes), "inject"]:
        decisions.append(Choice(f"{owner}.combine", settings.combinations))
        decisions.append(Choice(f"{owner}.activation", settings.activations))
    decisions.append(Choice("cell.from", tuple(nodes)))
    decisions.append(Choice("cell.into", tuple(nodes)))
    return SearchSpace(
        name,
        decisions,
        canonical=canonical,
        kind="recurrent",
        settings={k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()},
    )


def from_settings(name: str, settings: Mapping[str, Any]) -> SearchSpace:
    """Return the space of plain settings, as a file holds them."""
    try:
        return space(name, build(RecurrentSettings, settings, f"the space {name!r}"))
    except ConfigError as error:
        raise SpaceError(
            f"a recurrent space must have the settings of RecurrentSettings; {error}"
        ) from error


# --- cells --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A cell: (combination, activation) of each node and of the inject, and the two cell indices.

    Raises `SpaceError` for names or numbers that make no cell.
    """

    nodes: tuple[tuple[str, str], ...]
    inject: tuple[str, str]
    c_from: int
    c_into: int

    def __post_init__(self) -> None:
        if len(self.nodes) < 3 or len(self.nodes) % 2 == 0:
            raise SpaceError(
                f"a cell must have 2B - 1 nodes, 3 or more; got {len(self.nodes)}; add the rest"
            )
        for combine, activation in (*self.nodes, self.inject):
            if combine not in COMBINATIONS or activation not in ACTIVATIONS:
                raise SpaceError(
                    f"a node must have one of {', '.join(COMBINATIONS)} and one of "
                    f"{', '.join(ACTIVATIONS)}; got {combine!r}, {activation!r}; choose of them"
                )
        for name, index in (("c_from", self.c_from), ("c_into", self.c_into)):
            if not 0 <= index < len(self.nodes):
                raise SpaceError(
                    f"{name} must be a node, from 0 to {len(self.nodes) - 1}; got {index}; "
                    f"choose one of them"
                )

    @property
    def base(self) -> int:
        """The number of leaves, B."""
        return (len(self.nodes) + 1) // 2

    def children(self, node: int) -> tuple[int, ...]:
        """Return the two nodes that an inner node joins, nothing for a leaf."""
        k = node - self.base
        return (2 * k, 2 * k + 1) if k >= 0 else ()

    def values(self) -> dict[str, Value]:
        """Return the values of the cell in a space that offers them."""
        result: dict[str, Value] = {}
        for owner, (combine, activation) in [
            *((f"node{i}", node) for i, node in enumerate(self.nodes)),
            ("inject", self.inject),
        ]:
            result |= {f"{owner}.combine": combine, f"{owner}.activation": activation}
        return result | {"cell.from": self.c_from, "cell.into": self.c_into}

    @property
    def dead(self) -> bool:
        """Whether h_t is 0 at every step, whatever text and weights are.

        For cells without biases that start from zeros, as children of the paper do: U h_(t-1) is 0
        then, and a product with it too.
        """
        c_zero = True
        while True:
            zeros: list[bool] = []
            c_stays = c_zero
            for i, (combine, activation) in enumerate(self.nodes):
                below = self.children(i)
                operands = [zeros[child] for child in below] if below else [False, True]
                zero = _zero(combine, operands)
                c_stays = c_stays and (zero or i != self.c_from)
                zero = zero and activation != "sigmoid"
                if i == self.c_into:
                    zero = _zero(self.inject[0], [zero, c_zero]) and self.inject[1] != "sigmoid"
                zeros.append(zero)
            if not zeros[-1] or c_stays == c_zero:
                return zeros[-1]
            c_zero = False

    def equations(self) -> list[str]:
        """Return the cell as equations, leaves first; n' is a node after the inject."""
        lines = []
        for i, (combine, activation) in enumerate(self.nodes):
            below = self.children(i)
            left, right = (
                (self._after(below[0]), self._after(below[1]))
                if below
                else (f"W{i} x_t", f"U{i} h_(t-1)")
            )
            lines.append(f"n{i} = {_say(activation, combine, left, right, leaf=not below)}")
            if i == self.c_into:
                lines.append(f"n{i}' = {_say(*self.inject[::-1], f'n{i}', 'c_(t-1)')}")
            if i == self.c_from:
                before = _say("identity", combine, left, right, leaf=not below)
                lines.append(f"c_t = {before}")
        return [*lines, f"h_t = {self._after(len(self.nodes) - 1)}"]

    def _after(self, node: int) -> str:
        return f"n{node}'" if node == self.c_into else f"n{node}"


def _zero(combine: str, operands: Sequence[bool]) -> bool:
    """Say whether a combination is always 0, of operands that are or are not."""
    return any(operands) if combine == "elem_mult" else all(operands)


def _say(activation: str, combine: str, left: str, right: str, leaf: bool = False) -> str:
    if combine == "max":
        inner = f"max({left}, {right})"
    elif combine == "elem_mult" and leaf:
        inner = f"({left}) * ({right})"
    else:
        inner = f"{left} {'+' if combine == 'add' else '*'} {right}"
    return inner if activation == "identity" else f"{activation}({inner})"


def cell_of(values: Mapping[str, Any]) -> Cell:
    """Return the cell of an architecture, or of its values."""
    count = sum(name.startswith("node") for name in values) // 2
    nodes = tuple(
        (str(values[f"node{i}.combine"]), str(values[f"node{i}.activation"])) for i in range(count)
    )
    inject = (str(values["inject.combine"]), str(values["inject.activation"]))
    return Cell(nodes, inject, int(values["cell.from"]), int(values["cell.into"]))


def cell_from_tokens(tokens: Sequence[str | int]) -> Cell:
    """Return the cell of tokens in the paper's order: 2 a node, 2 for the inject, 2 indices."""
    *pairs, c_from, c_into = tokens
    if len(pairs) % 2:
        raise SpaceError(f"a cell must have 2(2B - 1) + 4 tokens; got {len(tokens)}; add the rest")
    named = [(str(pairs[i]), str(pairs[i + 1])) for i in range(0, len(pairs), 2)]
    return Cell(tuple(named[:-1]), named[-1], int(c_from), int(c_into))


def architecture_of(space: SearchSpace, cell: Cell) -> Architecture:
    """Return `cell` as an architecture of `space`; raises `ArchitectureError` if it has none."""
    return space.architecture(cell.values(), "the cell")


# --- canonical form -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    """A subtree in canonical order; `key` orders subtrees, `node` is its root's old number."""

    key: str
    node: int
    below: tuple[_Tree, ...] = ()


def canonical(space: SearchSpace, values: Assignment) -> Mapping[str, Value]:
    """Return the representative of the cells that provably compute the same function.

    relu of what cannot be negative is written identity; the operands of a combination stand in one
    order, and so do those of a chain of equal combinations without activations between them (all
    three are commutative and associative). The leaves' weights move along.
    """
    identity = "identity" in space.settings["activations"]
    return canonical_cell(cell_of(values), identity)[0].values()


def canonical_cell(cell: Cell, identity: bool = True) -> tuple[Cell, list[int]]:
    """Return the canonical cell, and for each of its places the node of `cell` that went there.

    identity: whether the activation "identity" may be used.
    """
    cell = _plain_relu(cell, identity)
    order = [0] * len(cell.nodes)
    _place(cell, _ordered(cell, len(cell.nodes) - 1), len(cell.nodes) - 1, order)
    return reordered(cell, order), order


def reordered(cell: Cell, order: Sequence[int]) -> Cell:
    """Return the cell with node `order[i]` in place i."""
    return Cell(
        tuple(cell.nodes[old] for old in order),
        cell.inject,
        list(order).index(cell.c_from),
        list(order).index(cell.c_into),
    )


def _place(cell: Cell, tree: _Tree, at: int, order: list[int]) -> None:
    order[at] = tree.node
    for child, place in zip(tree.below, cell.children(at), strict=True):
        _place(cell, child, place, order)


def _plain_relu(cell: Cell, identity: bool) -> Cell:
    """Replace relu where its operand cannot be negative, if the space offers identity."""
    if not identity:
        return cell
    nodes = list(cell.nodes)
    inject = cell.inject
    positive: list[bool] = []
    for i, (combine, activation) in enumerate(nodes):
        operand = _positive(combine, [positive[j] for j in cell.children(i)])
        if activation == "relu" and operand:
            nodes[i] = (combine, "identity")
        positive.append(_stays(activation, operand))
        if i == cell.c_into:
            operand = _positive(inject[0], [positive[i], False])
            if inject[1] == "relu" and operand:
                inject = (inject[0], "identity")
            positive[i] = _stays(inject[1], operand)
    return Cell(tuple(nodes), inject, cell.c_from, cell.c_into)


def _positive(combine: str, operands: Sequence[bool]) -> bool:
    """Say whether a combination cannot be negative; leaves (no operands) always can."""
    if combine == "max":
        return any(operands)
    return bool(operands) and all(operands)


def _stays(activation: str, operand: bool) -> bool:
    return activation in ("sigmoid", "relu") or (operand and activation != "sin")


def _ordered(cell: Cell, node: int) -> _Tree:
    """Return the canonical tree under `node`.

    Its chain are the nodes below that repeat its combination, have no activation and no part in
    c; the operands on one level of the chain may stand in any order.
    """
    head = f"{cell.nodes[node]}{node == cell.c_from}{node == cell.c_into}"
    levels: list[tuple[list[int], list[_Tree]]] = []  # the chain's nodes, what else they join
    chain = [node]
    while chain:
        below = [child for parent in chain for child in cell.children(parent)]
        inner = [child for child in below if _joins(cell, node, child)]
        terms = [_ordered(cell, child) for child in below if child not in inner]
        if len({_shape(cell, child) for child in below}) == 1:
            terms.sort(key=lambda tree: tree.key)
        levels.append((chain, terms))
        chain = inner
    trees: list[_Tree] = []
    for parents, terms in reversed(levels):
        own = head if parents == [node] else "chain"
        slots = [*trees, *terms]
        pairs = [tuple(slots[2 * k : 2 * k + 2]) for k in range(len(parents))]
        trees = [
            _Tree(f"({own} {' '.join(tree.key for tree in pair)})", parent, pair)
            for parent, pair in zip(parents, pairs, strict=True)
        ]
    return trees[0]


def _joins(cell: Cell, top: int, child: int) -> bool:
    """Say whether `child` only goes on with the combination of `top`."""
    free = child not in (cell.c_from, cell.c_into)
    inner = bool(cell.children(child)) and _balanced(cell, child) and _balanced(cell, top)
    return inner and free and cell.nodes[child] == (cell.nodes[top][0], "identity")


def _balanced(cell: Cell, node: int) -> bool:
    return len({_shape(cell, child) for child in cell.children(node)}) < 2


def _shape(cell: Cell, node: int) -> str:
    return f"({''.join(_shape(cell, child) for child in cell.children(node))})"
