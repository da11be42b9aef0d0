"""Closed-form scores over spaces of the paper's size: synthetic, nothing is trained.

Their numbers say how a controller searches, nothing of networks. A score goes by what an
architecture's structure comes to (receptive fields, sizes, paths; moments and derivatives of a
cell), each of which depends on many decisions at once. The `seed` of a surrogate draws a planted
architecture and the weights of what counts, so a controller can be tuned on some seeds and tested
on others. Each quantity costs nothing where it is the planted one's and more the further it is
from it, up to a bound: the planted architecture is an optimum, and a known one, though not the
only one. Architectures that build the same child have the same score.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from netwright.children.plan import IMAGE, Plan, compile_plan
from netwright.errors import SpaceError
from netwright.evaluators.cell_moments import portrait
from netwright.seeding import rng
from netwright.space import Architecture, Choice, SearchSpace, Value
from netwright.spaces.recurrent import Cell, canonical_cell, cell_of
from netwright.trial import Evaluation

# Quantities of a layer, against their curve over the depth of the planted network: what counts,
# its share of the cost, the distance at which half of it is lost, and which distances count.
_LAYER = {
    "channels": (0.14, 0.7, "both"),  # log2 of the filters
    "field": (0.20, 0.7, "both"),  # log2 of the receptive field's side, in pixels
    "aspect": (0.12, 0.6, "both"),  # log2 of the receptive field's height over its width
    "load": (0.12, 0.8, "above"),  # log2 of input channels over output channels
    "skip": (0.12, 0.2, "both"),  # longest way back an input goes, of the network's depth
    "exit": (0.10, 0.15, "above"),  # shortest way to the classifier, of the network's depth
}
_WHOLE = {
    "weights": (0.14, 0.8, "both"),  # log2: too few to fit, or enough to over-fit
    "depth": (0.10, 0.5, "below"),  # log2 of the longest path in layers
    "ends": (0.12, 0.5, "above"),  # output channels of shallow layers, in output channels
    "starts": (0.06, 1.5, "above"),  # layers that take the image
    "rate": (0.10, 1.0, "both"),  # log2 of the learning rate, where it is a decision
}


# What is asked of a planted cell: ranges of its portrait's first quantities, in log2.
_ASKED = (
    (-3.0, 0.3),  # c_t by c_(t-1): remembers
    (-6.0, 1.0),  # h_t by c_(t-1)
    (-7.0, 0.0),  # h_t by h_(t-1)
    (-7.0, 0.0),  # h_t by x_t
    (-7.0, 1.0),  # c_t by x_t
    (-7.0, 1.0),  # c_t by h_(t-1)
    (-5.0, 0.0),  # size of h_t
    (-4.0, 3.0),  # size of c_t
)


def _cost(distance: float, scale: float, side: str) -> float:
    """Return a cost in [0, 1): 0 at no distance, 1/2 at `scale`, with diminishing slope."""
    if (side == "above" and distance < 0) or (side == "below" and distance > 0):
        return 0.0
    x = (distance / scale) ** 2
    return x / (1 + x)


def _noise(seed: int, key: str, deviation: float) -> float:
    return rng(seed, 0, f"surrogate/{key}").gauss(0.0, deviation) if deviation else 0.0


class ConvSurrogate:
    """An accuracy over a space of convolution layers with skip connections; synthetic.

    image: (channels, height, width) of the images it imagines, in pixels.
    floor, ceiling: the accuracies between which every expected score lies; the planted
        architecture, `optimum`, has `ceiling` exactly, and no architecture has more.
    noise: standard deviation, in accuracy, of a Gaussian that depends on the trial's seed and on
        the child.
    power: reward = score ** power (the paper's is 3).

    The expected score is floor + (ceiling - floor) * exp(-sharpness * costs), costs in [0, 1).
    Raises `SpaceError` for another space.
    """

    sharpness = 1.3

    def __init__(
        self,
        space: SearchSpace,
        seed: int = 0,
        noise: float = 0.004,
        *,
        image: tuple[int, int, int] = (3, 32, 32),
        floor: float = 0.1,
        ceiling: float = 0.95,
        power: float = 1.0,
    ) -> None:
        settings = space.settings
        if space.kind != "conv" or settings["layer_types"] != ["conv"] or not settings["skips"]:
            raise SpaceError(
                f"ConvSurrogate takes a conv space of convolution layers with skips; got "
                f"{space.name!r} of kind {space.kind!r}; use spaces.conv.v1, v2 or v3"
            )
        self.space, self.seed, self.noise, self.image = space, seed, noise, image
        self.floor, self.ceiling, self.power = floor, ceiling, power
        generator = rng(seed, 0, "conv surrogate")
        self.optimum = _planted_network(space, generator)
        self._curves, self._targets = _facts(self._plan(self.optimum))
        known = self._curves.keys() | self._targets.keys()
        terms = {k: v[0] for k, v in {**_LAYER, **_WHOLE}.items() if k in known}
        drawn = {name: share * generator.uniform(0.6, 1.4) for name, share in terms.items()}
        total = sum(drawn.values())
        self._weights = {name: share / total for name, share in drawn.items()}

    def _plan(self, architecture: Architecture) -> Plan:
        return compile_plan(self.space, architecture, self.image, 10)

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return what each quantity costs, in [0, its weight); the weights add up to 1."""
        return self._costs(self._plan(architecture))

    def _costs(self, plan: Plan) -> dict[str, float]:
        curves, targets = _facts(plan)
        where = curves.pop("place")
        planted = self._curves
        last = len(planted["place"]) - 1
        spots = []
        for u in where:
            position = u * (last + 1) - 1  # the planted layer at the same part of the depth
            k = min(max(int(position), 0), max(last - 1, 0))
            spots.append((k, min(k + 1, last), max(position - k, 0.0)))
        result = {}
        for name, values in curves.items():
            curve = planted[name]
            _, scale, side = _LAYER[name]
            parts = [
                _cost(value - curve[k] - (curve[n] - curve[k]) * t, scale, side)
                for value, (k, n, t) in zip(values, spots, strict=True)
            ]
            result[name] = self._weights[name] * (math.fsum(parts) / len(parts))
        for name, target in targets.items():
            _, scale, side = _WHOLE[name]
            result[name] = self._weights[name] * _cost(target - self._targets[name], scale, side)
        return result

    def expected(self, architecture: Architecture) -> float:
        """Return the score without noise, in [floor, ceiling]."""
        return self._score(self._plan(architecture))

    def _score(self, plan: Plan) -> float:
        total = math.fsum(self._costs(plan).values())
        return self.floor + (self.ceiling - self.floor) * math.exp(-self.sharpness * total)

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Return the score with noise, clipped to [0, 1]."""
        plan = self._plan(architecture)
        expected = self._score(plan)
        score = expected + _noise(seed, expected.hex(), self.noise)
        score = min(max(score, 0.0), 1.0)
        return Evaluation(reward=score**self.power, score=score, parameters=plan.parameters)


def _planted_network(space: SearchSpace, generator: random.Random) -> Architecture:
    """Return a network as deep as can be: a chain with skips, growing filters and kernels.

    Strides are the smallest offered.
    """
    depth = max(space.settings["depths"])
    density = generator.uniform(0.25, 0.55)
    rising: dict[str, list[Value]] = {}
    for kind in ("height", "width", "filters"):
        options = space.settings[{"height": "heights", "width": "widths"}.get(kind, kind)]
        drawn = sorted(generator.choice(options) for _ in range(depth))
        loose = 0.5 if kind == "filters" else 3.0
        order = sorted(range(depth), key=lambda i: i + generator.uniform(0, loose))
        rising[kind] = [drawn[i] for i in order]
    values: dict[str, Value] = {}
    for decision in space.decisions:
        owner = decision.name.split(".")[0]
        if isinstance(decision, Choice):
            if decision.kind in rising:
                value: Value = rising[decision.kind][int(owner.removeprefix("layer")) - 1]
            elif decision.kind == "learning_rate":
                value = generator.choice(decision.options)
            elif decision.kind == "depth":
                value = depth
            else:
                value = min(decision.options)
        else:
            chain = decision.sources[-1:]
            far = [s for s in decision.sources[:-1] if generator.random() < density]
            value = (*far, *chain)
        values[decision.name] = value
    return space.architecture(values, "the planted network")


def _facts(plan: Plan) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return quantities of each layer by name, and those of the whole network."""
    layers = plan.layers
    deep: list[int] = []
    first: list[int] = []
    rows: list[int] = []
    columns: list[int] = []
    jumps: list[tuple[int, int]] = []
    for layer in layers:
        inputs = [j for j in layer.inputs if j != IMAGE]
        deep.append(1 + max((deep[j] for j in inputs), default=0))
        first.append(deep[-1] - min((deep[j] for j in inputs), default=0))
        down, across = 2**layer.level, 2**layer.level
        for j in inputs:
            pools = 2 ** (layer.level - layers[j].level)
            down, across = max(down, jumps[j][0] * pools), max(across, jumps[j][1] * pools)
        (height, width), (stride_down, stride_across) = layer.kernel, layer.stride
        rows.append(max((rows[j] for j in inputs), default=1) + (height - 1) * down)
        columns.append(max((columns[j] for j in inputs), default=1) + (width - 1) * across)
        jumps.append((down * stride_down, across * stride_across))
    longest = max(deep)
    out = [0] * len(layers)
    for i in reversed(range(len(layers))):
        out[i] = out[i] or 1
        for j in layers[i].inputs:
            if j != IMAGE:
                out[j] = min(out[j] or len(layers), out[i] + 1)
    curves = {
        "place": [d / longest for d in deep],
        "channels": [math.log2(layer.channels) for layer in layers],
        "field": [math.log2(r * c) / 2 for r, c in zip(rows, columns, strict=True)],
        "aspect": [math.log2(r / c) for r, c in zip(rows, columns, strict=True)],
        "load": [math.log2(layer.in_channels / layer.channels) for layer in layers],
        "skip": [f / longest for f in first],
        "exit": [n / longest for n in out],
    }
    ends = [layers[i].channels * (1 - deep[i] / longest) for i in plan.outputs]
    widest = max(layers[i].channels for i in plan.outputs if deep[i] == longest)
    whole = {
        "weights": math.log2(plan.convolution_weights),
        "depth": math.log2(longest),
        "ends": math.fsum(ends) / widest,
        "starts": float(sum(IMAGE in layer.inputs for layer in layers)),
    }
    if plan.learning_rate is not None:
        whole["rate"] = math.log2(plan.learning_rate)
    return curves, whole


class CellSurrogate:
    """A perplexity over a space of recurrent cells; synthetic.

    best, worst: the perplexities between which every expected score lies; the planted cell,
        `optimum`, has `best` exactly, and no cell has less.
    noise: standard deviation of a Gaussian on the logarithm of the perplexity (0.01: one percent),
        which depends on the trial's seed and on the child.
    reward_scale: reward = reward_scale / perplexity^2 (paper, 4.2), by default such that the
        optimum's is 1.

    What counts: how much of c_(t-1) stays in c_t, how h_t answers to c, to h and to x, how large
    both grow, and the moments of the nodes on each level of the tree, under inputs and weights of
    unit variance (see `cell_moments`). A cell that is dead scores `worst`.
    Raises `SpaceError` for another space.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int = 0,
        noise: float = 0.01,
        *,
        best: float = 100.0,
        worst: float = 1000.0,
        reward_scale: float | None = None,
    ) -> None:
        if space.kind != "recurrent":
            raise SpaceError(
                f"CellSurrogate takes a recurrent space; got {space.name!r} of kind "
                f"{space.kind!r}; use spaces.recurrent.space"
            )
        self.space, self.seed, self.noise = space, seed, noise
        self.best, self.worst = best, worst
        self.reward_scale = best**2 if reward_scale is None else reward_scale
        self._identity = "identity" in space.settings["activations"]
        generator = rng(seed, 0, "cell surrogate")
        self.optimum = _planted_cell(space, generator, self._identity)
        self._target = portrait(self._cell(self.optimum))
        shares = [share * generator.uniform(0.6, 1.4) for _, _, share in self._target]
        self._weights = [share / sum(shares) for share in shares]

    def _cell(self, architecture: Architecture) -> Cell:
        cell = cell_of(self.space.check(architecture))
        return canonical_cell(cell, self._identity)[0]

    def expected(self, architecture: Architecture) -> float:
        """Return the perplexity without noise, in [best, worst]."""
        cell = self._cell(architecture)
        if cell.dead:
            return self.worst
        costs = [
            weight * _distance(found, target, scale)
            for weight, (found, _, _), (target, scale, _) in zip(
                self._weights, portrait(cell), self._target, strict=True
            )
        ]
        return float(self.best * (self.worst / self.best) ** math.fsum(costs))

    def evaluate(self, architecture: Architecture, seed: int, device: str) -> Evaluation:
        """Return the perplexity with noise, and its reward."""
        expected = self.expected(architecture)
        score = expected * math.exp(_noise(seed, expected.hex(), self.noise))
        return Evaluation(reward=self.reward_scale / score**2, score=score)


def _distance(found: Sequence[float], target: Sequence[float], scale: float) -> float:
    """Return the mean cost, in [0, 1), of a quantity of one or several parts."""
    parts = [_cost(f - t, scale, "both") for f, t in zip(found, target, strict=True)]
    return math.fsum(parts) / len(parts)


def _planted_cell(space: SearchSpace, generator: random.Random, identity: bool) -> Architecture:
    """Return the first drawn cell that remembers, listens and stays small, or the nearest to it.

    Asked of it are the quantities of its portrait before the levels of the tree.
    """
    draws = 16_000 // int(space.settings["base"])  # a bound on the time, not a tuned number
    nearest: tuple[float, Architecture | None] = (math.inf, None)
    for _ in range(draws):
        architecture = space.sample(generator)
        cell = cell_of(architecture)
        if cell.dead:
            continue
        whole = portrait(canonical_cell(cell, identity)[0])
        found = [values[0] for values, _, _ in whole[: len(_ASKED)]]
        miss = sum(
            max(low - f, 0.0, f - high) for f, (low, high) in zip(found, _ASKED, strict=True)
        )
        if miss < nearest[0]:
            nearest = miss, architecture
        if not miss:
            break
    if nearest[1] is None:
        raise SpaceError(
            f"CellSurrogate takes a space with cells whose h_t is not always 0; none of {draws} of "
            f"{space.name!r} is such; offer add or sigmoid"
        )
    return nearest[1]
