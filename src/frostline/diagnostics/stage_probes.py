"""What each depth already knows: a closed-form probe after every stage, and how the last one learns.

Every accuracy is out of fold, and what belongs together (a group, copies) stays in one fold. The penalty is
chosen by squared error, not by accuracy, on the same held-out images; it is never let go to 0, where a
closed-form probe with more features than images looks perfect and is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline import metrics, probe
from frostline.diagnostics import transferability
from frostline.probe import Folds
from frostline.sentences import between, percent

Ints = NDArray[np.int64]
SHARES = (0.25, 0.5, 1.0)  # of the images that a fold learns from
DRAWS = 3  # of the smaller shares: one draw of a quarter of few images says little


@dataclass(frozen=True)
class StageProbe:
    """What the features after one stage know. Rates 0–1; `random` is the same probe on random weights."""

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
class CurvePoint:
    """Out-of-fold accuracy of the last stage's probe when it learns from `images` images."""

    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupsProbe:
    """What a probe gets right when images are parted one by one, and when groups that names suggest are not.

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
        """What a person is told."""
        return (
            f"Names suggest {self.groups} groups. Of images parted one by one a probe gets "
            f"{percent(self.accuracy)} right ({between(self.low, self.high)}); with each group on one side "
            f"{percent(self.apart)} ({between(self.apart_low, self.apart_high)}). If they are groups, the "
            f"second is what new ones would get: --group-by {self.by}."
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
        held = np.concatenate([rows for _, rows in folds])
        guesses = _guesses(features, targets, classes, folds)
        accuracy = float((guesses == targets[held]).mean())
        figures += [accuracy, *metrics.interval(targets[held], guesses, units[held])]
    return tuple(figures)


def probe_stages(
    features: dict[str, NDArray[np.float32]],
    targets: Ints,
    units: Ints,
    classes: int,
    folds: Folds,
) -> list[StageProbe]:
    """Probe the features after each stage; `units` (n,) share a number where images belong together."""
    held = np.concatenate([rows for _, rows in folds])
    found = []
    for stage, seen in features.items():
        guesses = _guesses(seen, targets, classes, folds)
        low, high = metrics.interval(targets[held], guesses, units[held])
        found.append(
            StageProbe(
                stage,
                seen.shape[1],
                float((guesses == targets[held]).mean()),
                low,
                high,
                None,
                transferability.log_me(seen, targets, classes),
                transferability.h_score(seen, targets, classes),
                transferability.nearest_neighbours(seen, targets, folds),
            )
        )
    return found


def accuracies(
    features: dict[str, NDArray[np.float32]], targets: Ints, classes: int, folds: Folds
) -> dict[str, float]:
    """Return what the same probe of each stage gets right, and nothing else."""
    held = np.concatenate([rows for _, rows in folds])
    return {
        stage: float((_guesses(seen, targets, classes, folds) == targets[held]).mean())
        for stage, seen in features.items()
    }


def learning_curve(
    features: NDArray[np.float32], targets: Ints, units: Ints, classes: int, folds: Folds, seed: int
) -> list[CurvePoint]:
    """Probe with a quarter, half and all of the images that each fold learns from."""
    rng = np.random.default_rng(seed)
    held = np.concatenate([rows for _, rows in folds])
    found = []
    for share in SHARES:
        draws = [
            [(_thinned(train, targets, share, rng), rows) for train, rows in folds]
            for _ in range(DRAWS if share < 1 else 1)
        ]
        guesses = [_guesses(features, targets, classes, drawn) for drawn in draws]
        accuracy = float(np.mean([(g == targets[held]).mean() for g in guesses]))
        low, high = metrics.interval(targets[held], guesses[0], units[held])
        centre = float((guesses[0] == targets[held]).mean())
        images = round(float(np.mean([len(train) for train, _ in draws[0]])))
        low, high = max(0.0, low + accuracy - centre), min(1.0, high + accuracy - centre)
        found.append(CurvePoint(images, accuracy, low, high))
    return found


def _guesses(features: NDArray[np.float32], targets: Ints, classes: int, folds: Folds) -> Ints:
    """Return the class that a ridge probe says of each held-out image, fold after fold: (held,)."""
    held = np.concatenate([rows for _, rows in folds])
    logits = probe.out_of_fold(features, targets, classes, folds, probe.RIDGE_GRID, solver="ridge")
    wanted = 2.0 * np.eye(classes)[targets[held]] - 1.0
    error = ((logits - wanted) ** 2).mean(axis=(1, 2))
    return np.asarray(logits[int(error.argmin())].argmax(axis=1), dtype=np.int64)


def _thinned(train: Ints, targets: Ints, share: float, rng: np.random.Generator) -> Ints:
    """Keep a share of each class's images, one at least."""
    if share >= 1:
        return train
    kept = []
    for label in np.unique(targets[train]):
        mine = rng.permutation(train[targets[train] == label])
        kept.append(mine[: max(1, round(len(mine) * share))])
    return np.sort(np.concatenate(kept))
