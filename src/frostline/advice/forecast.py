"""Forecast the accuracy of strategies from earlier trials: what the frozen network gets right, plus a gain.

The start is `Facts.frozen`, out of fold. What training gains over it is written as two small linear models,
by ridge regression on what was measured: how much training gains at all (the mean of the strategies that
every trial has), and by how much each strategy differs from that mean. The second is held back more: without
evidence a strategy's lead is its average lead. Gains are in units of the root of what is left to gain, so
that they shrink near 100 %. Every image set has the same weight, however many trials it has.

Errors on left-out image sets give the intervals. Their width depends on the strategy and on how many images
the frozen network was measured with.

The strategy that was best on average is the default. Forecasts may choose another one only if doing so was
better on left-out image sets. No torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline.advice.knowledge import Facts, Trial

Floats = NDArray[np.float64]

# Evidence that the linear models use, each standardised over the trials. Which of it helps on left-out sets
# is measured by benchmarks/advice.py (docs/LOG.md 2026-11-28).
EVIDENCE: dict[str, Callable[[Facts], float]] = {
    "similarity": lambda facts: facts.similarity,
    "gain of depth": lambda facts: facts.depth_gain,
}
NAMES = tuple(EVIDENCE)
# Ridge penalties of the slopes, in image sets: of what training gains at all, and of what each strategy
# differs by (docs/LOG.md 2026-11-28).
SHRINK_LEVEL, SHRINK = 60.0, 2.0
COVERED = 0.8  # coverage of the intervals
# Strategies within this accuracy, standard error included, count as equal, and the cheaper wins: a choice,
# half a point. Without the standard error the cheaper lost 3 points on one set of six (docs/LOG.md
# 2026-11-25).
EQUAL = 0.005
LEAST_HEADROOM = 0.02  # smallest error of the frozen network: gains are not measured in less
LEAST_SPREAD = 0.02  # of a strategy's errors between trials, accuracy 0–1: few trials may agree by chance
# Standard errors by which choosing by forecast must have beaten the default on left-out sets. With one, three
# small tasks more turned the answer (docs/LOG.md 2026-11-28).
CLEAR_SE = 2.0
FEWEST_SETS = 3  # with fewer, the default is always used, and strategies tried on fewer are not forecast


def headroom(facts: Facts) -> float:
    """Return the unit of gains: the root of the frozen network's error, 0–1."""
    return math.sqrt(max(LEAST_HEADROOM, 1.0 - facts.frozen))


def feature_vector(facts: Facts) -> Floats:
    """Return the evidence of the linear models, in the order of `NAMES`, shape (facts,)."""
    return np.array([EVIDENCE[name](facts) for name in NAMES])


