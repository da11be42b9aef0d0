"""Convolutional spaces with skip connections (Zoph & Le 2017, 3.1, 3.3 and 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from netwright.errors import ConfigError, SpaceError
from netwright.rules import Section
from netwright.space import (
    Assignment,
    Choice,
    Connections,
    Decision,
    Option,
    SearchSpace,
    Value,
)
from netwright.toml import build

LAYER_TYPES = ("conv", "max_pool", "avg_pool", "lcn", "batch_norm")
MOST_LAYERS = 1000
POOLS = ("max_pool", "avg_pool")


@dataclass(frozen=True, kw_only=True)
class ConvSettings:
    """What a convolutional space offers.

    depths: layers that are predicted, each >= 1; several make depth a decision that a depth
        schedule can fix.
    heights, widths: odd filter sizes in pixels, >= 1.
    filters: output channels, >= 1.
    strides: for height and width apart; (1,) leaves the decision out (v1).
    skips: whether layers have anchor points; without them every layer feeds the next.
    layer_types: of "conv", "max_pool", "avg_pool", "lcn", "batch_norm"; one leaves the type out.
    pool_sizes, pool_strides: pixels, for pooling layers.
    lcn_sizes: odd windows in pixels of local contrast normalisation.
    learning_rates: options of the learning-rate token; empty leaves it out.
    block: layers in each predicted one, fully connected among themselves (3 in v3).
    pools: after which layers, counted singly, 2x2 max pooling stands (13 and 24 in v3).
    """

    depths: tuple[int, ...] = (15,)
    heights: tuple[int, ...] = (1, 3, 5, 7)
    widths: tuple[int, ...] = (1, 3, 5, 7)
    filters: tuple[int, ...] = (24, 36, 48, 64)
    strides: tuple[int, ...] = (1,)
    skips: bool = True
    layer_types: tuple[str, ...] = ("conv",)
    pool_sizes: tuple[int, ...] = (2, 3)
    pool_strides: tuple[int, ...] = (1, 2)
    lcn_sizes: tuple[int, ...] = (3, 5, 7)
    learning_rates: tuple[float, ...] = ()
    block: int = 1
    pools: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, tuple(value))
        for name in ("depths", "heights", "widths", "filters", "strides", "layer_types"):
            if not getattr(self, name):
                raise SpaceError(f"space.{name} must have an option; got none; list at least one")
        self._check_ranges()

    def _check_ranges(self) -> None:
        section = Section("space", self, SpaceError)
        section.at_least(1, "depths", "heights", "widths", "filters", "strides", "block")
        section.at_least(1, "pool_sizes", "pool_strides", "lcn_sizes", "pools")
        section.above(0, "learning_rates")
        for name in ("heights", "widths", "lcn_sizes"):
            for value in getattr(self, name):
                if value % 2 == 0:
                    section.refuse(name, "must be odd, so that a layer keeps its size", value=value)
        for kind in self.layer_types:
            if kind not in LAYER_TYPES:
                section.refuse("layer_types", f"must be of {', '.join(LAYER_TYPES)}", value=kind)
        section.rising("depths", "must rise")
        if self.block > 1 and self.layer_types != ("conv",):
            section.refuse("layer_types", "must be conv alone in blocks")
        layers = max(self.depths) * self.block
        if layers > MOST_LAYERS:
            rule = f"times space.block must be at most {MOST_LAYERS} layers"
            section.refuse("depths", rule, (max(1, MOST_LAYERS // self.block),), layers)
        for pool in self.pools:
            if pool >= layers:
                section.refuse("pools", "must stand before the last layer", value=pool)


def space(name: str, settings: ConvSettings) -> SearchSpace:
    """Return the space of `settings`.

    Decisions of layer i, in the paper's order: `layer<i>.type`, `.height`, `.width`,
    `.stride_height`, `.stride_width`, `.filters` (or those of its type), and `.inputs`, whose
    anchor is `layer<i>`.
    """
    decisions: list[Decision] = []
    if len(settings.depths) > 1:
        decisions.append(Choice("depth", settings.depths))
    if settings.learning_rates:
        decisions.append(Choice("learning_rate", settings.learning_rates))
    for i in range(1, max(settings.depths) + 1):
        when: dict[str, tuple[Option, ...]] = {}
        if i > min(settings.depths):
            when["depth"] = tuple(d for d in settings.depths if d >= i)
        decisions += _layer(i, settings, when)
    return SearchSpace(
        name,
        decisions,
        canonical=canonical,
        kind="conv",
        settings={k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()},
    )


def _layer(
    i: int, settings: ConvSettings, when: Mapping[str, tuple[Option, ...]]
) -> list[Decision]:
    typed = len(settings.layer_types) > 1
    layer = f"layer{i}"

    def choice(what: str, options: Sequence[Option], *types: str) -> list[Decision]:
        here = [t for t in types if t in settings.layer_types]
        if types and not here:
            return []
        condition = dict(when)
        if types and typed:
            condition[f"{layer}.type"] = tuple(here)
        return [Choice(f"{layer}.{what}", tuple(options), tuple(condition.items()))]

    decisions: list[Decision] = []
    if typed:
        decisions += choice("type", settings.layer_types)
    decisions += choice("height", settings.heights, "conv")
    decisions += choice("width", settings.widths, "conv")
    if settings.strides != (1,):
        decisions += choice("stride_height", settings.strides, "conv")
        decisions += choice("stride_width", settings.strides, "conv")
    decisions += choice("filters", settings.filters, "conv")
    decisions += choice("pool_size", settings.pool_sizes, *POOLS)
    decisions += choice("pool_stride", settings.pool_strides, *POOLS)
    decisions += choice("window", settings.lcn_sizes, "lcn")
    if settings.skips:
        sources = tuple(f"layer{j}" for j in range(1, i))
        decisions.append(Connections(f"{layer}.inputs", layer, sources, tuple(when.items())))
    return decisions


def from_settings(name: str, settings: Mapping[str, Any]) -> SearchSpace:
    """Return the space of plain settings, as a file holds them."""
    try:
        return space(name, build(ConvSettings, settings, f"the space {name!r}"))
    except ConfigError as error:
        raise SpaceError(f"a conv space must have the settings of ConvSettings; {error}") from error


def v1(depth: int = 15) -> SearchSpace:
    """Return the paper's first space: filter height, width and count, stride 1 (4.1)."""
    return space("v1", ConvSettings(depths=(depth,)))


