"""Images to predict, decoded in batches: pixels for each model, and the images that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from frostline.data import (
    PredictionInput,
    PredictionInputs,
    RenderedImage,
    notes_on,
    rendered_from_picture,
)
from frostline.data.decoding_threads import AUTO, decode_in_turn, decoding_threads
from frostline.data.pixels import decode_limit
from frostline.errors import DamagedImage
from frostline.feature_extraction.image_batches import evaluation_batch
from frostline.feature_extraction.ordered_threads import mapped
from frostline.inference import test_time_augmentation
from frostline.inference.predictor import Predictor
from frostline.progress import Activity, Progress

FETCHERS = 8  # threads that fetch remote images at the same time; a choice


@dataclass
class DecodedImages:
    """What was noted while images were decoded: how each was rendered for each model, and what cannot be."""

    rendered_images: list[list[RenderedImage]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def notes(self, predictors: Sequence[Predictor], inputs: PredictionInputs) -> list[tuple[str, ...]]:
        """Return for each model plain sentences on how its images were read."""
        return [
            tuple(notes_on([image[at] for image in self.rendered_images], p.rendering, inputs.other_files))
            for at, p in enumerate(predictors)
        ]


def decoded_batches(
    predictors: Sequence[Predictor],
    inputs: PredictionInputs,
    noted: DecodedImages,
    tta: str,
    progress: Progress,
) -> Iterator[tuple[list[str], list[Tensor]]]:
    """Yield names and, for each model, pixels (n, views, 3, size, size) of images that can be decoded."""
    items, size = inputs.inputs, evaluation_batch()
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    remote = any(item.is_remote for item in items)
    threads = max(decoding_threads(AUTO), FETCHERS * remote)
    if any(item.runs_own_code for item in items):  # it may not bear several threads
        threads = 1

    def decode(item: PredictionInput) -> list[_DecodedInput] | DamagedImage:
        with decode_limit.used_up():
            return _decode(predictors, item, tta)

    done = 0
    in_turn = not remote and decode_in_turn(threads)
    for batch, decoded_batch in zip(batches, mapped(decode, batches, threads, in_turn=in_turn), strict=True):
        names, pixels = [], []
        for item, decoded_item in zip(batch, decoded_batch, strict=True):
            if isinstance(decoded_item, DamagedImage):
                noted.unreadable.append((item.name, str(decoded_item)))
            else:
                pixels.append([one.pixels for one in decoded_item])
                noted.rendered_images.append([one.rendered for one in decoded_item])
                names.append(item.name)
        if pixels:
            yield names, [torch.stack(seen) for seen in zip(*pixels, strict=True)]
        done += len(batch)
        progress(Activity.PREDICT, done, len(items))


@dataclass(frozen=True)
class _DecodedInput:
    """An image's pixels (views, 3, size, size), and how they were made."""

    pixels: Tensor
    rendered: RenderedImage


def _decode(
    predictors: Sequence[Predictor], item: PredictionInput, tta: str
) -> list[_DecodedInput] | DamagedImage:
    """Return an image's pixels for each model, or why there are none."""
    try:
        picture, seen = item.picture(), []
        for predictor in predictors:
            image = picture.rgb(predictor.rendering)
            rendered = rendered_from_picture(item.name, picture, image, predictor.rendering)
            seen.append(
                _DecodedInput(test_time_augmentation.views(image, predictor.preprocessing, tta), rendered)
            )
        return seen
    except DamagedImage as error:
        return error
