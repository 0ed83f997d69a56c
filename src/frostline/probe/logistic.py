"""Multinomial logistic regression with an L2 penalty, by L-BFGS in coordinates in which it is nearly round.

Along a principal direction of variance v the loss curves by about h·v + L2, h being the mean of p(1 - p).
Divided by the root of that, all directions curve alike, and ten to twenty steps do what took hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.probe.feature_scaling import Floats, Ints, Scaled

# L2 per unit-length feature, from "prototype-like" to "almost separable". On six sets with 8 and 40 images
# a class the best on test lay between 1e-2 and 1e-6 (docs/LOG.md 2026-11-23).
GRID = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
# Steps end when one lowers the loss by less than this share of it: of heads that only choose an L2, and of
# the one that is taken. With 1e-4 the fits of a weak L2 stop early, look better out of fold than the head
# that is then solved for, and are chosen: log loss on other images was 0.007 higher, n = 36 (docs/LOG.md
# 2026-11-28).
ROUGH, FINE = 1e-6, 1e-7
ITERATIONS = 300  # never met by either
MEMORY_NUMBERS = 1_000_000  # a head of more keeps fewer steps in mind (5 instead of scipy's 10)


@dataclass(frozen=True)
class Turned:
    """A head in the coordinates of `Scaled`: `weight` (classes, r), `bias` (classes,)."""

    weight: Floats
    bias: Floats

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return logits (n, classes) of scaled features (n, r), in their precision."""
        kind = features.dtype
        return np.asarray(features @ self.weight.T.astype(kind) + self.bias.astype(kind))


def solve(
    ready: Scaled,
    targets: Ints,
    classes: int,
    l2: float,
    *,
    label_smoothing: float = 0.0,
    start: Turned | None = None,
    tolerance: float = FINE,
) -> Turned:
    """Return the head that minimises mean cross-entropy + l2/2 · |W|²; `start` is where to begin."""
    from scipy.optimize import minimize

    x, width = ready.features, ready.features.shape[1]
    goal = (np.eye(classes)[targets] * (1.0 - label_smoothing) + label_smoothing / classes).astype(x.dtype)
    share = ready.share.astype(x.dtype)[:, None]
    begin = start or Turned(np.zeros((classes, width)), np.zeros(classes))
    curve = _curvature(begin.logits(x))
    scale, scale_of_bias = np.sqrt(curve * ready.variances + l2), np.sqrt(curve)

    def objective(flat: Floats) -> tuple[float, Floats]:
        head = _unscaled(flat, scale, scale_of_bias, classes)
        logits = head.logits(x)
        logits -= logits.max(axis=1, keepdims=True)
        slope = np.exp(logits)
        total = slope.sum(axis=1, keepdims=True)
        logits -= np.log(total)
        loss = -float(ready.share @ np.einsum("ij,ij->i", goal, logits))
        slope /= total
        slope -= goal
        slope *= share
        by_weight = (slope.T @ x).astype(np.float64) + l2 * head.weight
        gradient = [(by_weight / scale).ravel(), slope.sum(axis=0, dtype=np.float64) / scale_of_bias]
        return loss + 0.5 * l2 * float((head.weight**2).sum()), np.concatenate(gradient)

    flat = np.concatenate([(begin.weight * scale).ravel(), begin.bias * scale_of_bias])
    options = {"maxiter": ITERATIONS, "ftol": tolerance, "gtol": 0.0, "maxcor": _memory(flat.size)}
    best = minimize(objective, flat, jac=True, method="L-BFGS-B", options=options).x
    return _unscaled(np.asarray(best, dtype=np.float64), scale, scale_of_bias, classes)


def _unscaled(flat: Floats, scale: Floats, scale_of_bias: float, classes: int) -> Turned:
    split = classes * len(scale)
    return Turned(flat[:split].reshape(classes, -1) / scale, flat[split:] / scale_of_bias)


def _curvature(logits: NDArray[np.floating]) -> float:
    """Return the mean of p(1 - p) over images and classes: that of chance at the start, then less."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    return max(float((p * (1.0 - p)).mean()), 1e-6)


def _memory(numbers: int) -> int:
    return 10 if numbers < MEMORY_NUMBERS else 5
