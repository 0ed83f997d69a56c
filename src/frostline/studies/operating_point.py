"""Operating points: the rule by which a finished run decides, chosen on images that it did not learn from.

The rule is a threshold on the probability of one class, for a recall or a precision, or the least expected
cost. Its figures are of out-of-fold predictions, or of val. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.config import Config
from frostline.errors import StudyError, UsageError, demand_share, did_you_mean, option
from frostline.sentences import between, counted, named, percent
from frostline.studies.cost_matrix import checked_matrix, cost_matrix
from frostline.system import directories

NAME = "operating-point.json"  # in a run's folder
MOST_THRESHOLDS = 500  # of a precision, evenly taken from the scores; each takes a fraction of a millisecond
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """How probabilities become a label: by a threshold of one class, or by the least expected cost.

    Attributes
    ----------
    classes : tuple of str
        The classes, in the order of the probabilities.
    positive : str or None
        The class that is predicted from `threshold`; below it the likeliest of the others is.
    threshold : float or None
        A probability, 0–1.
    costs : tuple of tuple of float, or None
        What it costs to predict (column) an image of a class (row); where `positive` is None.
    """

    classes: tuple[str, ...]
    positive: str | None = None
    threshold: float | None = None
    costs: tuple[tuple[float, ...], ...] | None = None

    def decide(self, probabilities: Floats) -> Ints:
        """Return the predicted class indices (n,) for probabilities (n, classes)."""
        if self.costs is not None:
            return np.asarray((probabilities @ np.array(self.costs)).argmin(axis=1), dtype=np.int64)
        assert self.positive is not None
        assert self.threshold is not None
        place = self.classes.index(self.positive)
        others = np.array(probabilities, dtype=np.float64)
        others[:, place] = -1.0
        return np.where(probabilities[:, place] >= self.threshold, place, others.argmax(axis=1))

    @property
    def sentence(self) -> str:
        """How it decides, in a sentence."""
        if self.costs is not None:
            return "It predicts the class of the least expected cost."
        return f"{self.rule}."

    @property
    def rule(self) -> str:
        """The threshold and what is predicted below it, as every place says it."""
        others = [name for name in self.classes if name != self.positive]
        below = others[0] if len(others) == 1 else "the likeliest of the others"
        threshold = _probability(self.threshold or 0.0)
        return f"It predicts {self.positive} from a probability of {threshold}, else {below}"

    def as_config(self) -> dict[str, Any]:
        """Return what an export's `config.json` holds: `threshold`, or `costs` by label and prediction."""
        if self.costs is None:
            return {"threshold": {"label": self.positive, "probability": self.threshold}}
        rows = zip(self.classes, self.costs, strict=True)
        return {"costs": {label: dict(zip(self.classes, row, strict=True)) for label, row in rows}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], classes: Sequence[str]) -> Decision | None:
        """Return the decision in an export's or a run's file; None where there is none.

        Raises `ValueError` where it is damaged.
        """
        names = tuple(classes)
        threshold, costs = config.get("threshold"), config.get("costs")
        try:
            if threshold is not None:
                label, probability = threshold["label"], float(threshold["probability"])
                if label not in names or not 0 <= probability <= 1:
                    raise ValueError(f"a threshold of {probability:g} for {label!r}")
                return cls(names, label, probability)
            if costs is not None:
                return cls(names, costs=checked_matrix(costs, names))
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise ValueError(f"its decision is damaged ({error!r})") from None
        return None


@dataclass(frozen=True)
class Rate:
    """A figure and its 95 % interval, of so many images; None where there is nothing to count."""

    value: float | None
    low: float | None
    high: float | None
    images: int

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"value": self.value, "low": self.low, "high": self.high, "images": self.images}


