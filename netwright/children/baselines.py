"""Networks a person would have drawn, for comparison with designed ones."""

from __future__ import annotations

from torch import Tensor, nn


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
