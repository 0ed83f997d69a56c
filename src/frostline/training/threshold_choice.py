"""The operating point of a finished run: chosen on its held-out predictions, with its figures on test."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import numpy as np

from frostline.config import FOLDS
from frostline.data import Manifest, spread_of_folds
from frostline.errors import RunWarning, StudyError, UsageError
from frostline.inference import selective_prediction
from frostline.reports.study_reader import load_predictions
from frostline.studies import operating_point
from frostline.studies.operating_point import HeldOut, OperatingPoint, OperatingTarget

VAL, TEST = "predictions-val.csv", "predictions-test.csv"


def settle(
    folder: Path, data: Manifest, target: OperatingTarget | None
) -> tuple[str | None, OperatingPoint | None]:
    """Choose a run's operating point by its own held-out images and keep it; without a target remove it.

    The last call decides: weights are not touched by it. Raises `UsageError` where the run held no image out.

    Returns
    -------
    replaced : str or None
        How the run decided before, where it had another operating point.
    point : OperatingPoint or None
    """
    before = None
    with contextlib.suppress(StudyError):  # a damaged one is replaced
        before = operating_point.decision_of(folder, data.classes)
    point = _settled(folder, data, target)
    changed = before is not None and (point is None or point.decision != before)
    return before.sentence if before is not None and changed else None, point


def tell_of_change(run: str, replaced: str | None, *, by_rule: bool) -> None:
    """Warn that a run decides otherwise than before, where `replaced` says how that was.

    Parameters
    ----------
    run : str
        Its name.
    replaced : str or None
        How it decided before, in a sentence.
    by_rule : bool
        Whether this call gives it another rule, or none.
    """
    if replaced is None:
        return
    now = "by this call's rule" if by_rule else "by the likeliest class, since this call gives no rule"
    warnings.warn(
        RunWarning(
            f"Run {run} had a rule before: {replaced[:1].lower()}{replaced[1:]} From now on predict, "
            f"evaluate and exports of it decide {now}."
        ),
        stacklevel=2,
    )


def _settled(folder: Path, data: Manifest, target: OperatingTarget | None) -> OperatingPoint | None:
    if target is None:
        if (folder / operating_point.NAME).is_file():
            with contextlib.suppress(OSError):  # a study that can't be written is read nevertheless
                operating_point.write(folder, None)
        return None
    tables = ((folder / VAL, "val"), (folder / selective_prediction.HELD_OUT, "out of fold"))
    for table, basis in tables:
        if table.is_file():
            spread = 1.0
            if basis == "out of fold":  # fewer folds for small classes
                spread = spread_of_folds(len(data.folds(data.subset("train"), FOLDS, seed=0)) or FOLDS)
            return keep(folder, data, target.choose(held_out(table, data, basis, spread)))
    raise UsageError(
        f"Run {folder.name} has no predictions on images that it did not learn from, so no operating point "
        "can be chosen. Give images to val, or use frostline fit."
    )


def keep(folder: Path, data: Manifest, point: OperatingPoint) -> OperatingPoint:
    """Write an operating point into a run's folder, with its figures on the run's test set."""
    if (folder / TEST).is_file():
        point = point.with_test(held_out(folder / TEST, data, "test"))
    with contextlib.suppress(OSError):
        operating_point.write(folder, point)
    return point


def held_out(table: Path, data: Manifest, basis: str, spread: float = 1.0) -> HeldOut:
    """Return a table's predictions, one row an image, with the units of `data`. Raises `StudyError`.

    `basis` and `spread` are those of `HeldOut`.
    """
    predictions = load_predictions(table)
    sample_of = {sample.path: sample for sample in data.samples}
    rows = [row for row, path in enumerate(predictions.paths) if path in sample_of]
    units = data.units([sample_of[predictions.paths[row]] for row in rows])
    return HeldOut(
        tuple(predictions.classes),
        predictions.targets[rows],
        predictions.probabilities[rows],
        np.arange(len(rows), dtype=np.int64),
        units,
        basis,
        spread,
    )
