"""Answers added to a bootstrap sample: what did not happen in it may happen all the same. Imports no torch.

A bootstrap draws what was seen. Where a model is right about every image, or two models never differ, so does
every draw, and the interval has no width. So units are added, each a right or a wrong answer, as Agresti and
Coull (1998) add four to a rate, and Bonett and Price (2012) two to a difference of paired rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# How many units are added by which of the models is right about them.
OF_ONE: Mapping[tuple[bool, ...], int] = {(True,): 2, (False,): 2}
OF_TWO: Mapping[tuple[bool, ...], int] = {(True, False): 1, (False, True): 1}


@dataclass(frozen=True)
class AddedSample:
    """A sample with added answers.

    Attributes
    ----------
    targets : ndarray of int64, shape (rows,)
    probabilities : tuple of ndarray, each of shape (rows, classes)
        Of each model.
    units : ndarray of int64, shape (rows,)
        Position in `shares`.
    shares : ndarray, shape (units,)
        How often a draw holds each unit, on average.
    """

    targets: Ints
    probabilities: tuple[Floats, ...]
    units: Ints
    shares: Floats

    def weights(self, draws: int, seed: int) -> NDArray[np.uint8]:
        """Return how often each draw holds each unit, (draws, units)."""
        rng = np.random.default_rng(seed)
        total = round(float(self.shares.sum()))
        rows = np.zeros((draws, len(self.shares)), dtype=np.uint8)
        for row in rows:
            row[:] = rng.multinomial(total, self.shares / self.shares.sum())
        return rows


def add(
    targets: Ints,
    probabilities: Sequence[Floats],
    units: Ints,
    answers: Mapping[tuple[bool, ...], int],
    count: int | None = None,
) -> AddedSample:
    """Return a sample with units added: `OF_ONE` for one model's, `OF_TWO` for two on the same images.

    An added unit is of a class as often as an image is, as large as the others on average, and each model is
    as confident of it as of the class's median image.

    Parameters
    ----------
    targets : ndarray of int64, shape (n,)
    probabilities : sequence of ndarray, each of shape (n, classes)
        Of each model.
    units : ndarray of int64, shape (n,)
        0 to `count` - 1.
    answers : mapping
        How many units to add, by whether each model is right about them.
    count : int or None
        How many units there are; None: those that occur.
    """
    count = int(units.max()) + 1 if count is None else count
    size = max(1, round(len(targets) / len(np.unique(units))))
    labels, images = np.unique(targets, return_counts=True)
    classes = probabilities[0].shape[1]
    shares, added_targets, added_units = [np.ones(count)], [targets], [units]
    matrices = [[matrix] for matrix in probabilities]
    for place, (rightness, times) in enumerate(answers.items()):
        share = np.zeros(classes)
        share[labels] = times * images / len(targets)
        shares.append(share)
        added_targets.append(np.repeat(labels, size))
        added_units.append(np.repeat(count + place * classes + labels, size))
        for matrix, right, rows in zip(probabilities, rightness, matrices, strict=True):
            answers_of = [_answer(_median(matrix[targets == label]), label, right) for label in labels]
            rows.append(np.repeat(np.array(answers_of), size, axis=0))
    return AddedSample(
        np.concatenate(added_targets),
        tuple(np.concatenate(rows) for rows in matrices),
        np.concatenate(added_units),
        np.concatenate(shares),
    )


def _median(rows: Floats) -> Floats:
    """Return the row (classes,) of median confidence among `rows`, (images, classes), in whatever order."""
    confidences = rows.max(axis=1)
    median = np.sort(confidences)[(len(rows) - 1) // 2]
    return np.asarray(min(rows[confidences == median], key=tuple))


def _answer(row: Floats, label: int, right: bool) -> Floats:
    """Return probabilities (classes,) exchanged such that the likeliest class is the label, or is not."""
    order = np.argsort(-row, kind="stable")
    if (order[0] == label) == right or len(row) < 2:
        return row
    other = label if right else order[1]
    exchanged = row.copy()
    exchanged[[order[0], other]] = row[[other, order[0]]]
    return exchanged
