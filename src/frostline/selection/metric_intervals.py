"""Bootstrap intervals of metrics that have no formula: means over classes, rankings, calibration.

Images of one unit (group, copies) are drawn together. With one seed and the same units, two models are drawn
on the same images, so that differences of draws are paired. What draws cannot show, since it did not happen
in the sample, is added (`added_units`). Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.selection import added_units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 500  # a standard deviation from as many is known to 3 %
# A ranking is sorted once a class and summed once a draw, at 20 ns a number on one core: so many are 4 s.
# Where that allows fewer than FEWEST draws (a standard deviation to 7 %), a ranking gets no interval.
MOST_SUMMED = 200_000_000
FEWEST = 100
CHUNK_NUMBERS = 500_000  # held at once while draws are summed: 4 MB, about what a core caches
COUNTED = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "ece_noise")
RANKED = ("average_precision", "auroc")
# Images that each class must have: with fewer, a draw of the images says too little of what others of the
# class would bring. Average precision was held by 80 to 89 % of the intervals with 5 a class, of hard tasks,
# by 84 to 92 % with 10; macro F1 by 76 % with 1 and 89 % with 2; AUROC by 85 % where one class of six has 1
# (docs/LOG.md 2026-12-01 and 2026-11-30).
LEAST_OF_A_CLASS = {"average_precision": 10, "auroc": 5, "macro_f1": 3}
# Images of other classes that a sensitivity's specificity must allow to be taken for the class: the threshold
# lies at the next of them. Of 10 and 20 others at 0.95, intervals held 84 and 80 %, the rest too high; of
# 100 (5) 94 % (docs/LOG.md 2026-12-01).
LEAST_ALLOWED = 5
# Halves of the images that say by how much a metric on few images is too high: their mean is known to a tenth
# of the deviation.
HALVES = 100


def draws(
    targets: Ints,
    probabilities: Floats,
    units: Sequence[int] | Ints,
    names: Sequence[str],
    seed: int = 0,
    weights: NDArray[np.uint8] | None = None,
) -> dict[str, Floats]:
    """Return bootstrap draws of metrics.

    Parameters
    ----------
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    units : sequence of int, length n
        Images of the same unit are drawn together.
    names : sequence of str
        Of `COUNTED` and `RANKED`.
    seed : int
        Decides which units are drawn.
    weights : ndarray of uint8, shape (draws, units), or None
        How often each unit is drawn instead, `units` being columns of it.

    Returns
    -------
    dict of str to ndarray, shape (draws,)
        NaN where a draw holds too little. A ranking of too many images and classes is left out.
    """
    unit, weights = _weighted(units, seed, weights)
    counted = _counted(targets, probabilities, unit, weights)
    drawn = {name: counted[name] for name in names if name in COUNTED}
    ranked = [name for name in names if name in RANKED]
    present = len(np.unique(targets))
    affordable = min(DRAWS, MOST_SUMMED // max(1, len(targets) * present))
    if ranked and affordable >= FEWEST:
        areas = _ranked(targets, probabilities, unit, weights[:affordable])
        drawn |= {name: areas[name] for name in ranked}
    return drawn


def too_few(metric: metrics.Metric, targets: Ints) -> bool:
    """Return whether a class that has images has too few for an interval of this metric."""
    counts = np.bincount(targets)
    if isinstance(metric, metrics.Sensitivity):
        own = counts[counts > 0] if metric.positive is None else counts[metric.positive : metric.positive + 1]
        others = len(targets) - int(own.max(initial=0))
        return others * (1 - metric.specificity) < LEAST_ALLOWED - metrics.ROUNDING
    return bool(len(targets)) and int(counts[counts > 0].min()) < LEAST_OF_A_CLASS.get(
        metrics.name_of(metric), 0
    )


def metric_draws(
    metric: metrics.Metric,
    targets: Ints,
    probabilities: Floats,
    units: Sequence[int] | Ints,
    seed: int = 0,
    weights: NDArray[np.uint8] | None = None,
) -> Floats:
    """Return bootstrap draws of any metric, on the units that `draws` draws with the same seed.

    Parameters
    ----------
    metric : str or callable
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    units : sequence of int, length n
    seed : int
    weights : ndarray of uint8, shape (draws, units), or None
        As `draws` takes it.

    Returns
    -------
    ndarray, shape (draws,)
        NaN where the metric is undefined on a draw, or refuses it by `ValueError`.
    """
    unit, weights = _weighted(units, seed, weights)
    values = np.full(DRAWS, np.nan)
    for place, times in enumerate(weights):
        rows = np.repeat(np.arange(len(targets)), times[unit])
        with contextlib.suppress(ValueError):
            values[place] = metrics.score(metric, targets[rows], probabilities[rows])
    return values


def added_draws(
    targets: Ints, probabilities: Floats, units: Sequence[int] | Ints, metric: metrics.Metric
) -> Sequence[Floats]:
    """Return draws of a metric with two right and two wrong answers added; none where they take too long."""
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    sample = added_units.add(targets, [probabilities], unit, added_units.OF_ONE)
    return list(_sample_draws(sample, [metric])[0].values())


def paired_intervals(
    targets: Ints,
    first: Floats,
    second: Floats,
    units: Sequence[int] | Ints,
    chosen: Sequence[metrics.Metric],
) -> dict[str, tuple[float | None, float | None]]:
    """Return 95 % intervals of how much higher metrics are for one model than for another.

    Percentiles of a bootstrap with two units added, of which each model alone predicts one rightly.

    Parameters
    ----------
    targets : ndarray of int64, shape (n,)
    first, second : ndarray, shape (n, classes)
        The models' probabilities of the same images.
    units : sequence of int, length n
    chosen : sequence of str or callable

    Returns
    -------
    dict of str to (low, high)
        By the metrics' names; None where there is none.
    """
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    sample = added_units.add(targets, [first, second], unit, added_units.OF_TWO)
    own, other = _sample_draws(sample, chosen)
    ends = {}
    for metric in chosen:
        name = metrics.name_of(metric)
        gain = metrics.score(metric, targets, first) - metrics.score(metric, targets, second)
        ends[name] = percentile_interval(gain, [own[name] - other[name]] if name in own else [])
    return ends


def _sample_draws(
    sample: added_units.AddedSample, chosen: Sequence[metrics.Metric]
) -> list[dict[str, Floats]]:
    """Return draws of metrics by their names, for each model of a sample."""
    weights = sample.weights(DRAWS, seed=0)
    quick = [metric for metric in chosen if isinstance(metric, str) and metric in (*COUNTED, *RANKED)]
    return [
        draws(sample.targets, matrix, sample.units, quick, weights=weights)
        | {
            metrics.name_of(metric): metric_draws(
                metric, sample.targets, matrix, sample.units, weights=weights
            )
            for metric in chosen
            if metric not in quick
        }
        for matrix in sample.probabilities
    ]


def excess(name: str, targets: Ints, probabilities: Floats, units: Sequence[int] | Ints) -> float:
    """Return by how much a metric on these images is expected to lie above that on many; 0 where it does not.

    Average precision on few images of a class is too high, and on a random half of each class higher again,
    by about as much (simulated; docs/LOG.md 2026-12-01).

    Parameters
    ----------
    name : str
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    units : sequence of int, length n
        Images of the same unit fall into the same half.

    Returns
    -------
    float
    """
    if name != "average_precision":
        return 0.0
    _, first, unit = np.unique(np.asarray(units), return_index=True, return_inverse=True)
    rng, class_of = np.random.default_rng(0), targets[first]
    weights = np.zeros((HALVES + 1, len(first)), dtype=np.uint8)
    weights[0] = 1
    for row in weights[1:]:
        order = rng.permutation(len(first))
        order = order[np.argsort(class_of[order], kind="stable")]
        row[order[int(rng.integers(2)) :: 2]] = 1  # every second of each class
    values = draws(targets, probabilities, unit, [name], weights=weights)[name]
    return max(0.0, float(np.nanmean(values[1:]) - values[0]))


def any_interval(
    metric: metrics.Metric,
    value: float,
    drawn: Sequence[Floats],
    added: Callable[[], Sequence[Floats]],
    units: int,
    above: float = 0.0,
) -> tuple[float | None, float | None]:
    """Return a 95 % interval of any metric from its draws.

    As `rate_interval` for a share; kappa, from −1 to 1, likewise on its own range; percentiles for a
    callable, whose range is unknown.

    Parameters
    ----------
    metric : str or callable
    value : float
        The metric on all images.
    drawn : sequence of ndarray, each of shape (draws,)
    added : callable
        Returns the same draws with answers added.
    units : int
    above : float
        By how much the value is expected to be too high: the interval lies lower, but holds the value.

    Returns
    -------
    low, high : float or None
    """
    if metrics.is_share(metric):
        low, high = rate_interval(max(value - above, value / 2), drawn, added, units)
        return (None, None) if low is None or high is None else (min(low, value), max(high, value))
    if isinstance(metric, metrics.QuadraticKappa):
        low, high = rate_interval(
            (value + 1) / 2,
            [(draws_ + 1) / 2 for draws_ in drawn],
            lambda: [(draws_ + 1) / 2 for draws_ in added()],
            units,
        )
        return (None, None) if low is None or high is None else (2 * low - 1, 2 * high - 1)
    return percentile_interval(value, added() if units > 1 else [])


def percentile_interval(value: float, drawn: Sequence[Floats]) -> tuple[float | None, float | None]:
    """Return the widest of the draws' 95 % percentile intervals, and never one without `value`.

    None where too few draws are known, or no answer changes the metric.
    """
    usable = [draws_[np.isfinite(draws_)] for draws_ in drawn]
    if not usable or min(map(len, usable)) < FEWEST:
        return None, None
    ends = [np.quantile(draws_, (0.025, 0.975)) for draws_ in usable]
    low, high = min(value, *(low for low, _ in ends)), max(value, *(high for _, high in ends))
    return (float(low), float(high)) if low < high else (None, None)


def rate_interval(
    value: float, drawn: Sequence[Floats], added: Callable[[], Sequence[Floats]], units: int
) -> tuple[float | None, float | None]:
    """Return a 95 % interval of a metric within 0–1: normal on the logit scale, with the draws' deviation.

    Percentiles hold the true value too rarely near 1: at 60 images and an average precision of 0.98 in 83
    of 100 samples, this in 95 (simulated, docs/evaluate.md). Where the draws don't vary, or `value` is 0 or
    1, the percentiles of the draws with answers added.

    Parameters
    ----------
    value : float
        The metric on all images.
    drawn : sequence of ndarray, each of shape (draws,)
        Draws of units; where these hold several images, of images, too. The larger deviation counts, as in
        `metrics.rate_interval`: images of one unit are not more informative than others.
    added : callable
        Returns the same draws with answers added.
    units : int
        How many units there are: with few, Student's t widens the interval.

    Returns
    -------
    low, high : float or None
        None for a single unit, or where too few draws are known.
    """
    from scipy.stats import t

    usable = [draws_[np.isfinite(draws_)] for draws_ in drawn]
    if min(map(len, usable)) < FEWEST or units < 2:
        return None, None
    deviation = max(float(draws_.std()) for draws_ in usable)
    if deviation == 0 or not 0 < value < 1:
        return percentile_interval(value, added())
    quantile = float(t.ppf(0.975, units - 1)) if len(usable) > 1 else metrics.Z95
    middle, half = np.log(value / (1 - value)), quantile * deviation / (value * (1 - value))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (middle - half, middle + half))
    return low, high


def calibration_interval(value: float, drawn: Floats, noise: Floats) -> tuple[float, float]:
    """Return a 95 % interval of the calibration error, within 0–1.

    A sample looks worse calibrated than the model is, and a resample worse than the sample. So the lower end
    is `value` less what chance alone moves the gaps by, and the upper end is that of the basic bootstrap.

    Parameters
    ----------
    value : float
        The calibration error of all images.
    drawn : ndarray, shape (draws,)
        Draws of `ece`.
    noise : ndarray, shape (draws,)
        Draws of `ece_noise`: how far the bins' gaps lie from those of all images.

    Returns
    -------
    low, high : float
    """
    low = value - float(np.quantile(noise, 0.95))
    high = 2 * value - float(np.quantile(drawn, 0.025))
    return max(0.0, low), min(1.0, max(value, high))


def balanced_interval(targets: Ints, guesses: Ints, units: Sequence[int] | Ints) -> tuple[float, float]:
    """Return a 95 % interval of balanced accuracy from those of the classes' recalls.

    Their distances to the estimates add up in squares (MOVER, Zou and Donner 2008). No unit may hold images
    of two classes, for recalls must be independent (`one_class_each`).

    Parameters
    ----------
    targets, guesses : ndarray of int64, shape (n,)
    units : sequence of int, length n

    Returns
    -------
    low, high : float
    """
    unit = np.asarray(units)
    rates, lows, highs = [], [], []
    for c in np.unique(targets).tolist():
        correct = (guesses[targets == c] == c).astype(np.float64)
        low, high = metrics.rate_interval(correct, unit[targets == c])
        rates.append(correct.mean())
        lows.append(low)
        highs.append(high)
    rate, low_ends, high_ends = map(np.array, (rates, lows, highs))
    below = np.sqrt(((rate - low_ends) ** 2).sum()) / len(rate)
    above = np.sqrt(((high_ends - rate) ** 2).sum()) / len(rate)
    return max(0.0, float(rate.mean() - below)), min(1.0, float(rate.mean() + above))


def one_class_each(targets: Ints, units: Sequence[int] | Ints) -> bool:
    """Return whether every unit holds images of one class only."""
    pairs = np.unique(np.stack([np.asarray(units), targets]), axis=1)
    return len(pairs[0]) == len(np.unique(pairs[0]))


def _weighted(
    units: Sequence[int] | Ints, seed: int, weights: NDArray[np.uint8] | None
) -> tuple[Ints, NDArray[np.uint8]]:
    """Return each image's column (n,) of weights (draws, units), drawn where none are given."""
    if weights is not None:
        return np.asarray(units), weights
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    return unit, _weights(int(unit.max()) + 1, seed)


