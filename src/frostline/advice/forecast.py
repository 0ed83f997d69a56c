"""From what was tried to what to expect: one small linear model a strategy, all of it to be looked at.

A strategy's accuracy is the probe's plus a share of what the probe leaves to gain (so that nothing is
promised above 100 %). The share is the strategy's mean over everything that was tried plus a slope for each
fact, shrunk towards none (ridge regression, so with few image sets the forecast stays close to the average).
How far such forecasts miss on image sets that were left out gives the intervals.

The strategy that was best on average is the default. Forecasts may depart from it only where departing by
them was better on image sets that were left out; where a budget rules the default out, they choose among what
fits. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline.advice.knowledge import Facts, Trial

Floats = NDArray[np.float64]

# What a gain may depend on, each standardised over the trials. Which of them help is measured by
# benchmarks/advice.py (docs/LOG.md 2026-11-25).
NAMES = ("log images", "similarity", "probe")
# Shrinkage of the slopes, in trials: a choice in the middle of 10 to 1,000, whose regrets on sets left out
# are not separated (docs/LOG.md 2026-11-25).
SHRINK = 30.0
COVERED = 0.8  # of outcomes that an interval is to hold
# Strategies known to be this near are the same, and the cheaper wins: a choice, half a point. Without the
# standard error that goes with it, the cheaper lost 3 points on one set of six (docs/LOG.md 2026-11-25).
EQUAL = 0.005
LEAST_HEADROOM = 0.05  # of accuracy left to gain: shares of less are noise
FEWEST_SETS = 3  # below that nothing can be said of departing from the default


def headroom(facts: Facts) -> float:
    """Return what the probe leaves to gain, 0–1."""
    return max(LEAST_HEADROOM, 1.0 - facts.probe)


def described(facts: Facts) -> Floats:
    """Return the facts that a gain may depend on, in the order of `NAMES`."""
    return np.array([math.log2(max(1, facts.images)), facts.similarity, facts.probe])


@dataclass(frozen=True)
class Expected:
    """A forecast of test accuracy, 0–1; `low` to `high` is to hold 80 % of outcomes."""

    strategy: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Model:
    """The fitted model: `mean[s] + slopes[s] · standardised facts` is the share of the probe's errors, 0–1,
    that strategy s takes away.

    `missed` (strategies, trials) are the errors on image sets that were left out, `nan` where not tried;
    `sets` (trials,) are their names. `default` was best on average over the sets. `departing` is what picking
    by forecast gained over the default of the other sets on each set that was left out, as a fraction.
    """

    strategies: tuple[str, ...]
    centre: Floats
    spread: Floats
    mean: Floats  # (strategies,)
    slopes: Floats  # (strategies, facts)
    missed: Floats
    sets: tuple[str, ...]
    default: str
    departing: tuple[float, ...]

    @property
    def departs(self) -> bool:
        """Whether picking by forecast beat the default by more than a standard error on sets left out."""
        if len(self.departing) < FEWEST_SETS:
            return False
        return float(np.mean(self.departing)) > _standard_error(self.departing)

    @property
    def typical(self) -> dict[str, float]:
        """The mean of each fact over the trials."""
        return dict(zip(NAMES, self.centre.tolist(), strict=True))

    def gains(self, facts: Facts) -> Floats:
        """Return the expected gain over the probe's out-of-fold accuracy: (strategies,)."""
        shares = self.mean + self.slopes @ ((described(facts) - self.centre) / self.spread)
        return np.asarray(headroom(facts) * shares)

    def average_lead(self, one: str, other: str, facts: Facts) -> float:
        """Return how far one strategy lay above another over all that was tried, at this probe's accuracy."""
        mean = dict(zip(self.strategies, self.mean.tolist(), strict=True))
        return headroom(facts) * float(mean[one] - mean[other])

    def expect(self, facts: Facts, widen: float = 1.0) -> list[Expected]:
        """Return what to expect of each strategy; `widen` stretches the intervals."""
        found = []
        for place, gain in enumerate(self.gains(facts)):
            value = float(np.clip(facts.probe + gain, 0.0, 1.0))
            reach = widen * self.reach(place)
            found.append(
                Expected(self.strategies[place], value, max(0.0, value - reach), min(1.0, value + reach))
            )
        return found

    def reach(self, place: int) -> float:
        """Return half the width of a strategy's interval."""
        errors = self.missed[place]
        errors = np.abs(errors[~np.isnan(errors)])
        return float(np.quantile(errors, COVERED)) if len(errors) else 1.0

    def apart(self, one: str, other: str) -> float:
        """Return the standard error, over image sets, of the forecast difference of two strategies.

        It is 1 where the two were tried together on fewer than two sets.
        """
        a, b = (self.missed[self.strategies.index(name)] for name in (one, other))
        known = ~np.isnan(a - b)
        names = np.array(self.sets)[known]
        means = [float((a - b)[known][names == name].mean()) for name in sorted(set(names.tolist()))]
        if len(means) < 2:
            return 1.0
        return math.sqrt(sum(mean**2 for mean in means)) / len(means)


