"""Forecast the accuracy of strategies from earlier trials: what the frozen network gets right, plus a gain.

The start is `Facts.frozen`, what `linear_probe` gets right out of fold. What training gains over it is
written as small linear models, by ridge regression on what was measured: how much training gains at all (the
mean of the strategies that every trial has), by how much each strategy differs from that mean, and by how
much a strategy with other hyperparameters differs from the same one without them. Each is learned where both
were tried, so that a strategy that only some trials have is compared within them. Differences are held back
more: without evidence a strategy's lead is its average lead. Gains are in units of the root of what is left
to gain, so that they shrink near 100 %.
Every image set has the same weight, however many trials it has; within a set, trials with few test images
weigh less.

Errors on left-out image sets give the intervals. Their width depends on the strategy, on what is left to
gain and on how many images the frozen network was measured with.

The strategy that was best on average is the default. Forecasts may choose another one only if doing so was
better on left-out image sets. No torch.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frostline.advice.knowledge import Facts, Trial
from frostline.config import EQUAL, SAME_TIME

Floats = NDArray[np.float64]
Evidence = Mapping[str, Callable[[Facts], float]]

# Evidence that the linear models use, each standardised over the trials. Which of it helps on left-out sets
# is measured by benchmarks/advice.py (docs/LOG.md 2026-11-28).
EVIDENCE: dict[str, Callable[[Facts], float]] = {
    "similarity": lambda facts: facts.similarity,
    "gain of depth": lambda facts: facts.depth_gain,
}
# Ridge penalties of the slopes, in image sets: of what training gains at all, and of what each strategy
# differs by (docs/LOG.md 2026-11-28).
SHRINK_LEVEL, SHRINK = 60.0, 2.0
COVERED = 0.8  # coverage of the intervals
LEAST_HEADROOM = 0.02  # smallest error of the frozen network: gains are not measured in less
LEAST_SPREAD = 0.02  # of a strategy's errors between trials, accuracy 0–1: few trials may agree by chance
# Standard errors by which choosing by forecast must have beaten the default on left-out sets, and that are
# added to how far a cheaper strategy is behind. With one, three small tasks more turned the answer
# (docs/LOG.md 2026-11-28), and the cheaper lost 8 points on one set of eight (2026-11-30).
CLEAR_SE = 2.0
UNKNOWN = 1.0  # standard error of a difference of accuracies, 0–1, of which nothing is known
FEWEST_SETS = 3  # with fewer, the default is always used, and strategies tried on fewer are not forecast
# Variance of a strategy's lead between trials of one set, beside the chance of which images were tested, and
# the share of p (1 − p) / n that this chance is of a lead: by regression on p (1 − p) / n 0.027² (0.022² to
# 0.030²) and 1.1 (0.6 to 2.0), which can not be above 1 (24 tasks; docs/LOG.md 2026-11-29).
LEAD_VARIANCE, OWN_CHANCE = 0.027**2, 1.0


def headroom(facts: Facts) -> float:
    """Return the unit of gains: the root of the frozen network's error, 0–1."""
    return math.sqrt(max(LEAST_HEADROOM, 1.0 - facts.frozen))


@dataclass(frozen=True)
class Forecast:
    """Forecast of a strategy's test accuracy, 0–1; `low` to `high` is an 80 % interval."""

    strategy: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Errors:
    """Forecast errors on left-out image sets.

    Parameters
    ----------
    values
        Measured minus forecast accuracy, (strategies, trials); `nan` for strategies that a trial lacks.
    chance
        Variance of each trial's frozen accuracy by the chance of which images were measured, (trials,).
    tested
        Variance of its accuracies by the chance of which images were tested, (trials,).
    units
        `headroom` of each trial, (trials,).
    sets
        Image set of each trial.
    """

    values: Floats
    chance: Floats
    tested: Floats
    units: Floats
    sets: tuple[str, ...]

    def weights(self, columns: Sequence[int]) -> Floats:
        """Return weights of some trials by which every set weighs 1."""
        return _weights([self.sets[column] for column in columns], self.tested[list(columns)])


@dataclass(frozen=True)
class ForecastModel:
    """The fitted model: `headroom · (mean[s] + slopes[s] · standardised evidence)` is strategy s's gain.

    Parameters
    ----------
    strategies
        Notations.
    evidence
        What the slopes are of: a function of the facts by its name.
    centre, spread
        Mean and standard deviation of the evidence over the image sets, (facts,).
    mean
        Mean gain of each strategy, in units of `headroom`, (strategies,).
    slopes
        Slopes of the gain, (strategies, facts).
    errors
        Forecast errors on left-out image sets; `None` for a model that no set was left out of.
    default
        The strategy that was best on average over the sets.
    bases
        The strategy that each is compared with, as `bases_of` names it.
    departure_gains
        For each left-out set, the accuracy that choosing by forecast gained over the default of the other
        sets, as a fraction.
    """

    strategies: tuple[str, ...]
    evidence: Evidence
    centre: Floats
    spread: Floats
    mean: Floats
    slopes: Floats
    default: str
    bases: Mapping[str, str | None]
    errors: Errors | None = None
    departure_gains: tuple[float, ...] = ()

    @property
    def departs_from_default(self) -> bool:
        """Whether choosing by forecast beat the default by two standard errors on left-out sets."""
        if len(self.departure_gains) < FEWEST_SETS:
            return False
        return float(np.mean(self.departure_gains)) > CLEAR_SE * _standard_error(self.departure_gains)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the image sets."""
        return tuple(sorted(set(self._errors.sets)))

    @property
    def typical(self) -> dict[str, float]:
        """Mean of each piece of evidence over the image sets."""
        return dict(zip(self.evidence, self.centre.tolist(), strict=True))

    @property
    def _errors(self) -> Errors:
        assert self.errors is not None, "fit leaves sets out"
        return self.errors

    def standardised(self, facts: Facts) -> Floats:
        """Return the evidence in standard deviations from its mean, shape (facts,)."""
        values = np.array([value_of(facts) for value_of in self.evidence.values()])
        return np.asarray((values - self.centre) / self.spread)

    def gains(self, facts: Facts) -> Floats:
        """Return the expected gain over the frozen network's accuracy, 0–1, shape (strategies,)."""
        return np.asarray(headroom(facts) * (self.mean + self.slopes @ self.standardised(facts)))

    def deciding(self, first: str, second: str, facts: Facts) -> str:
        """Return the piece of evidence that moves the lead of one strategy over another most."""
        rows = [self.strategies.index(name) for name in (first, second)]
        moves = (self.slopes[rows[0]] - self.slopes[rows[1]]) * self.standardised(facts)
        return list(self.evidence)[int(np.abs(moves).argmax())]

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

    def half_width(self, row: int, facts: Facts, tested: float = 0.0) -> float:
        """Return half the width of the interval of the strategy in a row.

        Its errors on left-out sets are taken apart: the chance of which images the frozen network was
        measured with and of which images were tested, p (1 − p) / n, known for each trial, and the rest,
        which is proportional to the headroom. The width is the quantile of errors in units of the root of all
        three, times that unit for these facts. In trials that lack a strategy, the error of the one without
        its hyperparameters stands for its own.

        Parameters
        ----------
        row
            Of `strategies`.
        facts
            Facts about the images.
        tested
            Variance of the accuracy by the chance of which images will be tested; 0 for the accuracy on all
            images that there could be.
        """
        errors, values = self._errors, self._errors.values[row]
        base = self.bases.get(self.strategies[row])
        if base is not None:
            values = np.where(np.isnan(values), errors.values[self.strategies.index(base)], values)
        tried = np.flatnonzero(~np.isnan(values))
        if not len(tried):
            return 1.0
        squares, chance = values[tried] ** 2, (errors.chance + errors.tested)[tried]
        units, weights = errors.units[tried], errors.weights(tried.tolist())
        rest = float(np.average(squares - chance, weights=weights) / np.average(units**2, weights=weights))
        rest = max(LEAST_SPREAD**2, rest)
        ratios = np.sqrt(squares / (rest * units**2 + chance))
        own = rest * headroom(facts) ** 2 + facts.probe_variance + tested
        return _quantile(ratios, weights, COVERED) * math.sqrt(own)

    def regret_by_set(self, facts: Facts, pick: str, strategies: Sequence[str]) -> dict[str, float]:
        """Return what choosing a strategy is expected to lose to the best in hindsight, by image set, 0–1.

        The forecasts plus the errors of the earlier trials of a set, of all strategies at once since errors
        go together, stand for what may happen. What a strategy's error differs by from the other strategies'
        is in units of what is left to gain, and held back by its share of chance, since the best of many
        would otherwise be the luckiest.

        Parameters
        ----------
        facts
            Facts about the images.
        pick
            The strategy chosen.
        strategies
            Strategies that could be chosen, `pick` among them.

        Returns
        -------
        dict of str to float
            A set for each with trials of `pick` and of another.
        """
        errors, own = self._errors, self.strategies.index(pick)
        rows = np.array([self.strategies.index(name) for name in strategies])
        forecasts = np.clip(facts.frozen + self.gains(facts), 0.0, 1.0)
        specific, columns = {}, []
        for column in np.flatnonzero(~np.isnan(errors.values[own])).tolist():
            tried = rows[~np.isnan(errors.values[rows, column])]
            if len(tried) > 1:
                values = errors.values[tried, column]
                specific[column] = dict(zip(tried.tolist(), (values - values.mean()).tolist(), strict=True))
                columns.append(column)
        if not columns:
            return {}
        chance = OWN_CHANCE * errors.tested[columns]
        squares = np.array([np.mean(np.square(list(specific[column].values()))) for column in columns])
        weights = errors.weights(columns)
        real = max(0.0, float(np.average(squares - chance, weights=weights)))
        held_back = np.sqrt(real / (real + chance)) if real else np.zeros(len(columns))
        regrets = []
        scales = held_back * headroom(facts) / errors.units[columns]
        for column, scale in zip(columns, scales.tolist(), strict=True):
            outcomes = {row: forecasts[row] + scale * error for row, error in specific[column].items()}
            regrets.append(max(outcomes.values()) - outcomes[own])
        names = np.array([errors.sets[column] for column in columns])
        return {
            name: float(np.average(np.array(regrets)[names == name], weights=weights[names == name]))
            for name in sorted(set(names.tolist()))
        }

    def leads(self, facts: Facts) -> dict[tuple[str, str], tuple[float, float]]:
        """Return what earlier trials say of each strategy's lead over each other one on such images.

        Parameters
        ----------
        facts
            Facts about the images.

        Returns
        -------
        dict of (first, second) to (mean, spread)
            Mean lead in accuracy, 0–1, and its standard deviation between trials on left-out sets, without
            the chance of which images were tested. Both are scaled to what these images leave to gain. Pairs
            that were tried together on fewer than `FEWEST_SETS` sets are left out.
        """
        errors, unit, leads = self._errors, headroom(facts), {}
        for first, second in itertools.combinations(self.strategies, 2):
            a, b = (errors.values[self.strategies.index(name)] for name in (first, second))
            both = np.flatnonzero(~np.isnan(a - b))
            if len({errors.sets[column] for column in both.tolist()}) < FEWEST_SETS:
                continue
            squares = (a - b)[both] ** 2 - OWN_CHANCE * errors.tested[both]
            weights, units = errors.weights(both.tolist()), errors.units[both]
            square = float(np.average(squares, weights=weights) / np.average(units**2, weights=weights))
            spread = max(LEAST_SPREAD, unit * math.sqrt(max(0.0, square)))
            mean = self.mean_lead(first, second, facts)
            leads[first, second], leads[second, first] = (mean, spread), (-mean, spread)
        return leads

    def difference_error(self, first: str, second: str) -> float:
        """Return the standard error, over image sets, of the forecast difference of two strategies.

        Where they were not tried beside each other, it is that of the way over what they are compared with.
        `UNKNOWN` if there is no such way, or one of its steps was tried on fewer than two sets.
        """
        direct = self._direct_error(first, second)
        if direct < UNKNOWN:
            return direct
        ways = [self._errors_to_base(name) for name in (first, second)]
        squares = [
            one**2 + (0.0 if base == other_base else self._direct_error(base, other_base) ** 2) + other**2
            for base, one in ways[0].items()
            for other_base, other in ways[1].items()
        ]
        return min(UNKNOWN, math.sqrt(min(squares)))

    def _errors_to_base(self, name: str) -> dict[str, float]:
        """Return the standard error of the difference to each strategy that this one is compared with."""
        errors, total, at = {name: 0.0}, 0.0, name
        while (base := self.bases.get(at)) is not None:
            total += self._direct_error(at, base) ** 2
            errors[base], at = math.sqrt(total), base
        return errors

    def _direct_error(self, first: str, second: str) -> float:
        """Return the standard error of the difference of two strategies where both were tried."""
        errors = self._errors
        a, b = (errors.values[self.strategies.index(name)] for name in (first, second))
        both = np.flatnonzero(~np.isnan(a - b))
        if not len(both):
            return UNKNOWN
        names, weights = np.array(errors.sets)[both], errors.weights(both.tolist())
        differences = (a - b)[both]
        means = [
            float(np.average(differences[names == name], weights=weights[names == name]))
            for name in sorted(set(names.tolist()))
        ]
        if len(means) < 2:
            return UNKNOWN
        return math.sqrt(sum(mean**2 for mean in means)) / len(means)


