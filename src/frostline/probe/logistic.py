"""Multinomial logistic regression with an L2 penalty, by L-BFGS in coordinates in which it is nearly round.

Along a principal direction of variance v the loss curves by about h·v + L2, h being the mean of p(1 - p).
Divided by the root of that, all directions curve alike, and ten to twenty steps do what took hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.probe import gpu_loss
from frostline.probe.feature_scaling import Floats, Ints, Scaled
from frostline.system import deadline

# Steps end when one lowers the loss by less than this share of it: of heads that only choose an L2, and of
# the one that is taken. With 1e-4 the fits of a weak L2 stop early, look better out of fold than the head
# that is then solved for, and are chosen: log loss on other images was 0.007 higher, n = 36 (docs/LOG.md
# 2026-11-28).
ROUGH, FINE = 1e-6, 1e-7
LEAST_CURVATURE = 1e-6  # of one class, or of a head that is sure of all
ITERATIONS = 300  # never met by either
# A head of more numbers keeps fewer steps in mind (3 instead of scipy's 10): 800 classes × 1,280 features
# took as many steps with 3, 5 and 8, and 11.1, 13.2 and 14.5 s (docs/LOG.md 2026-11-28).
MEMORY_NUMBERS = 1_000_000
LENGTH_TOLERANCE, LENGTH_STEPS = 0.05, 12  # how well the length of the first head is searched for: a choice


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
    """Return the head that minimises mean cross-entropy + l2/2 · |W|²; `start` is where to begin.

    Without it the search begins with least squares, which takes 23 steps where zeros take 52 (800 classes of
    three images; docs/LOG.md 2026-11-28).
    """
    from scipy.optimize import minimize

    x = ready.features
    goal = (np.eye(classes)[targets] * (1.0 - label_smoothing) + label_smoothing / classes).astype(x.dtype)
    share = ready.share.astype(x.dtype)[:, None]
    begin = start or _least_squares(ready, goal, l2)
    curve = _curvature(begin.logits(x))
    scale, scale_of_bias = np.sqrt(curve * ready.variances + l2), np.sqrt(curve)

    along = (x / scale).astype(x.dtype)
    pull = l2 / scale**2  # of the penalty on one squared number
    split = classes * len(scale)

    def objective(flat: Floats) -> tuple[float, Floats]:
        deadline.unit()
        weight, bias = flat[:split].reshape(classes, -1), flat[split:] / scale_of_bias
        logits = along @ weight.astype(x.dtype).T
        logits += bias.astype(x.dtype)
        logits -= logits.max(axis=1, keepdims=True)
        slope = np.exp(logits)
        total = slope.sum(axis=1, keepdims=True)
        logits -= np.log(total)
        loss = -float(ready.share @ np.einsum("ij,ij->i", goal, logits))
        slope /= total
        slope -= goal
        slope *= share
        gradient = np.empty_like(flat)
        of_weight = gradient[:split].reshape(classes, -1)
        np.multiply(weight, pull, out=of_weight)
        loss += 0.5 * float(np.vdot(weight, of_weight))
        of_weight += slope.T @ along
        gradient[split:] = slope.sum(axis=0, dtype=np.float64) / scale_of_bias
        return loss, gradient

    card = gpu_loss.device_for(2 * x.size * classes)
    loss_there = None if card is None else gpu_loss.LossOnCard(along, goal, ready.share, card)

    def objective_there(flat: Floats) -> tuple[float, Floats]:
        deadline.unit()
        assert loss_there is not None
        weight, bias = flat[:split].reshape(classes, -1), flat[split:] / scale_of_bias
        loss, of_weight, of_bias = loss_there(weight, bias)
        pulled = weight * pull
        loss += 0.5 * float(np.vdot(weight, pulled))
        return loss, np.concatenate([(of_weight + pulled).ravel(), of_bias / scale_of_bias])

    flat = np.concatenate([(begin.weight * scale).ravel(), begin.bias * scale_of_bias])
    options = {"maxiter": ITERATIONS, "ftol": tolerance, "gtol": 0.0, "maxcor": _memory(flat.size)}
    with deadline.work("the search for a head's weights"):
        work = objective if loss_there is None else objective_there
        best = minimize(work, flat, jac=True, method="L-BFGS-B", options=options).x
    return _unscaled(np.asarray(best, dtype=np.float64), scale, scale_of_bias, classes)


def _least_squares(ready: Scaled, goal: NDArray[np.floating], l2: float) -> Turned:
    """Return ridge regression onto `goal` (n, classes), at the length at which the logistic loss is least.

    The features vary along their own axes, so that each coefficient is a quotient.
    """
    from scipy.optimize import minimize_scalar

    x, share, classes = ready.features, ready.share.astype(ready.features.dtype), goal.shape[1]
    centred = (goal - share @ goal) * share[:, None]
    curvature_of_chance = max((classes - 1) / classes**2, LEAST_CURVATURE)
    weight = (x.T @ centred).T.astype(np.float64) / (ready.variances + l2 / curvature_of_chance)
    bias = np.zeros(classes)
    logits = Turned(weight, bias).logits(x)
    of_goal = np.einsum("ij,ij->i", goal, logits)
    penalty = 0.5 * l2 * float((weight**2).sum())

    def loss(log_length: float) -> float:
        length = float(np.exp(log_length))
        longer = logits * x.dtype.type(length)
        top = longer.max(axis=1)
        total = np.log(np.exp(longer - top[:, None]).sum(axis=1)) + top - length * of_goal
        return float(ready.share @ total) + length**2 * penalty

    options = {"xtol": LENGTH_TOLERANCE, "maxiter": LENGTH_STEPS}
    with np.errstate(over="ignore"):
        log_length = minimize_scalar(loss, bracket=(0.0, 2.0), options=options).x
    return Turned(weight * np.exp(log_length), bias)


def _unscaled(flat: Floats, scale: Floats, scale_of_bias: float, classes: int) -> Turned:
    split = classes * len(scale)
    return Turned(flat[:split].reshape(classes, -1) / scale, flat[split:] / scale_of_bias)


def _curvature(logits: NDArray[np.floating]) -> float:
    """Return the mean of p(1 - p) over images and classes: that of chance at the start, then less."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    return max(float((p * (1.0 - p)).mean()), LEAST_CURVATURE)


def _memory(numbers: int) -> int:
    return 10 if numbers < MEMORY_NUMBERS else 3
