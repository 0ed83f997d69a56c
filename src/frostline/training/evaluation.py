"""A run's figures: what the model, as it will be taken away, says of val and test."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline import metrics
from frostline.cost.run_time import THUMBNAILS
from frostline.data import Sample
from frostline.distributed import process_group
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts, ForwardConfig, logits
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.studies.study_folder import RunFolder
from frostline.system import devices, numerics
from frostline.training.caching import cache_planning
from frostline.training.request import TrainRequest

THUMBNAIL_PX = 64


def predict_parts(
    request: TrainRequest,
    folder: RunFolder,
    model: nn.Module,
    chosen: dict[str, Any],
    store: FeatureCache | None,
    counts: Counts,
) -> dict[str, Any]:
    """Predict val and test with the model as it will be taken away: float32, plain."""
    with devices.full_float32():
        return _predict_parts(request, folder, model, chosen, store, counts)


def _predict_parts(
    request: TrainRequest,
    folder: RunFolder,
    model: nn.Module,
    chosen: dict[str, Any],
    store: FeatureCache | None,
    counts: Counts,
) -> dict[str, Any]:
    cut = next(cut for cut in request.backbone.cuts if cut.name == chosen["cut"])
    way = ForwardConfig(numerics.exact_plan(request.config.threads), EVALUATION_BATCH)

    def answers(images: Images) -> NDArray[np.float32]:
        """Of all images; each process of a job asks about a share of them."""
        mine = logits(
            request.backbone,
            model,
            cut,
            images.subset(process_group.share(len(images))),
            way,
            keep=cache_planning.untimed(request, cut, 4).keep,
            cache=store,
            counts=counts,
            workers=request.config.workers,
            progress=request.progress,
        )
        return process_group.gathered(mine, len(images))

    temperature = request.config.temperature or chosen.pop("temperature", 1.0)
    chosen.pop("temperature", None)
    name = metrics.name_of(request.metric)
    figures: dict[str, Any] = {
        "val_accuracy": None,
        f"val_{name}": None,
        "val_goodness": None,
    }
    if request.data.part("val"):
        val = request.images("val")
        raw = answers(val)
        temperature = request.config.temperature or metrics.fit_temperature(raw, val.targets)
        probabilities = metrics.softmax(raw, temperature)
        _write_predictions(request, folder, "val", val.samples, probabilities)
        figures |= {
            "val_accuracy": metrics.score("accuracy", val.targets, probabilities),
            f"val_{name}": metrics.score(request.metric, val.targets, probabilities),
            "val_goodness": metrics.goodness(request.metric, val.targets, probabilities),
        }
    return {**figures, **_of_test(request, folder, answers, temperature), "temperature": temperature}


def _of_test(
    request: TrainRequest,
    folder: RunFolder,
    answers: Callable[[Images], NDArray[np.float32]],
    temperature: float,
) -> dict[str, Any]:
    """The test part's figures; all null where there is no test image."""
    test, name = request.images("test"), metrics.name_of(request.metric)
    if not test.samples:
        nothing = (*metrics.METRICS, name, *metrics.BALANCE, "per_class", "low", "high", *metrics.BELIEVED)
        return dict.fromkeys(nothing)
    probabilities = metrics.softmax(answers(test), temperature)
    _write_predictions(request, folder, "test", test.samples, probabilities)
    _write_thumbnails(request, folder, test.samples)
    guesses = probabilities.argmax(axis=1)
    units = request.data.units(test.samples)
    low, high = metrics.interval(test.targets, guesses, units)
    learned = np.bincount(request.data.targets(request.data.part("train")))
    summary = metrics.summary(request.data.classes, test.targets, probabilities, learned)
    if name not in summary:
        summary[name] = metrics.score(request.metric, test.targets, probabilities)
    return {**summary, **metrics.believed(test.targets, probabilities, units), "low": low, "high": high}


def _write_predictions(
    request: TrainRequest,
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


def _write_thumbnails(request: TrainRequest, folder: RunFolder, samples: tuple[Sample, ...]) -> None:
    """Keep a few small test pictures, so that a report can show them without the images."""
    if not folder.writes:
        return
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