def fit(
    trials: Sequence[Trial],
    shrink: float = SHRINK,
    shrink_level: float = SHRINK_LEVEL,
    evidence: Evidence | None = None,
) -> ForecastModel:
    """Fit the model, and measure its errors by leaving out one image set at a time.

    Parameters
    ----------
    trials
        Accuracy of strategies on image sets.
    shrink
        Ridge penalty of the slopes of what each strategy differs by, in image sets.
    shrink_level
        Ridge penalty of the slopes of what training gains at all, in image sets.
    evidence
        What the slopes are of; `None` for `EVIDENCE`.

    Returns
    -------
    ForecastModel
        The fitted model.
    """
    evidence = EVIDENCE if evidence is None else evidence
    whole = _fitted(trials, shrink, shrink_level, evidence)
    values = np.full((len(whole.strategies), len(trials)), np.nan)
    sets = tuple(trial.set for trial in trials)
    departure_gains = []
    for left_out in sorted(set(sets)):
        others = [trial for trial in trials if trial.set != left_out]
        if not others:
            continue
        model = _fitted(others, shrink, shrink_level, evidence)
        gained, tested = [], []
        for column, trial in enumerate(trials):
            if trial.set != left_out:
                continue
            gains = dict(zip(model.strategies, model.gains(trial.facts), strict=True))
            for row, strategy in enumerate(whole.strategies):
                if strategy in trial.accuracy and strategy in gains:
                    values[row, column] = trial.accuracy[strategy] - trial.facts.frozen - gains[strategy]
            if model.default in trial.accuracy:
                pick = max((s for s in gains if s in trial.accuracy), key=gains.__getitem__)
                gained.append(trial.accuracy[pick] - trial.accuracy[model.default])
                tested.append(trial.test_variance)
        if gained:
            weights = _weights([left_out] * len(gained), tested)
            departure_gains.append(float(np.average(gained, weights=weights)))
    errors = Errors(
        values,
        chance=np.array([trial.facts.probe_variance for trial in trials]),
        tested=np.array([trial.test_variance for trial in trials]),
        units=np.array([headroom(trial.facts) for trial in trials]),
        sets=sets,
    )
    return replace(whole, errors=errors, departure_gains=tuple(departure_gains))


