"""The loop people write: float32, contiguous, decoding and running the frozen part in every epoch.

    python benchmarks/plain.py TABLE.csv head --size 224 --epochs 30 [--augment]

Prints the seconds of training, with imports, model and the list of images ready; two epochs are run and
stand for all. It is a process of its own, without frostline's settings of the memory of the C library, which
would make it faster than people have it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import frostline
from frostline import models as bb
from frostline.data import Manifest
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.system import timing

BATCH = 32


def drawn(sheet: Path) -> Manifest:
    """Load a table in which every image has its subset."""
    return frostline.load_data(sheet, near_copies=False, val_size=0.0, test_size=0.0).checked()


def plain_images(
    backbone: Backbone, data: Manifest, augment: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode and transform every training image anew, in random order, as a Dataset and DataLoader would."""
    from torchvision.transforms import v2 as tv

    torch.manual_seed(seed)
    size, samples = backbone.preprocessing.size, data.subset("train")
    crop = tv.RandomResizedCrop(size, scale=(0.35, 1.0)) if augment else None
    targets = torch.from_numpy(data.targets(samples))
    for chunk in torch.randperm(len(samples)).split(BATCH):
        pixels = []
        for position in chunk.tolist():
            image = data.read(samples[position])
            pixels.append(
                tv.functional.pil_to_tensor(crop(image)) if crop else backbone.preprocessing.crop(image)
            )
        yield backbone.preprocessing.normalise(torch.stack(pixels)), targets[chunk]


def plain_loop(
    backbone: Backbone,
    data: Manifest,
    thawed: int,
    epochs: int,
    *,
    augment: bool,
    measured: int | None = None,
    lr: float = 1e-3,
    bn: str = "affine",
) -> tuple[float, nn.Module]:
    """Train head and `thawed` stages below it in float32; return seconds (some epochs may stand for all).

    `bn` is what thawed BatchNorm does: with "train" it follows the batches, as after a bare `model.train()`.
    """
    model = backbone.adapt(len(data.classes), seed=0)
    cut = backbone.cut(max(0, len(backbone.stages) - 1 - thawed))
    bb.freeze(backbone, model, cut, bn)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    run = measured or epochs
    start = time.perf_counter()
    for epoch in range(run):
        bb.set_training(backbone, model, cut, bn)
        for x, y in plain_images(backbone, data, augment, epoch):
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return (time.perf_counter() - start) * epochs / run, model.eval()


def accuracy(backbone: Backbone, model: nn.Module, data: Manifest) -> float:
    """Test accuracy of a plain model."""
    images = Images(data, data.subset("test"), backbone.preprocessing)
    with torch.no_grad():
        predictions = [
            model(backbone.preprocessing.normalise(pixels)).argmax(1) for pixels in images.evaluation(BATCH)
        ]
    return float((torch.cat(predictions).numpy() == images.targets).mean())


def plain_probe(backbone: Backbone, data: Manifest) -> float:
    """Features in float32, contiguous, then scikit-learn's logistic regression; returns the seconds."""
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    model = backbone.adapt(2)
    run = bb.prefix(backbone, model, backbone.cuts[-1])
    found, targets = [], []
    with torch.no_grad():
        for x, y in plain_images(backbone, data, False, 0):
            found.append(run(x))
            targets.append(y)
    LogisticRegression(max_iter=1000).fit(torch.cat(found).numpy(), torch.cat(targets).numpy())
    return time.perf_counter() - start


def plain_strategy(backbone: Backbone, data: Manifest, name: str, epochs: int, augment: bool) -> float:
    """Seconds of one strategy; some epochs stand for all."""
    stages = len(backbone.stages) - 1
    if name == "linear_probe":
        return plain_probe(backbone, data)
    if name == "gradual_unfreeze":  # half of the epochs for the last phase, as ours
        parts = [plain_loop(backbone, data, k, 1, augment=augment)[0] for k in range(stages)]
        last = plain_loop(backbone, data, stages, 1, augment=augment)[0]
        return sum(parts) * epochs / 2 / stages + last * epochs / 2
    thawed = {"head": 0, "top_k(1)": 1}.get(name, stages)
    start = plain_probe(backbone, data) if name == "lp_ft" else 0.0
    return start + plain_loop(backbone, data, thawed, epochs, augment=augment, measured=2)[0]


def main() -> None:
    """Time one strategy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sheet", type=Path)
    parser.add_argument("strategy")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--augment", action="store_true")
    arguments = parser.parse_args()
    timing.reuse_freed_memory = lambda: None  # type: ignore[assignment]
    data, backbone = drawn(arguments.sheet), frostline.load_backbone("lite0", size=arguments.size)
    print(plain_strategy(backbone, data, arguments.strategy, arguments.epochs, arguments.augment))


if __name__ == "__main__":
    main()
