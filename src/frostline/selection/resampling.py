"""Repeats and folds: each cell is a new train/val split of the train and val images.

No cell holds a test image, so a comparison cannot read the test set. Images of one group and copies of one
image stay on one side. If the source names its own val set, every cell keeps it, and only order,
initialisation and augmentation differ. Images that the network has learned from before are never held out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from frostline.config import FOLDS
from frostline.data import Manifest, Sample, numbered
from frostline.errors import DataError
from frostline.system.seeds import derive

# With fewer images than this, every image is held out once per repeat; with more, one fold of the five is. A
# single fifth would be under 400 images, on which accuracy has a standard error of 2 points. A rule of thumb.
FEW_IMAGES = 2000


@dataclass(frozen=True, order=True)
class Cell:
    """One split: a fold of a repeat."""

    repeat: int
    fold: int


class NothingHeldOut(DataError):
    """Raised if no image can be held out, because each would leave its class without a training image."""


def pool(data: Manifest) -> tuple[Sample, ...]:
    """Return the samples of the train and val sets, in order; positions in the pool refer to them."""
    return tuple(sample for sample in data.samples if sample.split != "test")


def folds_of(data: Manifest, seed: int) -> int:
    """Return how many folds a repeat has.

    Parameters
    ----------
    data
        The images.
    seed
        Seed of the split.

    Returns
    -------
    int
        `FOLDS` (fewer for small classes) with fewer than `FEW_IMAGES` images and no val set of the source's
        own, else 1.

    Raises
    ------
    NothingHeldOut
        If no image can be held out.
    """
    has_val = "val" in data.predefined
    folds = 1 if has_val and len(_given_val(data)) else 0 if has_val else len(_splits(data, 0, seed))
    if not folds:
        raise NothingHeldOut(_nothing_held(data))
    return folds if not has_val and len(pool(data)) < FEW_IMAGES else 1


def _nothing_held(data: Manifest) -> str:
    """Return the message that says why nothing can be held out, and what to do."""
    images = pool(data)
    learned = sum(sample.digest in data.learned for sample in images)
    if not learned:
        return (
            "Nothing can be held out to compare on: no class has two independent images. Add images, or "
            "train one strategy without comparing."
        )
    return (
        f"Nothing can be held out to compare on: the model has already learned from {learned} of "
        f"{len(images)} images, and none of the others can be held out without them. Add images that are new "
        "to it, or start from a model that has not learned from these."
    )


def seed_of(seed: int, cell: Cell) -> int:
    """Return the seed of a cell's runs; the folds of one repeat share it, and so share augmented views."""
    return derive(seed, "repeat", cell.repeat)


def remembered(data: Manifest, seed: int, repeats: int) -> dict[int, dict[str, int]]:
    """Return the folds of the repeats as a study stores them: seed → image digest → fold."""
    if "val" in data.predefined:
        return {}
    digests = [sample.digest for sample in pool(data)]
    return {
        derive(seed, "repeat", repeat): numbered(_splits(data, repeat, seed), digests)
        for repeat in range(repeats)
    }


def parted(data: Manifest, cell: Cell, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell's (training, held-out) positions in the pool."""
    if "val" in data.predefined:
        held = _given_val(data)
        return np.setdiff1d(np.arange(len(pool(data))), held), held
    return _splits(data, cell.repeat, seed)[cell.fold]


def split(data: Manifest, cell: Cell, seed: int) -> Manifest:
    """Return the cell's manifest, with a train and a val set and no test image."""
    images = pool(data)
    held = {images[i].path for i in parted(data, cell, seed)[1].tolist()}
    samples = tuple(replace(s, split="val" if s.path in held else "train") for s in images)
    learned = ("train",) if "val" in data.predefined else ("train", "val")
    return replace(data, samples=samples, data_findings=(), learned_subsets=learned)


def _given_val(data: Manifest) -> np.ndarray:
    """Return the pool positions of the source's own val set, without images the network has learned from."""
    images = pool(data)
    named = np.array([sample.split == "val" for sample in images], dtype=bool)
    return np.flatnonzero(named & ~data.has_learned(images))


def _splits(data: Manifest, repeat: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (training, held-out) positions in the pool, one pair per fold."""
    samples = pool(data)
    targets, units = data.targets(samples), data.units(samples)
    contested = {path for conflict in data.conflicts for path in conflict.paths}
    single = {
        label for label, n in Counter(t for t, _ in set(zip(targets, units, strict=True))).items() if n < 2
    }
    stays = np.array([s.path in contested for s in samples]) | np.isin(targets, list(single))
    movable_positions = np.flatnonzero(~np.isin(units, units[stays]) & ~data.has_learned(samples))
    if not len(movable_positions):
        return []
    movable = [samples[i] for i in movable_positions.tolist()]
    splits = data.folds(movable, FOLDS, derive(seed, "repeat", repeat))
    everything = np.arange(len(samples))
    return [
        (np.setdiff1d(everything, movable_positions[hold]), movable_positions[hold]) for _, hold in splits
    ]
