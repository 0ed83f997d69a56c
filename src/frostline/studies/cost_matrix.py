"""What each mistake costs: a table of labels and predictions, read and checked."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data.sources.table_cells import delimiter_of
from frostline.errors import UsageError, demand_kind, did_you_mean, option
from frostline.sentences import named


def cost_matrix(
    costs: str | Path | Mapping[str, Mapping[str, float]], classes: Sequence[str]
) -> tuple[tuple[float, ...], ...]:
    """Return what it costs to predict each class (column) for an image of each (row).

    Parameters
    ----------
    costs : path or mapping
        A CSV whose first line names the predicted classes, and whose other lines begin with the label; or
        `costs[label][predicted]`.
    classes : sequence of str

    Raises
    ------
    UsageError
        The file cannot be read, or does not hold a number for each pair of classes.
    """
    if not isinstance(costs, str | os.PathLike):
        demand_kind(option("costs"), costs, Mapping, "a CSV file or a mapping, costs[label][predicted]")
        for label, row in costs.items():
            demand_kind(
                f"{option('costs')}[{label!r}]", row, Mapping, "a mapping from predicted class to cost"
            )
        return checked_matrix(costs, tuple(classes))
    try:
        with open(costs, newline="", encoding="utf-8-sig") as file:
            text = file.read()
        lines = _lines(text, ",")
        if lines and max(map(len, lines)) == 1:  # as Excel writes it where the comma is decimal
            lines = _lines(text, delimiter_of(text.lstrip().split("\n", 1)[0]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{option('costs')}: {costs} cannot be read as CSV ({error}).") from None
    if not lines or any(len(row) != len(lines[0]) for row in lines):
        raise UsageError(
            f"{option('costs')}: {costs} is no matrix. Expected a first line with the predicted classes, "
            "and a line for each label with what each prediction costs."
        )
    header = [cell.strip() for cell in lines[0][1:]]
    labels = [row[0].strip() for row in lines[1:]]
    twice = [name for names in (header, labels) for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(
            f"{option('costs')}: {costs} names {twice[0]!r} twice; expected a column and a line for each "
            "class."
        )
    rows = {
        label: dict(zip(header, row[1:], strict=True)) for label, row in zip(labels, lines[1:], strict=True)
    }
    return checked_matrix(rows, tuple(classes), f"{option('costs')}: {costs}")


def _lines(text: str, delimiter: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [row for row in reader if any(cell.strip() for cell in row)]


def checked_matrix(
    rows: Mapping[str, Mapping[str, Any]], classes: tuple[str, ...], where: str = "costs"
) -> tuple[tuple[float, ...], ...]:
    """Return the costs by the order of `classes`. Raises `UsageError`, beginning with `where`, for others."""
    strange = [
        name for name in [*rows, *(name for row in rows.values() for name in row)] if name not in classes
    ]
    if strange:
        raise UsageError(
            f"{where} names {strange[0]!r}, which is no class of these images."
            f"{did_you_mean(strange[0], classes)} Expected {named(list(classes))}."
        )
    matrix = []
    for label in classes:
        for predicted in classes:
            value = rows.get(label, {}).get(predicted)
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                written = "nothing" if value in (None, "") else repr(value)
                raise UsageError(
                    f"{where} gives {written} for an image of {label} that is predicted as {predicted}; "
                    "expected a number for each pair of classes, 0 for those that are right."
                )
            matrix.append(number)
    count = len(classes)
    _demand_sense(np.array(matrix).reshape(count, count), classes, where)
    return tuple(tuple(matrix[start : start + count]) for start in range(0, count * count, count))


def _demand_sense(matrix: NDArray[np.float64], classes: Sequence[str], where: str) -> None:
    """Raise `UsageError` for costs by which it is better to be wrong, or that nothing can be decided by."""
    gain = np.diagonal(matrix)[:, None] - matrix
    if (gain > 0).any():
        label, predicted = divmod(int(gain.argmax()), len(classes))
        raise UsageError(
            f"{where} makes it cheaper to predict an image of {classes[label]} as {classes[predicted]} "
            f"({matrix[label, predicted]:g}) than rightly ({matrix[label, label]:g}). Expected that no "
            "mistake costs less than the right answer: a line is a label, a column what is predicted."
        )
    if not gain.any():
        raise UsageError(
            f"{where} lets every prediction cost the same, so that nothing can be decided by it. "
            "Expected more for a mistake than for the right answer."
        )
