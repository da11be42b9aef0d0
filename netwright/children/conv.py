"""Architecture -> `nn.Module` for convolutional spaces (paper, 3.3 and 4.1)."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.children.joints import (
    averaged,
    averages,
    classified,
    fast,
    halved,
    handed,
    hooked,
    joined,
)
from netwright.children.kept import Steps
from netwright.children.layers import ConvNormRelu, Convolution
from netwright.children.plan import (
    IMAGE,
    ChildSettings,
    Layer,
    Plan,
    compile_plan,
    pool_padding,
    pooled,
)
from netwright.children.whole import features, whole
from netwright.space import Architecture, SearchSpace


def build(
    space: SearchSpace,
    architecture: Architecture,
    image: tuple[int, int, int],
    classes: int,
    settings: ChildSettings | None = None,
) -> ConvNet:
    """Return the child of `architecture` for images of `image` (channels, height, width).

    Its weights are drawn from torch's global generator: seed it first.
    """
    return ConvNet(compile_plan(space, architecture, image, classes, settings), settings)


class LocalContrastNorm(nn.Module):
    """Subtractive and divisive normalisation over a square window (Jarrett et al. 2009).

    The mean is taken over all channels and a `window` x `window` neighbourhood; the divisor is the
    larger of the local deviation and its mean over the image.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def _local_mean(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x.mean(1, keepdim=True), self.window, 1, self.window // 2, count_include_pad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N, C, H, W] -> the same shape; of bfloat16 the sums are float32."""
        if x.dtype == torch.bfloat16:
            narrow: Tensor = self(x.float()).to(x.dtype)
            return narrow
        centred = x - self._local_mean(x)
        deviation = (self._local_mean(centred.square()) + 1e-8).sqrt()
        typical = deviation.mean((2, 3), keepdim=True)
        return centred / torch.maximum(deviation, typical).clamp_min(1e-4)


class _Pool(nn.Module):
    """Pooling that keeps `ceil(size / stride)`, padding below and to the right as needed."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.mean = layer.kind == "avg_pool"
        self.kernel, self.stride = layer.kernel, layer.stride
        self.pad = pool_padding(layer)
        inside = F.pad(torch.ones(1, 1, *layer.in_size), self.pad)
        share = F.avg_pool2d(inside, self.kernel, self.stride)
        self.register_buffer("share", share, persistent=False)

    share: Tensor  # of each window that is not padding

    def forward(self, x: Tensor) -> Tensor:
        if not self.mean:
            return F.max_pool2d(F.pad(x, self.pad, value=float("-inf")), self.kernel, self.stride)
        return F.avg_pool2d(F.pad(x, self.pad), self.kernel, self.stride) / self.share.to(x.dtype)


def _make(layer: Layer, settings: ChildSettings) -> nn.Module:
    if layer.kind in ("max_pool", "avg_pool"):
        return _Pool(layer)
    if layer.kind == "lcn":
        return LocalContrastNorm(layer.kernel[0])
    if layer.kind == "batch_norm":
        return nn.BatchNorm2d(layer.in_channels, eps=settings.batch_norm_epsilon)
    convolution = Convolution(
        layer.in_channels,
        layer.channels,
        layer.kernel,
        layer.stride,
        padding=(layer.kernel[0] // 2, layer.kernel[1] // 2),
        bias=not settings.batch_norm,
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if not settings.batch_norm:
        return nn.Sequential(convolution, nn.ReLU(inplace=True))
    norm = nn.BatchNorm2d(layer.channels, eps=settings.batch_norm_epsilon)
    return ConvNormRelu(convolution, norm)


class ConvNet(nn.Module):
    """A child: layers that concatenate inputs, global average pooling, a linear classifier."""

    def __init__(self, plan: Plan, settings: ChildSettings | None = None) -> None:
        super().__init__()
        self.plan = plan
        settings = settings or ChildSettings()
        self.layers = nn.ModuleList(_make(layer, settings) for layer in plan.layers)
        self.classifier = nn.Linear(plan.features, plan.classes)
        final = [
            pooled(plan.layers[i].size, plan.level - plan.layers[i].level) for i in plan.outputs
        ]
        self._final_size = (max(s[0] for s in final), max(s[1] for s in final))
        self._takers = self._count_takers()
        self._steps = Steps()

    def _count_takers(self) -> Counter[tuple[int, int]]:
        """For each output pooled down to a level, how many take it: layers, pooling, classifier."""
        taken = [(i, layer.level) for layer in self.plan.layers for i in layer.inputs]
        found = Counter([*taken, *((i, self.plan.level) for i in self.plan.outputs)])
        for i, level in sorted(found, key=lambda key: -key[1]):
            own = 0 if i == IMAGE else self.plan.layers[i].level
            for above in range(level - 1, own - 1, -1):
                found[i, above] += 1
                if found[i, above] > 1:
                    break  # it is there for another, and so are those above it
        return found

    def forward(self, images: Tensor) -> Tensor:
        """`images` float [N, C, H, W] -> logits [N, classes]."""
        assert images.shape[1:] == self.plan.image, (images.shape, self.plan.image)
        layers = list(self.layers)
        parts = whole(layers, images)
        if parts is not None:
            size, steps = self._final_size, self._steps
            found = features(self.plan, self._takers, layers, parts, images, size, steps)
            return classified(self.classifier, found)
        outputs = {(IMAGE, 0): handed(images, self._takers[IMAGE, 0])}

        def taken(i: int, level: int) -> Tensor:
            """Return an output to one of its takers; the last one leaves nothing behind."""
            if (i, level) not in outputs:
                outputs[i, level] = halved(taken(i, level - 1), self._takers[i, level])
            return outputs[i, level].pop()

        for n, (layer, module) in enumerate(zip(self.plan.layers, layers, strict=True)):
            x = joined([taken(i, layer.level) for i in layer.inputs], layer.in_size)
            takers = self._takers[n, layer.level]
            if type(module) is ConvNormRelu and fast(x) and not hooked(module):
                outputs[n, layer.level] = module.handed(x, takers)
            else:
                outputs[n, layer.level] = handed(module(x), takers)
            del x
        leaves = [taken(i, self.plan.level) for i in self.plan.outputs]
        if averages(leaves):
            found = averaged(leaves, self._final_size)
        else:
            x = joined(leaves, self._final_size)
            full = torch.is_autocast_enabled(x.device.type)
            found = x.mean((2, 3), dtype=torch.float32 if full else None)
        return classified(self.classifier, found)