def _fitted(trials: Sequence[Trial], shrink: float, shrink_level: float, evidence: Evidence) -> ForecastModel:
    strategies = _strategies(trials)
    facts = np.array([[value_of(trial.facts) for value_of in evidence.values()] for trial in trials])
    weights = _trial_weights(trials)
    centre = np.average(facts, axis=0, weights=weights)
    spread = np.maximum(np.sqrt(np.average((facts - centre) ** 2, axis=0, weights=weights)), 1e-9)
    x = (facts - centre) / spread
    unit = np.array([headroom(trial.facts) for trial in trials])
    frozen = np.array([trial.facts.frozen for trial in trials])
    levels = _levels(trials, strategies)
    level, level_slopes = _ridge(x, (levels - frozen) / unit, weights * unit**2, shrink_level)
    bases = bases_of(strategies, trials)
    mean, slopes = dict.fromkeys(bases, level), dict.fromkeys(bases, level_slopes)
    for name, base in bases.items():  # a base stands before its variants
        rows, beyond = _beyond(trials, name, base, levels)
        own = [trials[row] for row in rows]
        # Errors count in points of accuracy, whatever the unit; every set alike.
        own_weights = _trial_weights(own) * unit[rows] ** 2
        own_mean, own_slopes = _ridge(x[rows], beyond / unit[rows], own_weights, shrink)
        mean[name] = own_mean + (level if base is None else mean[base])
        slopes[name] = own_slopes + (level_slopes if base is None else slopes[base])
    leads = average_leads(trials, strategies)
    return ForecastModel(
        strategies,
        evidence,
        centre,
        spread,
        np.array([mean[name] for name in strategies]),
        np.array([slopes[name] for name in strategies]),
        default=max(strategies, key=leads.__getitem__),
        bases=bases,
    )


def _levels(trials: Sequence[Trial], strategies: Sequence[str]) -> Floats:
    """Return the level of each trial: the mean accuracy of the strategies that every trial has.

    Where no strategy is in every trial, it is the mean of those that the trial has.
    """
    everywhere = [name for name in strategies if all(name in trial.accuracy for trial in trials)]
    return np.array(
        [np.mean([t.accuracy[name] for name in everywhere or sorted(t.accuracy)]) for t in trials]
    )


