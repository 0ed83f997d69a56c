"""How far probabilities can be believed: a temperature, log loss and Brier score, the calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.metrics.intervals import mean_interval
from frostline.metrics.scores import Floats, Ints, log_losses

BINS = 10  # of stated probability; equal widths, as reliability diagrams are usually drawn
CHANCE_DRAWS = 200  # of answers, for a quantile of 95 %: its own error is a tenth of the spread
BELIEVED = (
    "log_loss",
    "log_loss_low",
    "log_loss_high",
    "brier",
    "brier_low",
    "brier_high",
    "ece",
    "ece_bins",
)


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return probabilities (n, classes) in float64 from logits (n, classes), divided by a temperature."""
    from scipy.special import softmax as sp_softmax

    return np.asarray(sp_softmax(logits.astype(np.float64) / temperature, axis=1))


def fit_temperature(logits: NDArray[Any], targets: Ints) -> float:
    """Return the temperature that minimises log loss (Guo et al., arXiv 1706.04599), within 0.05–20.

    A prior of one e-fold around 1 counts as much as one image: on a few images that are all correct, the bare
    minimum would be certainty.

    Parameters
    ----------
    logits : ndarray, shape (n, classes)
    targets : ndarray of int64, shape (n,)

    Returns
    -------
    float
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    wide, images = logits.astype(np.float64), np.arange(len(targets))

    def loss(log_t: float) -> float:
        log_likelihoods = log_softmax(wide / np.exp(log_t), axis=1)[images, targets]
        return float(0.5 * log_t**2 / len(targets) - log_likelihoods.mean())

    optimum = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(optimum.x))


def believed(
    targets: Ints,
    probabilities: Floats,
    units: Sequence[int] | Ints | None = None,
    *,
    images: Ints | None = None,
    spread: float = 1.0,
) -> dict[str, Any]:
    """Return log loss and Brier score with 95 % intervals, and the calibration error.

    Parameters
    ----------
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    units : sequence of int or None, length n
    images : ndarray of int64 or None, shape (n,)
        Rows with the same number are of the same image; their losses are averaged first.
    spread : float
        As in `mean_interval`.

    Returns
    -------
    dict
        `log_loss` (nats) and `brier` (0–2, Brier 1950), each with `_low` and `_high`; `ece` (0–1), the
        expected calibration error of the top probability over `ece_bins` bins of equal width.
    """
    n = len(targets)
    true = np.eye(probabilities.shape[1])[targets]
    losses = {
        "log_loss": log_losses(targets, probabilities),
        "brier": ((probabilities - true) ** 2).sum(axis=1),
    }
    _, place = np.unique(np.arange(n) if images is None else images, return_inverse=True)
    unit = np.zeros(int(place.max()) + 1, dtype=np.int64)
    unit[place] = np.arange(n) if units is None else np.asarray(units)
    result: dict[str, Any] = {}
    limits = {"log_loss": None, "brier": (0.0, 2.0)}
    for name, values in losses.items():
        image_losses = np.bincount(place, weights=values) / np.bincount(place)
        low, high = mean_interval(image_losses, unit, spread, limits[name])
        low = None if low is None else max(0.0, low)
        result |= {name: float(image_losses.mean()), f"{name}_low": low, f"{name}_high": high}
    share = 1.0 / np.bincount(place)[place]
    return {**result, "ece": calibration_error(targets, probabilities, share), "ece_bins": BINS}


def calibration_error(targets: Ints, probabilities: Floats, share: Floats | None = None) -> float:
    """Return the mean gap between the top probability and the accuracy, weighted by images, 0–1.

    Parameters
    ----------
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    share : ndarray or None, shape (n,)
        Weight of each row, where several are of one image.
    """
    weight = np.ones(len(targets)) if share is None else share
    top = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    place = np.minimum((top * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, weights=weight * (top - correct))).sum() / weight.sum())


def chance_calibration_error(confidences: Floats, share: Floats, images: Ints) -> float:
    """Return the calibration error that a perfectly calibrated model exceeds by chance one time in twenty.

    Parameters
    ----------
    confidences : ndarray, shape (n,)
        Top probabilities. Answers are drawn to be right a little less often than these say, as after one
        answer more of either kind: the surest one of six images proves nothing.
    share : ndarray, shape (n,)
        Weight of each row.
    images : ndarray of int64, shape (n,)
        Which rows are of one image, and right or wrong together.
    """
    rng, errors = np.random.default_rng(0), []
    _, image = np.unique(images, return_inverse=True)
    count = int(image.max()) + 1
    right = (count * confidences + 1.0) / (count + 2.0)
    in_bin = np.eye(BINS)[np.minimum((confidences * BINS).astype(np.int64), BINS - 1)]
    for _ in range(CHANCE_DRAWS):
        correct = rng.random(count)[image] < right
        errors.append(np.abs((share * (confidences - correct)) @ in_bin).sum() / share.sum())
    return float(np.quantile(errors, 0.95))
