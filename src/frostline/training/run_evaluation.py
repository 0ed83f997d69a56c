"""A run's figures: what the model, as it will be taken away, says of val and test."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline import metrics
from frostline.cost.run_time import DRIFT_IMAGES, THUMBNAILS
from frostline.data import Sample
from frostline.data.decoding_threads import Workers
from frostline.diagnostics.feature_drift import Drift
from frostline.distributed import process_group
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Counts, ForwardConfig, ForwardPass
from frostline.feature_extraction.forward_pass import EvenlyTaken
from frostline.feature_extraction.image_batches import Images, evaluation_batch
from frostline.inference import selective_prediction
from frostline.inference.error_gallery import ClassMaps
from frostline.studies.study_folder import RunFolder
from frostline.system import devices, numerics
from frostline.training.caching import cache_planning
from frostline.training.loop.solved_head import TrainedModel
from frostline.training.train_request import Subsets, TrainRequest

THUMBNAIL_PX = 64
Maps = dict[tuple[str, int], NDArray[np.float64]]


@dataclass(frozen=True)
class EvaluationExtras:
    """What one pass over held-out images gave besides the figures.

    Attributes
    ----------
    features : Tensor of float32, shape (n, width)
        What the head is given for up to 1,000 of val, evenly taken; empty without val.
    drift : dict of str to float, or None
        Feature drift by stage on val; None without val, and where nothing was trained.
    maps : dict of (path, class) to ndarray, shape (h, w)
        Class-activation maps of test images that were misclassified, where the pass shows them.
    """

    features: Tensor
    drift: dict[str, float] | None = None
    maps: Maps = field(default_factory=dict)


def predict_subsets(
    request: TrainRequest,
    folder: RunFolder,
    adapted: TrainedModel,
    subsets: Subsets,
    cache: FeatureCache | None,
    counts: Counts,
) -> tuple[dict[str, Any], EvaluationExtras]:
    """Predict val and test, each image once, with the model as it will be taken away: float32, plain."""
    with devices.full_float32():
        return _predict_subsets(request, folder, adapted, subsets, cache, counts)


def _predict_subsets(
    request: TrainRequest,
    folder: RunFolder,
    adapted: TrainedModel,
    subsets: Subsets,
    cache: FeatureCache | None,
    counts: Counts,
) -> tuple[dict[str, Any], EvaluationExtras]:
    forward = ForwardPass(
        request.backbone,
        adapted.model,
        adapted.cut,
        ForwardConfig(numerics.exact_plan(request.config.threads), evaluation_batch()),
        cache if cache_planning.untimed(request, adapted.cut, 4).keep else None,
        counts,
        workers=request.config.workers,
        progress=request.progress,
    )
    temperature = request.config.temperature or adapted.temperature
    name = metrics.name_of(request.metric)
    figures: dict[str, Any] = {
        "val_accuracy": None,
        f"val_{name}": None,
        "val_goodness": None,
    }
    val, held_out = subsets.val, EvaluationExtras(torch.empty(0, request.backbone.feature_width))
    if len(val):
        if request.taken_away:
            share = process_group.share(len(val))
            raw, held_out = pass_once(forward, val, request.strategy.trains, share)
        else:
            raw = _logits(forward, val)
        temperature = request.config.temperature or metrics.fit_temperature(raw, val.targets)
        probabilities = metrics.softmax(raw, temperature)
        _write_predictions(request, folder, "val", val.samples, probabilities)
        figures |= {
            "val_accuracy": metrics.score("accuracy", val.targets, probabilities),
            f"val_{name}": metrics.score(request.metric, val.targets, probabilities),
            "val_goodness": metrics.goodness(request.metric, val.targets, probabilities),
        }
    of_test, maps = _of_test(request, folder, forward, subsets.test, temperature)
    return {**figures, **of_test, "temperature": temperature}, replace(held_out, maps=maps)


def pass_once(
    forward: ForwardPass, images: Images, drifting: bool, share: slice | None = None
) -> tuple[NDArray[np.float32], EvaluationExtras]:
    """Return the logits of all images, features to doubt by, and drift where it is asked for.

    With `share`, the processes of a job pass a share each, and all of them call this.
    """
    drift = Drift(forward, EvenlyTaken(len(images), DRIFT_IMAGES * drifting, share))
    taken = EvenlyTaken(len(images), selective_prediction.MOST, share)
    features = torch.zeros(len(taken), forward.backbone.feature_width)
    logits = [torch.empty(0, len(images.manifest.classes))]
    for outputs in forward(images if share is None else images.subset(share), drift.watching):
        logits.append(outputs.logits)
        drift.add(outputs)
        places, rows = taken.within(outputs.positions)
        features[places] = outputs.features[rows]
    drift_of, raw = drift.by_stage() if drifting else None, torch.cat(logits).numpy()
    if share is not None:
        process_group.add_up([features])
        raw = process_group.gathered(raw, len(images))
    return raw, EvaluationExtras(features, drift_of)


def _logits(forward: ForwardPass, images: Images) -> NDArray[np.float32]:
    """Of all images; each process of a job passes a share of them."""
    mine = images.subset(process_group.share(len(images)))
    return process_group.gathered(forward.logits(mine), len(images))


def _logits_and_maps(forward: ForwardPass, test: Images) -> tuple[NDArray[np.float32], Maps]:
    """Return test's logits; each process of a job passes a share, and maps the mistakes among these."""
    mine = test.subset(process_group.share(len(test)))
    if forward.cut is forward.backbone.cuts[-1] or not len(mine):  # no map lies above the last cut
        return _logits(forward, test), {}
    logits, maps, targets = [], Maps(), mine.targets
    class_maps = ClassMaps(forward.backbone, forward.config.plan.place(forward.model), mine[(0, 0)][None])
    for outputs in forward(mine, class_maps.recording):
        logits.append(outputs.logits.numpy())
        guesses = outputs.logits.argmax(dim=1).numpy()
        rows = np.flatnonzero(guesses != targets[outputs.positions]).tolist()
        heats = class_maps.of(rows, guesses[rows].tolist()) if rows else None
        for row, heat in zip(rows, heats, strict=True) if heats is not None else ():
            maps[mine.samples[outputs.positions[row]].path, int(guesses[row])] = heat
    return process_group.gathered(np.concatenate(logits), len(test)), maps


