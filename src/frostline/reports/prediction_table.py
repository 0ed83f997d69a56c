"""What a table of predictions says: classes, confusions, calibration, mistakes, likely label errors.

Imports no torch. All rates are fractions 0–1; positions are rows of the table or places among its classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline import metrics
from frostline.reports.study_reader import Answers, Told, answers, note

# Below this, out-of-fold figures of a class say too little for a threshold of its own (a rule of thumb).
FEWEST_TO_DOUBT = 5
# A label is doubted where the answer has at least so many times its probability. Confident learning alone
# suspects a sixth of all images where a model is right on two thirds, and is wrong on four in five of them.
# This bar takes away two thirds of the false alarms and up to a sixth of the labels exchanged at random that
# were found; of those exchanged with the most similar class, four in nine (docs/LOG.md 2026-11-25).
FIRMLY = 10.0
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClassRow:
    """How one class fares. `low` to `high` is a 95 % interval of the recall."""

    place: int
    images: int
    recall: float
    low: float
    high: float
    precision: float | None  # none was answered so: undefined
    taken_for: int | None  # the class its images are most often mistaken for
    times: int


@dataclass(frozen=True)
class Bin:
    """Images that were answered with about the same probability: what was said, and what came true."""

    said: float
    right: float
    low: float
    high: float
    images: float  # an image asked several times counts in parts where its answers fall into several bins


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error: the mean gap between said and right, weighed by images."""

    bins: tuple[Bin, ...]
    error: float
    said: float
    right: float


def judged(told: Told) -> Answers | None:
    """Return the answers that the model is judged by: of the test part, else out of fold, else of val."""
    run, race = told.answering, told.comparison
    done = race is not None and race.result is not None
    if run is not None:
        found = answers(told, run.folder / "predictions-test.csv", "test part")
        if found is not None:
            return found
    if race is not None and done:
        found = answers(told, race.folder / "out-of-fold.csv", "out of fold")
        if found is not None:
            return found
    return answers(told, run.folder / "predictions-val.csv", "val part") if run is not None else None


def held_out(told: Told) -> Answers | None:
    """Return the answers that labels may be doubted by: out of fold where there are such, else `judged`."""
    race = told.comparison
    if race is not None and race.result is not None:
        found = answers(told, race.folder / "out-of-fold.csv", "out of fold")
        if found is not None:
            return found
    return judged(told)


def units_of(told: Told, found: Answers) -> list[int] | None:
    """Return which answers hang together (groups, copies), a number each, where the manifest tells."""
    if told.data is not None:
        by_path = {sample.path: sample for sample in told.data.samples}
        if all(path in by_path for path in found.paths):
            return list(told.data.units([by_path[path] for path in found.paths]))
    return None


def losses(told: Told, found: Answers) -> dict[str, Any]:
    """Return log loss, Brier score and their 95 % intervals: as they were stored, else from the table."""
    race, run = told.comparison, told.answering
    stored = None
    if found.basis == "out of fold" and race is not None and race.result is not None:
        stored = race.result["out_of_fold"]
    elif found.basis == "test part" and run is not None:
        stored = run.result
    if stored and stored.get("log_loss") is not None:
        return {key: stored[key] for key in metrics.BELIEVED}
    return metrics.believed(found.targets, found.probabilities, units_of(told, found), images=found.image)


def interval(told: Told, found: Answers) -> tuple[float, float, float]:
    """Return the accuracy and its 95 % interval, over what hangs together where the manifest tells."""
    units = units_of(told, found)
    accuracy = float((found.guesses == found.targets).mean())
    return accuracy, *metrics.interval(found.targets, found.guesses, units)


def balance(told: Told, found: Answers) -> dict[str, Any] | None:
    """Return what the accuracy hides, as `metrics.balance` gives it; `None` without a manifest."""
    if told.data is None or set(told.data.classes) != set(found.classes):
        return None
    learned = [told.data.counts[name]["train"] for name in found.classes]
    return metrics.balance(found.classes, found.targets, found.guesses, learned, found.image)