def _weights(count: int, seed: int) -> NDArray[np.uint8]:
    """Return how often each unit is drawn, (draws, units): more than 255 times has no chance to happen."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((DRAWS, count), dtype=np.uint8)
    for row in rows:
        row[:] = np.bincount(rng.integers(count, size=count), minlength=count)
    return rows


def _counted(
    targets: Ints, probabilities: Floats, unit: Ints, weights: NDArray[np.uint8]
) -> Mapping[str, Floats]:
    """Return draws of the metrics that are sums over images: one product of draws and units for all."""
    from scipy.sparse import csr_array

    n, classes = probabilities.shape
    guesses, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = guesses == targets
    bins = np.minimum((top * metrics.BINS).astype(np.int64), metrics.BINS - 1)
    # Columns: images of each class, predictions of each class, correct ones of each class, gaps by bin.
    column = np.concatenate([targets, classes + guesses, 2 * classes + targets, 3 * classes + bins])
    value = np.concatenate([np.ones(2 * n), correct.astype(np.float64), top - correct])
    shape = (weights.shape[1], 3 * classes + metrics.BINS)
    sums = csr_array((value, (np.tile(unit, 4), column)), shape=shape)
    rows = max(1, CHUNK_NUMBERS // max(shape))
    chunks = [weights[start : start + rows].astype(np.float64) for start in range(0, len(weights), rows)]
    drawn = np.concatenate([(sums.T @ chunk.T).T for chunk in chunks])
    images, predicted, hits, gaps = np.split(drawn, [classes, 2 * classes, 3 * classes], axis=1)
    gap = sums.sum(axis=0)[3 * classes :] / n
    present = images > 0
    counts, total = np.maximum(1, present.sum(axis=1)), images.sum(axis=1)
    recall = np.divide(hits, images, out=np.zeros_like(hits), where=present)
    both = images + predicted
    f1 = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    return {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": recall.sum(axis=1) / counts,
        "macro_f1": (f1 * present).sum(axis=1) / counts,
        "ece": np.abs(gaps).sum(axis=1) / total,
        "ece_noise": np.abs(gaps / total[:, None] - gap).sum(axis=1),
    }


def _ranked(
    targets: Ints, probabilities: Floats, unit: Ints, weights: NDArray[np.uint8]
) -> Mapping[str, Floats]:
    """Return draws of the means over classes of one-against-rest areas; ties count as one threshold."""
    sums = {name: np.zeros(len(weights)) for name in RANKED}
    counts = np.zeros(len(weights))
    rows = max(1, CHUNK_NUMBERS // len(targets))
    for c in np.unique(targets).tolist():
        order = np.argsort(-probabilities[:, c], kind="stable")
        ranked, places = probabilities[order, c], np.flatnonzero(targets[order] == c)
        # Of each image of the class: images ranked before it, and with it, are those before these places.
        start_of_tie = np.searchsorted(-ranked, -ranked[places], side="left")
        end_of_tie = np.searchsorted(-ranked, -ranked[places], side="right")
        last_of_tie = np.searchsorted(places, end_of_tie) - 1
        first_of_tie = np.searchsorted(places, start_of_tie)
        for start in range(0, len(weights), rows):
            drawn = weights[start : start + rows][:, unit[order]]
            passed = _running(drawn)
            own = drawn[:, places].astype(np.float64)
            hits = _running(drawn[:, places])
            n_images, n_positive = passed[:, -1], hits[:, -1]
            n_negative = n_images - n_positive
            both = (n_positive > 0) & (n_negative > 0)
            passed_here, hits_here = passed[:, end_of_tie], hits[:, last_of_tie + 1]
            precision = np.divide(hits_here, passed_here, out=np.zeros_like(own), where=passed_here > 0)
            false = passed_here - hits_here + passed[:, start_of_tie] - hits[:, first_of_tie]
            average = (own * precision).sum(axis=1) / np.maximum(1, n_positive)
            missed = (own * false).sum(axis=1) / 2 / np.maximum(1, n_positive * n_negative)
            at = slice(start, start + rows)
            sums["average_precision"][at] += average * both
            sums["auroc"][at] += (1 - missed) * both
            counts[at] += both
    some = np.where(counts > 0, counts, np.nan)
    return {name: values / some for name, values in sums.items()}


def _running(counts: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return sums of the columns before each place, (rows, columns + 1)."""
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int64)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums
