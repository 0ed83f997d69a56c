"""Heads that are solved for instead of trained: logistic regression and closed-form ridge on features.

Features have shape (n, width), targets (n,). They are centred and divided by one number, their root mean
square length, never by a spread per feature: folding per-feature standardisation back into a head gives
features that barely vary on the training set enormous weights, which wake up under augmentation
(tests/test_starting_head.py shows it). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

# L2 per unit-length feature, from "prototype-like" to "almost separable". On six sets with 8 and 40 images
# a class the best on test lay between 1e-2 and 1e-6 (docs/LOG.md 2026-11-23).
GRID = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
# Out-of-fold scores of a few hundred images differ by chance. Of all L2s within this many standard errors
# of the best score, the one of lowest log loss is taken: 69.6 % against 69.0 % for the best score alone
# (mean over six sets, 40 images a class, two draws; at 8 a class 55.1 % both; docs/LOG.md 2026-11-23).
WITHIN_SE = 0.5
RIDGE_GRID = (10.0, 3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3)
# L2 is chosen on at most this many images: the choice is stable long before, and folds cost five fits.
MOST_FOR_CHOICE = 4000
ITERATIONS = 300
# Below so many multiplications a step, threads wait for each other longer than they compute: 400 images took
# 0.8 s with one and 14 s with two on two cores (docs/LOG.md 2026-11-24).
THREADED = 100_000_000


@dataclass(frozen=True)
class Solution:
    """A linear head: `weight` (classes, width), `bias` (classes,), and how it was chosen."""

    weight: Floats
    bias: Floats
    l2: float
    temperature: float = 1.0
    cv_score: float | None = None  # goodness of out-of-fold predictions

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Return logits (n, classes)."""
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias)


@dataclass(frozen=True)
class Scaled:
    """Features made ready for solving, once for every L2 that is tried on them.

    With fewer images than features, an L2-penalised linear head lies in the span of the images, so the
    problem is solved there, exactly, in n instead of `width` dimensions.
    """

    features: Floats  # (n, min(n, width)): centred, of root mean square length 1
    share: Floats  # (n,): the images' weights, summing to 1
    mean: Floats  # (width,)
    length: float
    basis: Floats | None  # (n, width): rows span the images

    @classmethod
    def of(cls, features: NDArray[np.floating], weights: Floats | None = None) -> Scaled:
        """Centre and scale; an image of weight 2 counts twice in mean and length, too."""
        raw = features.astype(np.float64)
        n, width = raw.shape
        share = np.full(n, 1.0 / n) if weights is None else np.asarray(weights / weights.sum())
        mean = share @ raw
        centred = raw - mean
        length = float(np.sqrt(share @ (centred**2).sum(axis=1))) or 1.0
        centred /= length
        if n >= width:
            return cls(centred, share, mean, length, None)
        basis, within = np.linalg.qr(centred.T)
        return cls(within.T, share, mean, length, basis.T)

    def unfold(self, weight: Floats, bias: Floats, l2: float) -> Solution:
        """Write the scaling into the head, so that it works on raw features."""
        raw = (weight if self.basis is None else weight @ self.basis) / self.length
        return Solution(raw, bias - raw @ self.mean, l2)


