"""Architecture -> `nn.Module` for convolutional spaces (paper, 3.3 and 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.children.plan import (
    IMAGE,
    ChildSettings,
    Layer,
    Plan,
    compile_plan,
    pool_padding,
    pooled,
)
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


class _Convolution(nn.Conv2d):
    """A convolution; one of 1x1 with a stride takes the pixels that count first, which is the same.

    In channels_last, torch's weight gradient of a strided 1x1 convolution of 3 or 4 channels writes
    outside its memory on an AVX2 processor (torch 2.13, oneDNN 3.12; docs/results/speed.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x` [N, C, H, W] -> [N, channels, H', W']."""
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            rows, columns = self.stride
            return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)
        return super().forward(x)


def _make(layer: Layer, settings: ChildSettings) -> nn.Module:
    if layer.kind in ("max_pool", "avg_pool"):
        return _Pool(layer)
    if layer.kind == "lcn":
        return LocalContrastNorm(layer.kernel[0])
    if layer.kind == "batch_norm":
        return nn.BatchNorm2d(layer.in_channels, eps=settings.batch_norm_epsilon)
    convolution = _Convolution(
        layer.in_channels,
        layer.channels,
        layer.kernel,
        layer.stride,
        padding=(layer.kernel[0] // 2, layer.kernel[1] // 2),
        bias=not settings.batch_norm,
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    parts: list[nn.Module] = [convolution]
    if settings.batch_norm:
        parts.append(nn.BatchNorm2d(layer.channels, eps=settings.batch_norm_epsilon))
    return nn.Sequential(*parts, nn.ReLU(inplace=True))


def pad_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad `x` [N, C, H, W] to `size`, centred; an odd row goes below, a column right."""
    rows, columns = size[0] - x.shape[2], size[1] - x.shape[3]
    if rows == 0 and columns == 0:
        return x
    return F.pad(x, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)))


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
        self._last_use = self._last_uses()

    def _last_uses(self) -> list[int]:
        """For each layer, the last layer that takes it, so that memory can be let go there."""
        last = [len(self.plan.layers)] * len(self.plan.layers)
        for i in range(len(self.plan.layers)):
            if i not in self.plan.outputs:
                last[i] = max(n for n, taker in enumerate(self.plan.layers) if i in taker.inputs)
        return last

    def forward(self, images: Tensor) -> Tensor:
        """`images` float [N, C, H, W] -> logits [N, classes]."""
        assert images.shape[1:] == self.plan.image, (images.shape, self.plan.image)
        outputs: dict[tuple[int, int], Tensor] = {(IMAGE, 0): images}

        def at(i: int, level: int) -> Tensor:
            if (i, level) not in outputs:
                outputs[i, level] = F.max_pool2d(at(i, level - 1), 2, ceil_mode=True)
            return outputs[i, level]

        for n, (layer, module) in enumerate(zip(self.plan.layers, self.layers, strict=True)):
            inputs = [pad_to(at(i, layer.level), layer.in_size) for i in layer.inputs]
            x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
            outputs[n, layer.level] = module(x)
            for key in [k for k in outputs if k[0] != IMAGE and self._last_use[k[0]] == n]:
                del outputs[key]
        leaves = [pad_to(at(i, self.plan.level), self._final_size) for i in self.plan.outputs]
        features = torch.cat(leaves, 1) if len(leaves) > 1 else leaves[0]
        if torch.is_autocast_enabled(features.device.type):
            return self._classified_in_full(features)
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits

    def _classified_in_full(self, features: Tensor) -> Tensor:
        """Classify in float32: logits of 8 bits would tie."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classifier(features.mean((2, 3), dtype=torch.float32))
        return logits
