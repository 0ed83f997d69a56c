"""Test-time augmentation: probabilities averaged over several views of each image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv

from frostline.errors import UsageError, did_you_mean, option
from frostline.models import Preprocessing
from frostline.studies.operating_point import Decision

TTA = ("none", "flip", "five_crop", "ten_crop")
# Side of the image that crops are cut from, over theirs: 256 to 224, as for AlexNet (Krizhevsky et al. 2012).
CROPPED_FROM = 256 / 224


def check(tta: str) -> None:
    """Raise `UsageError` where `tta` is none of `TTA`."""
    if tta not in TTA:
        raise UsageError(f"tta must be one of {', '.join(TTA)}, found {tta!r}.{did_you_mean(tta, TTA)}")


def views(image: Image.Image, preprocessing: Preprocessing, tta: str) -> Tensor:
    """Return the views of an RGB image.

    Parameters
    ----------
    image : Image
    preprocessing : Preprocessing
    tta : str
        "none": the evaluation view. "flip": this and its mirror image. "five_crop": corners and centre of the
        evaluation view at 8/7 of the size. "ten_crop": these and their mirror images.

    Returns
    -------
    Tensor of uint8, shape (views, 3, size, size)
    """
    if tta in ("none", "flip"):
        plain = preprocessing.crop(image)
        return torch.stack([plain] if tta == "none" else [plain, tv.hflip(plain)])
    size = preprocessing.size
    larger = preprocessing.with_size(round(CROPPED_FROM * size)).crop(image)
    cut = tv.five_crop if tta == "five_crop" else tv.ten_crop
    return torch.stack(list(cut(larger, [size, size])))


def mean_probabilities(
    predictor: Callable[[Tensor], NDArray[np.float64]], batch: Tensor
) -> NDArray[np.float64]:
    """Return the mean over views of a model's probabilities.

    Parameters
    ----------
    predictor : callable
        Pixels (n, 3, size, size) to probabilities (n, classes).
    batch : Tensor of uint8, shape (n, views, 3, size, size)

    Returns
    -------
    ndarray, shape (n, classes)
    """
    of_views = [predictor(batch[:, view].contiguous()) for view in range(batch.shape[1])]
    return np.asarray(np.mean(of_views, axis=0))


def note(tta: str, flip: str | None, decision: Decision | None) -> list[str]:
    """Return what to know of probabilities that were averaged; `flip` is how the run learned."""
    if tta == "none":
        return []
    number = {"flip": 2, "five_crop": 5, "ten_crop": 10}[tta]
    views_line = f"Probabilities are means over {number} views of each image ({option('tta', tta)})"
    lines = [f"{views_line}; a study's own figures are of one view."]
    if decision is not None and decision.threshold is not None:
        lines.append(
            "The threshold was chosen by one view: what it promises does not hold for means of several."
        )
    if tta != "five_crop" and flip == "none":
        lines.append("The run learned from no mirrored images: views in a mirror may cost accuracy.")
    return lines
