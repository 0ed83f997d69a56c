"""Metrics of predictions, with confidence intervals. Imports no torch.

The figures are scikit-learn's. Probabilities have shape (images, classes) and rows that sum to 1;
targets are class indices of shape (images,). Everything returned is a fraction 0–1 (log loss: nats).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import UsageError, did_you_mean

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss")
RANKINGS = ("auroc", "average_precision")  # means over classes of one-against-rest areas
# What a comparison can decide by and `evaluate` show, beside `SENSITIVITY`.
NAMES = (*METRICS, "average_precision", "quadratic_kappa")
SENSITIVITY = "sensitivity@specificity="  # with a number, such as 0.95
# Means over the classes: unknown where a class has no images.
OVER_CLASSES = ("balanced_accuracy", "macro_f1", "auroc")
LEAST_PROBABILITY = (
    1e-15  # below it a probability counts as this much in a log; long scikit-learn's own bound
)
BINS = 10  # of stated probability; equal widths, as reliability diagrams are usually drawn
CHANCE_DRAWS = 200  # of answers, for a quantile of 95 %: its own error is a tenth of the spread
Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Sensitivity:
    """The highest sensitivity at a specificity: of one class, else the mean over the classes present.

    Attributes
    ----------
    specificity : float
        Share of the other images that must not be taken for the class, 0–1.
    positive : int or None
        Index of the class.
    """

    specificity: float
    positive: int | None = None

    @property
    def __name__(self) -> str:
        """The metric's name."""
        return f"{SENSITIVITY}{self.specificity:g}"

    def __call__(self, targets: Ints, probabilities: Floats) -> float:
        """Return the highest sensitivity with at least the specificity, 0–1; NaN where undefined."""
        from sklearn.metrics import roc_curve

        def at(own: NDArray[np.bool_], scores: Floats) -> float:
            false, true, _ = roc_curve(own, scores, drop_intermediate=False)
            return float(true[false <= 1.0 - self.specificity + ROUNDING].max())

        if self.positive is None:
            return _one_against_rest(at, targets, probabilities)
        own = targets == self.positive
        return at(own, probabilities[:, self.positive]) if 0 < own.sum() < len(own) else math.nan


ROUNDING = 1e-12  # of 1 - specificity in double precision


@dataclass(frozen=True)
class QuadraticKappa:
    """Cohen's kappa with quadratic weights, −1 to 1: how ordered classes agree beyond chance.

    Attributes
    ----------
    order : tuple of int
        Indices of the classes in their order.
    """

    order: tuple[int, ...]

    @property
    def __name__(self) -> str:
        """The metric's name."""
        return "quadratic_kappa"

    def __call__(self, targets: Ints, probabilities: Floats) -> float:
        """Return the agreement of labels and the likeliest classes; NaN where all are of one class."""
        from sklearn.metrics import cohen_kappa_score

        guesses = probabilities.argmax(axis=1)
        if len(np.unique(np.concatenate([targets, guesses]))) < 2:
            return math.nan
        return float(cohen_kappa_score(targets, guesses, labels=list(self.order), weights="quadratic"))


Metric = str | Callable[[Ints, Floats], float]


def resolved(metric: Metric, classes: Sequence[str], positive: str | None = None) -> Metric:
    """Return what `score` takes for a metric that depends on what the classes are; others as they are.

    Parameters
    ----------
    metric : str or callable
    classes : sequence of str
        In the order of the probabilities.
    positive : str or None
        The class that a sensitivity is of; None: the mean over classes.

    Raises
    ------
    UsageError
        `metric` is unknown, or a callable without a name of its own, or needs an order that classes lack.
    """
    if not isinstance(metric, str):
        return checked_callable(metric)
    if checked_name(metric) == "quadratic_kappa":
        return QuadraticKappa(tuple(class_order(classes)))
    if metric.startswith(SENSITIVITY):
        place = None if positive is None else list(classes).index(positive)
        return Sensitivity(float(metric.removeprefix(SENSITIVITY)), place)
    return metric


