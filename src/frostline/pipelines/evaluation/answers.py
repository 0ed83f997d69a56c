"""Predictions aligned with labels, and the figures they give. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.pipelines.evaluation.results import (
    UNKNOWN,
    ClassFigures,
    Estimate,
    Figures,
    PairedDifference,
)
from frostline.selection import metric_intervals, significance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWN = (*metric_intervals.COUNTED, *metric_intervals.RANKED)
DRAWN_DIFFERENCES = ("balanced_accuracy", "macro_f1", "average_precision", "auroc")


@dataclass(frozen=True)
class Answers:
    """One model's predictions on images.

    Attributes
    ----------
    targets : ndarray of int64, shape (images,)
    probabilities : ndarray, shape (images, classes)
    units : ndarray of int64, shape (images,)
        Group of each image.
    whole : bool
        Whether every class has a probability; else only the predicted one has, or none.
    has_confidence : bool
        Whether the largest probability is one.
    """

    targets: Ints
    probabilities: Floats
    units: Ints
    whole: bool = True
    has_confidence: bool = True

    @cached_property
    def guesses(self) -> Ints:
        """The predicted classes, (images,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @cached_property
    def draws(self) -> dict[str, Floats]:
        """Bootstrap draws of the metrics without a formula."""
        names = DRAWN if self.whole else metric_intervals.COUNTED
        return metric_intervals.draws(self.targets, self.probabilities, self.units, names)

    @cached_property
    def image_draws(self) -> dict[str, Floats]:
        """The same as if images were independent of each other."""
        names = DRAWN if self.whole else metric_intervals.COUNTED
        return metric_intervals.draws(self.targets, self.probabilities, np.arange(len(self.targets)), names)

    @cached_property
    def independent(self) -> bool:
        """Whether each image is a unit of its own."""
        return len(np.unique(self.units)) == len(self.units)

    def rows(self, mask: NDArray[np.bool_]) -> Answers:
        """Return the images that a mask (images,) selects."""
        return Answers(
            self.targets[mask], self.probabilities[mask], self.units[mask], self.whole, self.has_confidence
        )

    def accuracy(self) -> Estimate:
        """Return the accuracy, with Wilson's interval, or by group."""
        value = metrics.score("accuracy", self.targets, self.probabilities)
        return Estimate(value, *metrics.interval(self.targets, self.guesses, self.units))

    def figures(self) -> Figures:
        """Return all metrics with their intervals."""
        drawn = {name: self._drawn(name) for name in DRAWN_DIFFERENCES[: 4 if self.whole else 2]}
        if metric_intervals.one_class_each(self.targets, self.units):
            ends = metric_intervals.balanced_interval(self.targets, self.guesses, self.units)
            drawn["balanced_accuracy"] = Estimate(drawn["balanced_accuracy"].value, *ends)
        losses = self._losses() if self.whole else {}
        return Figures(
            images=len(self.targets),
            units=len(np.unique(self.units)),
            accuracy=self.accuracy(),
            **drawn,
            **losses,
            ece=self._calibration() if self.has_confidence else UNKNOWN,
        )

    def _drawn(self, name: str) -> Estimate:
        value = metrics.score(name, self.targets, self.probabilities)
        if not isfinite(value):
            return UNKNOWN
        if name not in self.draws:
            return Estimate(value)
        drawn = [self.draws[name], *([] if self.independent else [self.image_draws[name]])]
        return Estimate(value, *metric_intervals.rate_interval(value, drawn, len(np.unique(self.units))))

    def _losses(self) -> dict[str, Estimate]:
        believed = metrics.believed(self.targets, self.probabilities, self.units)
        log_loss = metrics.score("log_loss", self.targets, self.probabilities)
        return {
            "log_loss": Estimate(log_loss, believed["log_loss_low"], believed["log_loss_high"]),
            "brier": Estimate(believed["brier"], believed["brier_low"], believed["brier_high"]),
        }

    def _calibration(self) -> Estimate:
        value = metrics.calibration_error(self.targets, self.probabilities)
        if len(np.unique(self.units)) < 2:
            return Estimate(value)
        low, high = metric_intervals.calibration_interval(value, self.draws["ece"], self.draws["ece_noise"])
        # The error is at least the distance of mean confidence and accuracy: where that may be larger, so may
        # the error, also without a single mistake, which no draw can show.
        stated = float(self.probabilities.max(axis=1).mean())
        lowest, highest = metrics.interval(self.targets, self.guesses, self.units)
        return Estimate(value, low, min(1.0, max(high, stated - lowest, highest - stated)))

    def per_class(self, classes: Sequence[str]) -> tuple[ClassFigures, ...]:
        """Return precision, recall with its interval, and F1 of each class."""
        from sklearn.metrics import precision_recall_fscore_support

        if not len(self.targets):
            return tuple(ClassFigures(name, 0, 0, *[None] * 5) for name in classes)
        precision, recall, f1, support = precision_recall_fscore_support(
            self.targets, self.guesses, labels=np.arange(len(classes)), zero_division=0.0
        )
        predicted = np.bincount(self.guesses, minlength=len(classes))
        rows = []
        for c, name in enumerate(classes):
            own = self.targets == c
            ends: tuple[float | None, float | None] = (None, None)
            if support[c]:
                correct = (self.guesses[own] == c).astype(np.float64)
                ends = metrics.rate_interval(correct, self.units[own])
            rows.append(
                ClassFigures(
                    name,
                    int(support[c]),
                    int(predicted[c]),
                    float(precision[c]) if predicted[c] else None,
                    float(recall[c]) if support[c] else None,
                    *ends,
                    float(f1[c]) if support[c] else None,
                )
            )
        return tuple(rows)

    def less(self, other: Answers, names: tuple[str, str]) -> PairedDifference:
        """Return how much higher each metric is than another model's on the same images.

        Parameters
        ----------
        other : Answers
            On the same images in the same order.
        names : (str, str)
            Of the two models.
        """
        first_right, other_right = self.guesses == self.targets, other.guesses == other.targets
        accuracy = significance.difference(self._held(), other._held(), "accuracy")
        differences = {"accuracy": Estimate(accuracy.mean, accuracy.low, accuracy.high)}
        whole = self.whole and other.whole
        for name in DRAWN_DIFFERENCES[: 4 if whole else 2]:
            first_value, other_value = (
                metrics.score(name, one.targets, one.probabilities) for one in (self, other)
            )
            ends: tuple[float | None, float | None] = (None, None)
            if name in self.draws and name in other.draws:
                ends = metric_intervals.paired_interval(self.draws[name], other.draws[name])
            if isfinite(first_value - other_value):
                differences[name] = Estimate(first_value - other_value, *ends)
        if whole:
            gains = self._log_losses() - other._log_losses()
            low, high = metrics.mean_interval(gains, self.units)
            differences["log_loss"] = Estimate(float(gains.mean()), low, high)
        return PairedDifference(
            *names,
            images=len(self.targets),
            metrics=differences,
            only_first=int((first_right & ~other_right).sum()),
            only_other=int((other_right & ~first_right).sum()),
            mcnemar_p=significance.mcnemar(first_right, other_right) if self.independent else None,
        )

    def _log_losses(self) -> Floats:
        """Return each image's log loss in nats, (images,)."""
        own = self.probabilities[np.arange(len(self.targets)), self.targets]
        return np.asarray(-np.log(np.clip(own, metrics.LEAST_PROBABILITY, 1.0)))

    def _held(self) -> significance.HeldOutPredictions:
        count = len(self.targets)
        return significance.HeldOutPredictions(
            np.arange(count), np.zeros(count, np.int64), self.units, self.targets, self.probabilities
        )
