"""That an exported model answers what `predict` answers: asked about real images before it appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline import metrics
from frostline.data import Manifest, Rendering, find_images, open_image
from frostline.errors import DataError, ModelError
from frostline.features.image_batches import EVALUATION_BATCH
from frostline.inference.prediction import Predictor
from frostline.models import Preprocessing

# Images asked about: more find no other fault in a program that runs the same layers, and take longer.
MOST_IMAGES = 64
# A choice: exports of lite0 were within 2e-7 (docs/LOG.md, 2026-11-25, few images); room for deeper networks
# and other processors, and still far below what a wrong layer or preprocessing does.
MOST_DIFFERENCE = 1e-3

Answer = Callable[[Tensor], NDArray[np.float32]]  # uint8 pixels (n, 3, s, s) → logits (n, classes)


@dataclass(frozen=True)
class Pictures:
    """Images to ask about: uint8 pixels (n, 3, s, s), resized and cropped; and what they are."""

    pixels: Tensor
    what: str


@dataclass(frozen=True)
class Proof:
    """What the comparison with `predict` found. `largest_difference` is of a probability, 0–1."""

    images: int
    what: str
    largest_difference: float


def pictures(
    study: Path, preprocessing: Preprocessing, given: str | Path | None, rendering: Rendering
) -> Pictures:
    """Return images to ask about: those given, the study's own, else its thumbnails, else noise.

    Raises `DataError` where images were given and none can be read.
    """
    if given is not None:
        found = _cropped(preprocessing, (open_image(path, rendering) for path in find_images(given)))
        if found is None:
            raise DataError(
                f"{given} holds no image that can be read; expected images to check the export on."
            )
        return Pictures(found, "images that were given")
    for images, what in ((_own(study), "images of the study"), (_small(study), "small copies in the study")):
        found = _cropped(preprocessing, images)
        if found is not None:
            return Pictures(found, what)
    side = preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (MOST_IMAGES, 3, side, side), dtype=np.uint8)
    return Pictures(torch.from_numpy(noise), "made-up images, since none of the study's can be read here")


def _own(study: Path) -> Iterator[Image.Image]:
    """The study's images in the order of their digests, which is as good as drawn."""
    try:
        data = Manifest.load(study / "manifest.jsonl")
    except (DataError, OSError):
        return
    for sample in sorted(data.samples, key=lambda s: s.digest):
        try:
            yield data.read(sample)
        except DataError:  # moved, changed, damaged, or was handed over in memory
            return


def _small(study: Path) -> Iterator[Image.Image]:
    for path in sorted((study / "thumbnails").glob("*.jpg")):
        try:
            yield open_image(path)
        except DataError:
            continue


def _cropped(preprocessing: Preprocessing, images: Iterator[Image.Image]) -> Tensor | None:
    found: list[Tensor] = []
    try:
        for image in images:
            found.append(preprocessing.crop(image))
            if len(found) == MOST_IMAGES:
                break
    except DataError:
        pass
    return torch.stack(found) if found else None


def logits(model: torch.nn.Module, preprocessing: Preprocessing) -> Answer:
    """Return a plain module as something to ask."""

    def answer(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(preprocessing.normalise(pixels)).float().numpy())

    return answer


def _batches(pixels: Tensor) -> list[Tensor]:
    return [pixels[start : start + EVALUATION_BATCH] for start in range(0, len(pixels), EVALUATION_BATCH)]


def probabilities(predictor: Predictor, pixels: Tensor) -> NDArray[np.float64]:
    """Return what `predict` says (n, classes), batch by batch."""
    return np.concatenate([predictor(part) for part in _batches(pixels)])


def asked(answer: Answer, pixels: Tensor) -> NDArray[np.float32]:
    """Return logits (n, classes), batch by batch."""
    return np.concatenate([answer(part) for part in _batches(pixels)])


def compared(expected: NDArray[np.float64], answer: Answer, shown: Pictures) -> Proof:
    """Compare probabilities with those `predict` gives, in batches and for one image alone.

    Raises `ModelError` if any answer changes, or if a probability differs by more than rounding can explain.
    """
    found = metrics.softmax(asked(answer, shown.pixels))
    alone = metrics.softmax(answer(shown.pixels[:1]))
    changed = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    apart = max(np.abs(found - expected).max(), np.abs(alone - expected[:1]).max())
    if changed or not apart <= MOST_DIFFERENCE:  # nan, too
        raise ModelError(
            f"The exported model answers {changed} of {len(expected)} {shown.what} otherwise than PyTorch, "
            f"and its probabilities differ by up to {apart:.1g}; expected the same answers, and at most "
            f"{MOST_DIFFERENCE:g}. Nothing was written."
        )
    return Proof(len(expected), shown.what, float(apart))
