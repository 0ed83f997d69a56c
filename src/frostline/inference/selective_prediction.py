"""Selective prediction: which predictions are not trusted, by probability or by distance to training images.

Both bounds come from held-out images, of val or out of fold, never of test. A class's bound is the lowest
probability from which its predictions reach the target accuracy. The distance of an image is that of its
features (the head's input, of length 1) to the k-th nearest training image's (Sun et al. 2022, arXiv
2204.06507). Both are stored with the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn

from frostline.errors import StudyError, UsageError, demand_share
from frostline.reports.study_reader import load_predictions
from frostline.system import directories

NAME = "familiar.safetensors"
HELD_OUT = "held-out.csv"  # predictions out of fold, where the run itself held out no image
# Training images whose features are kept, evenly taken: at 1,280 features 2.5 MB. A choice.
MOST = 1000
# The neighbour that counts. The paper found 50 for 50,000 images, and less for fewer; with 8 to 100 images a
# class a far one would lie in another class.
NEIGHBOUR = 5
FEWEST = 19  # held-out images, below which the distance that 95 % of new ones stay within is unknown
KEPT = 0.95  # of familiar images that are not called unfamiliar: the usual point (FPR at 95 % TPR)
# A class's own predictions are few: the mean probability (it is calibrated) counts as much as this many.
PRIOR = 10.0
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FamiliarFeatures:
    """Features of training images (n, width), float16 of length 1, and distances of held-out ones (m,)."""

    features: Tensor
    distances: Floats

    @classmethod
    def of(cls, train: Tensor, held_out: Tensor) -> FamiliarFeatures:
        """Of what the head is given for training images (n, width) and for held-out ones (m, width)."""
        reference = _normalised(train).half()
        both = len(train) and len(held_out)
        return cls(reference, neighbour(held_out, reference) if both else np.zeros(0))

    def distance(self, features: Tensor) -> Floats:
        """Return how far images lie from those learned from: (n,), 0–2."""
        return neighbour(features, self.features)

    @property
    def bound(self) -> float:
        """The distance that 95 % of new images like the held-out ones stay within.

        With m of them that is the ⌈(m + 1) · 0.95⌉-th smallest (split conformal); infinite below 19.
        """
        rank = math.ceil((len(self.distances) + 1) * KEPT)
        return float(np.sort(self.distances)[rank - 1]) if rank <= len(self.distances) else math.inf


def neighbour(features: Tensor, reference: Tensor, place: int = NEIGHBOUR) -> Floats:
    """Return the distance of each row (n, width), scaled to length 1, to its `place`-th nearest reference."""
    near = torch.cdist(_normalised(features), reference.float())
    distances = near.kthvalue(min(place, len(reference)), dim=1).values
    return np.asarray(distances.double().numpy())


def _normalised(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float().cpu(), dim=1)


def write(folder: Path, familiar: FamiliarFeatures) -> None:
    """Write it whole."""
    tensors = {
        "features": familiar.features.contiguous(),
        "distances": torch.from_numpy(familiar.distances.copy()),
    }
    directories.write_atomically(folder / NAME, save(tensors))


def read(folder: Path) -> FamiliarFeatures | None:
    """Read it back; `None` where a run has none. Raises `StudyError` where it is damaged."""
    if not (folder / NAME).is_file():
        return None
    try:
        tensors = load_file(folder / NAME)
        return FamiliarFeatures(tensors["features"], tensors["distances"].double().numpy())
    except Exception as error:
        raise StudyError(f"{folder / NAME} is damaged ({error}). Train the run again.") from None


def bounds(probabilities: Floats, targets: Ints, precision: float) -> Floats:
    """Return for each class the probability from which its predictions are correct so often: (classes,).

    `probabilities` (n, classes) are calibrated, of images not learned from. Above 1: never.
    """
    guesses, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = guesses == targets
    return np.array(
        [_bound(top[guesses == c], correct[guesses == c], precision) for c in range(probabilities.shape[1])]
    )


def _bound(top: Floats, correct: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest probability from which predictions were correct often enough."""
    order = np.argsort(-top, kind="stable")
    stated, hits = top[order], correct[order].astype(np.float64)
    n = np.arange(1, len(stated) + 1)
    rate = (np.cumsum(hits) + PRIOR * np.cumsum(stated) / n) / (n + PRIOR)
    sufficient = np.flatnonzero(rate >= precision)
    if len(sufficient):
        return float(stated[sufficient[-1]])
    highest = float(np.nextafter(stated[0], 2.0)) if len(stated) else 0.0
    return max(precision, highest)


@dataclass(frozen=True)
class Doubts:
    """Thresholds of selective prediction: each class's lowest probability, and the largest distance."""

    precision: float
    classes: tuple[str, ...]
    bounds: Floats  # (classes,)
    familiar: FamiliarFeatures | None
    held_out: int

    @property
    def farthest(self) -> float | None:
        """The distance from which an image is called unfamiliar; None where unknown."""
        bound = math.inf if self.familiar is None else self.familiar.bound
        return bound if math.isfinite(bound) else None

    @property
    def sentence(self) -> str:
        """The expected accuracy of the predictions that are not marked, as a sentence."""
        text = (
            f"The others should reach an accuracy of {100 * self.precision:g} %, estimated on "
            f"{self.held_out:,} held-out images."
        )
        if self.farthest is None:
            return f"{text} There are too few to detect unfamiliar images: the probability alone decides."
        return f"{text} Of images like these 5 % are marked unfamiliar."

    def of(self, probabilities: Floats, features: Tensor, guesses: Ints | None = None) -> list[str | None]:
        """Return for each image why its prediction is not trusted: "unfamiliar", "probability" or nothing.

        `guesses` (n,) are the predicted classes; None: the likeliest.
        """
        guesses = probabilities.argmax(axis=1) if guesses is None else guesses
        top = probabilities[np.arange(len(guesses)), guesses]
        low, far = top < self.bounds[guesses], np.zeros(len(top), dtype=bool)
        if self.familiar is not None and self.farthest is not None:
            far = self.familiar.distance(features) > self.farthest
        return ["unfamiliar" if f else "probability" if u else None for f, u in zip(far, low, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """As plain data; a bound above 1 means that no prediction of the class is trusted."""
        bound_of = dict(zip(self.classes, self.bounds.tolist(), strict=True))
        return {
            "precision": self.precision,
            "bounds": bound_of,
            "farthest": self.farthest,
            "held_out": self.held_out,
        }


def doubts(run: Path, precision: float) -> Doubts:
    """Return the thresholds of a run's predictions. Raises `UsageError` or `StudyError`."""
    demand_share("target_accuracy", precision, 0.95)
    tables = [run / HELD_OUT, run / "predictions-val.csv"]
    predictions_path = next((path for path in tables if path.is_file()), None)
    if predictions_path is None:
        raise UsageError(
            f"Run {run.name} has no predictions on held-out images, so it cannot tell when it "
            "is unsure. Train one with a val set, or with frostline fit."
        )
    predictions = load_predictions(predictions_path)
    class_bounds = bounds(predictions.probabilities, predictions.targets, precision)
    return Doubts(precision, tuple(predictions.classes), class_bounds, read(run), len(predictions.targets))
