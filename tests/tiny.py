"""A network and image sets small enough for every test, made from nothing."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import frostline
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone, Preprocessing

PREPROCESSING = Preprocessing(
    size=16, crop_pct=1.0, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def live_logits(model: nn.Module, images: Images) -> NDArray[np.float32]:
    """What the whole model answers to view 0 of every image in float32, shape (images, classes)."""
    with torch.no_grad():
        pixels = torch.stack([images[(position, 0)] for position in range(len(images))])
        return model.eval()(images.preprocessing.normalise(pixels)).numpy()


class Block(nn.Module):
    """Convolution, BatchNorm, ReLU, dropout: everything that must stand still when frozen."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width_out)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(torch.relu(self.bn(self.conv(x))))


class TinyNet(nn.Module):
    """Stem, three blocks, pooling, head: 5 stages, about 5,000 parameters."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.stem = Block(3, 8, 1)
        self.blocks = nn.Sequential(Block(8, 12, 2), Block(12, 16, 2), Block(16, 24, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def tiny_model(seed: int = 0) -> nn.Module:
    """A TinyNet whose BatchNorm statistics have seen something."""
    return copy.deepcopy(_model(seed))


@functools.lru_cache(maxsize=16)
def _model(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TinyNet()
        model.train()
        with torch.no_grad():
            for _ in range(20):
                model(torch.randn(16, 3, 16, 16))
    return model.eval()


def tiny_backbone(seed: int = 0) -> Backbone:
    """A TinyNet as a backbone."""
    return frostline.load_backbone(tiny_model(seed), preprocessing=PREPROCESSING)


def picture(kind: int, rng: np.random.Generator) -> Image.Image:
    """A noisy 20 × 20 picture whose kind shows in where the bright bar is and which colour it has."""
    pixels = rng.integers(0, 80, size=(20, 20, 3))
    place = 3 + 4 * (kind % 4) + rng.integers(-1, 2)
    bar = np.s_[:, place : place + 3] if kind % 2 else np.s_[place : place + 3, :]
    pixels[bar] += np.array([[150, 30, 30], [30, 150, 30], [30, 30, 150]])[kind % 3]
    return Image.fromarray(pixels.astype(np.uint8))


def write_folder(root: Path, *, classes: int = 3, per_class: int = 20, seed: int = 0) -> Path:
    """Write a folder per class."""
    rng = np.random.default_rng(seed)
    for kind in range(classes):
        (root / f"kind {kind}").mkdir(parents=True)
        for index in range(per_class):
            picture(kind, rng).save(root / f"kind {kind}" / f"{index:03}.png")
    return root


def write_table(
    root: Path, *, classes: int = 3, train: int = 12, val: int = 0, test: int = 8, seed: int = 0
) -> Path:
    """Write pictures and a CSV that names their subsets; `train`, `val` and `test` count images a class."""
    rng = np.random.default_rng(seed)
    rows = ["path,label,split"]
    root.mkdir(parents=True, exist_ok=True)
    for kind in range(classes):
        splits = ["train"] * train + ["val"] * val + ["test"] * test
        for index, split in enumerate(splits):
            name = f"{kind}_{index:03}.png"
            picture(kind, rng).save(root / name)
            rows.append(f"{name},kind {kind},{split}")
    table = root / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    return table
