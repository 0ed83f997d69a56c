"""A run's figures: what the model, as it will be taken away, says of val and test."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline import metrics, numerics
from frostline.dataset import Sample
from frostline.inference import logits
from frostline.numerics import NumericPlan
from frostline.record import RunFolder
from frostline.training.request import Request

THUMBNAILS = 64  # test images kept small in the study, for the report
THUMBNAIL_PX = 64


def predict_parts(
    request: Request, folder: RunFolder, model: nn.Module, chosen: dict[str, Any]
) -> dict[str, Any]:
    """Predict val and test with the model as it will be taken away: float32, plain."""
    plain = numerics.exact_plan(request.threads)
    temperature = chosen.pop("temperature", 1.0)
    figures: dict[str, Any] = {"val_accuracy": None, f"val_{request.metric}": None, "val_goodness": None}
    if request.data.part("val"):
        val = request.images("val")
        raw = logits(model, val, plain, workers=request.workers)
        temperature = metrics.fit_temperature(raw, val.targets)
        probabilities = metrics.softmax(raw, temperature)
        _write_predictions(request, folder, "val", val.samples, probabilities)
        figures |= {
            "val_accuracy": metrics.score("accuracy", val.targets, probabilities),
            f"val_{request.metric}": metrics.score(request.metric, val.targets, probabilities),
            "val_goodness": metrics.goodness(request.metric, val.targets, probabilities),
        }
    return {**figures, **_of_test(request, folder, model, plain, temperature), "temperature": temperature}


def _of_test(
    request: Request, folder: RunFolder, model: nn.Module, plain: NumericPlan, temperature: float
) -> dict[str, Any]:
    """The test part's figures; all null where there is no test image."""
    test = request.images("test")
    if not test.samples:
        return dict.fromkeys((*metrics.METRICS, "majority", "per_class", "low", "high"))
    probabilities = metrics.softmax(logits(model, test, plain, workers=request.workers), temperature)
    _write_predictions(request, folder, "test", test.samples, probabilities)
    _write_thumbnails(request, folder, test.samples)
    guesses = probabilities.argmax(axis=1)
    low, high = metrics.interval(test.targets, guesses, request.data.units(test.samples))
    learned = request.data.targets(request.data.part("train"))
    commonest = int(np.bincount(learned).argmax())
    summary = metrics.summary(request.data.classes, test.targets, probabilities, commonest)
    return {**summary, "low": low, "high": high}


def _write_predictions(
    request: Request,
    folder: RunFolder,
    part: str,
    samples: tuple[Sample, ...],
    probabilities: NDArray[np.float64],
) -> None:
    names = request.data.classes
    rows = (
        [s.path, s.label, names[row.argmax()], *(f"{p:.6g}" for p in row)]
        for s, row in zip(samples, probabilities, strict=True)
    )
    header = ["path", "label", "predicted", *(f"p({name})" for name in names)]
    folder.write_table(f"predictions-{part}.csv", header, rows)


def _write_thumbnails(request: Request, folder: RunFolder, samples: tuple[Sample, ...]) -> None:
    """Keep a few small test pictures, so that a report can show them without the images."""
    place = folder.path.parent.parent / "thumbnails"
    place.mkdir(exist_ok=True)
    for sample in sorted(samples, key=lambda s: s.digest)[:THUMBNAILS]:
        target = place / f"{sample.digest[:16]}.jpg"
        if not target.exists():
            picture = request.data.read(sample)
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            temporary = target.with_suffix(f".{os.getpid()}.tmp")
            picture.save(temporary, format="JPEG", quality=80)
            temporary.replace(target)
