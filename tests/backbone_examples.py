"""Small networks with random weights for the tests of backbones: one of each kind that people bring."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import timm
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, SqueezeNet

from frostline.models import Backbone, Preprocessing, assemble

torch.set_num_threads(1)  # nets this small only lose by sharing cores with the other tests

SIDE = 64
PLAIN = Preprocessing(SIDE, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def sequential() -> nn.Module:
    """A plain chain, as in a first course."""
    layers: list[nn.Module] = []
    for wide, wider in ((3, 8), (8, 12), (12, 16), (16, 20), (20, 24)):
        layers += [
            nn.Conv2d(wide, wider, 3, stride=2, padding=1),
            nn.BatchNorm2d(wider),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(24, 6))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(width), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.two(self.drop(torch.relu(self.norm(self.one(x)))))
        return x + inside


class Odd(nn.Module):
    """A user's own module: the image goes in a second time at block 3: no cut before that."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.blocks = nn.ModuleList(Residual(8) for _ in range(6))
        self.side = nn.Conv2d(3, 8, 1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.unused = nn.Parameter(torch.zeros(3))
        self.shared = nn.Dropout(0.3)
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.shared(self.entry(images))
        for index, block in enumerate(self.blocks):
            if index == 3:
                x = x + self.side(nn.functional.avg_pool2d(images, 4))
            x = block(x * self.scale)
        logits: Tensor = self.classifier(self.shared(x.mean((2, 3))))
        return logits


class InPlace(nn.Module):
    """Blocks that change what they are given, which must not reach a stored activation."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 6, 4, stride=4)
        self.blocks = nn.Sequential(*(self._block() for _ in range(4)))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    @staticmethod
    def _block() -> nn.Sequential:
        return nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.blocks(self.entry(x))).flatten(1))
        return logits


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=SIDE, patch_size=2, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_size=4
    )


def densenet() -> nn.Module:
    return DenseNet(growth_rate=4, block_config=(2, 2, 2, 2), num_init_features=8, num_classes=6)


def _timm(name: str, **options: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model: nn.Module = timm.create_model(name, num_classes=9, **options)
        return model

    return build


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "resnet": _timm("resnet10t"),
    "efficientnet": _timm("test_efficientnet"),
    "convnext": _timm("test_convnext"),
    "vit": _timm("test_vit", img_size=SIDE),
    "distilled": _timm("deit_tiny_distilled_patch16_224", img_size=SIDE, depth=4),
    "densenet": densenet,
    "swin": swin,
    "sequential": sequential,
    "odd": Odd,
    "in place": InPlace,
    "squeezenet": lambda: SqueezeNet("1_1", num_classes=7),
}


def stirred(model: nn.Module) -> nn.Module:
    """Give every parameter some noise: fresh zero gammas and layer scales would hide a leak."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@cache
def example(family: str) -> Backbone:
    """Return one example, assembled once per test process; tests must not change its model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = stirred(FAMILIES[family]())
    return assemble(model, PLAIN, name=family, source={"kind": "module"})


def images(count: int, side: int = SIDE, seed: int = 5) -> Tensor:
    """Return normalised noise (count, 3, side, side)."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
