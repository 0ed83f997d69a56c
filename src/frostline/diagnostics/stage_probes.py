"""Probes of every stage: closed-form probe accuracy by depth, and a learning curve of the last stage.

Every accuracy is out of fold, and what belongs together (a group, copies) stays in one fold. The penalty is
chosen by squared error, not by accuracy, on the same held-out images; it is never let go to 0, where a
closed-form probe with more features than images looks perfect and is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline import metrics, probe
from frostline.diagnostics import transferability
from frostline.models import Tap
from frostline.probe import Folds
from frostline.sentences import between, percent
from frostline.strategies import SOLVED_SMOOTHING
from frostline.system import deadline

Ints = NDArray[np.int64]
SHARES = (0.25, 0.5, 1.0)  # of the images that a fold learns from
DRAWS = 3  # of the smaller shares: one draw of a quarter of few images says little


@dataclass(frozen=True)
class StageProbe:
    """A probe of the features after one stage.

    Attributes
    ----------
    stage : str
    width : int
        Number of features.
    accuracy, low, high : float
        Out of fold, with a 95 % interval; 0–1.
    random : float or None
        Accuracy of the same probe on random weights, 0–1.
    log_me, h_score : float
        Transferability scores.
    neighbours : float
        Accuracy of 5 nearest neighbours, 0–1.
    """

    stage: str
    width: int
    accuracy: float
    low: float
    high: float
    random: float | None
    log_me: float
    h_score: float
    neighbours: float


@dataclass(frozen=True)
class SeveralStageProbe:
    """Out-of-fold accuracy, 0–1, of the strategy `linear_probe`, whose head reads `layers` stages at once.

    `units` images or groups of them are independent; `effective_images` as many would say as much.
    """

    layers: int
    accuracy: float
    low: float
    high: float
    images: int
    units: int
    effective_images: float


@dataclass(frozen=True)
class CurvePoint:
    """Out-of-fold accuracy, 0–1, of the last stage's probe trained on `images` images."""

    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupsProbe:
    """Probe accuracy with images split one by one, and with groups that names suggest kept together.

    Out of fold, of the same features and as many folds; with 95 % intervals.
    """

    by: str  # what `--group-by` is to be given
    groups: int  # of two images or more
    images: int
    folds: int
    accuracy: float
    low: float
    high: float
    apart: float  # where no group is on both sides
    apart_low: float
    apart_high: float

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        return (
            f"Names suggest {self.groups} groups. With images split one by one, probe accuracy is "
            f"{percent(self.accuracy)} ({between(self.low, self.high)}); with each group in one subset "
            f"{percent(self.apart)} ({between(self.apart_low, self.apart_high)}). If they are groups, the "
            f"second holds for new ones: --group-by {self.by}."
        )


def probe_groups(
    features: NDArray[np.float32],
    targets: Ints,
    classes: int,
    together: tuple[Ints, Folds],
    apart: tuple[Ints, Folds],
) -> tuple[float, ...]:
    """Return accuracy, low and high with units and folds as they are, and with those of proposed groups."""
    figures: list[float] = []
    for units, folds in (together, apart):
        held_out = np.concatenate([rows for _, rows in folds])
        guesses = _guesses(features, targets, classes, folds)
        accuracy = float((guesses == targets[held_out]).mean())
        figures += [accuracy, *metrics.interval(targets[held_out], guesses, units[held_out])]
    return tuple(figures)


def probe_stages(
    features: dict[str, NDArray[np.float32]],
    targets: Ints,
    units: Ints,
    classes: int,
    folds: Folds,
) -> list[StageProbe]:
    """Probe the features after each stage; `units` (n,) share a number where images belong together."""
    held_out = np.concatenate([rows for _, rows in folds])
    probes = []
    for stage, stage_features in features.items():
        guesses = _guesses(stage_features, targets, classes, folds)
        low, high = metrics.interval(targets[held_out], guesses, units[held_out])
        probes.append(
            StageProbe(
                stage,
                stage_features.shape[1],
                float((guesses == targets[held_out]).mean()),
                low,
                high,
                None,
                transferability.log_me(stage_features, targets, classes),
                transferability.h_score(stage_features, targets, classes),
                transferability.nearest_neighbours(stage_features, targets, folds),
            )
        )
    return probes


