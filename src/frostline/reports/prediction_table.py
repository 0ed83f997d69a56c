"""Metrics of a prediction table: classes, confusions, calibration, mistakes, likely label errors.

Imports no torch. All rates are fractions 0–1; indices are rows of the table or positions among its classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.reports.study_reader import PredictionTable, StudyContents, add_problem, read_predictions
from frostline.sentences import Basis

# Below this, a class has too few out-of-fold predictions for a threshold of its own (a rule of thumb).
MIN_IMAGES_FOR_LABEL_ISSUES = 5
# A label is suspect where the predicted class has at least so many times its probability. Confident learning
# alone flags a sixth of all images where a model's accuracy is two thirds, and four in five of them wrongly.
# This ratio removes two thirds of the false alarms, and up to a sixth of the true ones for labels exchanged
# at random; of those exchanged with the most similar class, four in nine (docs/LOG.md 2026-11-25).
LABEL_ISSUE_RATIO = 10.0
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClassRow:
    """The metrics of one class. `low` to `high` is a 95 % interval of the recall."""

    class_index: int
    n_images: int
    recall: float
    low: float
    high: float
    precision: float | None  # `None` where the class was never predicted
    confused_with: int | None  # the class its images are most often mistaken for
    times: int


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram: mean confidence, and accuracy with a 95 % interval."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n_images: float  # an image predicted several times counts in parts where it falls into several bins


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error: the mean gap of confidence and accuracy over images.

    `by_chance` is what a perfectly calibrated model exceeds on so many images one time in twenty.
    """

    bins: tuple[Bin, ...]
    error: float
    by_chance: float
    images: int
    confidence: float
    accuracy: float


def evaluation_predictions(contents: StudyContents) -> PredictionTable | None:
    """Return the predictions to evaluate the model by: on the test set, else out of fold, else on val."""
    run, comparison = contents.best_run, contents.comparison
    finished = comparison is not None and comparison.result is not None
    if run is not None:
        predictions = read_predictions(contents, run.folder / "predictions-test.csv", Basis.TEST)
        if predictions is not None:
            return predictions
    if comparison is not None and finished:
        predictions = read_predictions(contents, comparison.folder / "out-of-fold.csv", Basis.OUT_OF_FOLD)
        if predictions is not None:
            return predictions
    return (
        read_predictions(contents, run.folder / "predictions-val.csv", Basis.VAL) if run is not None else None
    )


def label_predictions(contents: StudyContents) -> PredictionTable | None:
    """Return the predictions that labels are checked by: out of fold, else `evaluation_predictions`."""
    comparison = contents.comparison
    if comparison is not None and comparison.result is not None:
        predictions = read_predictions(contents, comparison.folder / "out-of-fold.csv", Basis.OUT_OF_FOLD)
        if predictions is not None:
            return predictions
    return evaluation_predictions(contents)


def units_of(contents: StudyContents, predictions: PredictionTable) -> list[int] | None:
    """Return a group number for each row (groups, copies); `None` where the manifest lacks an image."""
    if contents.data is not None:
        by_path = {sample.path: sample for sample in contents.data.samples}
        if all(path in by_path for path in predictions.paths):
            return list(contents.data.units([by_path[path] for path in predictions.paths]))
    return None


def losses(contents: StudyContents, predictions: PredictionTable) -> dict[str, Any]:
    """Return log loss, Brier score and their 95 % intervals: as stored, else computed from the table."""
    comparison, run = contents.comparison, contents.best_run
    stored = None
    if predictions.basis is Basis.OUT_OF_FOLD and comparison is not None and comparison.result is not None:
        stored = comparison.result["out_of_fold"]
    elif predictions.basis is Basis.TEST and run is not None:
        stored = run.result
    if stored and stored.get("log_loss") is not None:
        return {key: stored[key] for key in metrics.BELIEVED}
    return metrics.believed(
        predictions.targets,
        predictions.probabilities,
        units_of(contents, predictions),
        images=predictions.image_index,
    )


def interval(contents: StudyContents, predictions: PredictionTable) -> tuple[float, float, float]:
    """Return the accuracy and its 95 % interval, over groups where the manifest has them."""
    units = units_of(contents, predictions)
    accuracy = float((predictions.predicted == predictions.targets).mean())
    return accuracy, *metrics.interval(predictions.targets, predictions.predicted, units)


def balance(contents: StudyContents, predictions: PredictionTable) -> dict[str, Any] | None:
    """Return class-balance metrics, see `metrics.balance`; `None` without a manifest."""
    if contents.data is None or set(contents.data.classes) != set(predictions.classes):
        return None
    train_counts = [contents.data.counts[name]["train"] for name in predictions.classes]
    return metrics.balance(
        predictions.classes, predictions.targets, predictions.predicted, train_counts, predictions.image_index
    )


