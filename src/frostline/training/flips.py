"""Whether the images may be flipped, asked of the images themselves.

Two probes on frozen features, folds by image, both scored on unflipped images: one learns from the
training images, one from them and their mirror images. A flip that keeps the label costs the second
nothing; one that changes it (digits, spectrograms) teaches it wrong examples. And the mirror images must
be recognised by the first probe about as well as the images: what a mirror makes unrecognisable is
another thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frostline import probe
from frostline.backbone import Backbone
from frostline.dataset import Manifest, Sample
from frostline.images import Images
from frostline.inference import features
from frostline.numerics import NumericPlan
from frostline.seeds import derive

MOST_IMAGES = 600  # a probe's accuracy on 600 images is known to ±2 points at worst (binomial)
L2 = 1e-3  # the middle of the probe's grid
# Limits measured on seven sets, docs/LOG.md 2026-11-23.
MOST_LOST = 0.005  # accuracy that learning from mirror images too may cost
LEAST_KEPT = 0.85  # share of the accuracy that mirror images must keep


@dataclass(frozen=True)
class FlipTest:
    """Accuracy of the plain probe, of the one that also saw mirror images, and on mirror images."""

    plain: float
    with_flips: float
    on_flipped: float
    images: int

    @property
    def safe(self) -> bool:
        """Whether flipping keeps the labels, as far as these images can tell."""
        return self.with_flips >= self.plain - MOST_LOST and self.on_flipped >= LEAST_KEPT * self.plain

    def as_dict(self) -> dict[str, Any]:
        """The figures, for the study."""
        return {
            "plain": self.plain,
            "with_flips": self.with_flips,
            "on_flipped": self.on_flipped,
            "images": self.images,
            "safe": self.safe,
        }


def try_flips(
    backbone: Backbone, manifest: Manifest, samples: Sequence[Sample], plan: NumericPlan, seed: int
) -> FlipTest:
    """Test horizontal flips on at most `MOST_IMAGES` training images."""
    chosen = sorted(samples, key=lambda s: derive(seed, "flip", s.digest))[:MOST_IMAGES]
    images = Images(manifest, chosen, backbone.preprocessing)
    plain = features(backbone, images, plan)
    mirrored = features(backbone, images, plan, change=lambda pixels: torch.flip(pixels, dims=(-1,)))
    folds = manifest.folds(chosen, 5, derive(seed, "flip folds"))
    return _compare(plain, mirrored, images.targets, len(manifest.classes), folds)


def _compare(
    plain: NDArray[np.float32],
    mirrored: NDArray[np.float32],
    targets: NDArray[np.int64],
    classes: int,
    folds: probe.Folds,
) -> FlipTest:
    right = np.zeros((3, len(targets)), dtype=bool)
    held_any = np.zeros(len(targets), dtype=bool)
    for train, held in folds:
        alone = probe.logistic(plain[train], targets[train], classes, l2=L2)
        both = probe.logistic(
            np.concatenate([plain[train], mirrored[train]]), np.tile(targets[train], 2), classes, l2=L2
        )
        right[0, held] = alone.logits(plain[held]).argmax(1) == targets[held]
        right[1, held] = both.logits(plain[held]).argmax(1) == targets[held]
        right[2, held] = alone.logits(mirrored[held]).argmax(1) == targets[held]
        held_any[held] = True
    if not held_any.any():  # too few images for any fold: nothing can be told, so nothing is flipped
        return FlipTest(1.0, 0.0, 0.0, 0)
    plain_score, with_score, mirror_score = right[:, held_any].mean(axis=1)
    return FlipTest(float(plain_score), float(with_score), float(mirror_score), int(held_any.sum()))