def probe_several(
    features: NDArray[np.float32],
    statistics: NDArray[np.float32],
    taps: Sequence[Tap],
    targets: Ints,
    units: Ints,
    classes: int,
    folds: Folds,
) -> SeveralStageProbe:
    """Solve the head of `linear_probe` on the features before it (n, width) and statistics of the stages."""
    deadline.unit()
    widths = [features.shape[1], *(width for tap in taps for width in tap.widths)]
    columns = np.concatenate([features, statistics], axis=1)
    columns *= probe.block_scales(columns, widths)
    solution = probe.choose(columns, targets, classes, folds, label_smoothing=SOLVED_SMOOTHING)
    assert solution.held_probabilities is not None
    held_out, guesses = solution.held_out, solution.held_probabilities.argmax(axis=1)
    correct, units = (guesses == targets[held_out]).astype(np.float64), units[held_out]
    low, high = metrics.rate_interval(correct, units)
    return SeveralStageProbe(
        layers=len(taps),
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        images=len(correct),
        units=len(np.unique(units)),
        effective_images=len(correct) / metrics.design_effect(correct, units),
    )


def accuracies(
    features: dict[str, NDArray[np.float32]], targets: Ints, classes: int, folds: Folds
) -> dict[str, float]:
    """Return the accuracy of the same probe of each stage, 0–1."""
    held_out = np.concatenate([rows for _, rows in folds])
    return {
        stage: float((_guesses(stage_features, targets, classes, folds) == targets[held_out]).mean())
        for stage, stage_features in features.items()
    }


def learning_curve(
    features: NDArray[np.float32], targets: Ints, units: Ints, classes: int, folds: Folds, seed: int
) -> list[CurvePoint]:
    """Probe with a quarter, half and all of the images that each fold learns from."""
    rng = np.random.default_rng(seed)
    held_out = np.concatenate([rows for _, rows in folds])
    points = []
    for share in SHARES:
        draws = [
            [(_thinned(train, targets, share, rng), rows) for train, rows in folds]
            for _ in range(DRAWS if share < 1 else 1)
        ]
        guesses = [_guesses(features, targets, classes, drawn) for drawn in draws]
        accuracy = float(np.mean([(g == targets[held_out]).mean() for g in guesses]))
        low, high = metrics.interval(targets[held_out], guesses[0], units[held_out])
        centre = float((guesses[0] == targets[held_out]).mean())
        images = round(float(np.mean([len(train) for train, _ in draws[0]])))
        low, high = max(0.0, low + accuracy - centre), min(1.0, high + accuracy - centre)
        points.append(CurvePoint(images, accuracy, low, high))
    return points


def _guesses(features: NDArray[np.float32], targets: Ints, classes: int, folds: Folds) -> Ints:
    """Return the class that a ridge probe says of each held-out image, fold after fold: (held,)."""
    deadline.unit()
    held_out = np.concatenate([rows for _, rows in folds])
    logits = probe.out_of_fold(features, targets, classes, folds, probe.RIDGE_GRID, solver="ridge")
    one_hot = 2.0 * np.eye(classes)[targets[held_out]] - 1.0
    error = ((logits - one_hot) ** 2).mean(axis=(1, 2))
    return np.asarray(logits[int(error.argmin())].argmax(axis=1), dtype=np.int64)


def _thinned(train: Ints, targets: Ints, share: float, rng: np.random.Generator) -> Ints:
    """Keep a share of each class's images, one at least."""
    if share >= 1:
        return train
    chosen = []
    for label in np.unique(targets[train]):
        shuffled = rng.permutation(train[targets[train] == label])
        chosen.append(shuffled[: max(1, round(len(shuffled) * share))])
    return np.sort(np.concatenate(chosen))
