"""The metrics that models are compared by: their names, and one number each.

The figures are scikit-learn's, macro F1 over the classes that have images. Probabilities have shape (images,
classes) and rows that sum to 1; targets are class indices of shape (images,).
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
Metric = str | Callable[[Ints, Floats], float]

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss")
RANKINGS = ("auroc", "average_precision")  # means over classes of one-against-rest areas
# What a comparison can decide by and `evaluate` show, beside `SENSITIVITY`.
NAMES = (*METRICS, "average_precision", "quadratic_kappa")
SENSITIVITY = "sensitivity@specificity="  # with a number, such as 0.95
# Means over the classes: unknown where a class has no images.
OVER_CLASSES = ("balanced_accuracy", "macro_f1", "auroc")
# Below it a probability counts as this much in a log; long scikit-learn's own bound.
LEAST_PROBABILITY = 1e-15
ROUNDING = 1e-12  # of 1 - specificity in double precision


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
