"""The paper's compile rules (3.3), without torch: what every layer takes and how large it is.

The module, the parameter count and the drawing of a child all come from its `Plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netwright.errors import ArchitectureError
from netwright.rules import Section
from netwright.space import Architecture, SearchSpace, Value
from netwright.spaces import conv

IMAGE = -1


@dataclass(frozen=True, kw_only=True)
class ChildSettings:
    """How architectures are built; the same for every child of a search.

    widen: filters added to each convolution (the paper's +40), >= 0.
    batch_norm: whether each convolution is followed by batch normalisation before its ReLU.
    batch_norm_epsilon: > 0.
    """

    widen: int = 0
    batch_norm: bool = True
    batch_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        section = Section("child", self)
        section.at_least(0, "widen")
        section.above(0, "batch_norm_epsilon")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a child.

    label: "3", or "3.2" for the second layer of block 3.
    kind: of `netwright.spaces.conv.LAYER_TYPES`.
    inputs: indices into the plan's layers, or `IMAGE`; concatenated along depth in this order.
    level: how many 2x2 poolings stand before it; an input from a lower level is pooled that often.
    kernel, stride: (height, width) in pixels. For "lcn" the kernel is the window.
    in_channels, channels: after concatenation, and of the output.
    in_size, size: (height, width) in pixels before and after; smaller inputs are zero-padded
        to in_size.
    parameters: weights of this layer, normalisation included.
    """

    label: str
    kind: str
    inputs: tuple[int, ...]
    level: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    in_channels: int
    channels: int
    in_size: tuple[int, int]
    size: tuple[int, int]
    parameters: int

    def describe(self) -> str:
        """Return the layer in a few words, as drawings and tables show it."""
        size = f"{self.kernel[0]}x{self.kernel[1]}"
        stride = "" if self.stride == (1, 1) else f" /{self.stride[0]}x{self.stride[1]}"
        names = {
            "conv": f"{size} conv {self.channels}{stride}",
            "max_pool": f"{size} max pool{stride}",
            "avg_pool": f"{size} avg pool{stride}",
            "lcn": f"{size} contrast norm",
            "batch_norm": "batch norm",
        }
        return names[self.kind]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole child: its layers, what the classifier takes, and its size.

    image: (channels, height, width) of the input.
    outputs: the layers whose output feeds nothing, concatenated for the classifier (rule 2).
    level: poolings before the classifier.
    learning_rate: the architecture's token, None without one.
    """

    image: tuple[int, int, int]
    classes: int
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...]
    level: int
    learning_rate: float | None

    @property
    def features(self) -> int:
        """Channels that the classifier takes."""
        return sum(self.layers[i].channels for i in self.outputs)

    @property
    def convolution_weights(self) -> int:
        """Weights of all filters, without normalisation and classifier."""
        return sum(
            layer.kernel[0] * layer.kernel[1] * layer.in_channels * layer.channels
            for layer in self.layers
            if layer.kind == "conv"
        )

    @property
    def parameters(self) -> int:
        """All trained numbers of the child, predicted without building it."""
        return sum(layer.parameters for layer in self.layers) + (self.features + 1) * self.classes


def compile_plan(
    space: SearchSpace,
    architecture: Architecture,
    image: tuple[int, int, int],
    classes: int,
    settings: ChildSettings | None = None,
) -> Plan:
    """Return the plan of `architecture` for `image` (channels, height, width) and `classes`.

    Rule 1: a layer with no input takes the image. Rule 2: outputs that feed nothing go to the
    classifier. Rule 3: smaller inputs are zero-padded, centred. Blocks are fully connected: each
    layer takes the block's inputs and all earlier layers of the block, and the block's output is
    all its layers (unstated in the paper). Raises `ArchitectureError` for another kind of space.
    """
    if space.kind != "conv":
        raise ArchitectureError(
            f"only architectures of a convolutional space become convolutional networks; got space "
            f"{space.name!r} of kind {space.kind!r}; train it with your own evaluator"
        )
    values = space.check(architecture)
    settings = settings or ChildSettings()
    block = int(space.settings["block"])
    depth = conv.depth_of(space, values)
    only_type = space.settings["layer_types"][0]
    layers: list[Layer] = []
    fed: set[int] = set()
    for i in range(1, depth + 1):
        blocks = conv.inputs_of(space, values, i)
        fed.update(blocks)
        inputs = [block * (j - 1) + k for j in blocks for k in range(block)] or [IMAGE]
        for k, level in enumerate(conv.levels(space, i)):
            label = f"{i}.{k + 1}" if block > 1 else str(i)
            taken = (*inputs, *range(block * (i - 1), block * (i - 1) + k))
            layers.append(
                _layer(label, values, i, taken, level, layers, image, settings, only_type)
            )
    outputs = tuple(
        block * (i - 1) + k for i in range(1, depth + 1) if i not in fed for k in range(block)
    )
    rate = values.get("learning_rate")
    return Plan(
        image=image,
        classes=classes,
        layers=tuple(layers),
        outputs=outputs,
        level=max(layer.level for layer in layers),
        learning_rate=float(rate) if isinstance(rate, int | float) else None,
    )


def _layer(
    label: str,
    values: Mapping[str, Value],
    i: int,
    inputs: tuple[int, ...],
    level: int,
    before: list[Layer],
    image: tuple[int, int, int],
    settings: ChildSettings,
    only_type: str,
) -> Layer:
    def number(what: str, default: int = 1) -> int:
        value = values.get(f"layer{i}.{what}", default)
        assert isinstance(value, int)
        return value

    channels_of = [image[0] if j == IMAGE else before[j].channels for j in inputs]
    sizes = [
        pooled((image[1], image[2]), level)
        if j == IMAGE
        else pooled(before[j].size, level - before[j].level)
        for j in inputs
    ]
    in_channels = sum(channels_of)
    in_size = (max(s[0] for s in sizes), max(s[1] for s in sizes))
    kind = str(values.get(f"layer{i}.type", only_type))
    kernel, stride, channels, parameters = (1, 1), (1, 1), in_channels, 0
    if kind == "conv":
        kernel = (number("height"), number("width"))
        stride = (number("stride_height"), number("stride_width"))
        channels = number("filters") + settings.widen
        parameters = kernel[0] * kernel[1] * in_channels * channels
        parameters += 2 * channels if settings.batch_norm else channels
    elif kind in conv.POOLS:
        kernel = (number("pool_size"),) * 2
        stride = (number("pool_stride"),) * 2
    elif kind == "lcn":
        kernel = (number("window"),) * 2
    else:
        parameters = 2 * in_channels
    return Layer(
        label=label,
        kind=kind,
        inputs=inputs,
        level=level,
        kernel=kernel,
        stride=stride,
        in_channels=in_channels,
        channels=channels,
        in_size=in_size,
        size=(_up(in_size[0], stride[0]), _up(in_size[1], stride[1])),
        parameters=parameters,
    )


def _up(size: int, by: int) -> int:
    return -(-size // by)


def pooled(size: tuple[int, int], times: int) -> tuple[int, int]:
    """Return (height, width) after 2x2 max pooling `times` times, odd sizes rounded up."""
    for _ in range(times):
        size = (_up(size[0], 2), _up(size[1], 2))
    return size


def pool_padding(layer: Layer) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) pixels with which a pooling layer gives its size."""
    rows, columns = (
        max(0, (layer.size[k] - 1) * layer.stride[k] + layer.kernel[k] - layer.in_size[k])
        for k in (0, 1)
    )
    return columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)
