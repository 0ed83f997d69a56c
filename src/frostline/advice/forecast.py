"""From what was tried to what to expect: one small linear model a strategy, all of it to be looked at.

A strategy's accuracy is the probe's plus a gain. The gain is the strategy's mean over everything that was
tried plus a slope for each fact, shrunk towards none (ridge regression, so with few image sets the advice
stays close to "what was best on average"). How far such forecasts miss on image sets that were left out gives
the intervals. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.advice.knowledge import Facts, Trial

Floats = NDArray[np.float64]

# What a gain may depend on, each standardised over the trials. Which of them help is measured by
# benchmarks/advice.py (docs/LOG.md).
NAMES = ("log images", "similarity", "probe")
# Shrinkage of the slopes, in trials: tried 3 to 1,000, chosen by regret on sets left out (docs/LOG.md).
SHRINK = 30.0
COVERED = 0.8  # of outcomes that an interval is to hold
# Two strategies are not separated where the forecasts differ by less than this share of the error that such
# differences had on image sets left out. Chosen by regret there (docs/LOG.md).
SEPARATED = 0.25


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
    """The fitted model: `mean[s] + slopes[s] · standardised facts` is the gain of strategy s over the probe.

    `missed` (strategies, trials) are the errors on image sets that were left out, `nan` where not tried.
    """

    strategies: tuple[str, ...]
    centre: Floats
    spread: Floats
    mean: Floats  # (strategies,)
    slopes: Floats  # (strategies, facts)
    missed: Floats

    @property
    def typical(self) -> dict[str, float]:
        """The mean of each fact over the trials."""
        return dict(zip(NAMES, self.centre.tolist(), strict=True))

    def gains(self, facts: Facts) -> Floats:
        """Return the expected gain over the probe's out-of-fold accuracy: (strategies,)."""
        return np.asarray(self.mean + self.slopes @ ((described(facts) - self.centre) / self.spread))

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
        """Return the typical error of a forecast difference between two strategies (root mean square)."""
        a, b = (self.missed[self.strategies.index(name)] for name in (one, other))
        both = (a - b)[~np.isnan(a - b)]
        return float(np.sqrt((both**2).mean())) if len(both) else 1.0


def fit(trials: Sequence[Trial], shrink: float = SHRINK) -> Model:
    """Fit the model, and measure its errors by leaving out one image set at a time."""
    whole = _fitted(trials, shrink)
    missed = np.full((len(whole.strategies), len(trials)), np.nan)
    names = [trial.set for trial in trials]
    for name in sorted(set(names)):
        rest = [trial for trial in trials if trial.set != name]
        if not rest:
            continue
        model = _fitted(rest, shrink)
        for column, trial in enumerate(trials):
            if trial.set == name:
                gains = dict(zip(model.strategies, model.gains(trial.facts), strict=True))
                for row, strategy in enumerate(whole.strategies):
                    if strategy in trial.accuracy and strategy in gains:
                        expected = trial.facts.probe + gains[strategy]
                        missed[row, column] = trial.accuracy[strategy] - expected
    return Model(whole.strategies, whole.centre, whole.spread, whole.mean, whole.slopes, missed)


def _fitted(trials: Sequence[Trial], shrink: float) -> Model:
    strategies = tuple(dict.fromkeys(name for trial in trials for name in trial.accuracy))
    facts = np.stack([described(trial.facts) for trial in trials])
    centre, spread = facts.mean(axis=0), np.maximum(facts.std(axis=0), 1e-9)
    x = (facts - centre) / spread
    mean, slopes = np.zeros(len(strategies)), np.zeros((len(strategies), x.shape[1]))
    for place, name in enumerate(strategies):
        tried = np.array([name in trial.accuracy for trial in trials])
        gain = np.array([t.accuracy[name] - t.facts.probe for t in trials if name in t.accuracy])
        mine = x[tried] - x[tried].mean(axis=0)
        slopes[place] = np.linalg.solve(mine.T @ mine + shrink * np.eye(x.shape[1]), mine.T @ gain)
        mean[place] = gain.mean() - slopes[place] @ x[tried].mean(axis=0)
    return Model(strategies, centre, spread, mean, slopes, np.empty((len(strategies), 0)))


def chosen(model: Model, facts: Facts, seconds: Mapping[str, float]) -> Expected:
    """Pick among the strategies that `seconds` names: the best expected, or a cheaper one not separated."""
    able = [expected for expected in model.expect(facts) if expected.strategy in seconds]
    best = max(able, key=lambda e: e.accuracy)
    near = [e for e in able if not separated(model, best, e)]
    return min(near, key=lambda e: (seconds[e.strategy], -e.accuracy))


def separated(model: Model, best: Expected, other: Expected) -> bool:
    """Whether the forecasts of two strategies differ by more than their errors let us say."""
    return best.accuracy - other.accuracy > SEPARATED * model.apart(best.strategy, other.strategy)
