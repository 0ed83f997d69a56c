"""Forecast the accuracy of strategies from earlier trials: one small linear model per strategy.

A strategy's forecast is the probe's accuracy plus a share of the probe's error (so that it never exceeds
100 %). The share is the strategy's mean over all trials plus a slope for each fact, by ridge regression: with
few image sets the forecast stays close to the average. Errors on left-out image sets give the intervals.

The strategy that was best on average is the default. Forecasts may choose another one only if doing so was
better on left-out image sets; if a budget excludes the default, they choose among what fits. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline.advice.knowledge import Facts, Trial

Floats = NDArray[np.float64]

# Features of the linear model, each standardised over the trials. Which of them help is measured by
# benchmarks/advice.py (docs/LOG.md 2026-11-25).
NAMES = ("log images", "similarity", "probe")
# Ridge penalty of the slopes, in trials: a choice in the middle of 10 to 1,000, whose regrets on left-out
# sets do not differ significantly (docs/LOG.md 2026-11-25).
SHRINK = 30.0
COVERED = 0.8  # coverage of the intervals
# Strategies within this accuracy, standard error included, count as equal, and the cheaper wins: a choice,
# half a point. Without the standard error the cheaper lost 3 points on one set of six (docs/LOG.md
# 2026-11-25).
EQUAL = 0.005
LEAST_HEADROOM = 0.05  # smallest error of the probe: shares of less are noise
FEWEST_SETS = 3  # with fewer, the default is always used


def headroom(facts: Facts) -> float:
    """Return the probe's error, which is what can be gained, 0–1."""
    return max(LEAST_HEADROOM, 1.0 - facts.probe)


def feature_vector(facts: Facts) -> Floats:
    """Return the features of the model, in the order of `NAMES`, shape (facts,)."""
    return np.array([math.log2(max(1, facts.images)), facts.similarity, facts.probe])


@dataclass(frozen=True)
class Forecast:
    """Forecast of a strategy's test accuracy, 0–1; `low` to `high` is an 80 % interval."""

    strategy: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class ForecastModel:
    """The fitted model: `mean[s] + slopes[s] · standardised facts` is the share of the probe's error that
    strategy s removes, 0–1.

    Parameters
    ----------
    strategies
        Notations.
    centre, spread
        Mean and standard deviation of the facts over the trials, (facts,).
    mean
        Mean share of each strategy, (strategies,).
    slopes
        Slopes of the share, (strategies, facts).
    errors
        Forecast errors on left-out image sets, (strategies, trials); `nan` for strategies that a trial lacks.
    sets
        Image set of each trial.
    default
        The strategy that was best on average over the sets.
    departure_gains
        For each left-out set, the accuracy that choosing by forecast gained over the default of the other
        sets, as a fraction.
    """

    strategies: tuple[str, ...]
    centre: Floats
    spread: Floats
    mean: Floats
    slopes: Floats
    errors: Floats
    sets: tuple[str, ...]
    default: str
    departure_gains: tuple[float, ...]

    @property
    def departs_from_default(self) -> bool:
        """Whether choosing by forecast beat the default by more than a standard error on left-out sets."""
        if len(self.departure_gains) < FEWEST_SETS:
            return False
        return float(np.mean(self.departure_gains)) > _standard_error(self.departure_gains)

    @property
    def typical(self) -> dict[str, float]:
        """Mean of each fact over the trials."""
        return dict(zip(NAMES, self.centre.tolist(), strict=True))

    def gains(self, facts: Facts) -> Floats:
        """Return the expected gain over the probe's out-of-fold accuracy, 0–1, shape (strategies,)."""
        shares = self.mean + self.slopes @ ((feature_vector(facts) - self.centre) / self.spread)
        return np.asarray(headroom(facts) * shares)

    def mean_lead(self, first: str, second: str, facts: Facts) -> float:
        """Return the mean lead of one strategy over another in all trials, scaled to this probe's error."""
        mean = dict(zip(self.strategies, self.mean.tolist(), strict=True))
        return headroom(facts) * float(mean[first] - mean[second])

    def forecasts(self, facts: Facts, widen: float = 1.0) -> list[Forecast]:
        """Return a forecast for each strategy; `widen` multiplies the width of the intervals."""
        forecasts = []
        for row, gain in enumerate(self.gains(facts)):
            value = float(np.clip(facts.probe + gain, 0.0, 1.0))
            half_width = widen * self.half_width(row)
            forecasts.append(
                Forecast(
                    self.strategies[row], value, max(0.0, value - half_width), min(1.0, value + half_width)
                )
            )
        return forecasts

    def half_width(self, row: int) -> float:
        """Return half the width of the interval of the strategy in a row."""
        errors = self.errors[row]
        errors = np.abs(errors[~np.isnan(errors)])
        return float(np.quantile(errors, COVERED)) if len(errors) else 1.0

    def difference_error(self, first: str, second: str) -> float:
        """Return the standard error, over image sets, of the forecast difference of two strategies.

        It is 1 if both were tried on fewer than two sets.
        """
        a, b = (self.errors[self.strategies.index(name)] for name in (first, second))
        both_tried = ~np.isnan(a - b)
        names = np.array(self.sets)[both_tried]
        means = [float((a - b)[both_tried][names == name].mean()) for name in sorted(set(names.tolist()))]
        if len(means) < 2:
            return 1.0
        return math.sqrt(sum(mean**2 for mean in means)) / len(means)


