"""Whether the images may be mirrored, or turned by quarters, asked of the images themselves.

Two questions, both answered on held-out images, folds by image:

1. Can a small classifier tell an image from its mirror image, on 8 × 8 grey thumbnails? Where it can
   (digits, spectrograms, hands of one side), mirroring makes pictures that never occur. This question
   decides: it separates such sets from photographs at 60 images already.
2. Does a probe on frozen features, scored on unmirrored images, get worse for having learned from mirror
   images too? It vetoes where the loss is clear. Alone it would not do: a network trained with flips sees
   an image and its mirror almost alike, so the answer is a coin toss on spectrograms.

Both measured on seven sets: docs/LOG.md 2026-11-23. Of quarter turns both are asked in the same way, where
`rotate` is "auto". That is not the default (docs/decisions/0016): it costs as much as the flip test again,
thumbnails tell less surely which way is up, and most image sets have an up.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from frostline import probe
from frostline.config import FOLDS
from frostline.cost.run_time import FLIP_IMAGES
from frostline.data import Manifest, Sample
from frostline.data.decoding_threads import Workers
from frostline.distributed import process_group
from frostline.feature_extraction import Frozen, features
from frostline.feature_extraction.image_batches import MIRRORED, TURNED, Images
from frostline.feature_extraction.numeric_key import version
from frostline.progress import QUIET, Progress
from frostline.system import directories
from frostline.system.seeds import derive

Ints = NDArray[np.int64]

THUMBNAIL_PX = 8
# Share of images told from their mirror images, 48 to 240 images a set, three draws. Photographs and clip
# art: 0.44–0.67; fashion icons, whose shoes all point one way, 0.85–0.93; digits 0.88–0.94; signing hands
# 0.90–0.95; spectrograms 0.99–1.00.
MOST_DISTINGUISHED = 0.75
# Of the same sets, 240 images each, three draws, told from themselves turned by a quarter: photographs and
# emoji 0.77–0.87, omniglot 0.75–0.77, clip art 0.62–0.72, the others 0.98–1.00; all eight with each image
# turned by a random quarter, so without an up, 0.39–0.60 (docs/LOG.md 2026-11-28). A wrong "no" costs
# nothing.
MOST_TURNED = 0.6
L2 = 1e-3  # of the probe in question 2: the middle of its grid
REMEMBERED = "flips"  # folder of answers in the cache
VERSION = 1  # raised when the same images would be answered otherwise
CLEAR_LOSS_SE = 2.0  # a veto needs a loss of two standard errors of the images on which the probes differ


@dataclass(frozen=True)
class FlipTest:
    """The two answers: share told from mirror (or turned) images; accuracy without and with such images.

    None where there are too few images to hold any out.
    """

    distinguished: float | None
    plain: float | None
    with_flips: float | None
    clear_loss: bool
    images: int
    most_distinguished: float = MOST_DISTINGUISHED  # above which the images object

    @property
    def safe(self) -> bool:
        """Whether mirroring (or turning) keeps images what they are, as far as these images can tell."""
        if self.distinguished is None:
            return False
        return self.distinguished <= self.most_distinguished and not self.clear_loss

    def as_dict(self) -> dict[str, Any]:
        """The figures, for the study."""
        return {**asdict(self), "safe": self.safe}


def try_flips(
    head: Frozen,
    manifest: Manifest,
    samples: Sequence[Sample],
    seed: int,
    progress: Progress = QUIET,
    view: int = MIRRORED,
    *,
    fast: bool = False,
    workers: Workers = 0,
) -> FlipTest:
    """Ask both questions of at most `FLIP_IMAGES` training images; `head` answers the features.

    `view` is `MIRRORED`, or `TURNED` for quarter turns: who can't tell one of them can't tell any. `fast`:
    pixels may be, as in training. `workers` threads decode. Answers are remembered by all that decides them.
    """
    chosen = sorted(samples, key=lambda s: derive(seed, "flip", s.digest))[:FLIP_IMAGES]
    images = Images(manifest, chosen, head.preprocessing, fast=fast)
    folds = manifest.folds(chosen, FOLDS, derive(seed, "flip folds"))
    if not folds:  # too few images to hold any out: nothing can be told, so nothing is flipped
        return FlipTest(None, None, None, False, 0)
    key = _remembered_by(head, images, folds, len(manifest.classes), view)
    before = process_group.decided(lambda: directories.recalled(REMEMBERED, key) or {})
    if before:
        return FlipTest(**before)
    if process_group.size() > 1:
        for one in (0, view):  # by all processes of the job; the first one judges
            items = [(position, one) for position in range(len(images))]
            head.fill(images, items, workers=workers, progress=progress)

    def ask() -> dict[str, Any]:
        test = _asked(head, images, folds, len(manifest.classes), view, workers, progress)
        return directories.remember(REMEMBERED, key, asdict(test))

    return FlipTest(**process_group.decided(ask))


def _remembered_by(head: Frozen, images: Images, folds: probe.Folds, classes: int, view: int) -> str:
    """Return the digest of all that decides a test's answers."""
    decisive = {
        "version": VERSION,
        "answers": [field.name for field in fields(FlipTest)],
        "view": view,
        "features": head.about(head.cut),
        "images": [
            [sample.digest, images.pixels_name((place, 0)), images.pixels_name((place, view))]
            for place, sample in enumerate(images.samples)
        ],
        "classes": [classes, images.targets.tolist()],
        "folds": [held.tolist() for _, held in folds],
        "settings": [THUMBNAIL_PX, MOST_DISTINGUISHED, MOST_TURNED, L2, CLEAR_LOSS_SE],
        "libraries": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _asked(
    head: Frozen,
    images: Images,
    folds: probe.Folds,
    classes: int,
    view: int,
    workers: Workers,
    progress: Progress,
) -> FlipTest:
    distinguished = distinguished_from_mirror(_thumbnails(images, workers), folds, view)
    plain = features(head, images, workers=workers, progress=progress)
    mirrored = features(head, images, view=view, workers=workers, progress=progress)
    alone, both = _probed(plain, mirrored, images.targets, classes, folds)
    lost, won = int((alone & ~both).sum()), int((both & ~alone).sum())
    clear = lost - won > CLEAR_LOSS_SE * math.sqrt(lost + won)
    most = MOST_TURNED if view == TURNED else MOST_DISTINGUISHED
    return FlipTest(distinguished, float(alone.mean()), float(both.mean()), clear, len(alone), most)


def _thumbnails(images: Images, workers: Workers = 0) -> NDArray[np.float64]:
    """Return grey thumbnails (n, 8, 8), each of zero mean and length 1."""
    shrunk = [
        F.adaptive_avg_pool2d(pixels.float().mean(dim=1), THUMBNAIL_PX)
        for pixels in images.evaluation(64, workers)
    ]
    small = torch.cat(shrunk).numpy().astype(np.float64)
    centred = small - small.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    return np.asarray(centred / np.maximum(length, 1e-9))


def distinguished_from_mirror(
    thumbnails: NDArray[np.float64], folds: probe.Folds, view: int = MIRRORED
) -> float:
    """Return the share of held-out thumbnails (n, h, w) that look more original than their mirror images.

    Or, with the view `TURNED`, than themselves turned by a quarter.

    Chance is 0.5. The classifier is scikit-learn's SVM with a radial kernel.
    """
    from sklearn.svm import SVC

    flat = thumbnails.reshape(len(thumbnails), -1)
    other = np.rot90(thumbnails, axes=(1, 2)) if view == TURNED else thumbnails[:, :, ::-1]
    mirror = other.reshape(len(thumbnails), -1)
    looks_original = []
    for train, held in folds:
        is_mirror = np.repeat([0, 1], len(train))
        judge = SVC(C=3.0).fit(np.concatenate([flat[train], mirror[train]]), is_mirror)
        looks_original.append(judge.decision_function(flat[held]) < judge.decision_function(mirror[held]))
    return float(np.concatenate(looks_original).mean())


def _probed(
    plain: NDArray[np.float32],
    mirrored: NDArray[np.float32],
    targets: Ints,
    classes: int,
    folds: probe.Folds,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which held-out images a probe gets right, without and with mirror images to learn from."""
    alone, both = [], []
    for train, held in folds:
        one = probe.logistic(plain[train], targets[train], classes, l2=L2)
        seen = np.concatenate([plain[train], mirrored[train]])
        two = probe.logistic(seen, np.tile(targets[train], 2), classes, l2=L2)
        alone.append(one.logits(plain[held]).argmax(1) == targets[held])
        both.append(two.logits(plain[held]).argmax(1) == targets[held])
    return np.concatenate(alone), np.concatenate(both)
