"""Print predictions, and where images were copied to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from frostline.reports.display_names import visible

if TYPE_CHECKING:
    from frostline.data import SortedImages
    from frostline.inference.prediction import Predictions

TABLE_ROWS = 40  # most predictions shown in a terminal


def predictions(labelled: Predictions, written: str | None, copied: SortedImages | None = None) -> None:
    """Print the predictions, or where they were written, or where the images were copied to."""
    out = Console(markup=False)  # names of files and classes are not markup
    if written:
        out.print(f"{len(labelled.rows):,} predictions of run {labelled.run} written to {written}")
    if copied:
        _copied(out, copied)
    elif not written:
        uncertain = ["unsure"] if labelled.doubts else []
        title = f"run {labelled.run}"
        table = Table("image", "label", "probability", *uncertain, title=title, title_justify="left")
        for row in labelled.rows[:TABLE_ROWS]:
            for rank, (label, probability) in enumerate(row.top):
                why = [row.unsure or "" if rank == 0 else ""] if uncertain else []
                table.add_row(
                    visible(row.path) if rank == 0 else "", visible(label), f"{100 * probability:.1f} %", *why
                )
        out.print(table)
        if len(labelled.rows) > TABLE_ROWS:
            out.print(f"… and {len(labelled.rows) - TABLE_ROWS:,} more: --output FILE.csv writes them all.")
    if labelled.doubts:
        count = sum(row.unsure is not None for row in labelled.rows)
        out.print(f"{count:,} of {len(labelled.rows):,} are too uncertain to use. {labelled.doubts.sentence}")
    for _, reason in labelled.unreadable:
        out.print(f"not readable: {visible(reason)}")


def _copied(out: Console, sorted_images: SortedImages) -> None:
    out.print(f"{sum(sorted_images.copied.values()):,} image(s) copied to {sorted_images.folder}:")
    table = Table("folder", "copied", "there already")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted_images.names:
        table.add_row(
            visible(name),
            f"{sorted_images.copied.get(name, 0):,}",
            f"{sorted_images.already_there.get(name, 0):,}",
        )
    out.print(table)
    if sorted_images.inside:
        out.print(
            f"{sorted_images.inside:,} image(s) are in {sorted_images.folder} already, and are left there."
        )
    for path, reason in sorted_images.failed:
        out.print(f"not copied: {visible(path)}: {visible(reason)}")
