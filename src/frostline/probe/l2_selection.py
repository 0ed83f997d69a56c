"""Which L2 a solved head gets: what its folds answer about images that they have not seen decides.

The grid is not walked: the search starts where the best L2 usually lies, and goes on in decades as long as an
edge of what was tried looks best; then both neighbours are tried. Each fit starts from the nearest one of the
same fold, never from a head that has seen the fold's held-out images: it would remember them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.config import L2_GRID
from frostline.probe import logistic as lbfgs
from frostline.probe import ridge as closed_form
from frostline.probe.feature_scaling import Floats, Ints, Scaled, Solution
from frostline.probe.logistic import FINE, ROUGH, Turned
from frostline.system import cpu_threads

Folds = Sequence[tuple[Ints, Ints]]

# Out-of-fold scores of a few hundred images differ by chance. Of all L2s within this many standard errors
# of the best score, the one of lowest log loss is taken: 69.6 % against 69.0 % for the best score alone
# (mean over six sets, 40 images a class, two draws; at 8 a class 55.1 % both; docs/LOG.md 2026-11-23).
WITHIN_SE = 0.5
# Where a fit has more multiplications a step than this (800 classes of three images have 2.5 billion), one
# fold alone chooses, as few folds say enough about very many classes, and each costs seconds. A choice.
ONE_FOLD = 1_000_000_000
# Below so many multiplications a step, threads wait for each other longer than they compute: 16,000 images of
# ten classes took 9.6 s with one thread and 30.8 with two, 800 classes of three images 13 and 40, both beside
# other work on two cores (docs/LOG.md 2026-11-28). More cores were not tried.
THREADED = 10_000_000_000
# Where the search begins, as a share of the curvature of chance, (C - 1) / C²: L2 weighs against that. On
# eight sets the best L2s lay within a decade of it (docs/LOG.md 2026-11-28).
BEGIN = 2e-3
DECADE = 2  # steps of the grid


def path(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    grid: Sequence[float],
    *,
    solver: str = "logistic",
    label_smoothing: float = 0.0,
    weights: Floats | None = None,
) -> list[Solution]:
    """Return a head for each L2 of `grid`; each logistic fit starts from the one before."""
    with _threads(features.size * classes):
        if solver == "ridge":
            ready = Scaled.of(features, weights, np.float64)
            heads = closed_form.solve_path(ready, targets, classes, grid)
        else:
            ready = Scaled.of(features, weights)
            heads = _path(ready, targets, classes, grid, label_smoothing)
        return [ready.unfold(head.weight, head.bias, l2) for head, l2 in zip(heads, grid, strict=True)]


def logistic(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    *,
    l2: float,
    label_smoothing: float = 0.0,
    weights: Floats | None = None,
) -> Solution:
    """Multinomial logistic regression: mean cross-entropy + l2/2 · |W|², by L-BFGS (scipy).

    `label_smoothing` softens the labels; `weights` (n,) weigh the images.
    """
    return path(features, targets, classes, (l2,), label_smoothing=label_smoothing, weights=weights)[0]


def ridge(
    features: NDArray[np.floating], targets: Ints, classes: int, *, l2: float, weights: Floats | None = None
) -> Solution:
    """Least squares onto ±1 targets with an L2 penalty."""
    return path(features, targets, classes, (l2,), solver="ridge", weights=weights)[0]


def choose(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    folds: Folds,
    *,
    solver: str = "logistic",
    metric: metrics.Metric = "accuracy",
    label_smoothing: float = 0.0,
    weights: Floats | None = None,
) -> Solution:
    """Fit with the L2 that out-of-fold predictions like best under `metric`; see `WITHIN_SE`.

    `folds` are (train, held-out) positions that keep groups and copies together. The temperature is fitted
    on the same out-of-fold logits; `cv_images` says how many images were asked. Without folds (a class with
    one image) the middle of the grid is taken.
    """
    grid = L2_GRID if solver == "logistic" else closed_form.GRID
    if not folds:
        middle = grid[len(grid) // 2]
        return path(
            features,
            targets,
            classes,
            (middle,),
            solver=solver,
            label_smoothing=label_smoothing,
            weights=weights,
        )[0]
    few = folds[:1] if features.size * classes > ONE_FOLD else folds
    with _threads(features.size * classes):
        tried, final = _tried(features, targets, classes, few, solver, metric, label_smoothing, weights)
        solution = final(tried.best)
    at = tried.best
    return Solution(
        solution.weight,
        solution.bias,
        grid[at],
        tried.temperature[at],
        tried.good[at],
        len(tried.held_out),
        tried.loss[at],
        tried.held_out,
        tried.probabilities[at],
    )


def answers(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    folds: Folds,
    *,
    metric: metrics.Metric = "accuracy",
) -> Floats:
    """Return what the head that `choose` takes says of each held-out image, by a fit without that image.

    Probabilities (held-out images, classes), fold after fold.
    """
    with _threads(features.size * classes):
        tried, _ = _tried(features, targets, classes, folds, "logistic", metric, 0.0, None)
    return tried.probabilities[tried.best]


class _Tried:
    """What the folds said about the L2s tried so far, by their place in the grid."""

    def __init__(self, targets: Ints, folds: Folds, metric: metrics.Metric) -> None:
        self.held_out = np.concatenate([rows for _, rows in folds])
        self._targets, self._metric = targets[self.held_out], metric
        self.good: dict[int, float] = {}
        self.loss: dict[int, float] = {}
        self.temperature: dict[int, float] = {}
        self.probabilities: dict[int, Floats] = {}

    def add(self, place: int, logits: NDArray[np.floating]) -> None:
        """Judge an L2 by its logits (held-out images, classes)."""
        temperature = metrics.fit_temperature(logits, self._targets)
        p = metrics.softmax(logits, temperature)
        self.temperature[place], self.probabilities[place] = temperature, p
        self.good[place] = float(metrics.goodness(self._metric, self._targets, p))
        self.loss[place] = float(metrics.score("log_loss", self._targets, p))

    @property
    def best(self) -> int:
        """The place of the L2 to take, of those tried."""
        places = sorted(self.good)
        good, loss = (np.array([of[place] for place in places]) for of in (self.good, self.loss))
        return places[least_loss_near_best(good, loss, self._metric, len(self.held_out))]

    def extend(self, last: int) -> int | None:
        """Return the next place to try: beyond an edge that looks best; `None` where none does."""
        low, high, candidates = min(self.good), max(self.good), {self.best, max(self.good, key=self._rank)}
        above = min(last, high + DECADE) if high in candidates and high < last else None
        if above == last:  # the grid ends there, and a better one there leaves nothing to try below
            return above
        return max(0, low - DECADE) if low in candidates and low > 0 else above

    def _rank(self, place: int) -> tuple[float, float]:
        return self.good[place], -self.loss[place]


def _tried(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    folds: Folds,
    solver: str,
    metric: metrics.Metric,
    label_smoothing: float,
    weights: Floats | None,
) -> tuple[_Tried, Callable[[int], Solution]]:
    """Return what the folds said about L2s, and what solves on all images with the L2 at a place."""
    tried = _Tried(targets, folds, metric)
    if solver == "ridge":
        rows = out_of_fold(
            features, targets, classes, folds, closed_form.GRID, solver="ridge", weights=weights
        )
        for place, logits in enumerate(rows):
            tried.add(place, logits)

        def closed(place: int) -> Solution:
            l2 = closed_form.GRID[place]
            return path(features, targets, classes, (l2,), solver="ridge", weights=weights)[0]

        return tried, closed
    ready = Scaled.of(features, weights)
    grid, last = L2_GRID, len(L2_GRID) - 1
    heads: dict[int, list[Turned]] = {}

    def attempt(place: int) -> None:
        near = min(heads, key=lambda other: abs(other - place), default=None)
        starts = [None] * len(folds) if near is None else heads[near]
        heads[place] = [
            lbfgs.solve(
                ready.some(learn),
                targets[learn],
                classes,
                grid[place],
                label_smoothing=label_smoothing,
                start=start,
                tolerance=ROUGH,
            )
            for (learn, _), start in zip(folds, starts, strict=True)
        ]
        parts = [
            head.logits(ready.features[held_out])
            for (_, held_out), head in zip(folds, heads[place], strict=True)
        ]
        tried.add(place, np.concatenate(parts).astype(np.float64))

    following: int | None = _begin(classes)
    while following is not None:
        attempt(following)
        following = tried.extend(last)
    for place in (tried.best - 1, tried.best + 1):
        if 0 <= place <= last and place not in heads:
            attempt(place)

    def final(place: int) -> Solution:
        l2, start = grid[place], None if len(folds) == 1 else heads[place][0]
        head = lbfgs.solve(ready, targets, classes, l2, label_smoothing=label_smoothing, start=start)
        return ready.unfold(head.weight, head.bias, l2)

    return tried, final


def _begin(classes: int) -> int:
    """Return the place in the grid at which the search begins."""
    usual = BEGIN * (classes - 1) / classes**2
    return int(np.abs(np.log(L2_GRID) - np.log(usual)).argmin())


def _path(
    ready: Scaled, targets: Ints, classes: int, grid: Sequence[float], label_smoothing: float
) -> Iterator[Turned]:
    head: Turned | None = None
    for l2 in grid:
        head = lbfgs.solve(
            ready, targets, classes, l2, label_smoothing=label_smoothing, start=head, tolerance=FINE
        )
        yield head


@contextmanager
def _threads(multiplications: int) -> Iterator[None]:
    """Let BLAS use one thread for small problems."""
    with cpu_threads.linear_algebra(1 if multiplications < THREADED else None):
        yield


def least_loss_near_best(good: Floats, loss: Floats, metric: metrics.Metric, images: int) -> int:
    """Return the position of the lowest loss among scores that chance alone may have put below the best."""
    if not metrics.is_share(metric):
        return int(good.argmax())
    top = (float(np.clip(good.max(), 0.0, 1.0)) * images + 1.0) / (images + 2.0)  # never quite sure
    near = np.flatnonzero(good >= good.max() - WITHIN_SE * np.sqrt(top * (1.0 - top) / images))
    return int(near[loss[near].argmin()])


def out_of_fold(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    folds: Folds,
    grid: Sequence[float],
    *,
    solver: str = "logistic",
    label_smoothing: float = 0.0,
    weights: Floats | None = None,
) -> Floats:
    """Return logits (L2s, held-out images, classes), each by a fit that did not see the image."""
    parts = []
    for train, held_out in folds:
        part = None if weights is None else weights[train]
        heads = path(
            features[train],
            targets[train],
            classes,
            grid,
            solver=solver,
            label_smoothing=label_smoothing,
            weights=part,
        )
        weight = np.concatenate([head.weight for head in heads])  # all L2s at once: one product
        bias = np.concatenate([head.bias for head in heads])
        answers = features[held_out].astype(np.float64) @ weight.T + bias
        parts.append(answers.reshape(len(held_out), len(grid), classes).transpose(1, 0, 2))
    return np.concatenate(parts, axis=1)
