"""Similarity of images to a backbone's training data, estimated without that data.

BatchNorm layers keep the mean and variance of what they met in pretraining. How far the same statistics of
other images lie from those says how foreign the images are (used to choose models: arXiv 2107.00191; to adapt
without source data: arXiv 2101.10842). Taken here is the squared Hellinger distance between the two Gaussians
of each channel: it is bounded, so no single dead channel decides, and it depends little on the image size
(docs/LOG.md 2026-11-24).

For a network without such layers, how evenly its channels are used and how far they lean to one side:
images like those it was trained on make nearly all of them vary, foreign ones leave many idle. That was
proved on SqueezeNet 1.1 alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from frostline.data.decoding_threads import AUTO
from frostline.diagnostics.activation_statistics import (
    ActivationRecorder,
    Blocks,
    Floats,
    Statistic,
    blocks_of,
)
from frostline.diagnostics.stage_features import stage_features
from frostline.errors import DataError
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.progress import OnProgress, Progress
from frostline.system import devices
from frostline.system.numerics import NumericPlan

FEWEST = 8  # images, below which a block is too small to say anything
# The distance that counts as none, and how much more makes similarity fall to 1/e. Choices that spread six
# measured sets over the scale: distances of 0.025 to 0.09 by batch statistics, of 0.38 to 0.72 by channels.
HOME = {Statistic.BATCH: 0.0, Statistic.USE: 0.3}
SCALE = {Statistic.BATCH: 0.05, Statistic.USE: 0.25}
# Two-sided 95 % of Student's t with one degree of freedom less than there are blocks (scipy.stats.t.ppf).
SURE = 0.975


@dataclass(frozen=True)
class Similarity:
    """Similarity of images to a backbone's training data: 0 is foreign, 1 is the training data.

    Attributes
    ----------
    value, low, high : float
        Estimate and 95 % interval, 0–1; the interval is (0, 1) where all images are one unit.
    by_stage : dict of str to float
    basis : str
        "batch statistics" or "use of channels".
    proven : bool
        Whether the measure was validated for such networks.
    n_images : int
    """

    value: float
    low: float
    high: float
    by_stage: dict[str, float]
    basis: str
    proven: bool
    n_images: int

    def as_dict(self) -> dict[str, Any]:
        """The similarity as plain data."""
        return asdict(self)


@devices.computes(float32=True)
def similarity(
    backbone: Backbone,
    images: Images,
    plan: NumericPlan,
    *,
    units: Sequence[int] | None = None,
    progress: OnProgress | None = None,
) -> Similarity:
    """Return how similar images (view 0 of each) are to a backbone's training data. One forward pass.

    Parameters
    ----------
    backbone : Backbone
    images : Images
    plan : NumericPlan
    units : sequence of int or None, length n
        Images with the same unit (groups, copies) stay in one block of the interval.
    progress : callable or None

    Returns
    -------
    Similarity

    Raises
    ------
    DataError
        There are fewer than 8 images.
    """
    if len(images) < FEWEST:
        raise DataError(
            f"Similarity needs {FEWEST} images or more, found {len(images)}. Add images, or continue without."
        )
    blocks = blocks_of(len(images), units)
    recorder = ActivationRecorder(backbone, plan.place(backbone.model.eval()), int(blocks.max()) + 1)
    stage_features(
        backbone,
        images,
        plan,
        recorder=recorder,
        blocks=blocks,
        workers=AUTO,
        progress=Progress.of(progress),
    )
    return similarity_from(backbone, recorder, blocks)


def similarity_from(backbone: Backbone, recorder: ActivationRecorder, blocks: Blocks) -> Similarity:
    """Return the similarity of images, `blocks` (n,) of them, that an ear has heard."""
    counts = np.bincount(blocks, minlength=int(blocks.max()) + 1)
    home, scale = HOME[recorder.basis], SCALE[recorder.basis]

    def profile(left_out: int | None) -> Floats:
        keep = np.arange(len(counts)) != (-1 if left_out is None else left_out)
        total = counts[keep].sum()
        distances = (
            layer.distance(recorder.sums[layer.name][keep].sum(axis=0) / total) for layer in recorder.layers
        )
        return np.array(list(distances), dtype=np.float64) - home

    profile_of_all = corrected = profile(None)
    value, low, high = min(1.0, math.exp(-profile_of_all.mean() / scale)), 0.0, 1.0
    if len(counts) > 1:
        parts = np.stack([profile(block) for block in range(len(counts))])
        value, low, high = _jackknife(
            math.exp(-profile_of_all.mean() / scale), np.exp(-parts.mean(axis=1) / scale), len(counts)
        )
        corrected = len(counts) * profile_of_all - (len(counts) - 1) * parts.mean(axis=0)
    stages = np.array([layer.stage for layer in recorder.layers])
    by_stage = {
        backbone.stages[stage].name: math.exp(-max(0.0, corrected[stages == stage].mean()) / scale)
        for stage in sorted(set(stages.tolist()))
    }
    suitable = recorder.basis is Statistic.BATCH or _plain_convolutions(backbone.model)
    proven = suitable and not backbone.source.get("random")
    return Similarity(value, low, high, by_stage, recorder.basis.value, proven, len(blocks))


def _jackknife(estimate: float, parts: Floats, blocks: int) -> tuple[float, float, float]:
    """Return value and 95 % interval in [0, 1]: the bias of few images is taken off (Quenouille, Tukey)."""
    from scipy.stats import t

    value = blocks * estimate - (blocks - 1) * parts.mean()
    error = math.sqrt((blocks - 1) / blocks * float(((parts - parts.mean()) ** 2).sum()))
    reach = float(t.ppf(SURE, blocks - 1)) * error
    low, value, high = (float(np.clip(x, 0.0, 1.0)) for x in (value - reach, value, value + reach))
    return value, low, high


def _plain_convolutions(model: nn.Module) -> bool:
    """Return whether use of channels was proved on such a network: convolutions and ReLU, no norm."""
    kinds = {type(module) for module in model.modules() if not list(module.children())}
    return nn.ReLU in kinds and not any("Norm" in kind.__name__ or kind is nn.GELU for kind in kinds)
