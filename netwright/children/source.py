"""A child written out as plain PyTorch, to be read, changed and used without Netwright."""

from __future__ import annotations

from collections.abc import Sequence

from netwright.children.plan import IMAGE, ChildSettings, Layer, Plan, pool_padding, pooled

_HEAD = '''"""A convolutional network designed by Netwright, {parameters:,} parameters.

    net = load("weights.safetensors")
    logits = net(images)  # float [N, {channels}, {height}, {width}] in [0, 1] -> [N, {classes}]
"""

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = {names!r}

'''

_LOAD = '''

def load(path):
    """Return the network with the weights of a safetensors file, in evaluation mode."""
    from safetensors.torch import load_file

    state = load_file(path)
    net = Net()
    net.load_state_dict(
        {k.removeprefix("network.").removeprefix("preprocess."): v for k, v in state.items()}
    )
    return net.eval()
'''

_PAD = '''
def pad_to(x, height, width):
    """Zero-pad to a size, centred."""
    rows, columns = height - x.shape[2], width - x.shape[3]
    return F.pad(x, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)))

'''

_CONTRAST = '''
class LocalContrastNorm(nn.Module):
    """Subtractive and divisive normalisation over a square window."""

    def __init__(self, window):
        super().__init__()
        self.window = window

    def mean(self, x):
        x = x.mean(1, keepdim=True)
        return F.avg_pool2d(x, self.window, 1, self.window // 2, count_include_pad=False)

    def forward(self, x):
        centred = x - self.mean(x)
        deviation = (self.mean(centred.square()) + 1e-8).sqrt()
        typical = deviation.mean((2, 3), keepdim=True)
        return centred / torch.maximum(deviation, typical).clamp_min(1e-4)

'''

_POOL = '''
class Pool(nn.Module):
    """Maximum or mean over a window; padding does not count."""

    def __init__(self, mean, kernel, stride, pad):
        super().__init__()
        self.mean, self.kernel, self.stride, self.pad = mean, kernel, stride, pad

    def forward(self, x):
        if not self.mean:
            return F.max_pool2d(F.pad(x, self.pad, value=float("-inf")), self.kernel, self.stride)
        share = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), self.pad), self.kernel, self.stride)
        return F.avg_pool2d(F.pad(x, self.pad), self.kernel, self.stride) / share

'''


def module_source(
    plan: Plan,
    settings: ChildSettings,
    classes: Sequence[str],
    whiten: str = "channel",
    upsample: int = 0,
) -> str:
    """Return the source of a module that equals preprocessing and `ConvNet(plan)` in one.

    whiten, upsample: as in `netwright.data.images.DataSettings`. The module's function `load` takes
    the safetensors file that `netwright.tasks.files.write_network` writes.
    """
    channels, height, width = plan.image
    forward = _preprocessing(plan, whiten, upsample) + _forward(plan)
    kinds = {layer.kind for layer in plan.layers}
    parts = [
        _HEAD.format(
            parameters=plan.parameters,
            channels=channels,
            height=height,
            width=width,
            classes=plan.classes,
            names=list(classes),
        ),
        _PAD if any("pad_to(" in line for line in forward) else "",
        _CONTRAST if "lcn" in kinds else "",
        _POOL if kinds & {"max_pool", "avg_pool"} else "",
        "\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n",
        "".join(f"        {line}\n" for line in _init(plan, settings, whiten)),
        "\n    def forward(self, images):\n",
        "".join(f"        {line}\n" for line in forward),
        _LOAD,
    ]
    return "".join(parts)


def _init(plan: Plan, settings: ChildSettings, whiten: str) -> list[str]:
    channels, height, width = plan.image
    flat = channels * height * width
    mean, scale = (flat, f"{flat}, {flat}") if whiten == "zca" else (f"{channels}, 1, 1",) * 2
    return [
        f'self.register_buffer("mean", torch.zeros({mean}))',
        f'self.register_buffer("scale", torch.ones({scale}))',
        "self.layers = nn.ModuleList([",
        *(f"    {_module(layer, settings)},  # {layer.label}" for layer in plan.layers),
        "])",
        f"self.classifier = nn.Linear({plan.features}, {plan.classes})",
    ]


def _module(layer: Layer, settings: ChildSettings) -> str:
    if layer.kind in ("max_pool", "avg_pool"):
        mean = layer.kind == "avg_pool"
        return f"Pool({mean}, {layer.kernel}, {layer.stride}, {pool_padding(layer)})"
    if layer.kind == "lcn":
        return f"LocalContrastNorm({layer.kernel[0]})"
    epsilon = f", eps={settings.batch_norm_epsilon!r}"
    if layer.kind == "batch_norm":
        return f"nn.BatchNorm2d({layer.channels}{epsilon})"
    padding = (layer.kernel[0] // 2, layer.kernel[1] // 2)
    stride = "" if layer.stride == (1, 1) else f", stride={layer.stride}"
    convolution = (
        f"nn.Conv2d({layer.in_channels}, {layer.channels}, {layer.kernel}{stride}, "
        f"padding={padding}, bias={not settings.batch_norm})"
    )
    norm = f"nn.BatchNorm2d({layer.channels}{epsilon}), " if settings.batch_norm else ""
    return f"nn.Sequential({convolution}, {norm}nn.ReLU())"


def _preprocessing(plan: Plan, whiten: str, upsample: int) -> list[str]:
    _, height, width = plan.image
    lines = {
        "channel": ["x = (images - self.mean) / self.scale"],
        "zca": [f"x = ((images.flatten(1) - self.mean) @ self.scale).unflatten(1, {plan.image})"],
        "none": ["x = images"],
    }[whiten]
    if upsample:
        top, left = (upsample - height) // 2, (upsample - width) // 2
        lines += [
            f'x = F.interpolate(x, size=({upsample}, {upsample}), mode="bilinear")',
            f"x = x[:, :, {top}:{top + height}, {left}:{left + width}]",
        ]
    return lines


def _forward(plan: Plan) -> list[str]:
    lines: list[str] = []
    names = {(IMAGE, 0): "x"}

    def at(i: int, level: int) -> str:
        """Return the name of an output, pooled down to `level`, writing the pooling when new."""
        if (i, level) not in names:
            before = at(i, level - 1)
            names[i, level] = f"{before}p"
            lines.append(f"{before}p = F.max_pool2d({before}, 2, ceil_mode=True)")
        return names[i, level]

    def taken(i: int, level: int, size: tuple[int, int]) -> str:
        image = plan.image[1:]
        own = pooled(image, level) if i == IMAGE else _size(plan, i, level)
        name = at(i, level)
        return name if own == size else f"pad_to({name}, {size[0]}, {size[1]})"

    for n, layer in enumerate(plan.layers):
        inputs = [taken(i, layer.level, layer.in_size) for i in layer.inputs]
        joined = inputs[0] if len(inputs) == 1 else f"torch.cat([{', '.join(inputs)}], 1)"
        names[n, layer.level] = f"y{n + 1}"
        lines.append(f"y{n + 1} = self.layers[{n}]({joined})  # {layer.describe()}")
    sizes = [_size(plan, i, plan.level) for i in plan.outputs]
    final = (max(s[0] for s in sizes), max(s[1] for s in sizes))
    leaves = [taken(i, plan.level, final) for i in plan.outputs]
    features = leaves[0] if len(leaves) == 1 else f"torch.cat([{', '.join(leaves)}], 1)"
    lines.append(f"return self.classifier({features}.mean((2, 3)))")
    return lines


def _size(plan: Plan, i: int, level: int) -> tuple[int, int]:
    return pooled(plan.layers[i].size, level - plan.layers[i].level)
