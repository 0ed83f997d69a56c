"""Verify that an exported model predicts the same as `predict`, on real images before it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline import metrics
from frostline.data import Manifest, Rendering, find_images, open_image
from frostline.errors import DamagedImage, DataError, ModelError
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, each_decoded
from frostline.inference.predictor import Predictor
from frostline.models import Preprocessing

# Images compared: more find no other fault in a program that runs the same layers, and take longer.
MOST_IMAGES = 64
# A choice: exports of lite0 were within 2e-7 (docs/LOG.md, 2026-11-25, few images); room for deeper networks
# and other processors, and still far below what a wrong layer or preprocessing does.
MAX_PROBABILITY_DIFFERENCE = 1e-3

T = TypeVar("T")
LogitsFunction = Callable[[Tensor], NDArray[np.float32]]  # uint8 pixels (n, 3, s, s) → logits (n, classes)


@dataclass(frozen=True)
class CheckImages:
    """Images to compare on: uint8 pixels (n, 3, size, size), resized and cropped; and their source."""

    pixels: Tensor
    source: str


@dataclass(frozen=True)
class VerificationResult:
    """The result of the comparison with `predict`. `largest_difference` is of a probability, 0–1."""

    images: int
    source: str
    largest_difference: float


def load_check_images(
    study: Path, preprocessing: Preprocessing, images_path: str | Path | None, rendering: Rendering
) -> CheckImages:
    """Return images to compare on: those of `images_path`, the study's own, else its thumbnails, else noise.

    Raises `DataError` where none of `images_path` can be read.
    """
    if images_path is not None:
        pixels = _crops(preprocessing, lambda path: open_image(path, rendering), find_images(images_path))
        if pixels is None:
            raise DataError(
                f"{images_path} holds no image that can be read; expected images to check the export on."
            )
        return CheckImages(pixels, "given images")
    pixels = _study_crops(study, preprocessing)
    if pixels is not None:
        return CheckImages(pixels, "images of the study")
    pixels = _crops(preprocessing, open_image, sorted((study / "thumbnails").glob("*.jpg")))
    if pixels is not None:
        return CheckImages(pixels, "small copies in the study")
    side = preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (MOST_IMAGES, 3, side, side), dtype=np.uint8)
    return CheckImages(
        torch.from_numpy(noise), "images of random noise, since none of the study's can be read here"
    )


def _study_crops(study: Path, preprocessing: Preprocessing) -> Tensor | None:
    """Return pixels of the study's images in the order of their digests, a fixed random one; `None`: none."""
    try:
        data = Manifest.load(study / "manifest.jsonl")
    except (DataError, OSError):
        return None
    return _crops(preprocessing, data.read, sorted(data.samples, key=lambda sample: sample.digest))


def _crops(
    preprocessing: Preprocessing, read: Callable[[T], Image.Image], items: Sequence[T]
) -> Tensor | None:
    """Return pixels (n, 3, size, size) of the first `MOST_IMAGES` that can be decoded; `None`: there is none.

    It ends where one was moved or changed, or is in memory alone: the others are, too.
    """

    def crop(item: T) -> Tensor | None:
        try:
            return preprocessing.crop(read(item))
        except DamagedImage:
            return None

    crops: list[Tensor] = []
    with contextlib.suppress(DataError):
        for pixels in each_decoded(crop, items):
            if pixels is not None:
                crops.append(pixels)
            if len(crops) == MOST_IMAGES:
                break
    return torch.stack(crops) if crops else None


def logits_function(model: torch.nn.Module, preprocessing: Preprocessing) -> LogitsFunction:
    """Return a function from pixels to a module's logits."""

    def logits(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(preprocessing.normalise(pixels)).float().numpy())

    return logits


def _batches(pixels: Tensor) -> list[Tensor]:
    return [pixels[start : start + EVALUATION_BATCH] for start in range(0, len(pixels), EVALUATION_BATCH)]


def predicted_probabilities(predictor: Predictor, pixels: Tensor) -> NDArray[np.float64]:
    """Return the probabilities of `predict` (n, classes), batch by batch."""
    return np.concatenate([predictor(part) for part in _batches(pixels)])


def predict_logits(logits_of: LogitsFunction, pixels: Tensor) -> NDArray[np.float32]:
    """Return logits (n, classes), batch by batch."""
    return np.concatenate([logits_of(part) for part in _batches(pixels)])


def verify(
    expected: NDArray[np.float64], logits_of: LogitsFunction, check_images: CheckImages
) -> VerificationResult:
    """Compare probabilities with those of `predict`, in batches and for a single image.

    Raises `ModelError` if a prediction changes, or a probability differs by more than rounding errors.
    """
    predicted_probabilities = metrics.softmax(predict_logits(logits_of, check_images.pixels))
    single_probabilities = metrics.softmax(logits_of(check_images.pixels[:1]))
    n_changed = int((predicted_probabilities.argmax(axis=1) != expected.argmax(axis=1)).sum())
    largest_difference = max(
        np.abs(predicted_probabilities - expected).max(), np.abs(single_probabilities - expected[:1]).max()
    )
    if n_changed or not largest_difference <= MAX_PROBABILITY_DIFFERENCE:  # also where it is NaN
        raise ModelError(
            f"The exported model's predictions differ from PyTorch's on {n_changed} of {len(expected)} "
            f"{check_images.source}, and its probabilities by up to {largest_difference:.1g}; expected the "
            f"same predictions, and at most {MAX_PROBABILITY_DIFFERENCE:g}. Nothing was written."
        )
    return VerificationResult(len(expected), check_images.source, float(largest_difference))