def confusion(found: Answers) -> Ints:
    """Return counts of images, (true, answered), by the mean of an image's answers."""
    found = found.averaged()
    table = np.zeros((len(found.classes),) * 2, dtype=np.int64)
    np.add.at(table, (found.targets, found.guesses), 1)
    return table


def classes(found: Answers) -> list[ClassRow]:
    """Return a row for each class that has images, the least recognised first."""
    table = confusion(found)
    rows = []
    for place, images in enumerate(table.sum(axis=1).tolist()):
        if not images:
            continue
        answered = int(table[:, place].sum())
        wrong = table[place].copy()
        wrong[place] = 0
        other = int(wrong.argmax())
        mine = found.targets == place
        recall = float(((found.guesses == place) * found.share)[mine].sum() / images)
        low, high = metrics.wilson(recall, images)
        rows.append(
            ClassRow(
                place=place,
                images=images,
                recall=recall,
                low=low,
                high=high,
                precision=float(table[place, place] / answered) if answered else None,
                taken_for=other if wrong[other] else None,
                times=int(wrong[other]),
            )
        )
    return sorted(rows, key=lambda row: (row.recall, -row.images, row.place))


def calibration(found: Answers) -> Calibration:
    """Compare what was said (the top probability) with what came true."""
    top, weight = found.probabilities.max(axis=1), found.share
    right = found.guesses == found.targets
    edge = np.minimum((top * metrics.BINS).astype(np.int64), metrics.BINS - 1)
    bins = []
    for place in np.unique(edge).tolist():
        mine = edge == place
        images = float(weight[mine].sum())
        rate, said = (float((values * weight)[mine].sum() / images) for values in (right, top))
        bins.append(Bin(said, rate, *metrics.wilson(rate, images), images))
    error = metrics.calibration_error(found.targets, found.probabilities, weight)
    said, rate = (float((values * weight).sum() / weight.sum()) for values in (top, right))
    return Calibration(tuple(bins), error, said, rate)


def mistakes(found: Answers) -> Ints:
    """Return the rows that were answered wrongly, the most confident first.

    An image that was asked several times counts by the mean of its answers; the rows are of `averaged()`.
    Ranked by how far the answer's probability lies above the label's: the order in which labels are doubted.
    """
    found = found.averaged()
    rows = np.arange(len(found.targets))
    margin = found.probabilities[rows, found.guesses] - found.probabilities[rows, found.targets]
    wrong = np.flatnonzero(found.guesses != found.targets)
    return np.asarray(
        sorted(wrong.tolist(), key=lambda row: (-margin[row], found.paths[row])), dtype=np.int64
    )


def doubtful(told: Told, found: Answers, firmly: float = FIRMLY) -> Ints:
    """Return the rows of `averaged()` whose label is likely wrong, the likeliest first.

    By confident learning (cleanlab):
    Northcutt, Jiang and Chuang 2021, arXiv 1911.00068; of its suspects those that the answer contradicts
    firmly. Empty where a class has too few images to tell.
    """
    found = found.averaged()
    counts = np.bincount(found.targets, minlength=len(found.classes))
    if counts.min() < FEWEST_TO_DOUBT or len(found.classes) < 2:
        return np.zeros(0, dtype=np.int64)
    rows = found.probabilities / found.probabilities.sum(axis=1, keepdims=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that cleanlab brings
            from cleanlab.filter import find_label_issues

            flagged = find_label_issues(found.targets, rows, n_jobs=1)
    except (ImportError, ValueError, AssertionError) as error:
        note(told, f"Likely label errors could not be looked for ({error}).")
        return np.zeros(0, dtype=np.int64)
    place = np.arange(len(rows))
    firm = rows[place, found.guesses] >= firmly * rows[place, found.targets]
    return np.asarray([row for row in mistakes(found).tolist() if flagged[row] and firm[row]], dtype=np.int64)


def table_of(found: Answers, told: Told) -> Path | None:
    """Where the answers lie, for a message that names them."""
    if found.basis == "out of fold" and told.comparison is not None:
        return told.comparison.folder / "out-of-fold.csv"
    return told.answering.folder / f"predictions-{found.basis.split()[0]}.csv" if told.answering else None