@dataclass(frozen=True)
class Forecast:
    """Forecast of a strategy's test accuracy, 0–1; `low` to `high` is an 80 % interval."""

    strategy: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class ForecastModel:
    """The fitted model: `headroom · (mean[s] + slopes[s] · standardised evidence)` is strategy s's gain.

    Parameters
    ----------
    strategies
        Notations.
    centre, spread
        Mean and standard deviation of the evidence over the image sets, (facts,).
    mean
        Mean gain of each strategy, in units of `headroom`, (strategies,).
    slopes
        Slopes of the gain, (strategies, facts).
    errors
        Forecast errors on left-out image sets, (strategies, trials); `nan` for strategies that a trial lacks.
    chance
        Variance of each trial's frozen accuracy by the chance of which images were measured, (trials,).
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
    chance: Floats
    sets: tuple[str, ...]
    default: str
    departure_gains: tuple[float, ...]

    @property
    def departs_from_default(self) -> bool:
        """Whether choosing by forecast beat the default by two standard errors on left-out sets."""
        if len(self.departure_gains) < FEWEST_SETS:
            return False
        return float(np.mean(self.departure_gains)) > CLEAR_SE * _standard_error(self.departure_gains)

    @property
    def typical(self) -> dict[str, float]:
        """Mean of each piece of evidence over the image sets."""
        return dict(zip(NAMES, self.centre.tolist(), strict=True))

    def gains(self, facts: Facts) -> Floats:
        """Return the expected gain over the frozen network's accuracy, 0–1, shape (strategies,)."""
        standardised = (feature_vector(facts) - self.centre) / self.spread
        return np.asarray(headroom(facts) * (self.mean + self.slopes @ standardised))

    def deciding(self, first: str, second: str, facts: Facts) -> str:
        """Return the piece of evidence that moves the lead of one strategy over another most."""
        rows = [self.strategies.index(name) for name in (first, second)]
        standardised = (feature_vector(facts) - self.centre) / self.spread
        moves = (self.slopes[rows[0]] - self.slopes[rows[1]]) * standardised
        return NAMES[int(np.abs(moves).argmax())]

    def mean_lead(self, first: str, second: str, facts: Facts) -> float:
        """Return the mean lead of one strategy over another in all trials, scaled to this headroom."""
        mean = dict(zip(self.strategies, self.mean.tolist(), strict=True))
        return headroom(facts) * float(mean[first] - mean[second])

    def forecasts(self, facts: Facts, widen: float = 1.0) -> list[Forecast]:
        """Return a forecast for each strategy; `widen` multiplies the width of the intervals."""
        forecasts = []
        for row, gain in enumerate(self.gains(facts)):
            value = float(np.clip(facts.frozen + gain, 0.0, 1.0))
            half_width = widen * self.half_width(row, facts)
            forecasts.append(
                Forecast(
                    self.strategies[row], value, max(0.0, value - half_width), min(1.0, value + half_width)
                )
            )
        return forecasts

    def half_width(self, row: int, facts: Facts) -> float:
        """Return half the width of the interval of the strategy in a row.

        Its errors on left-out sets are taken apart: the chance of which images the frozen network was
        measured with, p (1 − p) / n, known for each trial, and the rest, the same for all. The width is the
        quantile of errors in units of the root of both, times that unit for these facts.
        """
        tried = np.flatnonzero(~np.isnan(self.errors[row]))
        if not len(tried):
            return 1.0
        errors, chance = self.errors[row][tried], self.chance[tried]
        weights = _set_weights([self.sets[column] for column in tried.tolist()])
        rest = max(LEAST_SPREAD**2, float(np.average(errors**2 - chance, weights=weights)))
        units = np.abs(errors) / np.sqrt(rest + chance)
        return _quantile(units, weights, COVERED) * math.sqrt(rest + facts.probe_variance)

    def expected_regret(self, facts: Facts, strategies: Sequence[str]) -> dict[str, float]:
        """Return what choosing each strategy is expected to lose to the best of them in hindsight, 0–1.

        Forecasts plus the errors of each earlier trial, of all these strategies at once since errors go
        together, stand for what may happen. Empty if no trial had all strategies.
        """
        rows = [self.strategies.index(name) for name in strategies]
        errors = self.errors[rows]
        both = np.flatnonzero(~np.isnan(errors).any(axis=0))
        if not len(both):
            return {}
        weights = _set_weights([self.sets[column] for column in both.tolist()])
        outcomes = self.gains(facts)[rows][:, None] + errors[:, both]
        regrets = np.average(outcomes.max(axis=0) - outcomes, axis=1, weights=weights)
        return dict(zip(strategies, regrets.tolist(), strict=True))

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


def fit(trials: Sequence[Trial], shrink: float = SHRINK, shrink_level: float = SHRINK_LEVEL) -> ForecastModel:
    """Fit the model, and measure its errors by leaving out one image set at a time.

    Parameters
    ----------
    trials
        Accuracy of strategies on image sets.
    shrink
        Ridge penalty of the slopes of what each strategy differs by, in image sets.
    shrink_level
        Ridge penalty of the slopes of what training gains at all, in image sets.

    Returns
    -------
    ForecastModel
        The fitted model.
    """
    whole = _fitted(trials, shrink, shrink_level)
    errors = np.full((len(whole.strategies), len(trials)), np.nan)
    sets = tuple(trial.set for trial in trials)
    departure_gains = []
    for left_out in sorted(set(sets)):
        others = [trial for trial in trials if trial.set != left_out]
        if not others:
            continue
        model, gained = _fitted(others, shrink, shrink_level), []
        for column, trial in enumerate(trials):
            if trial.set != left_out:
                continue
            gains = dict(zip(model.strategies, model.gains(trial.facts), strict=True))
            for row, strategy in enumerate(whole.strategies):
                if strategy in trial.accuracy and strategy in gains:
                    errors[row, column] = trial.accuracy[strategy] - trial.facts.frozen - gains[strategy]
            if model.default in trial.accuracy:
                pick = max((s for s in gains if s in trial.accuracy), key=gains.__getitem__)
                gained.append(trial.accuracy[pick] - trial.accuracy[model.default])
        departure_gains += [float(np.mean(gained))] if gained else []
    chance = np.array([trial.facts.probe_variance for trial in trials])
    return replace(whole, errors=errors, chance=chance, sets=sets, departure_gains=tuple(departure_gains))


