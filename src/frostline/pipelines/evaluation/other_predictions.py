"""Predictions of another system in a table (path, label, and perhaps probability), matched with images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline.data.labels import read_labels
from frostline.data.sources.table_cells import Cells, as_text, read_cells
from frostline.data.sources.table_columns import choose
from frostline.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Columns that hold predictions where a table has labels beside them, as `train` writes it and others do.
PREDICTED = ("predicted", "prediction", "pred", "predicted_label", "predicted_class")
PROBABILITY = ("probability", "confidence", "score", "prob")
EXAMPLES = 3  # images in a message


@dataclass(frozen=True)
class OtherPredictions:
    """What another system predicted.

    Attributes
    ----------
    name : str
        The table's.
    labels : tuple of str
        The predicted class of each image, "" where the table has none.
    probabilities : ndarray or None, shape (images,)
        Of those classes; None where the table gives none.
    notes : tuple of str
    """

    name: str
    labels: tuple[str, ...]
    probabilities: Floats | None
    notes: tuple[str, ...]

    def naming(self, classes: Sequence[str]) -> OtherPredictions:
        """Return these predictions with a note where some name no class of the models or the images.

        Raises
        ------
        DataError
            None of them names one.
        """
        known = set(classes)
        unknown = Counter(label for label in self.labels if label and label not in known)
        if not unknown:
            return self
        listed = ", ".join(name for name, _ in unknown.most_common(EXAMPLES))
        listed += f" and {len(unknown) - EXAMPLES} more" if len(unknown) > EXAMPLES else ""
        if not known.intersection(self.labels):
            names = ", ".join(classes[:EXAMPLES]) + (", …" if len(classes) > EXAMPLES else "")
            raise DataError(
                f"{self.name} predicts {listed}, none of which is a class here; expected names like {names}. "
                "Rename them in the table."
            )
        note = (
            f"{self.name}: {unknown.total():,} prediction(s) of {listed}, no class of the models or the "
            "images, count as wrong."
        )
        return replace(self, notes=(*self.notes, note))

    def beside_labels(self, labels: Sequence[str]) -> OtherPredictions:
        """Return these predictions with a note where they are the images' labels, without a probability."""
        if self.probabilities is not None or self.labels != tuple(labels):
            return self
        note = (
            f"{self.name}: every prediction is the image's label. If its column holds the labels, it says "
            "nothing about the other system."
        )
        return replace(self, notes=(*self.notes, note))


def read_other(
    path: str | os.PathLike[str], paths: Sequence[str], root: Path | None, classes: Collection[str] = ()
) -> OtherPredictions:
    """Read a table of predictions, and match it with images.

    Parameters
    ----------
    path : path
        CSV or Parquet with the columns path and label (or predicted), and perhaps probability.
    paths : sequence of str
        The images, as a manifest names them.
    root : Path or None
        What their relative paths start from.
    classes : collection of str
        Names of the models' classes and of the images', which stand for one class however they look.

    Returns
    -------
    OtherPredictions

    Raises
    ------
    DataError
        A column is missing, a probability is none, or no row is of these images.
    """
    table = Path(path).expanduser()
    if not table.is_file():
        fault = "is a folder" if table.is_dir() else "does not exist"
        raise DataError(f"{table} {fault}. Expected a table of predictions with path and label.")
    rows, notes = _read(table, classes)
    matches, how = _matched(table, [row.path for row in rows], paths, root)
    if not matches:
        raise DataError(
            f"None of the {len(rows):,} rows of {table} is of these {len(paths):,} images. Its paths read "
            f"{', '.join(row.path for row in rows[:EXAMPLES])}; the images are "
            f"{', '.join(paths[:EXAMPLES])}."
        )
    labels, probabilities = [""] * len(paths), np.zeros(len(paths))
    with_probability = all(row.probability is not None for row in rows)
    repeated = 0
    for at, image in matches:
        row = rows[at]
        if labels[image]:
            repeated += 1
            if labels[image] != row.label and not with_probability:
                raise DataError(
                    f"{table} predicts both {labels[image]!r} and {row.label!r} for {row.path}, without a "
                    "probability that would tell which counts. Expected one row an image."
                )
            if with_probability and (row.probability or 0.0) <= probabilities[image]:
                continue
        labels[image] = row.label
        probabilities[image] = row.probability or 0.0
    if repeated:
        notes.append(f"{table.name}: {repeated:,} row(s) repeat an image; the likeliest prediction counts.")
    if how:
        notes.append(f"{table.name}: {how}")
    missing = labels.count("")
    if missing:
        notes.append(
            f"{table.name} has no prediction for {missing:,} of {len(paths):,} images: it is compared on the "
            "others."
        )
    return OtherPredictions(
        table.name, tuple(labels), probabilities if with_probability else None, tuple(notes)
    )


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    probability: float | None