def _beyond(trials: Sequence[Trial], name: str, base: str | None, levels: Floats) -> tuple[list[int], Floats]:
    """Return the trials that have a strategy, and what it reached there beyond its base, or the level."""
    rows = [
        row
        for row, trial in enumerate(trials)
        if name in trial.accuracy and (base is None or base in trial.accuracy)
    ]
    reached = np.array([trials[row].accuracy[name] for row in rows])
    if base is None:
        return rows, reached - levels[rows]
    return rows, reached - np.array([trials[row].accuracy[base] for row in rows])


def bases_of(strategies: Sequence[str], trials: Sequence[Trial]) -> dict[str, str | None]:
    """Return the strategy that each is compared with: the same with fewer hyperparameters, tried more often.

    `None` where there is none: such are compared with the level of a trial. Bases come first.
    """
    counts = Counter(name for trial in trials for name in trial.accuracy)
    settings_of = {name: _settings(name) for name in strategies}
    bases: dict[str, str | None] = {}
    for name in sorted(strategies, key=lambda n: len(settings_of[n])):
        plainer = [
            other
            for other in strategies
            if settings_of[other] < settings_of[name]
            and counts[other] > counts[name]
            and any(name in trial.accuracy and other in trial.accuracy for trial in trials)
        ]
        bases[name] = max(plainer, key=lambda n: (len(settings_of[n]), counts[n]), default=None)
    return bases


def _settings(name: str) -> frozenset[str]:
    """Return the kind of a strategy and its settings: `top_k(1, epochs=1)` has three."""
    kind, _, settings = name.rstrip(")").partition("(")
    return frozenset([kind, *(word.strip() for word in settings.split(",") if word)])


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


def _trial_weights(trials: Sequence[Trial]) -> Floats:
    return _weights([trial.set for trial in trials], [trial.test_variance for trial in trials])


def _weights(sets: Sequence[str], tested: Sequence[float] | Floats) -> Floats:
    """Return weights of trials by which every set weighs 1, and in it a trial by how sure it is."""
    sure = 1.0 / (LEAD_VARIANCE + OWN_CHANCE * np.asarray(tested, dtype=np.float64))
    totals = dict.fromkeys(sets, 0.0)
    for name, share in zip(sets, sure.tolist(), strict=True):
        totals[name] += share
    return np.asarray(sure / np.array([totals[name] for name in sets]))


def _quantile(values: Floats, weights: Floats, share: float) -> float:
    """Return the lowest value that at least `share` of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def average_leads(trials: Sequence[Trial], strategies: Sequence[str] | None = None) -> dict[str, float]:
    """Return how far each strategy lies above the level of a trial, 0–1, every set weighted equally.

    A strategy that fewer trials have than its base has the lead of its base, and what it differs by from it
    where both were tried.

    Parameters
    ----------
    trials
        Accuracy of strategies on image sets.
    strategies
        Notations; `None` for all that were tried on enough sets.
    """
    strategies = _strategies(trials) if strategies is None else strategies
    levels = _levels(trials, strategies)
    leads: dict[str, float] = {}
    for name, base in bases_of(strategies, trials).items():
        rows, beyond = _beyond(trials, name, base, levels)
        weights = _trial_weights([trials[row] for row in rows])
        leads[name] = float(np.average(beyond, weights=weights)) + (0.0 if base is None else leads[base])
    return leads


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def choose_strategy(model: ForecastModel, facts: Facts, seconds: Mapping[str, float]) -> Forecast:
    """Return the forecast of the strategy to recommend: of those available the least expected regret.

    What a pick is expected to lose to the best in hindsight is least where its own expected accuracy is
    highest. That is by forecast if choosing so is known to do better; else by the average over earlier
    trials, which is the default if available. A cheaper one replaces it if it is behind by no more than half
    a point, two standard errors over image sets included, and takes no more than 1 / 1.1 of its time.

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
        if name == pick or behind[name] + CLEAR_SE * model.difference_error(pick, name) <= EQUAL
    ]
    cheaper = [name for name in tied if SAME_TIME * seconds[name] <= seconds[pick]] or [pick]
    quickest = min(seconds[name] for name in cheaper)
    as_quick = [name for name in cheaper if seconds[name] <= SAME_TIME * quickest]
    return candidates[min(as_quick, key=lambda name: (behind[name], seconds[name]))]


def clearly_better(model: ForecastModel, best: Forecast, second: Forecast) -> bool:
    """Return whether one strategy's forecast is better by more than a standard error of the difference."""
    return best.accuracy - second.accuracy > model.difference_error(best.strategy, second.strategy)
