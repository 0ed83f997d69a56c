"""INT8 by ONNX Runtime's own quantisation: calibrated on training images, and measured on others.

Val is new to a run of `train`. A comparison's winner has learned from it: there val is training images, too.

Static and in QDQ form: the range of every activation is measured beforehand. On lite0 dynamic quantisation,
which measures it for each image anew, took a hundred times as long, since ONNX Runtime has no fast
convolution for it; and one scale a layer instead of one a channel lost seven points (docs/LOG.md, INT8).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline import metrics
from frostline.data import Manifest
from frostline.data.manifest_entries import Sample
from frostline.errors import DamagedImage, DataError, ModelError, option
from frostline.exports.exported_model import ExportedModel
from frostline.exports.onnx_and_torch import (
    INPUT,
    MOST_BYTES_IN_ONE_FILE,
    ONNX,
    model_input,
    onnx_logits,
    silenced,
)
from frostline.exports.verification import LogitsFunction, predict_logits
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, each_decoded
from frostline.sentences import counted, percent
from frostline.studies import operating_point
from frostline.studies.operating_point import Decision, Ints

# Points of accuracy. MLPerf Inference wants a quantised classifier to keep 99 % of the float32 accuracy, and
# Intel's Neural Compressor accepts a loss of 1 % by default: both are at most a point.
MAX_LOSS = 1.0
# 25, 50 and 100 images gave lite0 the same accuracy within half a point (docs/LOG.md, INT8). A choice.
CALIBRATION_IMAGES = 128
# At most so many are labelled by both programs: the difference of two accuracies is then good to half a point
# where one image in fifty changes its class (a 95 % interval of 1.96 · sqrt(0.02 / 2000) = 0.6 points).
MEASURED_IMAGES = 2000
VAL, UNUSED = "validation images", "training images that calibration did not use"
HIGHEST, THRESHOLD, COSTS = "highest probability", "threshold", "costs"  # what a model decides by
TIMED_RUNS, WARM_UP_RUNS = 30, 5  # of one image each; the median of thirty is steady to a few percent


@dataclass(frozen=True)
class PositiveClass:
    """A class with a threshold, before and after: 0–1; `None` where no image is of it, or predicted as it.

    `aim` is what the threshold was chosen for: "recall" or "precision".
    """

    label: str
    aim: str
    images: int  # of it, among those measured
    recall_float: float | None
    recall_int8: float | None
    precision_float: float | None
    precision_int8: float | None

    @classmethod
    def of(cls, label: str, aim: str, place: int, targets: Ints, before: Ints, after: Ints) -> PositiveClass:
        """Return the figures of a class at a place among the classes, for class indices (n,)."""
        own = targets == place

        def figures(guesses: Ints) -> tuple[float | None, float | None]:
            predicted = guesses == place
            found = int((own & predicted).sum())
            return _share(found, int(own.sum())), _share(found, int(predicted.sum()))

        (recall_float, precision_float), (recall_int8, precision_int8) = figures(before), figures(after)
        return cls(label, aim, int(own.sum()), recall_float, recall_int8, precision_float, precision_int8)

    @property
    def loss(self) -> float:
        """Points of what the threshold was chosen for; 0 where that is unknown."""
        before, after = (
            (self.recall_float, self.recall_int8)
            if self.aim == "recall"
            else (self.precision_float, self.precision_int8)
        )
        return 0.0 if before is None or after is None else 100 * (before - after)

    @property
    def text(self) -> str:
        """Return the figures in a sentence."""
        recall, precision = (
            f"{_percent(before)} before and {_percent(after)} after"
            for before, after in (
                (self.recall_float, self.recall_int8),
                (self.precision_float, self.precision_int8),
            )
        )
        return f"Recall of {self.label} ({self.images:,} of these images): {recall}; precision: {precision}."


@dataclass(frozen=True)
class Quantised:
    """A program before and after quantisation. Accuracies 0–1; `loss` in points; latencies of one image.

    Accuracies and changes are counted by the rule that the model decides by: `decided_by`, which is
    "highest probability", "threshold" or "costs". `positive` is of the class with the threshold.
    """

    scheme: str
    calibration_images: int
    images: int
    of: str
    new_images: bool  # whether the accuracies are of images that the model did not learn from
    decided_by: str
    accuracy_float: float
    accuracy_int8: float
    loss: float
    changed: int
    positive: PositiveClass | None
    max_loss: float
    latency_float_ms: float
    latency_int8_ms: float
    processors: int
    bytes_float: int
    bytes_int8: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @property
    def text(self) -> str:
        """Return the result in sentences."""
        speed = (
            f"One image takes {self.latency_int8_ms:.3g} ms, and {self.latency_float_ms:.3g} ms in float32 "
            f"(median of {TIMED_RUNS}, on a machine with {counted(self.processors, 'processor')})."
        )
        positive = "" if self.positive is None else f" {self.positive.text}"
        return f"{_loss_text(self)}{positive} {speed}"


def quantise(
    exported: ExportedModel,
    folder: Path,
    with_preprocessing: bool,
    max_loss: float,
) -> tuple[Quantised, LogitsFunction, LogitsFunction]:
    """Replace `model.onnx` by its INT8 version; return what it costs, and the functions of INT8 and float.

    Raises
    ------
    DataError
        The study's images cannot be read.
    ModelError
        It loses more than `max_loss` points of accuracy, or of the recall or precision that its threshold was
        chosen for, or cannot be quantised.
    """
    data = _data(exported)
    calibration, measured, source = _subsets(data)
    float_path, int8_path = folder / ONNX, folder / f"int8-{ONNX}"
    float_logits = onnx_logits(float_path, exported.preprocessing, with_preprocessing)
    pixels, _ = _pixels(exported, data, calibration)
    _quantise_file(
        float_path, int8_path, model_input(pixels, exported.preprocessing, with_preprocessing).numpy()
    )
    int8_logits = onnx_logits(int8_path, exported.preprocessing, with_preprocessing)
    rows = []
    for start in range(0, len(measured), EVALUATION_BATCH):
        batch, samples = _pixels(exported, data, measured[start : start + EVALUATION_BATCH])
        targets = np.array([exported.classes.index(sample.label) for sample in samples])
        guesses = (
            exported.predictor.guesses(metrics.softmax(predict_logits(logits_of, batch)))
            for logits_of in (float_logits, int8_logits)
        )
        rows.append(np.stack([targets, *guesses]))
    targets, before, after = np.concatenate(rows, axis=1)
    n_measured, float_right, int8_right = len(targets), (before == targets).sum(), (after == targets).sum()
    float_ms, int8_ms = _latencies_ms(float_logits, int8_logits, batch[:1])
    quantised = Quantised(
        scheme="static, QDQ, weights per channel",
        calibration_images=len(pixels),
        images=n_measured,
        of=source,
        new_images=source == VAL,
        decided_by=_rule(exported.predictor.decision),
        accuracy_float=float(float_right / n_measured),
        accuracy_int8=float(int8_right / n_measured),
        loss=float(100 * (float_right - int8_right) / n_measured),
        changed=int((before != after).sum()),
        positive=_positive(exported, targets, before, after),
        max_loss=max_loss,
        latency_float_ms=float_ms,
        latency_int8_ms=int8_ms,
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        bytes_float=_bytes(float_path),
        bytes_int8=_bytes(int8_path),
    )
    positive = quantised.positive
    if quantised.loss > max_loss or (positive is not None and positive.loss > max_loss):
        figures = _loss_text(quantised) if positive is None else f"{_loss_text(quantised)} {positive.text}"
        also = "" if positive is None else f" of accuracy and of {positive.aim}"
        raise ModelError(
            f"{figures} Expected a loss of at most {max_loss:g} points{also}. Nothing was written: leave out "
            f"{option('int8', True)}, or allow more with {option('max_loss')}."
        )
    for part in folder.glob(f"{ONNX}*"):
        part.unlink()
    int8_path.rename(float_path)
    return quantised, int8_logits, float_logits


def _loss_text(quantised: Quantised) -> str:
    """Return the accuracies before and after in a sentence: of what images, and what that means."""
    before, after = 100 * quantised.accuracy_float, 100 * quantised.accuracy_int8
    loss = f"loses {quantised.loss:.2g} points" if quantised.loss > 0 else "loses nothing"
    meaning = "" if quantised.new_images else "; this is what quantising costs, not accuracy on new images"
    rule = "" if quantised.decided_by == HIGHEST else f", decided by its {quantised.decided_by}"
    return (
        f"INT8 {loss} of accuracy on {quantised.images:,} {quantised.of}{rule}: {before:.1f} % before and "
        f"{after:.1f} % after, {counted(quantised.changed, 'prediction')} changed{meaning}."
    )


def _rule(decision: Decision | None) -> str:
    """Return by what a model decides."""
    if decision is None:
        return HIGHEST
    return THRESHOLD if decision.costs is None else COSTS


def _positive(exported: ExportedModel, targets: Ints, before: Ints, after: Ints) -> PositiveClass | None:
    """Return the figures of the class with a threshold; `None` where there is none."""
    decision = exported.predictor.decision
    if decision is None or decision.positive is None:
        return None
    place = exported.classes.index(decision.positive)
    point = operating_point.read(exported.folder.path) or {}
    return PositiveClass.of(decision.positive, str(point.get("aim", "recall")), place, targets, before, after)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else percent(share)


def _data(exported: ExportedModel) -> Manifest:
    try:
        return exported.data()
    except (DataError, OSError) as error:
        raise DataError(
            f"INT8 is calibrated on the study's training images, and they cannot be listed ({error})."
        ) from error


def _subsets(data: Manifest) -> tuple[list[Sample], list[Sample], str]:
    """Return samples to calibrate on, samples to measure on, and what these are."""
    train, val = (
        sorted(data.subset(subset), key=lambda sample: sample.digest) for subset in ("train", "val")
    )
    if val:
        return train[:CALIBRATION_IMAGES], val[:MEASURED_IMAGES], VAL
    n_calibration = min(CALIBRATION_IMAGES, len(train) // 2)
    if not n_calibration:
        raise DataError(
            f"INT8 needs training images to calibrate on and others to measure on; found {len(train)}."
        )
    return train[:n_calibration], train[n_calibration : n_calibration + MEASURED_IMAGES], UNUSED


def _pixels(exported: ExportedModel, data: Manifest, samples: list[Sample]) -> tuple[Tensor, list[Sample]]:
    """Return pixels (n, 3, size, size) of the images that can be decoded, and their samples."""

    def crop(sample: Sample) -> Tensor | None:
        try:
            return exported.preprocessing.crop(data.read(sample))
        except DamagedImage:  # found out now: as in training, it is left out
            return None
        except DataError as error:
            raise DataError(f"INT8 is calibrated and measured on the study's images, but {error}") from error

    decoded = list(zip(each_decoded(crop, samples), samples, strict=True))
    crops = [pixels for pixels, _ in decoded if pixels is not None]
    if not crops:
        raise DataError(
            f"None of {len(samples)} of the study's images, such as {samples[0].path}, can be read."
        )
    return torch.stack(crops), [sample for pixels, sample in decoded if pixels is not None]


def _quantise_file(float_path: Path, int8_path: Path, inputs: NDArray[Any]) -> None:
    """Quantise an ONNX file with the ranges that activations have for `inputs` (n, …)."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # which has no types
        def __init__(self) -> None:
            self.batches: Iterator[NDArray[Any]] = (inputs[row : row + 1] for row in range(len(inputs)))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: np.ascontiguousarray(batch)}

    prepared = int8_path.with_name("prepared.onnx")
    large = _bytes(float_path) > MOST_BYTES_IN_ONE_FILE
    try:
        with silenced():
            # symbolic shapes are for networks with shapes that the exporter left open: these have none
            quant_pre_process(
                str(float_path), str(prepared), skip_symbolic_shape=True, save_as_external_data=large
            )
            quantization.quantize_static(
                str(prepared),
                str(int8_path),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                use_external_data_format=large,
            )
            metadata = {entry.key: entry.value for entry in onnx.load(float_path).metadata_props}
            model = onnx.load(int8_path, load_external_data=False)
            onnx.helper.set_model_props(model, metadata)
            onnx.save(model, int8_path)
    except Exception as error:  # it raises whatever it stumbles over
        raise ModelError(
            f"ONNX Runtime cannot quantise this network ({type(error).__name__}: {str(error)[:200]}). "
            "Leave out --int8."
        ) from error
    finally:
        prepared.unlink(missing_ok=True)


def _latencies_ms(*functions_and_image: Any) -> tuple[float, float]:
    """Return the median milliseconds that each program takes for one image; they take turns."""
    *functions, image = functions_and_image
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(WARM_UP_RUNS + TIMED_RUNS):
        for logits_of, times in zip(functions, seconds, strict=True):
            began = time.perf_counter()
            logits_of(image)
            times.append(time.perf_counter() - began)
    first, second = (1000 * statistics.median(times[WARM_UP_RUNS:]) for times in seconds)
    return first, second


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
