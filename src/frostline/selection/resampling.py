"""Repeats and folds: each cell is a new train/val split of the images that may be learned from.

The test part is in none of them, so nothing that a comparison does can read it. Images that hang together
(groups, copies) stay on one side. Where the source names its own val part every cell keeps it, and only
order, initialisation and augmentation are new. What the network has learned from before only trains, in all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from frostline.data import Manifest, Sample, numbered
from frostline.errors import DataError
from frostline.system.seeds import derive

FOLDS = 5  # of a repeat on few images; a fifth is held out either way
# Below this every image is held out once a repeat: a single fifth would be under 400 images, where accuracy
# has a standard error of 2 points. A rule of thumb.
FEW_IMAGES = 2000


@dataclass(frozen=True, order=True)
class Cell:
    """One split: a fold of a repeat."""

    repeat: int
    fold: int


class NothingHeldOut(DataError):
    """No image can be held out: none would leave its class another one to learn from."""


def pool(data: Manifest) -> tuple[Sample, ...]:
    """Return the images that may be learned from: train and val."""
    return tuple(sample for sample in data.samples if sample.split != "test")


def folds_of(data: Manifest, seed: int) -> int:
    """Return how many folds a repeat has: all of them where images are few, else the first alone.

    Raises `NothingHeldOut` where nothing can be.
    """
    given = "val" in data.given
    made = 1 if given and len(_given_val(data)) else 0 if given else len(_pairs(data, 0, seed))
    if not made:
        raise NothingHeldOut(_nothing_held(data))
    return made if not given and len(pool(data)) < FEW_IMAGES else 1


def _nothing_held(data: Manifest) -> str:
    """Say why nothing can be held out, and what to do."""
    images = pool(data)
    learned = sum(sample.digest in data.learned for sample in images)
    if not learned:
        return (
            "Nothing can be held out to compare on: no class has two images that are independent of each "
            "other. Add images, or train one strategy without comparing."
        )
    return (
        f"Nothing can be held out to compare on: the model had already learned from {learned} of "
        f"{len(images)} images, and none of the others can be held out without them. Add images that it has "
        "not seen, or begin with a model that has not learned from these."
    )


def spread_of_folds(folds: int) -> float:
    """Return how many times the variance over images a cross-validated accuracy has, as one of a new model.

    Models of other folds learned from almost the same images, so their mistakes hang together, and what is
    estimated is a model that learns from all: 1 + folds × held out / learned from (Nadeau and Bengio 2003).
    """
    held = 1 / folds if folds > 1 else 1 / FOLDS
    return 1 + folds * held / (1 - held)


def seed_of(seed: int, cell: Cell) -> int:
    """Return the seed of a cell's runs; the folds of one repeat share it, and so their augmented views."""
    return derive(seed, "repeat", cell.repeat)


def remembered(data: Manifest, seed: int, repeats: int) -> dict[int, dict[str, int]]:
    """Return the folds of these repeats, as a study remembers them: seed → digest → fold."""
    if "val" in data.given:
        return {}
    digests = [sample.digest for sample in pool(data)]
    return {
        derive(seed, "repeat", repeat): numbered(_pairs(data, repeat, seed), digests)
        for repeat in range(repeats)
    }


def parted(data: Manifest, cell: Cell, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell's (learn, hold) positions into the pool."""
    if "val" in data.given:
        held = _given_val(data)
        return np.setdiff1d(np.arange(len(pool(data))), held), held
    return _pairs(data, cell.repeat, seed)[cell.fold]


def split(data: Manifest, cell: Cell, seed: int) -> Manifest:
    """Return the cell's manifest: train, and val to judge by; no test image."""
    images = pool(data)
    held = {images[i].path for i in parted(data, cell, seed)[1].tolist()}
    samples = tuple(replace(s, split="val" if s.path in held else "train") for s in images)
    return replace(data, samples=samples, said=())


def _given_val(data: Manifest) -> np.ndarray:
    """Return the positions into the pool of the val part that the source names, without what was learned."""
    images = pool(data)
    named = np.array([sample.split == "val" for sample in images], dtype=bool)
    return np.flatnonzero(named & ~data.has_learned(images))


def _pairs(data: Manifest, repeat: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (learn, hold) positions into the pool; what only trains is in none of the held ones."""
    samples = pool(data)
    targets, units = data.targets(samples), data.units(samples)
    contested = {path for conflict in data.conflicts for path in conflict.paths}
    single = {
        label for label, n in Counter(t for t, _ in set(zip(targets, units, strict=True))).items() if n < 2
    }
    stays = np.array([s.path in contested for s in samples]) | np.isin(targets, list(single))
    moving = np.flatnonzero(~np.isin(units, units[stays]) & ~data.has_learned(samples))
    if not len(moving):
        return []
    some = [samples[i] for i in moving.tolist()]
    pairs = data.folds(some, FOLDS, derive(seed, "repeat", repeat))
    everything = np.arange(len(samples))
    return [(np.setdiff1d(everything, moving[hold]), moving[hold]) for _, hold in pairs]