@dataclass(frozen=True)
class HeldOut:
    """Predictions on images that were not learned from; an image may have several rows.

    Attributes
    ----------
    classes : tuple of str
    targets : ndarray of int64, shape (n,)
    probabilities : ndarray, shape (n, classes)
    images : ndarray of int64, shape (n,)
        Which rows are of the same image.
    units : ndarray of int64, shape (n,)
        Which images are not independent of each other: groups and copies.
    basis : str
        "out of fold", "val" or "test".
    spread : float
        How many times the variance over images the figures have, as in `metrics.rate_interval`.
    """

    classes: tuple[str, ...]
    targets: Ints
    probabilities: Floats
    images: Ints
    units: Ints
    basis: str
    spread: float = 1.0

    def rate(self, correct: Floats, rows: NDArray[np.bool_], by_row: bool = False) -> Rate:
        """Return the mean of fractions (n,) over the images of some rows, an image's rows averaged.

        `by_row`: an image counts as often as it has such rows.
        """
        if not rows.any():
            return Rate(None, None, None, 0)
        _, place = np.unique(self.images[rows], return_inverse=True)
        times = np.bincount(place).astype(np.float64)
        means = np.bincount(place, weights=correct[rows]) / times
        unit = np.zeros(len(means), dtype=np.int64)
        unit[place] = self.units[rows]
        weights = times if by_row else None
        ends = metrics.rate_interval(means, unit, self.spread, weights)
        return Rate(float(np.average(means, weights=weights)), *ends, images=len(means))

    def recall(self, place: int, threshold: float) -> Rate:
        """Return the share of a class's images that are predicted as it from a threshold on."""
        predicted = (self.probabilities[:, place] >= threshold).astype(np.float64)
        return self.rate(predicted, self.targets == place)

    def precision(self, place: int, threshold: float) -> Rate:
        """Return the share of the predictions of a class that are right."""
        own = (self.targets == place).astype(np.float64)
        return self.rate(own, self.probabilities[:, place] >= threshold, by_row=True)

    def cost(self, costs: Floats, guesses: Ints) -> Rate:
        """Return the mean cost of an image, with Student's t interval."""
        _, place = np.unique(self.images, return_inverse=True)
        means = np.bincount(place, weights=costs[self.targets, guesses]) / np.bincount(place)
        unit = np.zeros(len(means), dtype=np.int64)
        unit[place] = self.units
        limits = (float(costs.min()), float(costs.max()))
        low, high = metrics.mean_interval(means, unit, self.spread, limits)
        return Rate(float(means.mean()), low, high, len(means))


@dataclass(frozen=True)
class OperatingTarget:
    """What an operating point is to reach: a recall or precision of one class, or the least cost."""

    positive: str | None = None
    min_recall: float | None = None
    min_precision: float | None = None
    costs: str | Mapping[str, Mapping[str, float]] | None = None

    @classmethod
    def of(cls, config: Config) -> OperatingTarget | None:
        """Return what options ask for; None where they ask for none.

        Raises
        ------
        UsageError
            They disagree, are out of range, or have no effect.
        """
        target = cls(config.positive, config.min_recall, config.min_precision, config.costs)
        shares = {"min_recall": target.min_recall, "min_precision": target.min_precision}
        named_options = [
            name for name, value in {**shares, "costs": target.costs}.items() if value is not None
        ]
        if len(named_options) > 1:
            raise UsageError(
                f"{' and '.join(map(option, named_options))} each choose how the model decides: give one "
                "of them."
            )
        for name, share in shares.items():
            if share is not None:
                demand_share(name, share, 0.98)
        if target.costs is not None and target.positive is not None:
            raise UsageError(
                f"{option('positive')} names a class to find, and {option('costs')} weigh all classes: leave "
                f"{option('positive')} out."
            )
        if target.costs is None and named_options and target.positive is None:
            raise UsageError(
                f"{option(named_options[0])} is of one class: name it with {option('positive')}."
            )
        if target.positive is not None and not named_options and "@" not in str(config.metric):
            raise UsageError(
                f"{option('positive')} has no effect by itself: add {option('min_recall')} or "
                f"{option('min_precision')}, or the metric "
                "sensitivity@specificity=0.95."
            )
        return target if named_options else None

    def check(self, classes: Sequence[str]) -> None:
        """Raise `UsageError` where the class is none of the model's, or the costs are not of its classes."""
        if self.positive is not None:
            demand_class(self.positive, classes)
        if self.costs is not None:
            cost_matrix(self.costs, classes)

    def choose(self, held: HeldOut) -> OperatingPoint:
        """Return the operating point that reaches the target on held-out images, or comes closest.

        Raises
        ------
        UsageError
            No held-out image is of the class.
        """
        if self.costs is not None:
            return _least_cost(held, cost_matrix(self.costs, held.classes))
        assert self.positive is not None
        place = held.classes.index(self.positive)
        if not (held.targets == place).any():
            raise UsageError(
                f"No held-out image is of {self.positive}, so no threshold can be chosen for it. Add images "
                "of it, or leave the operating point out."
            )
        if self.min_recall is not None:
            threshold, promised = _for_recall(held, place, self.min_recall)
            minimum, aim = self.min_recall, "recall"
        else:
            assert self.min_precision is not None
            threshold, promised = _for_precision(held, place, self.min_precision)
            minimum, aim = self.min_precision, "precision"
        decision = Decision(held.classes, self.positive, threshold)
        needed = math.ceil(held.spread * metrics.Z95**2 * minimum / (1 - minimum))
        return OperatingPoint(
            decision, aim, minimum, promised, needed, held.basis, figures_of(decision, held)
        )


