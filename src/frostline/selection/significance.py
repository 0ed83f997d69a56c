"""Who won: paired over the same images and repeats, with "too close to call" as an answer. Imports no torch.

Two candidates are compared on the very images that both were held out on. Images that hang together are drawn
together, and so are the repeats (a two-way bootstrap); the interval of the difference is what the draws say.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CORRECTIONS = 200  # draws of images for the optimism of a choice
DRAWS = 2000  # the interval's ends then move by less than a twentieth of its width between repeats


@dataclass(frozen=True)
class Held:
    """One candidate's answers on images it had not learned from, over all of its cells, in one order.

    `repeats` and `units` are (N,): an image is there once for each repeat that held it out.
    """

    images: Ints  # (N,) positions in the pool
    repeats: Ints
    units: Ints
    targets: Ints
    probabilities: Floats  # (N, classes)
    logits: Floats | None = None  # (N, classes), before any temperature

    def score(self, metric: str) -> float:
        """Return the mean over repeats of the goodness (higher is better)."""
        return float(np.mean([self._at(metric, self.repeats == r) for r in np.unique(self.repeats)]))

    def accuracy_interval(self, spread: float = 1.0) -> tuple[float, float, float]:
        """Return the mean accuracy over repeats and its 95 % interval, over images and what ties them.

        `spread` widens it: how many times the variance over images the figure has.
        """
        _, place = np.unique(self.images, return_inverse=True)
        right = np.bincount(place, weights=_right(self)) / np.bincount(place)
        unit = np.zeros(len(right), dtype=np.int64)
        unit[place] = self.units
        low, high = metrics.rate_interval(right, unit, spread)
        return float(right.mean()), low, high

    def rows(self, chosen: NDArray[np.bool_]) -> Held:
        """Return the chosen rows of it; `chosen` is (N,)."""
        return Held(
            self.images[chosen],
            self.repeats[chosen],
            self.units[chosen],
            self.targets[chosen],
            self.probabilities[chosen],
            None if self.logits is None else self.logits[chosen],
        )

    def _at(self, metric: str, rows: NDArray[np.bool_]) -> float:
        return metrics.goodness(metric, self.targets[rows], self.probabilities[rows])


@dataclass(frozen=True)
class Difference:
    """How much better one did than the other: mean, 95 % interval and standard error, as fractions."""

    mean: float
    low: float
    high: float
    error: float

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Verdict:
    """The winner, whether it is separated from all others, and by how much it leads each of them."""

    winner: int
    leader: int  # the best mean; another wins where the two are too close to call and it is cheaper
    separated: bool
    differences: Mapping[int, Difference]  # the leader minus each other


def difference(one: Held, other: Held, metric: str, seed: int = 0) -> Difference:
    """Compare two candidates on the same images and repeats."""
    if not (np.array_equal(one.images, other.images) and np.array_equal(one.repeats, other.repeats)):
        raise ValueError("Two candidates can only be paired on the same images in the same order.")
    mean = one.score(metric) - other.score(metric)
    drawn = _drawn_accuracy(one, other, seed) if metric == "accuracy" else _drawn(one, other, metric, seed)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Difference(mean, float(low), float(high), float(np.std(drawn)))


def judge(held: Mapping[int, Held], seconds: Mapping[int, float], metric: str, seed: int = 0) -> Verdict:
    """Name the winner: the best, or the cheapest of those within one standard error of it.

    The rule of one standard error (Breiman et al. 1984): a lead that the same images drawn again could turn
    round is no reason to pay more.
    """
    scores = {name: answers.score(metric) for name, answers in held.items()}
    leader = max(scores, key=lambda name: (scores[name], -seconds[name]))
    others = {name: difference(held[leader], held[name], metric, seed) for name in held if name != leader}
    close = [name for name, found in others.items() if not found.separated and found.mean <= found.error]
    winner = min([leader, *close], key=lambda name: (seconds[name], -scores[name]))
    return Verdict(winner, leader, all(found.separated for found in others.values()), others)


def optimism(held: Mapping[int, Held], metric: str, seed: int = 0) -> float:
    """Return how much better the best of several looks than it is, by having been picked as the best.

    In each draw of images the best there is picked, and asked about the images that were not drawn
    (bootstrap bias correction, Tsamardinos et al. 2018, arXiv 1708.07180). Never below zero.
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
        seen = {name: _goodness(held[name], metric, inside) for name in names}
        gap = {name: seen[name] - _goodness(held[name], metric, outside) for name in names}
        picked = max(names, key=seen.__getitem__)
        gaps.append(
            gap[picked] - statistics.mean(gap.values())
        )  # what all share is the draw's, not the pick's
    found = float(np.mean(gaps)) if gaps else 0.0
    return max(0.0, found) if np.isfinite(found) else 0.0


def shallowest(found: Verdict) -> Verdict:
    """Return the verdict by another rule: the first listed that is not separated from the leader wins."""
    close = [name for name, apart in found.differences.items() if not apart.separated]
    return replace(found, winner=min([found.leader, *close]))


def _drawn_accuracy(one: Held, other: Held, seed: int) -> Floats:
    """Draw differences of accuracy; a table (repeats, units) of sums is all that they depend on."""
    apart = _right(one) - _right(other)
    _, repeat = np.unique(one.repeats, return_inverse=True)
    _, unit = np.unique(one.units, return_inverse=True)
    shape = (int(repeat.max()) + 1, int(unit.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (repeat, unit), apart)
    np.add.at(counts, (repeat, unit), 1.0)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        weight = rng.multinomial(shape[1], np.full(shape[1], 1 / shape[1]))
        rows = rng.integers(shape[0], size=shape[0])
        totals = counts[rows] @ weight
        found.append(np.mean((sums[rows] @ weight) / np.maximum(totals, 1.0)))
    return np.array(found)


def _drawn(one: Held, other: Held, metric: str, seed: int) -> Floats:
    """Draw differences of any metric, by drawing images."""
    rng = np.random.default_rng(seed)
    members = _members(one.units)
    repeats = np.unique(one.repeats)
    found: list[float] = []
    for _ in range(DRAWS // 4):
        units = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[u] for u in units])
        apart = []
        for repeat in rng.choice(repeats, len(repeats)):
            mine = rows[one.repeats[rows] == repeat]
            if len(mine):
                scores = [
                    metrics.goodness(metric, h.targets[mine], h.probabilities[mine]) for h in (one, other)
                ]
                apart.append(scores[0] - scores[1])
        if apart and np.isfinite(apart).all():
            found.append(float(np.mean(apart)))
    return np.array(found)


def _goodness(held: Held, metric: str, rows: Ints) -> float:
    return metrics.goodness(metric, held.targets[rows], held.probabilities[rows])


def _members(units: Ints) -> Sequence[Ints]:
    order = np.argsort(units, kind="stable")
    _, starts = np.unique(units[order], return_index=True)
    return np.split(order, starts[1:])


def _right(held: Held) -> Floats:
    return np.asarray(held.probabilities.argmax(axis=1) == held.targets, dtype=np.float64)
