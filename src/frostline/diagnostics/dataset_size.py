"""Size of a dataset: images, classes, balance, copies, groups, resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frostline.data import Manifest

OPENED = 64  # images whose resolution is looked at, spread over the set: a second of decoding at most


@dataclass(frozen=True)
class DatasetSize:
    """Size of a dataset.

    Attributes
    ----------
    images, train, val, test, classes : int
    per_class : tuple of int
        (fewest, median, most) images of a class in train.
    imbalance : float
        Images of the largest class over those of the smallest.
    copies : int
        Exact copies of another image.
    near_copies : int
        Pairs.
    groups : int
        Groups of two images or more.
    skipped : int
        Skipped images.
    resolution : tuple of int
        Median width and height in pixels.
    smallest_side : int
        In pixels.
    """

    images: int
    train: int
    val: int
    test: int
    classes: int
    per_class: tuple[int, int, int]
    imbalance: float  # images of the largest class for one of the smallest
    copies: int  # images whose very content occurs before
    near_copies: int  # pairs
    groups: int  # that hold two images or more
    skipped: int
    resolution: tuple[int, int]  # median width and height
    smallest_side: int


def size_of(data: Manifest) -> DatasetSize:
    """Count what a manifest holds. Opens at most 64 images, and none whose size is known."""
    subsets = {name: data.subset(name) for name in ("train", "val", "test")}
    counts = np.bincount(data.targets(subsets["train"]), minlength=len(data.classes))
    unique = len({sample.digest for sample in data.samples})
    groups: dict[str, int] = {}
    for sample in data.samples:
        if sample.group:
            groups[sample.group] = groups.get(sample.group, 0) + 1
    train = subsets["train"]
    spread = [train[i] for i in np.linspace(0, len(train) - 1, min(OPENED, len(train))).astype(int)]
    sides = np.array([data.sizes.get(sample.digest) or data.read(sample).size for sample in spread])
    width, height = (int(side) for side in np.median(sides, axis=0))
    return DatasetSize(
        images=len(data.samples),
        train=len(train),
        val=len(subsets["val"]),
        test=len(subsets["test"]),
        classes=len(data.classes),
        per_class=(int(counts.min()), int(np.median(counts)), int(counts.max())),
        imbalance=float(counts.max() / max(1, counts.min())),
        copies=len(data.samples) - unique,
        near_copies=len(data.near_copies),
        groups=sum(count > 1 for count in groups.values()),
        skipped=len(data.skipped),
        resolution=(width, height),
        smallest_side=int(sides.min()),
    )
