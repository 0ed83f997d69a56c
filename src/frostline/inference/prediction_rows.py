"""Predictions for images: rows that can be read, written, drawn, and copied into folders."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.data import SortedImages, folder_names, sort_into, unsure_folder_name
from frostline.errors import UsageError
from frostline.inference import selective_prediction
from frostline.reports import notebook
from frostline.studies.best_run import PassedOver
from frostline.system import directories, text_output

Floats = NDArray[np.float64]
SHOWN_LABELS = 4  # in a line


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    `top` holds (label, probability) pairs: the predicted one, then the likeliest others.
    """

    path: str
    top: tuple[tuple[str, float], ...]
    unsure: str | None = None  # why it is not trusted: "probability" or "unfamiliar"

    @property
    def label(self) -> str:
        """The predicted label: the likeliest, or the one that an operating point decides for."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """Its probability, 0–1."""
        return self.top[0][1]


@dataclass(frozen=True)
class Predictions:
    """The predictions for images, and the run that made them. Iterating yields `Prediction` rows.

    Attributes
    ----------
    rows : tuple of Prediction
    unreadable : tuple of (name, reason)
        Images that could not be decoded.
    run : str
        Name of the run that predicted.
    why : str
        Why that run was chosen.
    strategy : str
    doubts : Doubts or None
        The thresholds below which predictions are marked unsure, with `target_accuracy`.
    classes : tuple of str
        All classes of the model.
    passed_over : tuple of PassedOver
        Runs that are newer or have a higher accuracy and were not used, with the reasons.
    notes : tuple of str
        How images were read.
    min_confidence : float or None
        The probability below which a prediction is marked unsure.
    probabilities : ndarray or None, shape (images, classes)
        Of all classes, in the order of `classes`, with `all_probabilities`.
    decided_by : tuple of str
        How labels are decided where that is not the highest probability, in sentences.
    """

    rows: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...]
    run: str
    why: str
    strategy: str
    doubts: selective_prediction.Doubts | None = None  # the thresholds, with `target_accuracy`
    classes: tuple[str, ...] = ()  # all classes of the model
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()  # plain sentences on how images were read
    min_confidence: float | None = None
    probabilities: Floats | None = field(default=None, repr=False, compare=False)
    decided_by: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prediction:
        return self.rows[index]

    def __repr__(self) -> str:
        """Return a line with the number of predictions and the commonest labels."""
        counts = Counter(row.label for row in self.rows).most_common()
        labels = ", ".join(f"{label} {count:,}" for label, count in counts[:SHOWN_LABELS])
        more = ", …" if counts[SHOWN_LABELS:] else ""
        unread = f"; {len(self.unreadable):,} not readable" if self.unreadable else ""
        return (
            f"<Predictions of {self.strategy}, run {self.run}: {len(self.rows):,} ({labels}{more}){unread}>"
        )

    def _repr_html_(self) -> str:
        """Return the predictions as an HTML table."""
        left_out = [f"Not readable: {reason}" for _, reason in self.unreadable]
        return notebook.table_html(f"Predictions of {self.strategy}", self._table(), left_out)

    def to_pandas(self) -> Any:
        """Return the predictions as a DataFrame. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self._table())

    def to_csv(self, path: str | Path) -> None:
        """Write path, label, probability (a row per label, with `top`), and unsure where predictions may be.

        With `all_probabilities` a column p(CLASS) follows for each class. Probabilities have all their
        digits, so that a threshold divides them as it divided the predictions. UTF-8; other bytes of file
        names are kept. The file is written whole or not at all.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        unsure = ["unsure"] if self.marks_unsure else []
        writer.writerow(["path", "label", "probability", *unsure, *self._class_columns])
        for place, row in enumerate(self.rows):
            why = [row.unsure or ""] if unsure else []
            values = [] if self.probabilities is None else [repr(float(p)) for p in self.probabilities[place]]
            writer.writerows([row.path, label, repr(float(value)), *why, *values] for label, value in row.top)
        directories.write_whole(Path(path), text_output.encoded(text.getvalue()))

    def to_parquet(self, path: str | Path) -> None:
        """Write the columns of `to_csv` as Parquet, probabilities as 64-bit floats.

        Parquet's texts are UTF-8: where the name of a file is not, a CSV of the same name is written instead.

        Raises
        ------
        UsageError
            The file cannot be written, or the name of a file is no text.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        pairs = [(place, label, value) for place, row in enumerate(self.rows) for label, value in row.top]
        places = [place for place, _, _ in pairs]
        columns: dict[str, Any] = {
            "path": [self.rows[place].path for place in places],
            "label": [label for _, label, _ in pairs],
            "probability": [value for _, _, value in pairs],
        }
        if self.marks_unsure:
            columns["unsure"] = pa.array([self.rows[place].unsure for place in places], pa.string())
        if self.probabilities is not None:
            columns |= dict(zip(self._class_columns, self.probabilities[places].T, strict=True))
        try:
            table, sink = pa.table(columns), pa.BufferOutputStream()
            pq.write_table(table, sink)
            directories.write_whole(Path(path), sink.getvalue().to_pybytes())
        except UnicodeEncodeError:
            raise UsageError(self._written_as_csv(Path(path))) from None
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error}). Name another file, or a .csv.") from None

    def _written_as_csv(self, path: Path) -> str:
        """Write what Parquet can't hold as CSV beside it, unless that would replace a file; say so."""
        names = [*(row.path for row in self.rows), *self.classes, *(row.label for row in self.rows)]
        name, instead = next(name for name in names if not _is_text(name)), path.with_suffix(".csv")
        fault = f"{path} cannot hold the name {name!r}, which is not UTF-8."
        if instead.exists():
            return f"{fault} Rename that file, or name a .csv."
        try:
            self.to_csv(instead)
        except OSError as error:
            return f"{fault} Nor can {instead} be written ({error}). Name another file, a .csv."
        return f"{fault} The predictions are in {instead} instead."

    @property
    def marks_unsure(self) -> bool:
        """Whether predictions may be marked unsure: with `target_accuracy` or `min_confidence`."""
        return self.doubts is not None or self.min_confidence is not None

    @property
    def _class_columns(self) -> list[str]:
        return [] if self.probabilities is None else [f"p({name})" for name in self.classes]

    def plot(self) -> notebook.Plot:
        """Draw how many images were given each label."""
        return notebook.answers_plot([row.label for row in self.rows])

    def copy_to(self, folder: str | Path) -> SortedImages:
        """Copy images into a folder for each label below `folder`, unsure ones into a folder of their own.

        No file is overwritten: a file of the same name gets a suffix, and identical ones are not copied
        again. Images in memory are listed under `failed`.

        Raises
        ------
        UsageError, DataError
            The folder cannot be used.
        """
        names = folder_names([*self.classes, *(row.label for row in self.rows)])
        doubted = unsure_folder_name(names.values())
        return sort_into(
            Path(folder).expanduser(),
            [(row.path, doubted if row.unsure else names[row.label]) for row in self.rows],
        )

    def _table(self) -> list[dict[str, Any]]:
        rows = [
            {"path": r.path, "label": r.label, "probability": r.probability}
            | ({"unsure": r.unsure} if self.marks_unsure else {})
            for r in self.rows
        ]
        if self.probabilities is None:
            return rows
        return [
            row | dict(zip(self._class_columns, map(float, values), strict=True))
            for row, values in zip(rows, self.probabilities, strict=True)
        ]


def _is_text(name: str) -> bool:
    """Return whether a name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
