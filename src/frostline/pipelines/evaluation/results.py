"""The result of `evaluate`: figures with intervals, per class and per value, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frostline import sentences
from frostline.errors import UsageError
from frostline.reports import notebook
from frostline.reports.classification import Confusion, classification_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval; None where it is undefined, or no interval can be given."""

    value: float | None
    low: float | None = None
    high: float | None = None


UNKNOWN = Estimate(None)


@dataclass(frozen=True)
class Figures:
    """Metrics of predictions on images: fractions 0–1, log loss in nats, Brier score 0–2.

    Attributes
    ----------
    images : int
    units : int
        How many are independent of each other: groups and copies count once.
    accuracy, balanced_accuracy, macro_f1 : Estimate
        Means over classes are over those that have images.
    average_precision, auroc : Estimate
        Means over classes of one-against-rest areas.
    log_loss, brier, ece : Estimate
        How far the probabilities can be believed; `ece` is the expected calibration error.
    others : mapping of str to Estimate
        The metric that was asked for, where it is none of these.
    """

    images: int
    units: int
    accuracy: Estimate
    balanced_accuracy: Estimate = UNKNOWN
    macro_f1: Estimate = UNKNOWN
    average_precision: Estimate = UNKNOWN
    auroc: Estimate = UNKNOWN
    log_loss: Estimate = UNKNOWN
    brier: Estimate = UNKNOWN
    ece: Estimate = UNKNOWN
    others: Mapping[str, Estimate] = field(default_factory=dict)

    def estimate(self, metric: str) -> Estimate:
        """Return one metric by its name."""
        value = self.others.get(metric) or getattr(self, metric, None)
        if not isinstance(value, Estimate):
            raise UsageError(f"There is no metric {metric!r}; expected one of {', '.join(ESTIMATES)}.")
        return value

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: `accuracy` with `low` and `high`, others with `NAME_low` and `NAME_high`."""
        result: dict[str, Any] = {"images": self.images, "units": self.units}
        for name in (*ESTIMATES, *self.others):
            estimate, prefix = self.estimate(name), "" if name == "accuracy" else f"{name}_"
            result |= {
                name: estimate.value,
                f"{prefix}low": estimate.low,
                f"{prefix}high": estimate.high,
            }
        return result


ESTIMATES = tuple(one.name for one in fields(Figures) if one.name not in ("images", "units", "others"))


@dataclass(frozen=True)
class ClassFigures:
    """One class: `support` images have it as label. None where a rate has nothing to count."""

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    low: float | None  # of recall's 95 % interval
    high: float | None
    f1: float | None


@dataclass(frozen=True)
class UnknownClass:
    """Images of a class that a model does not know: counted here, and in no figure."""

    name: str
    images: int
    unknown_to: tuple[str, ...]  # models
    predicted: Mapping[str, int]  # by the first model, how often as what
    similar: str | None = None  # a class of the model that is spelt nearly so


@dataclass(frozen=True)
class LearnedImages:
    """Images that a model learned from, which are in no other figure."""

    images: int
    accuracy: Estimate


@dataclass(frozen=True)
class ValueFigures:
    """The figures of the images with one value of `by`; "" are those without a value."""

    value: str
    figures: Figures


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction; `true_probability` is what the model gave the label (None where unknown)."""

    path: str
    label: str
    predicted: str
    probability: float | None
    true_probability: float | None


