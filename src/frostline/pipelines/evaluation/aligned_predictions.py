"""Predictions aligned with labels, and the figures they give. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
OF_LABELS = ("accuracy", "balanced_accuracy", "macro_f1")  # of predicted classes, not of probabilities
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
    decided : ndarray of int64 or None, shape (images,)
        The predicted classes, where they are not the likeliest.
    metric : str, callable or None
        A metric to give beside the usual ones, as `metrics.score` takes it.
    """

    targets: Ints
    probabilities: Floats
    units: Ints
    whole: bool = True
    has_confidence: bool = True
    decided: Ints | None = None
    metric: metrics.Metric | None = None

    @cached_property
    def guesses(self) -> Ints:
        """The predicted classes, (images,)."""
        if self.decided is not None:
            return self.decided
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @cached_property
    def labels(self) -> Floats:
        """What metrics of the predicted classes are computed from, (images, classes)."""
        if self.decided is None:
            return self.probabilities
        return np.eye(self.probabilities.shape[1])[self.decided]

    @cached_property
    def draws(self) -> dict[str, Floats]:
        """Bootstrap draws of the metrics without a formula."""
        return self._draws(self.units)

    @cached_property
    def image_draws(self) -> dict[str, Floats]:
        """The same as if images were independent of each other."""
        return self._draws(np.arange(len(self.targets)))

    def _draws(self, units: Ints) -> dict[str, Floats]:
        names = DRAWN if self.whole else metric_intervals.COUNTED
        drawn = metric_intervals.draws(self.targets, self.probabilities, units, names)
        if self.decided is not None:
            drawn |= metric_intervals.draws(self.targets, self.labels, units, OF_LABELS)
        if self.metric is not None:
            matrix = self._matrix(self.metric)
            drawn[metrics.name_of(self.metric)] = metric_intervals.metric_draws(
                self.metric, self.targets, matrix, units
            )
        return drawn

    def _matrix(self, metric: metrics.Metric) -> Floats:
        """Return what a metric is computed from: predicted classes, or probabilities."""
        return self.labels if metric in OF_LABELS or _counts_labels(metric) else self.probabilities

    @cached_property
    def independent(self) -> bool:
        """Whether each image is a unit of its own."""
        return len(np.unique(self.units)) == len(self.units)

    def rows(self, mask: NDArray[np.bool_]) -> Answers:
        """Return the images that a mask (images,) selects."""
        return replace(
            self,
            targets=self.targets[mask],
            probabilities=self.probabilities[mask],
            units=self.units[mask],
            decided=None if self.decided is None else self.decided[mask],
        )

    def accuracy(self) -> Estimate:
        """Return the accuracy, with Wilson's interval, or by group."""
        value = metrics.score("accuracy", self.targets, self.labels)
        return Estimate(value, *metrics.interval(self.targets, self.guesses, self.units))

    def figures(self) -> Figures:
        """Return all metrics with their intervals."""
        drawn = {name: self._estimate(name) for name in DRAWN_DIFFERENCES[: 4 if self.whole else 2]}
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
            others=self._others(),
        )

    def _others(self) -> dict[str, Estimate]:
        if self.metric is None:
            return {}
        name = metrics.name_of(self.metric)
        return {name: self._estimate(self.metric)}

    def _estimate(self, metric: metrics.Metric) -> Estimate:
        """Return a metric without a formula, with its bootstrap interval."""
        name, matrix = metrics.name_of(metric), self._matrix(metric)
        value = metrics.score(metric, self.targets, matrix)
        if not isfinite(value):
            return UNKNOWN
        if name not in self.draws or metric_intervals.too_few(metric, self.targets):
            return Estimate(value)
        drawn = [self.draws[name], *([] if self.independent else [self.image_draws[name]])]

        def added() -> list[Floats]:
            units = [self.units, *([] if self.independent else [np.arange(len(self.targets))])]
            return [
                draws_
                for each in units
                for draws_ in metric_intervals.added_draws(self.targets, matrix, each, metric)
            ]

        above = metric_intervals.excess(name, self.targets, matrix, self.units)
        ends = metric_intervals.any_interval(metric, value, drawn, added, len(np.unique(self.units)), above)
        return Estimate(value, *ends)

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
        # the error, also without a single mistake, which no draw shows. Without one it may be smaller, too.
        stated = float(self.probabilities.max(axis=1).mean())
        likeliest = self.probabilities.argmax(axis=1)
        lowest, highest = metrics.interval(self.targets, likeliest, self.units)
        if len(np.unique(likeliest == self.targets)) == 1:
            low = min(low, max(0.0, lowest - stated, stated - highest))
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
        groups: list[tuple[metrics.Metric, ...]] = [("balanced_accuracy", "macro_f1")]
        groups += [("average_precision", "auroc")] if whole else []
        if self.metric is not None and other.metric is not None:
            groups.append((self.metric,))
        for group in groups:  # of metrics that are computed from the same matrix
            matrices = self._matrix(group[0]), other._matrix(group[0])
            ends = metric_intervals.paired_intervals(self.targets, *matrices, self.units, group)
            for metric in group:
                first, second = (metrics.score(metric, self.targets, matrix) for matrix in matrices)
                if isfinite(first - second):
                    name = metrics.name_of(metric)
                    differences[name] = Estimate(first - second, *ends[name])
        if whole:
            losses, others = (
                metrics.log_losses(answers.targets, answers.probabilities) for answers in (self, other)
            )
            gains = losses - others
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

    def _held(self) -> significance.HeldOutPredictions:
        count = len(self.targets)
        return significance.HeldOutPredictions(
            np.arange(count), np.zeros(count, np.int64), self.units, self.targets, self.labels
        )


def _counts_labels(metric: metrics.Metric) -> bool:
    return isinstance(metric, metrics.QuadraticKappa)
