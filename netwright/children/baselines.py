"""Networks a person would have drawn, for comparison with designed ones."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from netwright.children.joints import averaged, averages, classified, thinned
from netwright.children.layers import ConvNormRelu


class Vgg(nn.Module):
    """3x3 convolutions in pairs, filters doubled and size halved after each pair, then a mean.

    As Simonyan and Zisserman (2015), with batch normalisation and global average pooling.
    image: (channels, height, width); width: filters of the first pair; pairs: >= 1.
    """

    def __init__(
        self, image: tuple[int, int, int], classes: int, width: int, pairs: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = image[0]
        for pair in range(pairs):
            filters = width * 2**pair
            for _ in range(2):
                layers += [
                    nn.Conv2d(before, filters, 3, padding=1, bias=False),
                    nn.BatchNorm2d(filters),
                    nn.ReLU(inplace=True),
                ]
                before = filters
            if pair + 1 < pairs:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`images` [N, C, H, W] -> logits [N, classes]."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def vgg_of_size(image: tuple[int, int, int], classes: int, parameters: int, pairs: int = 3) -> Vgg:
    """Return the `Vgg` whose number of parameters is nearest to `parameters`."""
    best, width = Vgg(image, classes, 1, pairs), 1
    while True:
        width += 1
        wider = Vgg(image, classes, width, pairs)
        if abs(_size(wider) - parameters) >= abs(_size(best) - parameters):
            return best
        best = wider


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _layer(before: int, filters: int, stride: int = 1) -> ConvNormRelu:
    convolution = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
    return ConvNormRelu(convolution, nn.BatchNorm2d(filters))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut that is padded with zeros (He et al. 2016).

    Where `filters` are more than before, height and width are halved.
    """

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        self.filters, self.stride = filters, 1 if before == filters else 2
        self.one = _layer(before, filters, self.stride)
        self.two = _layer(filters, filters)

    def forward(self, x: Tensor, same: Tensor, takers: int) -> list[Tensor]:
        """`x`, `same` [N, before, H, W] -> [N, filters, H', W'], so many times.

        Both are the block's input, handed out twice, see `ConvNormRelu.handed`.
        """
        if self.stride > 1:
            same = thinned(same, self.stride, self.filters)
        return self.two.handed(self.one(x), takers, same)


class ResNet(nn.Module):
    """The residual networks for CIFAR-10 (He et al. 2016, 4.2); n = 3 has 20 layers, 0.27M weights.

    6 n + 2 layers: a convolution, n blocks of each 16, 32 and 64 filters, a mean, a linear
    classifier. channels: of the images.
    """

    def __init__(self, channels: int, classes: int, n: int = 3) -> None:
        super().__init__()
        widths = [16] * (n + 1) + [32] * n + [64] * n
        self.first = _layer(channels, 16)
        self.blocks = nn.ModuleList(Residual(a, b) for a, b in itertools.pairwise(widths))
        self.classifier = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`images` [N, C, H, W] -> logits [N, classes]."""
        found = self.first.handed(images, 2)
        for k, block in enumerate(self.blocks, 1):
            found = block(*found, 2 if k < len(self.blocks) else 1)
        x = found[0]
        if averages(found):
            return classified(self.classifier, averaged([x], (x.shape[2], x.shape[3])))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