def class_order(classes: Sequence[str]) -> list[int]:
    """Return indices of classes in the order of the one number in each name: grade 2 before grade 10.

    Two classes have an order in either case. Raises `UsageError` where names don't hold a number each.
    """
    numbers = [re.findall(r"-?\d+(?:\.\d+)?", name) for name in classes]
    values = [float(digits[0]) for digits in numbers if len(digits) == 1]
    if len(set(values)) == len(classes):
        return [int(place) for place in np.argsort(values)]
    if len(classes) < 3:
        return list(range(len(classes)))
    named = ", ".join(map(repr, classes[:4]))
    raise UsageError(
        "quadratic_kappa is for ordered classes, and reads their order from one number in each name. Found "
        f"{named}{', …' if len(classes) > 4 else ''}. Rename them, such as '1 {classes[0]}', or "
        "take another metric."
    )


def checked_name(metric: str) -> str:
    """Return the name of a metric in its plain form. Raises `UsageError` where it is unknown."""
    if metric in NAMES:
        return metric
    if metric.startswith(SENSITIVITY):
        try:
            specificity = float(metric.removeprefix(SENSITIVITY))
        except ValueError:
            specificity = math.nan
        if 0 < specificity < 1:
            return f"{SENSITIVITY}{specificity:g}"
        raise UsageError(
            f"{metric!r} names no specificity. Expected a number above 0 and below 1, such as "
            f"{SENSITIVITY}0.95."
        )
    known = (*NAMES, f"{SENSITIVITY}0.95")
    raise UsageError(
        f"Unknown metric {metric!r}.{did_you_mean(metric, known)} Expected one of {', '.join(known)}."
    )


def checked_callable(metric: Any) -> Callable[[Ints, Floats], float]:
    """Return a metric of the caller's. Raises `UsageError` where it has no name of its own."""
    name = getattr(metric, "__name__", None)
    if not callable(metric) or not isinstance(name, str) or not name.isidentifier():
        raise UsageError(
            f"metric is {metric!r}. Expected a name, or a function (targets, probabilities) -> float with a "
            "name, by which results call it: def my_metric(targets, probabilities): …"
        )
    if name in (*NAMES, "goodness"):
        raise UsageError(f"The function {name} is called like a metric of frostline: give it another name.")
    return metric  # type: ignore[no-any-return]


def name_of(metric: Metric) -> str:
    """Return what results call a metric."""
    return metric if isinstance(metric, str) else str(metric.__name__)


def is_share(metric: Metric) -> bool:
    """Return whether a metric is a fraction 0–1, higher being better, like a share of images."""
    return isinstance(metric, Sensitivity) or (isinstance(metric, str) and metric != "log_loss")


def score(metric: Metric, targets: Ints, probabilities: Floats) -> float:
    """Return one metric; a lower log loss is better.

    Parameters
    ----------
    metric : str or callable
        One of `NAMES` (resolved, where it needs the classes' names), or a function of targets and
        probabilities.
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)

    Returns
    -------
    float
        A fraction 0–1 (log loss: nats; kappa: −1 to 1); NaN where undefined.

    Raises
    ------
    UsageError
        `metric` is unknown, or a callable that returns no number.
    """
    from sklearn import metrics as sk

    if not isinstance(metric, str):
        value = metric(targets, probabilities)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UsageError(
                f"The metric {name_of(metric)} returned {type(value).__name__} {str(value)[:40]!r}; expected "
                "a number, higher being better."
            ) from None
    labels = np.arange(probabilities.shape[1])
    guesses = probabilities.argmax(axis=1)
    match metric:
        case "accuracy":
            return float((guesses == targets).mean())
        case "balanced_accuracy":
            return float(np.mean([(guesses[targets == c] == c).mean() for c in np.unique(targets)]))
        case "macro_f1":
            return float(sk.f1_score(targets, guesses, labels=np.unique(targets), average="macro"))
        case "auroc":
            return _one_against_rest(sk.roc_auc_score, targets, probabilities)
        case "average_precision":
            return _one_against_rest(sk.average_precision_score, targets, probabilities)
        case "log_loss":
            return float(sk.log_loss(targets, _rows(probabilities), labels=labels))
    return score(resolved(metric, [f"{place:06}" for place in labels]), targets, probabilities)


def goodness(metric: Metric, targets: Ints, probabilities: Floats) -> float:
    """Return `score` with the sign of log loss reversed, so that higher is better."""
    value = score(metric, targets, probabilities)
    return -value if metric == "log_loss" else value


def log_losses(targets: Ints, probabilities: Floats) -> Floats:
    """Return each image's log loss in nats, (n,); their mean is the metric."""
    return np.asarray(-np.log(_rows(probabilities)[np.arange(len(targets)), targets]))


