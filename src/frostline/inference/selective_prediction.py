"""When a run should rather say "I don't know": the probability too low, or the image unlike those it learned.

Both bounds come from images that the model had not learned from, val's or those out of fold, and never from
test. A class's bound is the lowest probability from which answers of that class were right as often as is
asked. How far an image lies is the distance of its features (what the head is given, of length 1) to the
k-th nearest of the training images' (Sun et al. 2022, arXiv 2204.06507). Both are kept with the run, so that
nothing but the study is needed to ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn

from frostline.data import OnProgress
from frostline.errors import StudyError, UsageError
from frostline.feature_cache import Store
from frostline.features import Frozen, Way, features, logits
from frostline.features.image_batches import Images
from frostline.models import Backbone, Cut
from frostline.reports.study_reader import load_predictions
from frostline.system import directories

NAME = "familiar.safetensors"
HELD_OUT = "held-out.csv"  # answers out of fold, where the run itself held no image out
# Training images whose features are kept, evenly taken: at 1,280 features 2.5 MB. A choice.
MOST = 1000
# The neighbour that counts. The paper found 50 for 50,000 images, and less for fewer; with 8 to 100 images a
# class a far one would lie in another class.
NEIGHBOUR = 5
FEWEST = 19  # held-out images, below which no distance can be told that 95 % of new ones stay within
KEPT = 0.95  # of familiar images that are not called unfamiliar: the usual point (FPR at 95 % TPR)
# A class's own answers are few: the mean stated probability (it is calibrated) counts as much as this many.
PRIOR = 10.0
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Familiar:
    """Features of training images (n, width), float16 of length 1, and distances of held-out ones (m,)."""

    features: Tensor
    distances: Floats

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


def neighbour(features: Tensor, known: Tensor, place: int = NEIGHBOUR) -> Floats:
    """Return the Euclidean distance of each row (n, width) to its `place`-th nearest of `known`, length 1."""
    near = torch.cdist(_of_length_1(features), known.float())
    found = near.kthvalue(min(place, len(known)), dim=1).values
    return np.asarray(found.double().numpy())


def _of_length_1(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float().cpu(), dim=1)


@contextmanager
def listening(backbone: Backbone, model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, features (n, width) that reach the model's head are appended to the list.

    With two heads whose answers are averaged these are the first one's.
    """
    head, heard = backbone.classifier, list[Tensor]()

    def hear(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard.append(head.pool(inputs[0].detach()))

    hook = model.get_submodule(head.name).register_forward_pre_hook(hear)
    try:
        yield heard
    finally:
        hook.remove()


@dataclass(frozen=True)
class Below:
    """How the layers that a model has in common with its backbone are computed: up to which cut, in what way.

    With a store, rows that it holds are read, and what it lacks is computed once and kept.
    """

    cut: Cut
    way: Way
    store: Store | None = None


def features_of(
    backbone: Backbone,
    model: nn.Module,
    below: Below,
    images: Images,
    progress: OnProgress | None = None,
    most: int = MOST,
) -> Tensor:
    """Return what the model's head is given for view 0 of up to `most` images, evenly taken: (n, width)."""
    some = images.evenly(most)
    if below.cut is backbone.cuts[-1]:
        frozen = Frozen(backbone, model, below.cut, below.way, below.store)
        return torch.from_numpy(features(frozen, some, progress=progress))
    found: list[Tensor] = []

    @contextmanager
    def heard() -> Iterator[None]:
        with listening(backbone, model) as batch:
            yield
        found.extend(batch)

    logits(
        backbone,
        model,
        below.cut,
        some,
        below.way,
        keep=below.store is not None,
        store=below.store,
        above=heard,
        progress=progress,
    )
    return torch.cat(found).float().cpu()


def leave(
    folder: Path,
    backbone: Backbone,
    model: nn.Module,
    below: Below,
    train: Images,
    val: Images | None,
    most: int = MOST,
) -> None:
    """Keep with a run what at most `most` images of each part look like to its model; `val` may be empty.

    Nothing is told on the way: who stops a training by what it hears would lose one that is finished.
    """
    known = _of_length_1(features_of(backbone, model, below, train, most=most)).half()
    held = np.zeros(0)
    if val is not None and len(val):
        held = neighbour(features_of(backbone, model, below, val, most=most), known)
    write(folder, Familiar(known, held))


def distances(
    backbone: Backbone, model: nn.Module, below: Below, train: Images, held: Images, most: int = MOST
) -> Floats:
    """Return how far held-out images lie from those that `model` learned from, at most `most` of each."""
    known = _of_length_1(features_of(backbone, model, below, train, most=most)).half()
    return neighbour(features_of(backbone, model, below, held, most=most), known)


def write(folder: Path, found: Familiar) -> None:
    """Write it whole."""
    tensors = {"features": found.features.contiguous(), "distances": torch.from_numpy(found.distances.copy())}
    directories.write_atomically(folder / NAME, save(tensors))


def read(folder: Path) -> Familiar | None:
    """Read it back; `None` where a run has none. Raises `StudyError` where it is damaged."""
    if not (folder / NAME).is_file():
        return None
    try:
        found = load_file(folder / NAME)
        return Familiar(found["features"], found["distances"].double().numpy())
    except Exception as error:
        raise StudyError(f"{folder / NAME} is damaged ({error}). Train the run anew.") from None


def bounds(probabilities: Floats, targets: Ints, precision: float) -> Floats:
    """Return for each class the probability from which its answers count as right so often: (classes,).

    `probabilities` (n, classes) are calibrated, of images not learned from. Above 1: never.
    """
    guesses, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = guesses == targets
    return np.array(
        [_bound(top[guesses == c], right[guesses == c], precision) for c in range(probabilities.shape[1])]
    )


def _bound(top: Floats, right: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest stated probability from which answers were right often enough."""
    order = np.argsort(-top, kind="stable")
    said, hits = top[order], right[order].astype(np.float64)
    n = np.arange(1, len(said) + 1)
    rate = (np.cumsum(hits) + PRIOR * np.cumsum(said) / n) / (n + PRIOR)
    good = np.flatnonzero(rate >= precision)
    if len(good):
        return float(said[good[-1]])
    highest = float(np.nextafter(said[0], 2.0)) if len(said) else 0.0
    return max(precision, highest)


@dataclass(frozen=True)
class Doubts:
    """What answers are doubted by: each class's lowest probability, and the distance of unfamiliar images."""

    precision: float
    classes: tuple[str, ...]
    bounds: Floats  # (classes,)
    known: Familiar | None
    held_out: int

    @property
    def farthest(self) -> float | None:
        """The distance from which an image is called unfamiliar; none where that can't be told."""
        found = math.inf if self.known is None else self.known.bound
        return found if math.isfinite(found) else None

    @property
    def sentence(self) -> str:
        """What was promised, for a person."""
        said = (
            f"The others should be right {100 * self.precision:g} % of the time, judged by {self.held_out:,} "
            "images that the model had not learned from."
        )
        if self.farthest is None:
            return f"{said} Too few are known to tell unfamiliar images: the probability alone decides."
        return f"{said} Of images like these 5 % are called unfamiliar."

    def of(self, probabilities: Floats, features: Tensor) -> list[str | None]:
        """Return for each image why it is better not answered: "unfamiliar", "probability" or nothing."""
        guesses, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
        low, far = top < self.bounds[guesses], np.zeros(len(top), dtype=bool)
        if self.known is not None and self.farthest is not None:
            far = self.known.distance(features) > self.farthest
        return ["unfamiliar" if f else "probability" if u else None for f, u in zip(far, low, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """As plain data; a bound above 1 means that no answer of the class is good enough."""
        named = dict(zip(self.classes, self.bounds.tolist(), strict=True))
        return {
            "precision": self.precision,
            "bounds": named,
            "farthest": self.farthest,
            "held_out": self.held_out,
        }


def doubts(run: Path, precision: float) -> Doubts:
    """Return what a run's answers are doubted by. Raises `UsageError` or `StudyError`."""
    if not 0.0 < precision < 1.0:
        raise UsageError(f"target_accuracy must lie above 0 and below 1, such as 0.95; found {precision:g}.")
    tables = [run / HELD_OUT, run / "predictions-val.csv"]
    kept = next((path for path in tables if path.is_file()), None)
    if kept is None:
        raise UsageError(
            f"Run {run.name} has no answers to images that it had not learned from, so it can't say when it "
            "is unsure. Train one with a val part, or with frostline fit."
        )
    found = load_predictions(kept, "")
    held = bounds(found.probabilities, found.targets, precision)
    return Doubts(precision, tuple(found.classes), held, read(run), len(found.targets))