def confusion(predictions: PredictionTable) -> Ints:
    """Return the confusion matrix in images, (true, predicted), by each image's mean probabilities."""
    predictions = predictions.averaged()
    matrix = np.zeros((len(predictions.classes),) * 2, dtype=np.int64)
    np.add.at(matrix, (predictions.targets, predictions.predicted), 1)
    return matrix


def classes(predictions: PredictionTable) -> list[ClassRow]:
    """Return a row for each class that has images, the lowest recall first."""
    matrix = confusion(predictions)
    rows = []
    for class_index, n_images in enumerate(matrix.sum(axis=1).tolist()):
        if not n_images:
            continue
        n_predicted = int(matrix[:, class_index].sum())
        errors = matrix[class_index].copy()
        errors[class_index] = 0
        most_confused = int(errors.argmax())
        in_class = predictions.targets == class_index
        recall = float(
            ((predictions.predicted == class_index) * predictions.weights)[in_class].sum() / n_images
        )
        low, high = metrics.wilson(recall, n_images)
        rows.append(
            ClassRow(
                class_index=class_index,
                n_images=n_images,
                recall=recall,
                low=low,
                high=high,
                precision=float(matrix[class_index, class_index] / n_predicted) if n_predicted else None,
                confused_with=most_confused if errors[most_confused] else None,
                times=int(errors[most_confused]),
            )
        )
    return sorted(rows, key=lambda row: (row.recall, -row.n_images, row.class_index))


def calibration(predictions: PredictionTable) -> Calibration:
    """Return the calibration of the top probability: confidence against accuracy, in bins."""
    confidences, weight = predictions.probabilities.max(axis=1), predictions.weights
    is_correct = predictions.predicted == predictions.targets
    bin_index = np.minimum((confidences * metrics.BINS).astype(np.int64), metrics.BINS - 1)
    bins = []
    for number in np.unique(bin_index).tolist():
        in_bin = bin_index == number
        n_images = float(weight[in_bin].sum())
        accuracy, confidence = (
            float((values * weight)[in_bin].sum() / n_images) for values in (is_correct, confidences)
        )
        bins.append(Bin(confidence, accuracy, *metrics.wilson(accuracy, n_images), n_images))
    error = metrics.calibration_error(predictions.targets, predictions.probabilities, weight)
    confidence, accuracy = (
        float((values * weight).sum() / weight.sum()) for values in (confidences, is_correct)
    )
    by_chance = metrics.chance_calibration_error(confidences, weight, predictions.image_index)
    return Calibration(tuple(bins), error, by_chance, predictions.n_images, confidence, accuracy)


def mistakes(predictions: PredictionTable) -> Ints:
    """Return the rows of `averaged()` that are predicted wrongly, the most confident first."""
    predictions = predictions.averaged()
    rows = np.arange(len(predictions.targets))
    confidence = predictions.probabilities[rows, predictions.predicted]
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    return np.asarray(
        sorted(wrong.tolist(), key=lambda row: (-confidence[row], predictions.paths[row])), dtype=np.int64
    )


def label_issues(
    contents: StudyContents, predictions: PredictionTable, ratio: float = LABEL_ISSUE_RATIO
) -> Ints:
    """Return the rows of `averaged()` whose label is likely wrong, the likeliest first.

    By confident learning (cleanlab; Northcutt, Jiang and Chuang 2021, arXiv 1911.00068), limited to rows
    whose predicted class is `ratio` times as probable as the label. Empty where a class has too few images.
    """
    predictions = predictions.averaged()
    counts = np.bincount(predictions.targets, minlength=len(predictions.classes))
    if counts.min() < MIN_IMAGES_FOR_LABEL_ISSUES or len(predictions.classes) < 2:
        return np.zeros(0, dtype=np.int64)
    rows = predictions.probabilities / predictions.probabilities.sum(axis=1, keepdims=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that cleanlab brings
            from cleanlab.filter import find_label_issues

            flagged = find_label_issues(predictions.targets, rows, n_jobs=1)
    except (ImportError, ValueError, AssertionError) as error:
        add_problem(contents, f"Likely label errors could not be computed ({error}).")
        return np.zeros(0, dtype=np.int64)
    index = np.arange(len(rows))
    confident = rows[index, predictions.predicted] >= ratio * rows[index, predictions.targets]
    return np.asarray(
        [row for row in mistakes(predictions).tolist() if flagged[row] and confident[row]], dtype=np.int64
    )