def fit(trials: Sequence[Trial], shrink: float = SHRINK) -> ForecastModel:
    """Fit the model, and measure its errors by leaving out one image set at a time.

    Parameters
    ----------
    trials
        Accuracy of strategies on image sets.
    shrink
        Ridge penalty of the slopes, in trials.

    Returns
    -------
    ForecastModel
        The fitted model.
    """
    whole = _fitted(trials, shrink)
    errors = np.full((len(whole.strategies), len(trials)), np.nan)
    sets = tuple(trial.set for trial in trials)
    departure_gains = []
    for left_out in sorted(set(sets)):
        others = [trial for trial in trials if trial.set != left_out]
        if not others:
            continue
        model, gained = _fitted(others, shrink), []
        for column, trial in enumerate(trials):
            if trial.set != left_out:
                continue
            gains = dict(zip(model.strategies, model.gains(trial.facts), strict=True))
            for row, strategy in enumerate(whole.strategies):
                if strategy in trial.accuracy and strategy in gains:
                    errors[row, column] = trial.accuracy[strategy] - trial.facts.probe - gains[strategy]
            if model.default in trial.accuracy:
                pick = max((s for s in gains if s in trial.accuracy), key=gains.__getitem__)
                gained.append(trial.accuracy[pick] - trial.accuracy[model.default])
        departure_gains += [float(np.mean(gained))] if gained else []
    return replace(whole, errors=errors, sets=sets, departure_gains=tuple(departure_gains))


def _fitted(trials: Sequence[Trial], shrink: float) -> ForecastModel:
    strategies = tuple(dict.fromkeys(name for trial in trials for name in trial.accuracy))
    facts = np.stack([feature_vector(trial.facts) for trial in trials])
    centre, spread = facts.mean(axis=0), np.maximum(facts.std(axis=0), 1e-9)
    x = (facts - centre) / spread
    mean, slopes = np.zeros(len(strategies)), np.zeros((len(strategies), x.shape[1]))
    for row, name in enumerate(strategies):
        has_result = np.array([name in trial.accuracy for trial in trials])
        gain = np.array(
            [(t.accuracy[name] - t.facts.probe) / headroom(t.facts) for t in trials if name in t.accuracy]
        )
        design = x[has_result] - x[has_result].mean(axis=0)
        slopes[row] = np.linalg.solve(design.T @ design + shrink * np.eye(x.shape[1]), design.T @ gain)
        mean[row] = gain.mean() - slopes[row] @ x[has_result].mean(axis=0)
    default = _best_on_average(trials)
    return ForecastModel(
        strategies, centre, spread, mean, slopes, np.empty((len(strategies), 0)), (), default, ()
    )


def _best_on_average(trials: Sequence[Trial]) -> str:
    """Return the strategy with the largest mean gain over the probe, every image set weighted equally."""
    gains: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        for name, accuracy in trial.accuracy.items():
            gains.setdefault(name, {}).setdefault(trial.set, []).append(accuracy - trial.facts.probe)
    sets = max(len(by_set) for by_set in gains.values())
    means = {n: np.mean([np.mean(v) for v in by.values()]) for n, by in gains.items() if len(by) == sets}
    return max(means, key=lambda name: means[name])


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def choose_strategy(model: ForecastModel, facts: Facts, seconds: Mapping[str, float]) -> Forecast:
    """Return the forecast of the strategy to recommend.

    It is the default if available and forecasts are not known to do better, else the best by forecast. A
    cheaper one replaces it if it is behind by no more than half a point, a standard error over image sets
    included.

    Parameters
    ----------
    model
        The fitted model.
    facts
        Facts about the images.
    seconds
        Predicted seconds of the available strategies.
    """
    candidates = {e.strategy: e for e in model.forecasts(facts) if e.strategy in seconds}
    if model.default in candidates and not model.departs_from_default:
        pick = model.default
        behind = {name: model.mean_lead(pick, name, facts) for name in candidates}
    else:
        pick = max(candidates, key=lambda name: candidates[name].accuracy)
        behind = {name: candidates[pick].accuracy - e.accuracy for name, e in candidates.items()}
    tied = [
        name
        for name in candidates
        if name == pick or behind[name] + model.difference_error(pick, name) <= EQUAL
    ]
    return candidates[min(tied, key=lambda name: (seconds[name], behind[name]))]


def clearly_better(model: ForecastModel, best: Forecast, second: Forecast) -> bool:
    """Return whether one strategy's forecast is better by more than a standard error of the difference."""
    return best.accuracy - second.accuracy > model.difference_error(best.strategy, second.strategy)