def fit(trials: Sequence[Trial], shrink: float = SHRINK) -> Model:
    """Fit the model, and measure its errors by leaving out one image set at a time."""
    whole = _fitted(trials, shrink)
    missed = np.full((len(whole.strategies), len(trials)), np.nan)
    sets = tuple(trial.set for trial in trials)
    departing = []
    for left_out in sorted(set(sets)):
        rest = [trial for trial in trials if trial.set != left_out]
        if not rest:
            continue
        model, gained = _fitted(rest, shrink), []
        for column, trial in enumerate(trials):
            if trial.set != left_out:
                continue
            gains = dict(zip(model.strategies, model.gains(trial.facts), strict=True))
            for row, strategy in enumerate(whole.strategies):
                if strategy in trial.accuracy and strategy in gains:
                    missed[row, column] = trial.accuracy[strategy] - trial.facts.probe - gains[strategy]
            if model.default in trial.accuracy:
                pick = max((s for s in gains if s in trial.accuracy), key=gains.__getitem__)
                gained.append(trial.accuracy[pick] - trial.accuracy[model.default])
        departing += [float(np.mean(gained))] if gained else []
    return replace(whole, missed=missed, sets=sets, departing=tuple(departing))


def _fitted(trials: Sequence[Trial], shrink: float) -> Model:
    strategies = tuple(dict.fromkeys(name for trial in trials for name in trial.accuracy))
    facts = np.stack([described(trial.facts) for trial in trials])
    centre, spread = facts.mean(axis=0), np.maximum(facts.std(axis=0), 1e-9)
    x = (facts - centre) / spread
    mean, slopes = np.zeros(len(strategies)), np.zeros((len(strategies), x.shape[1]))
    for place, name in enumerate(strategies):
        tried = np.array([name in trial.accuracy for trial in trials])
        gain = np.array(
            [(t.accuracy[name] - t.facts.probe) / headroom(t.facts) for t in trials if name in t.accuracy]
        )
        mine = x[tried] - x[tried].mean(axis=0)
        slopes[place] = np.linalg.solve(mine.T @ mine + shrink * np.eye(x.shape[1]), mine.T @ gain)
        mean[place] = gain.mean() - slopes[place] @ x[tried].mean(axis=0)
    default = _best_on_average(trials)
    return Model(strategies, centre, spread, mean, slopes, np.empty((len(strategies), 0)), (), default, ())


def _best_on_average(trials: Sequence[Trial]) -> str:
    """Return what gained most over the probe's forecast, every image set counting the same."""
    gains: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        for name, accuracy in trial.accuracy.items():
            gains.setdefault(name, {}).setdefault(trial.set, []).append(accuracy - trial.facts.probe)
    sets = max(len(by_set) for by_set in gains.values())
    means = {n: np.mean([np.mean(v) for v in by.values()]) for n, by in gains.items() if len(by) == sets}
    return max(means, key=lambda name: means[name])


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def chosen(model: Model, facts: Facts, seconds: Mapping[str, float]) -> Expected:
    """Pick among the strategies that `seconds` names.

    The default where it is among them and forecasts are not known to do better, else the best expected; a
    cheaper one takes its place where it is known to do the same: behind by no more than half a point, a
    standard error over image sets included.
    """
    able = {e.strategy: e for e in model.expect(facts) if e.strategy in seconds}
    if model.default in able and not model.departs:
        pick = model.default
        behind = {name: model.average_lead(pick, name, facts) for name in able}
    else:
        pick = max(able, key=lambda name: able[name].accuracy)
        behind = {name: able[pick].accuracy - e.accuracy for name, e in able.items()}
    near = [name for name in able if name == pick or behind[name] + model.apart(pick, name) <= EQUAL]
    return able[min(near, key=lambda name: (seconds[name], behind[name]))]


def separated(model: Model, best: Expected, other: Expected) -> bool:
    """Whether the forecasts of two strategies differ by more than a standard error of such differences."""
    return best.accuracy - other.accuracy > model.apart(best.strategy, other.strategy)
