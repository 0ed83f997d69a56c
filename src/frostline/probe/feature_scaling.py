"""Features made ready for solving: centred, of root mean square length 1, along principal directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Directions that hold a smaller share of the variance are rounding, not features.
LEAST_VARIANCE = 1e-10
# A block that varies by less than this share of its own size is not scaled up to vary like the others: that
# would scale float32's rounding up, too, and a model loaded elsewhere would answer otherwise (a network with
# random weights differed by 4e-4 in probability). On four image sets the last four stages of lite0 vary by
# 0.16 of their size and more.
LEAST_SPREAD = 1e-2


@dataclass(frozen=True)
class Solution:
    """A linear head: `weight` (classes, width), `bias` (classes,), and how it was chosen."""

    weight: Floats
    bias: Floats
    l2: float
    temperature: float = 1.0
    cv_score: float | None = None  # goodness of out-of-fold predictions
    cv_images: int | None = None  # of so many held-out images
    cv_loss: float | None = None  # log loss of out-of-fold predictions, scaled by the temperature
    held_out: Ints | None = None  # positions of the held-out images
    held_probabilities: Floats | None = (
        None  # of those, scaled by the temperature, (held-out images, classes)
    )

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Return logits (n, classes)."""
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias)


def block_scales(features: NDArray[np.floating], widths: Sequence[int]) -> NDArray[np.float32]:
    """Return what to multiply each column by so that every block of columns varies alike.

    Parameters
    ----------
    features : ndarray, shape (n, sum of widths)
    widths : sequence of int
        Columns of each block: of each statistic of each stage, say.

    Returns
    -------
    ndarray of float32, shape (sum of widths,)
        One over the block's root mean square distance from its mean, at least `LEAST_SPREAD` of its size;
        1 where all is zero.
    """
    scales, start = [], 0
    for width in widths:
        block = features[:, start : start + width]
        varies = float(np.sqrt(block.var(axis=0, dtype=np.float64).sum()))
        size = float(np.sqrt(np.square(block, dtype=np.float64).sum(axis=1).mean()))
        length = max(varies, LEAST_SPREAD * size)
        scales.append(np.full(width, 1.0 / length if length > 0 else 1.0, dtype=np.float32))
        start += width
    return np.concatenate(scales)


@dataclass(frozen=True)
class Scaled:
    """Features along their principal directions, for every L2 and every fold.

    A penalised linear head lies in the span of the images, and turning the features changes neither its
    logits nor its penalty: so it is found here, exactly, in as many dimensions as vary. All folds share the
    centre (which the bias, free of penalty, takes up) and the length.
    """

    features: NDArray[np.floating]  # (n, r): float32, or float64
    variances: Floats  # (r,): they sum to 1 over all images
    share: Floats  # (n,): the images' weights, summing to 1
    mean: Floats  # (width,)
    length: float
    basis: Floats  # (width, r): orthonormal columns

    @classmethod
    def of(
        cls, features: NDArray[np.floating], weights: Floats | None = None, dtype: type = np.float32
    ) -> Scaled:
        """Centre, scale and turn; an image of weight 2 counts twice in all of them."""
        n, width = features.shape
        share = np.full(n, 1.0 / n) if weights is None else np.asarray(weights / weights.sum())
        mean = share @ features.astype(np.float64)
        centred = (features - mean).astype(np.float64 if n < width else dtype)
        length = float(np.sqrt(share @ np.einsum("ij,ij->i", centred, centred, dtype=np.float64))) or 1.0
        centred /= centred.dtype.type(length)
        basis = _directions(centred * np.sqrt(share).astype(centred.dtype)[:, None])
        turned = (centred @ basis.astype(centred.dtype)).astype(dtype)
        variances = share @ np.square(turned, dtype=np.float64)
        return cls(turned, variances, share, mean, length, basis)

    def some(self, rows: Ints) -> Scaled:
        """Return some of the images, seen alike."""
        share = self.share[rows]
        return replace(self, features=self.features[rows], share=share / share.sum())

    def unfold(self, weight: Floats, bias: Floats, l2: float) -> Solution:
        """Write scaling and turning into the head, so that it works on raw features."""
        raw = (weight @ self.basis.T) / self.length
        return Solution(raw, bias - raw @ self.mean, l2)


def _directions(rows: NDArray[np.floating]) -> Floats:
    """Return the directions in which rows (n, width) vary, (width, r), the least first."""
    from scipy.linalg import eigh

    n, width = rows.shape
    if n >= width:
        values, vectors = eigh((rows.T @ rows).astype(np.float64))
        return np.asarray(vectors[:, values > LEAST_VARIANCE])
    values, vectors = eigh((rows @ rows.T).astype(np.float64))
    varying = values > LEAST_VARIANCE
    return np.asarray(rows.T @ (vectors[:, varying] / np.sqrt(values[varying])))