def _rows(probabilities: Floats) -> Floats:
    """Rows that sum to 1 in double precision, none of them 0: what a log needs."""
    clipped = np.clip(probabilities.astype(np.float64), LEAST_PROBABILITY, 1.0)
    return np.asarray(clipped / clipped.sum(axis=1, keepdims=True))


def _one_against_rest(
    area: Callable[[NDArray[np.bool_], Floats], float], targets: Ints, probabilities: Floats
) -> float:
    """Mean over the classes present of the area under one-against-the-rest curves."""
    areas = [
        area(targets == c, probabilities[:, c])
        for c in np.unique(targets)
        if 0 < (targets == c).sum() < len(targets)
    ]
    return float(np.mean(areas)) if areas else float("nan")


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


def summary(
    classes: Sequence[str], targets: Ints, probabilities: Floats, train_counts: Sequence[int] | Ints
) -> dict[str, Any]:
    """Return every metric, each class's precision and recall, and `balance`.

    Parameters
    ----------
    classes : sequence of str
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    train_counts : sequence of int, shape (classes,)
        Training images of each class.

    Returns
    -------
    dict
        Unknown values are None: a mean over classes where one has no images, a rate of no images.
    """
    from sklearn.metrics import precision_recall_fscore_support

    guesses = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, _, support = precision_recall_fscore_support(
        targets, guesses, labels=labels, zero_division=0.0
    )
    predicted_counts = np.bincount(guesses, minlength=len(classes))
    per_class = {
        name: {
            "precision": float(precision[c]) if predicted_counts[c] else None,
            "recall": float(recall[c]) if support[c] else None,
            "images": int(support[c]),
        }
        for c, name in enumerate(classes)
    }
    figures: dict[str, Any] = {name: score(name, targets, probabilities) for name in METRICS}
    imbalance = balance(classes, targets, guesses, train_counts)
    if imbalance["absent_classes"]:
        figures |= dict.fromkeys(OVER_CLASSES)
    return {**figures, **imbalance, "per_class": per_class}


def balance(
    classes: Sequence[str],
    targets: Ints,
    guesses: Ints,
    train_counts: Sequence[int] | Ints,
    images: Ints | None = None,
) -> dict[str, Any]:
    """Return what accuracy hides where classes are imbalanced.

    Parameters
    ----------
    classes : sequence of str
    targets, guesses : ndarray of int64, shape (n,)
    train_counts : sequence of int, shape (classes,)
        Training images of each class.
    images : ndarray of int64 or None, shape (n,)
        Rows with the same number are of the same image, which counts once, by the mean of its predictions.

    Returns
    -------
    dict
        `balanced_accuracy` (None where a class has no images); `majority_class` and `majority_share`, the
        accuracy of always predicting it; `worst_class` with its `label`, `n` images and `accuracy`;
        `absent_classes`, the classes without images; `class_ratio`, the most training images over the fewest.
    """
    _, first, place = np.unique(
        np.arange(len(targets)) if images is None else images, return_index=True, return_inverse=True
    )
    correct = np.bincount(place, weights=(guesses == targets)) / np.bincount(place)
    label = targets[first]
    n_images = np.bincount(label, minlength=len(classes))
    recall = {c: float(correct[label == c].mean()) for c in np.flatnonzero(n_images).tolist()}
    worst = min(recall, key=lambda c: (recall[c], -n_images[c], c))
    counts = np.asarray(train_counts)
    return {
        "balanced_accuracy": float(np.mean(list(recall.values()))) if n_images.all() else None,
        "majority_class": classes[int(counts.argmax())],
        "majority_share": float(n_images[counts.argmax()] / len(label)),
        "worst_class": {"label": classes[worst], "n": int(n_images[worst]), "accuracy": recall[worst]},
        "absent_classes": [classes[c] for c in np.flatnonzero(n_images == 0).tolist()],
        "class_ratio": float(counts.max() / max(1, counts.min())),
    }


BALANCE = (
    "balanced_accuracy",
    "majority_class",
    "majority_share",
    "worst_class",
    "absent_classes",
    "class_ratio",
)


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
        optimum = log_softmax(wide / np.exp(log_t), axis=1)[images, targets]
        return float(0.5 * log_t**2 / len(targets) - optimum.mean())

    optimum = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(optimum.x))