@dataclass(frozen=True)
class OperatingPoint:
    """A decision, and what it promises.

    Attributes
    ----------
    decision : Decision
    aim : str
        "recall", "precision" or "cost".
    minimum : float or None
        The wanted recall or precision, 0–1.
    promised : bool or None
        Whether the lower end of the figure's 95 % interval reaches the minimum.
    needed : int or None
        How many independent images of the class (of a precision: predicted as it), all of them right, promise
        the minimum.
    basis : str
        What `figures` are of: "out of fold" or "val".
    figures : mapping of str to Rate
        Recall and precision of the class, or the cost of an image; and the accuracy.
    test : mapping of str to Rate, or None
        The same on the test set.
    """

    decision: Decision
    aim: str
    minimum: float | None
    promised: bool | None
    needed: int | None
    basis: str
    figures: Mapping[str, Rate]
    test: Mapping[str, Rate] | None = field(default=None)

    def with_test(self, held: HeldOut) -> OperatingPoint:
        """Return it with the figures on the test set."""
        return replace(self, test=figures_of(self.decision, held))

    def as_dict(self) -> dict[str, Any]:
        """As the study keeps it."""
        return {
            **self.decision.as_config(),
            "aim": self.aim,
            "minimum": self.minimum,
            "promised": self.promised,
            "needed": self.needed,
            "basis": self.basis,
            "figures": {name: rate.as_dict() for name, rate in self.figures.items()},
            "test": None if self.test is None else {name: rate.as_dict() for name, rate in self.test.items()},
            "sentences": self.sentences,
        }

    @property
    def sentences(self) -> list[str]:
        """How it decides, what it promises and what the test set says, in sentences."""
        if self.decision.costs is not None:
            own, highest = (_number(self.figures[name]) for name in ("cost", "highest_probability"))
            first = (
                f"{self.decision.sentence} That is {own} an image, and {highest} by the highest probability, "
                f"on {self.figures['cost'].images:,} images ({self.basis})."
            )
            lines = [first]
            if self.test is not None:
                lines.append(f"On the test set that is {_number(self.test['cost'])} an image.")
            return lines
        name, rate = self.decision.positive, self.figures[self.aim]
        assert self.minimum is not None
        first = (
            f"{self.decision.rule}: recall "
            f"{_percent(self.figures['recall'])}, precision {_percent(self.figures['precision'])}, accuracy "
            f"{_percent(self.figures['accuracy'])} ({self.basis}, "
            f"{counted(self.figures['recall'].images, 'image')} of {name})."
        )
        lines = [first]
        if self.promised:
            lines.append(f"So a {self.aim} of at least {percent(self.minimum)} is promised, by the interval.")
        else:
            what = f"images of {name}" if self.aim == "recall" else f"images predicted as {name}"
            lines.append(
                f"A {self.aim} of {percent(self.minimum)} cannot be promised from {rate.images:,} {what}: "
                f"that takes at least {self.needed:,} independent ones, all of them right."
            )
        if self.test is not None and self.test["recall"].value is not None:
            images = counted(self.test["recall"].images, "image")
            lines.append(
                f"On the test set: recall {_percent(self.test['recall'])}, precision "
                f"{_percent(self.test['precision'])}, {images} of {name}."
            )
        return lines


def figures_of(decision: Decision, held: HeldOut) -> dict[str, Rate]:
    """Return what a decision does on held-out images."""
    guesses = decision.decide(held.probabilities)
    everything = np.ones(len(held.targets), dtype=bool)
    accuracy = held.rate((guesses == held.targets).astype(np.float64), everything)
    if decision.costs is not None:
        costs = np.array(decision.costs)
        return {
            "cost": held.cost(costs, guesses),
            "highest_probability": held.cost(costs, held.probabilities.argmax(axis=1)),
            "accuracy": accuracy,
        }
    assert decision.positive is not None
    assert decision.threshold is not None
    place = held.classes.index(decision.positive)
    return {
        "recall": held.recall(place, decision.threshold),
        "precision": held.precision(place, decision.threshold),
        "accuracy": accuracy,
    }


def demand_class(name: str, classes: Sequence[str]) -> None:
    """Raise `UsageError` where `name` is none of the classes."""
    if name not in classes:
        raise UsageError(
            f"{option('positive')} is {name!r}, which is no class of these images."
            f"{did_you_mean(name, classes)} Expected one of {named(list(classes))}."
        )