@dataclass(frozen=True)
class PairedDifference:
    """The first model less another one, on the same images.

    Attributes
    ----------
    first, other : str
        Names of the models.
    images : int
    metrics : dict of str to Estimate
        Differences: positive where the first has the higher figure (log loss: lower is better).
    only_first, only_other : int
        Images that only one of them predicts correctly.
    mcnemar_p : float or None
        Exact p-value of accuracy; None where images are not independent (groups, copies): the interval of
        the difference respects that.
    """

    first: str
    other: str
    images: int
    metrics: Mapping[str, Estimate]
    only_first: int
    only_other: int
    mcnemar_p: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "first": self.first,
            "other": self.other,
            "images": self.images,
            "only_first": self.only_first,
            "only_other": self.only_other,
            "mcnemar_p": self.mcnemar_p,
            "metrics": {
                name: {"difference": one.value, "low": one.low, "high": one.high}
                for name, one in self.metrics.items()
            },
        }


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images.

    Attributes
    ----------
    model : str
        Name of the model: its folder's, or the table's.
    run, strategy, why : str
        The run that predicted, and why it was chosen; empty for a table of predictions.
    metric : str
        The metric that was asked for.
    figures : Figures or None
        None where no image is left to judge by.
    per_class : tuple of ClassFigures
    classes : tuple of str
        The model's classes, then those that only others name.
    paths : tuple of str
        The images that the figures are of.
    targets : ndarray of int64, shape (images,)
        Indices into `classes`.
    probabilities : ndarray, shape (images, classes)
        Of a table without probabilities: 1 for what it predicts.
    has_confidence : bool
        False for a table that has labels without probabilities.
    learned : LearnedImages or None
        Images that a model learned from; they stand apart.
    unknown : tuple of UnknownClass
        Images of classes that a model does not know; they stand apart.
    absent : tuple of str
        Classes of the model without an image.
    by : str or None
        What `by_value` is by.
    by_value : tuple of ValueFigures
    others : tuple of Evaluation
        The other models, and tables of predictions.
    differences : tuple of PairedDifference
        The model less each of the others.
    unreadable : tuple of (path, reason)
    notes : tuple of str
    decided : ndarray of int64 or None, shape (images,)
        What an operating point decides for; None where that is the highest probability.
    test_evaluations : int or None
        Configurations that have been evaluated on the study's test set, where images are of it.
    """

    model: str
    run: str
    strategy: str
    why: str
    metric: str
    figures: Figures | None
    per_class: tuple[ClassFigures, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...] = field(repr=False)
    targets: Ints = field(repr=False)
    probabilities: Floats = field(repr=False)
    has_confidence: bool = True  # False: a table of labels alone
    learned: LearnedImages | None = None
    unknown: tuple[UnknownClass, ...] = ()
    absent: tuple[str, ...] = ()
    by: str | None = None
    by_value: tuple[ValueFigures, ...] = ()
    others: tuple[Evaluation, ...] = ()
    differences: tuple[PairedDifference, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    decided: Ints | None = field(default=None, repr=False)
    test_evaluations: int | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of images predicted correctly; None without any."""
        return None if self.figures is None else self.figures.accuracy.value

    @property
    def predicted(self) -> Ints:
        """The predicted class of each image, (images,): indices into `classes`."""
        if self.decided is not None:
            return self.decided
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @cached_property
    def confusion(self) -> Confusion:
        """What was predicted as what."""
        return Confusion.of(self.classes, self.targets, self.predicted)

    def classification_report(self, *, output_dict: bool = False) -> Any:
        """Return scikit-learn's classification report.

        Parameters
        ----------
        output_dict : bool
            Return a dict instead of text.

        Returns
        -------
        str or dict

        Raises
        ------
        UsageError
            No image is left to judge by.
        """
        if not len(self.targets):
            raise UsageError("There is no image to report on: all were learned from, or of unknown classes.")
        return classification_report(self.classes, self.targets, self.predicted, output_dict)

    def mistakes(self, count: int | None = None) -> list[Mistake]:
        """Return the wrong predictions, the most confident first.

        Parameters
        ----------
        count : int or None
            How many; None returns all.
        """
        predicted = self.predicted
        top = self.probabilities[np.arange(len(predicted)), predicted]
        wrong = np.flatnonzero(predicted != self.targets)
        order = wrong[np.argsort(-top[wrong], kind="stable")][:count]
        # A table of another system gives the probability of its prediction alone, or none.
        whole = self.figures is not None and self.figures.log_loss.value is not None
        return [
            Mistake(
                self.paths[row],
                self.classes[self.targets[row]],
                self.classes[predicted[row]],
                float(top[row]) if self.has_confidence else None,
                float(self.probabilities[row, self.targets[row]]) if whole else None,
            )
            for row in order.tolist()
        ]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the confusion matrix.

        Parameters
        ----------
        ax : matplotlib Axes or None
            None makes a new figure.

        Returns
        -------
        matplotlib Axes
        """
        return self.confusion.plot(ax)

    def to_pandas(self) -> Any:
        """Return path, label, predicted and its probability, a row an image, as a DataFrame.

        Raises
        ------
        UsageError
            pandas is not installed.
        """
        predicted = self.predicted
        stated = self.probabilities[np.arange(len(predicted)), predicted]
        rows = zip(self.paths, self.targets, predicted, stated, strict=True)
        return notebook.frame(
            [
                {
                    "path": path,
                    "label": self.classes[target],
                    "predicted": self.classes[predicted],
                    "probability": float(probability) if self.has_confidence else None,
                }
                for path, target, predicted, probability in rows
            ]
        )

    def __repr__(self) -> str:
        """Return a line: how good, on how many images."""
        if self.figures is None:
            return f"<Evaluation of {self.model}: no image to judge by>"
        accuracy = self.figures.accuracy
        worth = sentences.short(accuracy.value, accuracy.low, accuracy.high, "of")
        return f"<Evaluation of {self.model}: {worth} {sentences.counted(self.figures.images, 'image')}>"

    def _repr_html_(self) -> str:
        """Return the figures as an HTML table, for a notebook."""
        if self.figures is None:
            return notebook.lines_html(repr(self), list(self.notes))
        rows = [
            {"": name.replace("_", " "), "value": one.value, "low": one.low, "high": one.high}
            for name in (*ESTIMATES, *self.figures.others)
            if (one := self.figures.estimate(name)).value is not None
        ]
        return notebook.table_html(f"{self.model}: {self.figures.images:,} images", rows, list(self.notes))

    def as_dict(self) -> dict[str, Any]:
        """As `frostline evaluate --json` prints it, without the mistakes."""
        figures = {} if self.figures is None else self.figures.as_dict()
        empty = dict.fromkeys(Figures(0, 0, UNKNOWN).as_dict()) | {"images": 0, "units": 0}
        learned = self.learned
        return {
            "model": self.model,
            "run": self.run,
            "strategy": self.strategy,
            "why": self.why,
            "metric": self.metric,
            **empty,
            **figures,
            "per_class": {
                row.name: {
                    "images": row.support,
                    "predicted": row.predicted,
                    "precision": row.precision,
                    "recall": row.recall,
                    "low": row.low,
                    "high": row.high,
                    "f1": row.f1,
                }
                for row in self.per_class
            },
            "classes": list(self.classes),
            "confusion": self.confusion.counts.tolist(),
            "learned": None
            if learned is None
            else {
                "images": learned.images,
                "accuracy": learned.accuracy.value,
                "low": learned.accuracy.low,
                "high": learned.accuracy.high,
            },
            "unknown_classes": [
                {
                    "name": one.name,
                    "images": one.images,
                    "unknown_to": list(one.unknown_to),
                    "predicted": dict(one.predicted),
                }
                for one in self.unknown
            ],
            "absent_classes": list(self.absent),
            "by": self.by,
            "by_value": [{"value": one.value, **one.figures.as_dict()} for one in self.by_value],
            "others": [one.as_dict() for one in self.others],
            "differences": [one.as_dict() for one in self.differences],
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "notes": list(self.notes),
            "test_evaluations": self.test_evaluations,
        }
