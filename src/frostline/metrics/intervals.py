"""95 % intervals of shares and means, of images that may come in units such as a patient's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from frostline.metrics.scores import Floats, Ints

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def interval(targets: Ints, guesses: Ints, units: Sequence[int] | Ints | None = None) -> tuple[float, float]:
    """Return a 95 % interval of the accuracy.

    Wilson's interval where every image is its own unit. Otherwise the variance between units gives an
    effective number of images, never more than there are; with few units a t quantile widens it.

    Parameters
    ----------
    targets, guesses : ndarray of int64, shape (n,)
    units : sequence of int or None, length n
        Images of the same unit (one patient, copies) are not independent.

    Returns
    -------
    low, high : float
        (0, 1) for a single unit.
    """
    return rate_interval((guesses == targets).astype(np.float64), units)


def rate_interval(
    correct: Floats,
    units: Sequence[int] | Ints | None = None,
    spread: float = 1.0,
    weights: Floats | None = None,
) -> tuple[float, float]:
    """Return a 95 % interval of a mean of fractions, as `interval` does.

    Parameters
    ----------
    correct : ndarray, shape (n,)
        A fraction 0–1 for each image.
    units : sequence of int or None, length n
    spread : float
        How many times the variance over images the mean has.
    weights : ndarray, shape (n,), or None
        How much each image counts in the mean; None: all alike.

    Returns
    -------
    low, high : float
    """
    from scipy.stats import t

    n, rate = len(correct), float(np.average(correct, weights=weights))
    count = n if units is None else len(np.unique(np.asarray(units)))
    if count == 1 < n:
        return 0.0, 1.0
    inflation = design_effect(correct, units, weights)
    return wilson(rate, n / inflation / spread, float(t.ppf(0.975, count - 1)) if inflation > 1 else Z95)


def design_effect(
    correct: Floats, units: Sequence[int] | Ints | None = None, weights: Floats | None = None
) -> float:
    """Return how many times the variance of a mean is that of as many independent images (Kish 1965).

    Parameters
    ----------
    correct : ndarray, shape (n,)
        A fraction 0–1 for each image.
    units : sequence of int or None, length n
    weights : ndarray, shape (n,), or None
        As `rate_interval` takes it.

    Returns
    -------
    float
        1 where every image is its own unit, and never less; n where all are one unit.
    """
    n, rate = len(correct), float(np.average(correct, weights=weights))
    _, index = np.unique(np.arange(n) if units is None else np.asarray(units), return_inverse=True)
    count = int(index.max()) + 1
    alike = weights is None or np.ptp(weights) == 0
    if count == 1 or (count == n and alike):
        return n / count
    weights = np.ones(n) if weights is None else weights * (n / weights.sum())
    residuals = np.bincount(index, weights=weights * (correct - rate))
    clustered = float((residuals**2).sum()) * count / (count - 1) / n**2
    simple = rate * (1.0 - rate) / n
    # Images a unit, as a unit's images meet them.
    by_size = float((np.bincount(index, weights=weights) ** 2).sum()) / n
    return max(1.0, clustered / simple) if simple > 0 else by_size


def mean_interval(
    values: Floats,
    units: Sequence[int] | Ints | None = None,
    spread: float = 1.0,
    limits: tuple[float, float] | None = None,
) -> tuple[float | None, float | None]:
    """Return a 95 % interval of a mean of any numbers, by Student's t.

    The variance is that between units, and no smaller than without units. Where all numbers are the same, as
    many others may be different as a share may have that was seen in none of the units (Clopper and Pearson
    1934), and these be as low or high as `limits`.

    Parameters
    ----------
    values : ndarray, shape (n,)
    units : sequence of int or None, length n
    spread : float
        How many times the variance over images the mean has.
    limits : (float, float) or None
        The lowest and the highest number possible.

    Returns
    -------
    low, high : float or None
        None for a single unit, and where all numbers are the same and have no limits.
    """
    from scipy.stats import t

    n, middle = len(values), float(values.mean())
    _, index = np.unique(np.arange(n) if units is None else np.asarray(units), return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return None, None
    if np.ptp(values) == 0:
        if limits is None:
            return None, None
        unseen = 1.0 - 0.025 ** (spread / count)
        return middle - unseen * (middle - limits[0]), middle + unseen * (limits[1] - middle)
    away = values - middle
    simple = float((away**2).sum()) / (n - 1) / n
    clustered = float((np.bincount(index, weights=away) ** 2).sum()) * count / (count - 1) / n**2
    half = float(t.ppf(0.975, count - 1)) * math.sqrt(spread * max(simple, clustered))
    low, high = middle - half, middle + half
    return (low, high) if limits is None else (max(low, limits[0]), min(high, limits[1]))


def wilson(rate: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a rate on `n` images, which may be fractional."""
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At a rate of 0 or 1 an end is the rate itself, but for rounding.
    return max(0.0, min(rate, float(middle - half))), min(1.0, max(rate, float(middle + half)))