def _of_test(
    request: TrainRequest,
    folder: RunFolder,
    forward: ForwardPass,
    test: Images,
    temperature: float,
) -> tuple[dict[str, Any], Maps]:
    """The test set's figures, and maps of its mistakes; all null where there is no test image."""
    name = metrics.name_of(request.metric)
    if not test.samples:
        nothing = (*metrics.METRICS, name, *metrics.BALANCE, "per_class", "low", "high", *metrics.BELIEVED)
        return dict.fromkeys(nothing), {}
    raw, maps = _logits_and_maps(forward, test)
    probabilities = metrics.softmax(raw, temperature)
    _write_predictions(request, folder, "test", test.samples, probabilities)
    _write_thumbnails(folder, test, request.config.workers)
    guesses = probabilities.argmax(axis=1)
    units = request.data.units(test.samples)
    low, high = metrics.interval(test.targets, guesses, units)
    learned = np.bincount(request.data.targets(request.data.subset("train")))
    summary = metrics.summary(request.data.classes, test.targets, probabilities, learned)
    if name not in summary:
        summary[name] = metrics.score(request.metric, test.targets, probabilities)
    believed = metrics.believed(test.targets, probabilities, units)
    return {**summary, **believed, "low": low, "high": high}, maps


def _write_predictions(
    request: TrainRequest,
    folder: RunFolder,
    subset: str,
    samples: tuple[Sample, ...],
    probabilities: NDArray[np.float64],
) -> None:
    names = request.data.classes
    rows = (
        [s.path, s.label, names[row.argmax()], *(f"{p:.6g}" for p in row)]
        for s, row in zip(samples, probabilities, strict=True)
    )
    header = ["path", "label", "predicted", *(f"p({name})" for name in names)]
    folder.write_table(f"predictions-{subset}.csv", header, rows)


def _write_thumbnails(folder: RunFolder, test: Images, workers: Workers) -> None:
    """Keep a few small test pictures, as the network sees them: a report can show them without the images."""
    if not folder.writes:
        return
    place = folder.path.parent.parent / "thumbnails"
    place.mkdir(exist_ok=True)
    targets = {
        position: place / f"{test.samples[position].digest[:16]}.jpg"
        for position in sorted(range(len(test)), key=lambda at: test.samples[at].digest)[:THUMBNAILS]
    }
    missing = [position for position, target in targets.items() if not target.exists()]
    batches = test.batches([[(position, 0)] for position in missing], workers)
    for position, (pixels,) in zip(missing, batches, strict=True):
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        temporary = targets[position].with_suffix(f".{os.getpid()}.tmp")
        picture.save(temporary, format="JPEG", quality=80)
        temporary.replace(targets[position])