def v2(depth: int = 20) -> SearchSpace:
    """Return the space with strides 1, 2 and 3 as well (4.1)."""
    return space("v2", ConvSettings(depths=(depth,), strides=(1, 2, 3)))


def v3(depth: int = 13) -> SearchSpace:
    """Return the space of blocks of 3 layers, with pooling after layers 13 and 24 (4.1)."""
    return space(
        "v3",
        ConvSettings(depths=(depth,), filters=(6, 12, 24, 36), block=3, pools=(13, 24)),
    )


def depth_of(space: SearchSpace, values: Mapping[str, Value]) -> int:
    """Return how many predicted layers an architecture has."""
    if "depth" in values:
        return int(values["depth"])  # type: ignore[arg-type]
    return int(space.settings["depths"][0])


def inputs_of(space: SearchSpace, values: Mapping[str, Value], i: int) -> tuple[int, ...]:
    """Return the numbers, from 1, of the predicted layers that feed predicted layer i."""
    if not space.settings["skips"]:
        return (i - 1,) if i > 1 else ()
    taken = values[f"layer{i}.inputs"]
    assert isinstance(taken, tuple)
    return tuple(int(source.removeprefix("layer")) for source in taken)


def levels(space: SearchSpace, i: int) -> tuple[int, ...]:
    """Return how many poolings stand before each single layer of predicted layer i."""
    block, pools = space.settings["block"], space.settings["pools"]
    return tuple(sum(p <= block * (i - 1) + k for p in pools) for k in range(block))


def canonical(space: SearchSpace, values: Assignment) -> Mapping[str, Value]:
    """Return the same network with its layers in a standard order.

    Two architectures whose layers differ only in their numbering build the same child. Layers are
    coloured by what they are, what feeds them and what they feed (Weisfeiler and Leman), and
    renumbered along the connections in the order of the colours; layers with other poolings before
    them never change places. Equal results always mean the same child.
    """
    if not space.settings["skips"]:
        return values
    depth = depth_of(space, values)
    inputs = {i: inputs_of(space, values, i) for i in range(1, depth + 1)}
    own = _own(values, depth)
    colour = _colours(space, inputs, own)
    profile = {i: levels(space, i) for i in inputs}
    number: dict[int, int] = {}
    while len(number) < depth:
        ready = [i for i in inputs if i not in number and all(j in number for j in inputs[i])]
        first = min(
            ready,
            key=lambda i: (profile[i], colour[i], sorted(number[j] for j in inputs[i]), i),
        )
        number[first] = len(number) + 1
    result = {name: value for name, value in values.items() if not name.startswith("layer")}
    for old, new in number.items():
        result |= {f"layer{new}.{what}": value for what, value in own[old]}
        fed = sorted(number[j] for j in inputs[old])
        result[f"layer{new}.inputs"] = tuple(f"layer{j}" for j in fed)
    return result


def _own(values: Mapping[str, Value], depth: int) -> dict[int, tuple[tuple[str, Value], ...]]:
    """Return the decisions of each layer other than its inputs, as (what, value)."""
    own: dict[int, list[tuple[str, Value]]] = {i: [] for i in range(1, depth + 1)}
    for name, value in values.items():
        head, _, what = name.partition(".")
        if head.startswith("layer") and what and what != "inputs":
            own[int(head.removeprefix("layer"))].append((what, value))
    return {i: tuple(pairs) for i, pairs in own.items()}


def _colours(
    space: SearchSpace,
    inputs: Mapping[int, tuple[int, ...]],
    own: Mapping[int, tuple[tuple[str, Value], ...]],
) -> dict[int, int]:
    fed: dict[int, list[int]] = {i: [] for i in inputs}
    for i, sources in inputs.items():
        for j in sources:
            fed[j].append(i)
    colour = _ranks({i: repr((levels(space, i), own[i])) for i in inputs})
    for _ in inputs:
        finer = _ranks(
            {
                i: (
                    colour[i],
                    tuple(sorted([colour[j] for j in inputs[i]])),
                    tuple(sorted([colour[j] for j in fed[i]])),
                )
                for i in inputs
            }
        )
        if len(set(finer.values())) == len(set(colour.values())):
            break
        colour = finer
    return colour


def _ranks(keys: Mapping[int, Any]) -> dict[int, int]:
    order = {key: rank for rank, key in enumerate(sorted(set(keys.values())))}
    return {i: order[key] for i, key in keys.items()}