def _logistic(
    ready: Scaled, targets: Ints, classes: int, l2: float, smoothing: float, start: Floats | None
) -> Floats:
    """Return weight and bias in one row (classes · (width + 1)) that minimise the penalised loss."""
    from scipy.optimize import minimize

    x, share = ready.features, ready.share
    wanted = np.eye(classes)[targets] * (1.0 - smoothing) + smoothing / classes
    width = x.shape[1]

    def objective(flat: Floats) -> tuple[float, Floats]:
        weight, bias = _unpack(flat, classes, width)
        logits = x @ weight.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        slope = (np.exp(log_p) - wanted) * share[:, None]
        loss = -(share @ (wanted * log_p).sum(axis=1)) + 0.5 * l2 * float((weight**2).sum())
        return loss, np.concatenate([(slope.T @ x + l2 * weight).ravel(), slope.sum(axis=0)])

    begin = np.zeros(classes * (width + 1)) if start is None else start
    found = minimize(objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    return np.asarray(found.x, dtype=np.float64)


def _logistic_path(
    ready: Scaled, targets: Ints, classes: int, grid: Sequence[float], smoothing: float
) -> Iterator[Floats]:
    flat: Floats | None = None
    for l2 in grid:
        flat = _logistic(ready, targets, classes, l2, smoothing, flat)
        yield flat


def _unpack(flat: Floats, classes: int, width: int) -> tuple[Floats, Floats]:
    return flat[: classes * width].reshape(classes, width), flat[classes * width :]


def _ridge(ready: Scaled, targets: Ints, classes: int, grid: Sequence[float]) -> Iterator[Floats]:
    """Yield weight and bias in one row for each L2: weighted least squares onto ±1 targets, in closed form.

    One eigendecomposition serves the whole grid.
    """
    wanted = 2.0 * np.eye(classes)[targets] - 1.0
    middle = ready.share @ wanted
    root = np.sqrt(ready.share)[:, None]
    x, y = ready.features * root, (wanted - middle) * root
    values, vectors = np.linalg.eigh(x.T @ x)
    toward = vectors.T @ (x.T @ y)
    for l2 in grid:
        weight = (vectors @ (toward / (np.maximum(values, 0.0) + l2)[:, None])).T
        yield np.concatenate([weight.ravel(), middle])


SOLVERS = {"logistic": GRID, "ridge": RIDGE_GRID}


def path(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    grid: Sequence[float],
    *,
    solver: str = "logistic",
    smoothing: float = 0.0,
    weights: Floats | None = None,
) -> list[Solution]:
    """Return a head for each L2 of `grid`; each logistic fit starts from the one before."""
    from threadpoolctl import threadpool_limits

    small = features.size * classes < THREADED
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        ready = Scaled.of(features, weights)
        if solver == "ridge":
            solved = _ridge(ready, targets, classes, grid)
        else:
            solved = _logistic_path(ready, targets, classes, grid, smoothing)
        width = ready.features.shape[1]
        return [
            ready.unfold(*_unpack(flat, classes, width), l2) for flat, l2 in zip(solved, grid, strict=True)
        ]


def logistic(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    *,
    l2: float,
    smoothing: float = 0.0,
    weights: Floats | None = None,
) -> Solution:
    """Multinomial logistic regression: mean cross-entropy + l2/2 · |W|², by L-BFGS (scipy).

    `smoothing` softens the labels; `weights` (n,) weigh the images.
    """
    return path(features, targets, classes, (l2,), smoothing=smoothing, weights=weights)[0]


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
    metric: str = "accuracy",
    smoothing: float = 0.0,
    weights: Floats | None = None,
) -> Solution:
    """Fit with the L2 that out-of-fold predictions like best under `metric`; see `WITHIN_SE`.

    `folds` are (train, held-out) positions that keep groups and copies together. The temperature is fitted
    on the same out-of-fold logits. Without folds (a class with one image) the middle of the grid is taken.
    """
    grid = SOLVERS[solver]
    if not folds:
        middle = grid[len(grid) // 2]
        return path(
            features, targets, classes, (middle,), solver=solver, smoothing=smoothing, weights=weights
        )[0]
    best, temperature, score, _ = _tried(
        features, targets, classes, folds, solver=solver, metric=metric, smoothing=smoothing, weights=weights
    )
    upto = grid[: best + 1]  # the same path, so the same solution
    found = path(features, targets, classes, upto, solver=solver, smoothing=smoothing, weights=weights)[-1]
    return Solution(found.weight, found.bias, grid[best], temperature, score)


def answers(
    features: NDArray[np.floating], targets: Ints, classes: int, folds: Folds, *, metric: str = "accuracy"
) -> Floats:
    """Return what the head that `choose` takes says of each held-out image, by a fit without that image.

    Probabilities (held-out images, classes), fold after fold.
    """
    return _tried(features, targets, classes, folds, metric=metric)[-1]


def _tried(
    features: NDArray[np.floating],
    targets: Ints,
    classes: int,
    folds: Folds,
    *,
    solver: str = "logistic",
    metric: str = "accuracy",
    smoothing: float = 0.0,
    weights: Floats | None = None,
) -> tuple[int, float, float, Floats]:
    """Return which L2 of the grid is best out of fold, its temperature, goodness and probabilities."""
    held = np.concatenate([rows for _, rows in folds])
    grid = SOLVERS[solver]
    logits = out_of_fold(
        features, targets, classes, folds, grid, solver=solver, smoothing=smoothing, weights=weights
    )
    temperatures = [metrics.fit_temperature(row, targets[held]) for row in logits]
    calibrated = [metrics.softmax(row, t) for row, t in zip(logits, temperatures, strict=True)]
    good = np.array([metrics.goodness(metric, targets[held], p) for p in calibrated])
    loss = np.array([metrics.score("log_loss", targets[held], p) for p in calibrated])
    best = least_loss_near_best(good, loss, metric, len(held))
    return best, temperatures[best], float(good[best]), calibrated[best]


def least_loss_near_best(good: Floats, loss: Floats, metric: str, images: int) -> int:
    """Return the position of the lowest loss among scores that chance alone may have put below the best."""
    if metric == "log_loss":
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
    smoothing: float = 0.0,
    weights: Floats | None = None,
) -> Floats:
    """Return logits (L2s, held-out images, classes), each by a fit that did not see the image."""
    parts = []
    for train, held in folds:
        part = None if weights is None else weights[train]
        heads = path(
            features[train], targets[train], classes, grid, solver=solver, smoothing=smoothing, weights=part
        )
        weight = np.concatenate([head.weight for head in heads])  # all L2s at once: one product
        bias = np.concatenate([head.bias for head in heads])
        answers = features[held].astype(np.float64) @ weight.T + bias
        parts.append(answers.reshape(len(held), len(grid), classes).transpose(1, 0, 2))
    return np.concatenate(parts, axis=1)
