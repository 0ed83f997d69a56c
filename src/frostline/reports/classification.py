"""What was predicted as what: a confusion matrix as counts, CSV and picture, and scikit-learn's report.

Imports no torch, and matplotlib only in use.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import UsageError
from frostline.reports import notebook
from frostline.reports.display_names import unique_names
from frostline.reports.study_reader import load_predictions
from frostline.sentences import Basis
from frostline.system import directories, text_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Ints = NDArray[np.int64]

CORNER = "label \\ predicted"  # of the CSV: rows are labels, columns predictions
NUMBERED_CLASSES = 30  # with more, numbers in the cells of a picture of readable size overlap
INCH_PER_CLASS, LEAST_INCHES, MOST_INCHES = 0.45, 4.5, 24.0  # a picture's side; 24 inches are 3,600 pixels
DPI = 150
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix. `numpy.asarray` gives the counts.

    Attributes
    ----------
    classes : tuple of str
        Names of rows and columns, in order.
    counts : ndarray of int64, shape (classes, classes)
        Images with the row's label that were predicted as the column's class.
    basis : str
        Which images: "test set", "val set", or "" where the caller gave them.
    """

    classes: tuple[str, ...]
    counts: Ints
    basis: str = ""

    @classmethod
    def of(cls, classes: Sequence[str], targets: Ints, predicted: Ints, basis: str = "") -> Confusion:
        """Count predictions, by scikit-learn's `confusion_matrix`.

        Parameters
        ----------
        classes : sequence of str
        targets, predicted : ndarray of int64, shape (n,)
            Indices into `classes`.
        basis : str
            Which images these are.
        """
        from sklearn.metrics import confusion_matrix

        if not len(targets):
            return cls(tuple(classes), np.zeros((len(classes), len(classes)), dtype=np.int64), basis)
        counts = confusion_matrix(targets, predicted, labels=np.arange(len(classes)))
        return cls(tuple(classes), counts.astype(np.int64), basis)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the counts, for numpy."""
        return np.array(self.counts, dtype=dtype)

    def __repr__(self) -> str:
        """Return a line: how many images, how many predicted right."""
        on = f" on the {self.basis}" if self.basis else ""
        right, total = int(np.trace(self.counts)), int(self.counts.sum())
        return f"<Confusion of {len(self.classes)} classes{on}: {right:,} of {total:,} predicted right>"

    def _repr_html_(self) -> str:
        """Return the matrix as an HTML table, for a notebook."""
        rows = [
            {CORNER: name, **{column: str(count) for column, count in zip(self.classes, row, strict=True)}}
            for name, row in zip(self.classes, self.counts.tolist(), strict=True)
        ]
        return notebook.table_html("Confusion matrix", rows)

    def to_pandas(self) -> Any:
        """Return a DataFrame with labels as rows. Raises `UsageError` where pandas is not installed."""
        rows = [dict(zip(self.classes, row, strict=True)) for row in self.counts.tolist()]
        return notebook.frame(rows).set_axis(list(self.classes), axis=0)

    def to_csv(self, path: str | Path) -> None:
        """Write the matrix with its class names, labels as rows; whole or not at all.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([CORNER, *self.classes])
        writer.writerows([name, *row] for name, row in zip(self.classes, self.counts.tolist(), strict=True))
        directories.write_whole(Path(path), text_output.encoded(text.getvalue()))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the matrix: colours are shares of each label's images, numbers are images.

        Parameters
        ----------
        ax : matplotlib Axes or None
            None makes a new figure.

        Returns
        -------
        matplotlib Axes
        """
        from sklearn.metrics import ConfusionMatrixDisplay

        images = self.counts.sum(axis=1, keepdims=True)
        shares = np.divide(self.counts, images, out=np.zeros(self.counts.shape), where=images > 0)
        numbered = len(self.classes) <= NUMBERED_CLASSES
        names = [name.replace("$", r"\$") for name in unique_names(self.classes)]  # $ would begin a formula
        display = ConfusionMatrixDisplay(shares, display_labels=names).plot(
            ax=ax,
            cmap="Blues",
            include_values=numbered,
            values_format=".2f",
            xticks_rotation=45 if len(names) > 3 else "horizontal",
            colorbar=False,
            im_kw={"vmin": 0.0, "vmax": 1.0},
        )
        if numbered:
            for cell, count in zip(display.text_.ravel(), self.counts.ravel().tolist(), strict=True):
                cell.set_text(f"{count:,}" if count else "")
        if len(names) > 3:
            for label in display.ax_.get_xticklabels():
                label.set_ha("right")
                label.set_rotation_mode("anchor")
        display.ax_.set_xlabel("predicted")
        display.ax_.set_ylabel("label")
        axes: Axes = display.ax_
        return axes

    def save(self, path: str | Path) -> None:
        """Write the picture, as PNG, SVG, PDF or JPEG by the file's ending; whole or not at all.

        Raises
        ------
        UsageError
            The ending is another.
        OSError
            The file cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        ending = checked_picture(path)
        side = min(MOST_INCHES, max(LEAST_INCHES, 2.0 + INCH_PER_CLASS * len(self.classes)))
        figure = Figure(figsize=(side, side), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        self.plot(figure.add_subplot())
        picture = io.BytesIO()
        figure.savefig(picture, format=ending.removeprefix("."))
        directories.write_whole(Path(path), picture.getvalue())


def checked_picture(path: str | Path) -> str:
    """Return a picture file's ending. Raises `UsageError` where it is none that can be drawn."""
    ending = Path(path).suffix.lower()
    if ending not in PICTURES:
        raise UsageError(
            f"{path} ends in {ending or 'nothing'!r}; expected a picture: {', '.join(PICTURES)}."
        )
    return ending


def classification_report(
    classes: Sequence[str], targets: Ints, predicted: Ints, output_dict: bool = False
) -> Any:
    """Return scikit-learn's `classification_report` of class names.

    Parameters
    ----------
    classes : sequence of str
    targets, predicted : ndarray of int64, shape (n,)
        Indices into `classes`.
    output_dict : bool
        Return a dict instead of text.

    Returns
    -------
    str or dict
        As scikit-learn gives them for names; a class never predicted has precision 0.
    """
    from sklearn import metrics as sk

    names = np.asarray(classes, dtype=object)
    return sk.classification_report(
        names[targets].tolist(), names[predicted].tolist(), output_dict=output_dict, zero_division=0.0
    )


@dataclass(frozen=True)
class KeptPredictions:
    """Predictions that a run left on its held-out images: targets and predicted are (n,)."""

    classes: tuple[str, ...]
    targets: Ints
    predicted: Ints
    basis: str

    @classmethod
    def of_run(cls, folder: Path) -> KeptPredictions:
        """Read a run's predictions on test, else on val.

        Raises
        ------
        UsageError
            The run had neither subset.
        StudyError
            The table is damaged.
        """
        for subset, basis in (("test", Basis.TEST), ("val", Basis.VAL)):
            path = folder / f"predictions-{subset}.csv"
            if path.is_file():
                table = load_predictions(path, basis)
                return cls(table.classes, table.targets, table.predicted, basis)
        raise UsageError(
            f"Run {folder.name} has neither a test nor a val set, so nothing was held out to count "
            "mistakes on. Evaluate it on new labelled images: frostline.evaluate(run, images)."
        )
