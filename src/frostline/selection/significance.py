"""Paired tests between candidates on the same held-out images and repeats. Imports no torch.

Intervals come from a two-way bootstrap over images and repeats. Images of one group, and copies of one image,
are drawn together. Two units are added, of which each candidate alone predicts one rightly (Bonett and Price
2012): images on which the two never differ don't show that they never would. The interval of a log loss, a
mean over images, is Student's.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.config import EQUAL, SAME_TIME
from frostline.selection import added_units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Lead = tuple[float, float]  # expected by earlier trials, and its standard deviation
Leads = Mapping[tuple[int, int], Lead]  # of one candidate over another

CORRECTIONS = 200  # bootstrap draws for the optimism of choosing the best
DRAWS = 2000  # bootstrap draws: with as many, an interval's ends vary by less than 5 % of its width


@dataclass(frozen=True)
class HeldOutPredictions:
    """One candidate's predictions on held-out images, over all its cells.

    An image has one row for each repeat that held it out; there are N rows.

    Parameters
    ----------
    images
        Positions in the pool, (N,).
    repeats
        Repeat of each row, (N,).
    units
        Group of each row, (N,): images of one unit are never split.
    targets
        Class indices, (N,).
    probabilities
        Predicted probabilities, (N, classes).
    logits
        Logits before temperature scaling, (N, classes), up to a constant for each image.
    """

    images: Ints
    repeats: Ints
    units: Ints
    targets: Ints
    probabilities: Floats
    logits: Floats | None = None

    def score(self, metric: metrics.Metric) -> float:
        """Return the mean of a metric over repeats, with its sign such that higher is better."""
        return float(np.mean([self._at(metric, self.repeats == r) for r in np.unique(self.repeats)]))

    def accuracy_interval(self, spread: float = 1.0) -> tuple[float, float, float]:
        """Return accuracy (mean over repeats) and its 95 % interval (low, high), clustered by unit.

        `spread` multiplies the variance over images, to widen the interval.
        """
        _, index = np.unique(self.images, return_inverse=True)
        correct = np.bincount(index, weights=_correct(self)) / np.bincount(index)
        unit = np.zeros(len(correct), dtype=np.int64)
        unit[index] = self.units
        low, high = metrics.rate_interval(correct, unit, spread)
        return float(correct.mean()), low, high

    def rows(self, mask: NDArray[np.bool_]) -> HeldOutPredictions:
        """Return the rows that a mask (N,) selects."""
        return HeldOutPredictions(
            self.images[mask],
            self.repeats[mask],
            self.units[mask],
            self.targets[mask],
            self.probabilities[mask],
            None if self.logits is None else self.logits[mask],
        )

    def _at(self, metric: metrics.Metric, rows: NDArray[np.bool_]) -> float:
        return metrics.goodness(metric, self.targets[rows], self.probabilities[rows])


@dataclass(frozen=True)
class Difference:
    """Difference of two candidates' scores: mean, 95 % interval and standard error, as fractions."""

    mean: float
    low: float
    high: float
    error: float

    @property
    def separated(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Verdict:
    """The winner of a comparison and how far the leader is ahead of the others.

    Parameters
    ----------
    winner
        Index of the winning candidate.
    leader
        Index of the candidate with the best mean score.
    separated
        Whether the leader is significantly better than every other candidate.
    differences
        The leader's score minus that of each other candidate, by index.
    expected
        Score beside the leader's, earlier trials included, of those not significantly worse, by index.
    """

    winner: int
    leader: int
    separated: bool
    differences: Mapping[int, Difference]
    expected: Mapping[int, float]

    @property
    def moved(self) -> dict[int, float]:
        """How far earlier trials move each candidate's score beside the leader's, by index."""
        gaps = {self.leader: 0.0, **{name: gap.mean for name, gap in self.differences.items()}}
        return {name: score + gaps[name] for name, score in self.expected.items()}


def difference(
    first: HeldOutPredictions, second: HeldOutPredictions, metric: metrics.Metric, seed: int = 0
) -> Difference:
    """Return how much better the first candidate scored than the second, on the same images and repeats.

    Parameters
    ----------
    first, second
        Predictions on the same rows in the same order.
    metric
        The metric, as `metrics.score` takes it.
    seed
        Seed of the bootstrap.

    Returns
    -------
    Difference
        Mean, 95 % interval and standard error.

    Raises
    ------
    ValueError
        If the rows differ.
    """
    if not (np.array_equal(first.images, second.images) and np.array_equal(first.repeats, second.repeats)):
        raise ValueError("Two candidates can only be paired on the same images in the same order.")
    mean = first.score(metric) - second.score(metric)
    if metric == "log_loss" and (widths := _log_loss_widths(first, second)) is not None:
        half, error = widths
        return Difference(mean, mean - half, mean + half, error)
    if metric == "accuracy":
        drawn = _draw_accuracy_differences(first, second, seed)
    else:
        drawn = _draw_differences(first, second, metric, seed)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Difference(mean, min(mean, float(low)), max(mean, float(high)), float(np.std(drawn)))


def mcnemar(first_correct: NDArray[np.bool_], second_correct: NDArray[np.bool_]) -> float:
    """Return McNemar's exact two-sided p-value: are two models correct on equally many of the same images?

    Of the images on which exactly one of the two is correct, each is the better one with probability 1/2
    if neither is better (McNemar 1947; the binomial test on discordant pairs). Images must be independent.

    Parameters
    ----------
    first_correct, second_correct : ndarray of bool, shape (n,)
        Whether each model predicts each image correctly.

    Returns
    -------
    float
        1 where the two are never at odds.
    """
    from scipy.stats import binomtest

    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def judge(
    held: Mapping[int, HeldOutPredictions],
    seconds: Mapping[int, float],
    metric: metrics.Metric,
    seed: int = 0,
    leads: Leads | None = None,
) -> Verdict:
    """Return the winner: the best candidate, or a cheaper one that is no more than half a point behind.

    With `leads`, what was measured is weighed with what earlier trials say, each by its variance, and the
    best is whoever is best by both. Who is significantly worse than the leader never wins. The cheaper one
    takes no more than 1 / 1.1 of the time; of the cheapest within that factor the better one wins.

    Parameters
    ----------
    held
        Predictions of each candidate, by index, all on the same rows.
    seconds
        Cost of a run of each candidate, by index.
    metric
        The metric, as `metrics.score` takes it.
    seed
        Seed of the bootstrap.
    leads
        Expected lead of one candidate over another and its standard deviation, in units of `metric`, by
        their indices; pairs that nothing is known of are judged by what was measured.

    Returns
    -------
    Verdict
        Winner, leader and differences.
    """
    scores = {name: predictions.score(metric) for name, predictions in held.items()}
    leader = max(scores, key=lambda name: (scores[name], -seconds[name]))
    others = {name: difference(held[leader], held[name], metric, seed) for name in held if name != leader}
    expected = {leader: 0.0}  # score beside the leader's
    for name, gap in others.items():
        if not gap.separated:
            expected[name] = _weighed(gap, (leads or {}).get((name, leader)))
    best = max(expected, key=lambda name: (expected[name], -seconds[name]))
    close = [name for name in expected if expected[best] - expected[name] <= EQUAL]
    cheaper = [name for name in close if SAME_TIME * seconds[name] <= seconds[best]] or [best]
    quickest = min(seconds[name] for name in cheaper)
    as_quick = [name for name in cheaper if seconds[name] <= SAME_TIME * quickest]
    winner = min(as_quick, key=lambda name: (-expected[name], seconds[name]))
    return Verdict(winner, leader, all(gap.separated for gap in others.values()), others, expected)


def _weighed(gap: Difference, lead: Lead | None) -> float:
    """Return a candidate's expected score beside the leader's: measured and earlier, weighed by variance."""
    if lead is None:
        return -gap.mean
    earlier, spread = lead
    share = spread**2 / (spread**2 + gap.error**2)  # of what was measured
    return share * -gap.mean + (1 - share) * earlier


def optimism(
    held: Mapping[int, HeldOutPredictions],
    metric: metrics.Metric,
    seed: int = 0,
    moved: Mapping[int, float] | None = None,
) -> float:
    """Return the optimism of the best candidate's score, caused by choosing it on the same images.

    In each bootstrap draw of images the best candidate is chosen and evaluated on the images that were not
    drawn (bootstrap bias correction, Tsamardinos et al. 2018, arXiv 1708.07180).

    Parameters
    ----------
    held
        Predictions of each candidate, by index, all on the same rows.
    metric
        The metric, as `metrics.score` takes it.
    seed
        Seed of the bootstrap.
    moved
        What earlier trials add to a candidate's score where the best is chosen (`Verdict.moved`).

    Returns
    -------
    float
        Score to subtract, never below zero.
    """
    if len(held) < 2:
        return 0.0
    names, first = list(held), next(iter(held.values()))
    members = _members(first.units)
    rng = np.random.default_rng(seed)
    gaps = []
    for _ in range(CORRECTIONS):
        drawn = rng.integers(len(members), size=len(members))
        inside = np.concatenate([members[u] for u in drawn])
        outside = np.setdiff1d(np.arange(len(first.images)), inside)
        if not len(outside):
            continue
        scores = {name: _goodness(held[name], metric, inside) for name in names}
        gap = {name: scores[name] - _goodness(held[name], metric, outside) for name in names}
        best = max(names, key=lambda name: scores[name] + (moved or {}).get(name, 0.0))
        # What all candidates share comes from the draw, not from choosing the best.
        gaps.append(gap[best] - statistics.mean(gap.values()))
    mean_gap = float(np.mean(gaps)) if gaps else 0.0
    return max(0.0, mean_gap) if np.isfinite(mean_gap) else 0.0


def shallowest(verdict: Verdict) -> Verdict:
    """Return the verdict by which the first listed that is not significantly worse than the leader wins."""
    close = [name for name, gap in verdict.differences.items() if not gap.separated]
    return replace(verdict, winner=min([verdict.leader, *close]))


def _log_loss_widths(first: HeldOutPredictions, second: HeldOutPredictions) -> tuple[float, float] | None:
    """Return half the width of the 95 % interval of a difference of log losses, and its standard error.

    As `metrics.mean_interval` of each image's mean over repeats, with the variance between repeats added.
    `None` where every image has the same difference.
    """
    from scipy.stats import t

    gains = metrics.log_losses(second.targets, second.probabilities)
    gains = gains - metrics.log_losses(first.targets, first.probabilities)
    _, index, times = np.unique(first.images, return_inverse=True, return_counts=True)
    unit = np.zeros(len(times), dtype=np.int64)
    unit[index] = first.units
    low, high = metrics.mean_interval(np.bincount(index, weights=gains) / times, unit)
    if low is None or high is None:
        return None
    means = [gains[first.repeats == repeat].mean() for repeat in np.unique(first.repeats)]
    quantile = float(t.ppf(0.975, len(np.unique(unit)) - 1))
    error = float(np.hypot((high - low) / 2 / quantile, np.std(means) / np.sqrt(len(means))))
    return quantile * error, error


def _draw_accuracy_differences(first: HeldOutPredictions, second: HeldOutPredictions, seed: int) -> Floats:
    """Return bootstrap differences of accuracy (DRAWS,), computed from a table (repeats, units) of sums."""
    gains = _correct(first) - _correct(second)
    _, repeat = np.unique(first.repeats, return_inverse=True)
    _, unit = np.unique(first.units, return_inverse=True)
    shape = (int(repeat.max()) + 1, int(unit.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (repeat, unit), gains)
    np.add.at(counts, (repeat, unit), 1.0)
    size = counts.mean(axis=1, keepdims=True)
    sums, counts = np.hstack([sums, size, -size]), np.hstack([counts, size, size])
    shape = sums.shape
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        weight = rng.multinomial(shape[1], np.full(shape[1], 1 / shape[1]))
        rows = rng.integers(shape[0], size=shape[0])
        totals = counts[rows] @ weight
        drawn.append(np.mean((sums[rows] @ weight) / np.maximum(totals, 1.0)))
    return np.array(drawn)


def _draw_differences(
    first: HeldOutPredictions, second: HeldOutPredictions, metric: metrics.Metric, seed: int
) -> Floats:
    """Return bootstrap differences of any metric, by drawing images."""
    names, unit = np.unique(first.units, return_inverse=True)
    samples = []
    for repeat in np.unique(first.repeats):
        rows = first.repeats == repeat
        both = (first.probabilities[rows], second.probabilities[rows])
        samples.append(added_units.add(first.targets[rows], both, unit[rows], added_units.OF_TWO, len(names)))
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    for weights in samples[0].weights(DRAWS // 4, seed):
        gains = []
        for repeat in rng.integers(len(samples), size=len(samples)).tolist():
            sample = samples[repeat]
            chosen = np.repeat(np.arange(len(sample.targets)), weights[sample.units])
            if len(chosen):
                scores = [
                    metrics.goodness(metric, sample.targets[chosen], matrix[chosen])
                    for matrix in sample.probabilities
                ]
                gains.append(scores[0] - scores[1])
        if gains and np.isfinite(gains).all():
            drawn.append(float(np.mean(gains)))
    return np.array(drawn)


def _goodness(held: HeldOutPredictions, metric: metrics.Metric, rows: Ints) -> float:
    return metrics.goodness(metric, held.targets[rows], held.probabilities[rows])


def _members(units: Ints) -> Sequence[Ints]:
    order = np.argsort(units, kind="stable")
    _, starts = np.unique(units[order], return_index=True)
    return np.split(order, starts[1:])


def _correct(held: HeldOutPredictions) -> Floats:
    return np.asarray(held.probabilities.argmax(axis=1) == held.targets, dtype=np.float64)