def _read(table: Path, classes: Collection[str]) -> tuple[list[_Row], list[str]]:
    cells = read_cells(table)
    predicted = next((name for name in PREDICTED if name in cells.columns), None)
    probability = next((name for name in PROBABILITY if name in cells.columns), None)
    chosen = choose(cells.columns, {"path": None, "label": predicted}, of_data=False)
    if chosen.mistakes:
        raise DataError(f"{table} cannot be used as predictions: {'; '.join(chosen.mistakes)}")
    if cells.mistakes:
        raise DataError(f"{table} cannot be used as predictions: {'; '.join(cells.mistakes[:EXAMPLES])}")
    notes = [*cells.notes, *(f"{table.name}: {note}" for note in chosen.notes)]
    if predicted is not None and "label" in cells.columns:
        notes.append(f"{table.name}: the column {predicted!r} was read as the prediction, not 'label'.")
    places = [chosen.places["path"], chosen.places["label"]]
    if probability is not None:
        places.append(cells.columns.index(probability))
    lines = cells.rows(places)
    labels = read_labels([values[1] for _, values in lines], classes=frozenset(classes))
    rows = []
    for (line, values), label in zip(lines, labels, strict=True):
        path = as_text(values[0])
        if path and label:
            rows.append(_Row(path, label, _probability(table, cells, line, values[2:], probability)))
    unlabelled = len(lines) - len(rows)
    if unlabelled:
        notes.append(f"{table.name}: {unlabelled:,} row(s) have no path or no prediction and are left out.")
    return rows, notes


def _probability(
    table: Path, cells: Cells, line: int, values: Sequence[object], name: str | None
) -> float | None:
    if name is None:
        return None
    text = as_text(values[0])
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise DataError(
            f"{table}, row {line}: {name} {text!r} is no probability; expected a number from 0 to 1, or no "
            "such column."
        )
    return number


def _matched(
    table: Path, texts: Sequence[str], paths: Sequence[str], root: Path | None
) -> tuple[list[tuple[int, int]], str]:
    """Return pairs (row, image), and how they were found where that is not by path."""
    image_of = {path: image for image, path in enumerate(paths)}
    if root is not None:
        image_of |= {os.path.abspath(root / path): image for path, image in list(image_of.items())}
    folder = table.resolve().parent
    pairs = []
    for row, text in enumerate(texts):
        plain = text.replace("\\", "/")
        candidates = (text, plain, os.path.abspath(plain), os.path.abspath(folder / plain))
        image = next((image_of[name] for name in candidates if name in image_of), None)
        if image is not None:
            pairs.append((row, image))
    if pairs:
        return pairs, ""
    names = Counter(path.rpartition("/")[2] for path in paths)
    by_name = {path.rpartition("/")[2]: image for image, path in enumerate(paths)}
    ends = [text.replace("\\", "/").rpartition("/")[2] for text in texts]
    pairs = [(row, by_name[end]) for row, end in enumerate(ends) if names[end] == 1]
    return pairs, "its paths lie elsewhere, so images were matched by their file names."