def _fitted(trials: Sequence[Trial], shrink: float, shrink_level: float) -> ForecastModel:
    strategies = _strategies(trials)
    facts = np.stack([feature_vector(trial.facts) for trial in trials])
    weights = _set_weights([trial.set for trial in trials])
    centre = np.average(facts, axis=0, weights=weights)
    spread = np.maximum(np.sqrt(np.average((facts - centre) ** 2, axis=0, weights=weights)), 1e-9)
    x = (facts - centre) / spread
    unit = np.array([headroom(trial.facts) for trial in trials])
    everywhere = [name for name in strategies if all(name in trial.accuracy for trial in trials)]
    # Where no strategy is in every trial, a trial's level is the mean of those that it has.
    levels = np.array(
        [np.mean([t.accuracy[name] for name in everywhere or sorted(t.accuracy)]) for t in trials]
    )
    frozen = np.array([trial.facts.frozen for trial in trials])
    level, level_slopes = _ridge(x, (levels - frozen) / unit, weights * unit**2, shrink_level)
    mean, slopes = np.zeros(len(strategies)), np.zeros((len(strategies), x.shape[1]))
    for row, name in enumerate(strategies):
        tried = np.array([name in trial.accuracy for trial in trials])
        lead = np.array([t.accuracy[name] for t in trials if name in t.accuracy]) - levels[tried]
        # Errors count in points of accuracy, whatever the unit; every set alike.
        own_weights = _set_weights([t.set for t in trials if name in t.accuracy]) * unit[tried] ** 2
        mean[row], slopes[row] = _ridge(x[tried], lead / unit[tried], own_weights, shrink)
    return ForecastModel(
        strategies,
        centre,
        spread,
        level + mean,
        level_slopes + slopes,
        np.empty((len(strategies), 0)),
        np.empty(0),
        (),
        _best_on_average(trials),
        (),
    )


def _strategies(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return the strategies that were tried on `FEWEST_SETS` sets, or on all if there are fewer."""
    sets: dict[str, set[str]] = {}
    for trial in trials:
        for name in trial.accuracy:
            sets.setdefault(name, set()).add(trial.set)
    fewest = min(FEWEST_SETS, len({trial.set for trial in trials}))
    return tuple(name for name, tried_on in sets.items() if len(tried_on) >= fewest)


def _ridge(x: Floats, y: Floats, weights: Floats, shrink: float) -> tuple[float, Floats]:
    """Return intercept and slopes, the slopes held back by `shrink`."""
    x_mean, y_mean = np.average(x, axis=0, weights=weights), float(np.average(y, weights=weights))
    design = x - x_mean
    weighted = design * weights[:, None]
    slopes = np.linalg.solve(weighted.T @ design + shrink * np.eye(x.shape[1]), weighted.T @ (y - y_mean))
    return y_mean - float(slopes @ x_mean), np.asarray(slopes)


def _set_weights(sets: Sequence[str]) -> Floats:
    """Return weights of trials by which every set weighs 1."""
    counts = Counter(sets)
    return np.array([1.0 / counts[name] for name in sets])


def _quantile(values: Floats, weights: Floats, share: float) -> float:
    """Return the lowest value that at least `share` of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def _best_on_average(trials: Sequence[Trial]) -> str:
    """Return the strategy with the largest mean gain over the frozen network, every set weighted equally."""
    gains: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        for name, accuracy in trial.accuracy.items():
            gains.setdefault(name, {}).setdefault(trial.set, []).append(accuracy - trial.facts.frozen)
    counts = {name: sum(map(len, by_set.values())) for name, by_set in gains.items()}
    most = max(counts.values())  # only such as were tried as often: others had other tasks
    means = {n: np.mean([np.mean(v) for v in by.values()]) for n, by in gains.items() if counts[n] == most}
    return max(means, key=lambda name: means[name])


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def choose_strategy(model: ForecastModel, facts: Facts, seconds: Mapping[str, float]) -> Forecast:
    """Return the forecast of the strategy to recommend: of those available the least expected regret.

    What a pick is expected to lose to the best in hindsight is least where its own expected accuracy is
    highest. That is by forecast if choosing so is known to do better; else by the average over earlier
    trials, which is the default if available. A cheaper one replaces it if it is behind by no more than half
    a point, a standard error over image sets included.

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
    if model.departs_from_default:
        pick = max(candidates, key=lambda name: candidates[name].accuracy)
        behind = {name: candidates[pick].accuracy - e.accuracy for name, e in candidates.items()}
    else:
        average = dict(zip(model.strategies, model.mean.tolist(), strict=True))
        pick = model.default if model.default in candidates else max(candidates, key=average.__getitem__)
        behind = {name: model.mean_lead(pick, name, facts) for name in candidates}
    tied = [
        name
        for name in candidates
        if name == pick or behind[name] + model.difference_error(pick, name) <= EQUAL
    ]
    return candidates[min(tied, key=lambda name: (seconds[name], behind[name]))]


def clearly_better(model: ForecastModel, best: Forecast, second: Forecast) -> bool:
    """Return whether one strategy's forecast is better by more than a standard error of the difference."""
    return best.accuracy - second.accuracy > model.difference_error(best.strategy, second.strategy)
