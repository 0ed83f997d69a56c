"""Prediction by a finished run: images in, labels with probabilities out. Needs no training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline.data import PredictionInputs, prediction_inputs
from frostline.errors import UsageError, demand_share, option
from frostline.inference import selective_prediction, test_time_augmentation
from frostline.inference.chosen_model import ChosenModel, chosen_model, decided_by
from frostline.inference.decoded_batches import DecodedImages, decoded_batches
from frostline.inference.prediction_rows import Prediction, Predictions
from frostline.inference.predictor import Predictor
from frostline.models import Backbone
from frostline.models.zoo import delta
from frostline.progress import OnProgress, Progress
from frostline.studies.best_run import best_at
from frostline.system import devices

Floats = NDArray[np.float64]


@devices.computes(float32=True)
def predict(
    study: str | PathLike[str],
    images: Any,
    *,
    run: str | None = None,
    top: int = 1,
    target_accuracy: float | None = None,
    min_confidence: float | None = None,
    all_probabilities: bool = False,
    tta: str = "none",
    path_column: str | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Predictions:
    """Label images with a run of a study.

    Parameters
    ----------
    study : path
        A study, or a delta that `export` wrote.
    images : path, address, image, array, or iterable of these
        A folder (flat or by class), files, tables with a column `path` (or `path_column`), addresses such as
        s3://bucket/new, tar shards; PIL images, arrays (H, W) or (H, W, 3), uint8, floats in 0–1 or other
        integers (deep pixels, as in files), encoded files' bytes. An image that cannot be decoded is listed
        in `unreadable`; one in memory is named "image" or "image[3]".
    run : str or None
        Name of a run, or its start. None is the best of the runs evaluated on the same images (val, or a
        comparison's folds), else the newest; `why` and `passed_over` say which and why.
    top : int
        Number of labels for each image.
    target_accuracy : float or None
        Above 0 and below 1, such as 0.95. A prediction whose class was less often correct at its probability,
        on held-out images, is marked `unsure="probability"`; an image farther from the training images than
        95 % of the held-out ones "unfamiliar".
    min_confidence : float or None
        Above 0 and below 1. A prediction of a lower probability is marked `unsure="probability"`, too.
    all_probabilities : bool
        Whether `probabilities` holds those of all classes.
    tta : str
        Test-time augmentation: mean probabilities over views of each image. "none"; "flip": the image and its
        mirror image; "five_crop": corners and centre; "ten_crop": these and their mirror images.
    path_column : str or None
        Column of a table that holds the paths.
    module : nn.Module or None
        The architecture, for a backbone that was passed as a module.
    base : str, nn.Module, Backbone or None
        Base weights of a delta, where they cannot be found by name.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    progress : callable or None
        Called with (what, done, total).

    Returns
    -------
    Predictions

    Raises
    ------
    StudyError
        The study is damaged or holds no finished run.
    UsageError
        `target_accuracy` or `min_confidence` is out of range, the run has no held-out predictions, or `tta`
        goes with it.
    DataError
        There are no images, or they are of an unsupported type.
    """
    check_confidence(min_confidence)
    check_views(tta, target_accuracy)
    doubts = None if target_accuracy is None else _doubts(study, run, target_accuracy)
    chosen = chosen_model(study, run, module, base)
    return predictions_of(
        chosen,
        images,
        path_column,
        doubts,
        top=top,
        min_confidence=min_confidence,
        all_probabilities=all_probabilities,
        tta=tta,
        progress=progress,
    )


def predictions_of(
    chosen: ChosenModel,
    images: Any,
    path_column: str | None,
    doubts: selective_prediction.Doubts | None,
    *,
    top: int,
    min_confidence: float | None,
    all_probabilities: bool,
    tta: str,
    progress: OnProgress | None,
) -> Predictions:
    """Return what a model predicts; the rest is as in `predict`, and checked."""
    predicted = predict_rows(
        chosen.predictor,
        prediction_inputs(images, path_column),
        top=top,
        doubts=doubts,
        min_confidence=min_confidence,
        all_probabilities=all_probabilities,
        tta=tta,
        progress=Progress.of(progress),
    )
    return Predictions(
        predicted.rows,
        predicted.unreadable,
        chosen.run,
        chosen.why,
        chosen.strategy,
        doubts,
        tuple(chosen.predictor.classes),
        chosen.passed_over,
        (*predicted.notes, *test_time_augmentation.note(tta, chosen.flip, chosen.predictor.decision)),
        min_confidence,
        predicted.probabilities,
        decided_by(chosen.folder, chosen.predictor),
    )


def _doubts(study: str | PathLike[str], run: str | None, precision: float) -> selective_prediction.Doubts:
    if delta.is_delta(study):
        raise UsageError(
            f"{option('target_accuracy')} needs features that a delta does not hold: use the study it was "
            "exported from."
        )
    return selective_prediction.doubts(best_at(study, run).folder.path, precision)


def check_confidence(min_confidence: float | None) -> None:
    """Raise `UsageError` for what is no probability."""
    if min_confidence is not None:
        demand_share("min_confidence", min_confidence, 0.8)


def check_views(tta: str, target_accuracy: float | None) -> None:
    """Raise `UsageError` where `tta` is unknown, or goes with a target that was set by single views."""
    test_time_augmentation.check(tta)
    if tta != "none" and target_accuracy is not None:
        raise UsageError(
            f"{option('target_accuracy')} rests on held-out probabilities of one view each, and "
            f"{option('tta', tta)} averages several: leave one of the two out."
        )


@dataclass(frozen=True)
class PredictedRows:
    """The result of `predict_rows`: see `Predictions`."""

    rows: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    probabilities: Floats | None = None


def predict_rows(
    predictor: Predictor,
    inputs: PredictionInputs,
    *,
    top: int,
    doubts: selective_prediction.Doubts | None,
    tta: str = "none",
    progress: Progress,
    min_confidence: float | None = None,
    all_probabilities: bool = False,
) -> PredictedRows:
    """Return a prediction for each image that can be decoded, and the others' names with the reasons."""
    rows: list[Prediction] = []
    decoded, batches = DecodedImages(), [np.zeros((0, len(predictor.classes)))]
    for names, (pixels,) in decoded_batches([predictor], inputs, decoded, tta, progress):
        probabilities, batch = _predict_batch(predictor, names, pixels, top, doubts)
        rows += [
            replace(row, unsure="probability")
            if min_confidence is not None and row.unsure is None and row.probability < min_confidence
            else row
            for row in batch
        ]
        if all_probabilities:
            batches.append(probabilities)
    (notes,) = decoded.notes([predictor], inputs)
    return PredictedRows(
        tuple(rows),
        tuple(decoded.unreadable),
        notes,
        np.concatenate(batches) if all_probabilities else None,
    )


def _predict_batch(
    predictor: Predictor,
    paths: Sequence[str],
    pixels: Tensor,
    top: int,
    doubts: selective_prediction.Doubts | None,
) -> tuple[Floats, list[Prediction]]:
    """Return probabilities (n, classes) and predictions."""
    if doubts is None:
        probabilities = test_time_augmentation.mean_probabilities(predictor, pixels)
        return probabilities, _top(paths, probabilities, predictor, top)
    probabilities, features = predictor.with_features(pixels[:, 0])
    rows = _top(paths, probabilities, predictor, top)
    reasons = doubts.of(probabilities, features, predictor.guesses(probabilities))
    return probabilities, [replace(row, unsure=why) for row, why in zip(rows, reasons, strict=True)]


def _top(
    paths: Sequence[str],
    probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    predictor: Predictor,
    count: int,
) -> list[Prediction]:
    """Return predictions: the decided label first, then the likeliest others."""
    classes, ranks = predictor.classes, probabilities.copy()
    ranks[np.arange(len(ranks)), predictor.guesses(probabilities)] = np.inf
    order = np.argsort(-ranks, axis=1, kind="stable")[:, : max(1, min(count, len(classes)))]
    return [
        Prediction(path, tuple((classes[c], float(row[c])) for c in best))
        for path, row, best in zip(paths, probabilities, order, strict=True)
    ]


@dataclass(frozen=True)
class PredictedProbabilities:
    """One model's `probabilities` (images, classes) of the images in `names`; see `predict_probabilities`."""

    names: tuple[str, ...]
    probabilities: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def predict_probabilities(
    predictors: Sequence[Predictor],
    inputs: PredictionInputs,
    progress: OnProgress | None = None,
    *,
    tta: str = "none",
) -> list[PredictedProbabilities]:
    """Return each model's probabilities of all classes; an image that can be decoded is decoded once."""
    decoded, names = DecodedImages(), list[str]()
    batches = [[np.zeros((0, len(predictor.classes)))] for predictor in predictors]
    for batch_names, pixels in decoded_batches(predictors, inputs, decoded, tta, Progress.of(progress)):
        names += batch_names
        for predictor, batch, seen in zip(predictors, batches, pixels, strict=True):
            batch.append(test_time_augmentation.mean_probabilities(predictor, seen))
    return [
        PredictedProbabilities(tuple(names), np.concatenate(batch), tuple(decoded.unreadable), notes)
        for batch, notes in zip(batches, decoded.notes(predictors, inputs), strict=True)
    ]