def write(folder: Path, point: OperatingPoint | None) -> None:
    """Keep an operating point in a run's folder; None removes an earlier one."""
    if point is None:
        (folder / NAME).unlink(missing_ok=True)
        return
    text = json.dumps(point.as_dict(), indent=1, allow_nan=False)
    directories.write_atomically(folder / NAME, (text + "\n").encode())


def read(folder: Path) -> dict[str, Any] | None:
    """Return what `write` kept, as plain data; None where the run decides by the highest probability.

    Raises `StudyError` where it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(s, str) for s in content["sentences"]):
            raise ValueError("it holds no operating point")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read ({error}). Give the same command again.") from None
    return content


def decision_of(folder: Path, classes: Sequence[str]) -> Decision | None:
    """Return how a run decides; None for the highest probability. Raises `StudyError` where it is damaged."""
    content = read(folder)
    if content is None:
        return None
    try:
        return Decision.from_config(content, classes)
    except ValueError as error:
        raise StudyError(f"{folder / NAME}: {error}. Give the same command again.") from None


def _for_recall(held: HeldOut, place: int, minimum: float) -> tuple[float, bool]:
    """Return the highest threshold whose recall is promised, and true; else one that had it, and false.

    A lower one is taken where it costs no precision on the held-out images.
    """
    scores = held.probabilities[:, place]
    own = np.unique(scores[held.targets == place])
    promised = reached = None
    for score in own:  # from all found to ever more missed
        rate = held.recall(place, score)
        assert rate.value is not None
        assert rate.low is not None
        if rate.value < minimum:
            break
        reached = score
        if rate.low < minimum:
            if promised is not None:
                break
            continue
        promised = score
    best = promised if promised is not None else reached
    assert best is not None  # from the lowest score on, all are found
    candidates = _thinned(own[own <= best], best)
    precision = [held.precision(place, score).value or 0.0 for score in candidates]
    best = candidates[int(np.argmax(precision))]  # of equal ones the lowest, which finds most
    return _below(scores, best), promised is not None


def _for_precision(held: HeldOut, place: int, minimum: float) -> tuple[float, bool]:
    """Return the lowest threshold whose precision is promised, and true; else the one that comes closest.

    A higher one is taken where it costs no recall on the held-out images.
    """
    scores = held.probabilities[:, place]
    unique = np.unique(scores)
    candidates = _thinned(unique, unique[-1])
    rates = [(score, held.precision(place, score)) for score in candidates]
    for score, rate in rates:
        if rate.low is not None and rate.low >= minimum:
            return _below(scores, _next_own(held, place, score)), True
    for score, rate in rates:
        if rate.value is not None and rate.value >= minimum:
            return _below(scores, _next_own(held, place, score)), False
    best = max(rates, key=lambda pair: pair[1].low or 0.0)[0]
    return _below(scores, _next_own(held, place, best)), False


def _next_own(held: HeldOut, place: int, score: float) -> float:
    """Return the lowest probability of one of the class's own images from a score on."""
    own = held.probabilities[held.targets == place, place]
    above = own[own >= score]
    return float(above.min()) if len(above) else score


def _thinned(scores: Floats, last: float) -> Floats:
    """Return evenly spaced ones of sorted scores, `last` among them."""
    steps = np.linspace(0, len(scores) - 1, min(len(scores), MOST_THRESHOLDS))
    return np.unique(np.append(scores[np.unique(steps.round().astype(np.int64))], last))


def _below(scores: Floats, score: float) -> float:
    """Return a threshold midway between a score and the next lower one: no held-out image lies on it."""
    lower = scores[scores < score]
    return float((score + (lower.max() if len(lower) else 0.0)) / 2)


def _least_cost(held: HeldOut, costs: tuple[tuple[float, ...], ...]) -> OperatingPoint:
    decision = Decision(held.classes, costs=costs)
    return OperatingPoint(decision, "cost", None, None, None, held.basis, figures_of(decision, held))


def _probability(value: float) -> str:
    """Return a probability with four digits, or as many as keep it from 1."""
    digits = next((n for n in range(4, 17) if value == 1 or float(f"{value:.{n}g}") < 1), 17)
    return f"{value:.{digits}g}"


def _percent(rate: Rate) -> str:
    if rate.value is None:
        return "unknown"
    span = "" if rate.low is None or rate.high is None else f" ({between(rate.low, rate.high)})"
    return f"{percent(rate.value)}{span}"


def _number(rate: Rate) -> str:
    if rate.value is None:
        return "unknown"
    span = "" if rate.low is None or rate.high is None else f" ({rate.low:.3g} to {rate.high:.3g})"
    return f"{rate.value:.3g}{span}"
