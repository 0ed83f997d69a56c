"""What a person sees of a run's answers, and of where images were copied to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from frostline.reports.display_names import visible

if TYPE_CHECKING:
    from frostline.data import SortedImages
    from frostline.inference.prediction import Predictions

TABLE_ROWS = 40  # predictions a terminal shows before it says how many more there are


def predictions(found: Predictions, written: str | None, copied: SortedImages | None = None) -> None:
    """The answers, or where they were written, or where the images were copied to."""
    out = Console(markup=False)  # names of files and classes are no markup
    if written:
        out.print(f"{len(found.rows):,} predictions of run {found.run} written to {written}")
    if copied:
        _copied(out, copied)
    elif not written:
        doubted = ["unsure"] if found.doubts else []
        title = f"run {found.run}"
        table = Table("image", "label", "probability", *doubted, title=title, title_justify="left")
        for row in found.rows[:TABLE_ROWS]:
            for rank, (label, probability) in enumerate(row.top):
                why = [row.unsure or "" if rank == 0 else ""] if doubted else []
                table.add_row(
                    visible(row.path) if rank == 0 else "", visible(label), f"{100 * probability:.1f} %", *why
                )
        out.print(table)
        if len(found.rows) > TABLE_ROWS:
            out.print(f"… and {len(found.rows) - TABLE_ROWS:,} more: --output FILE.csv writes them all.")
    if found.doubts:
        count = sum(row.unsure is not None for row in found.rows)
        out.print(f"{count:,} of {len(found.rows):,} are better not answered. {found.doubts.sentence}")
    for _, reason in found.unreadable:
        out.print(f"not readable: {visible(reason)}")


def _copied(out: Console, done: SortedImages) -> None:
    out.print(f"{sum(done.copied.values()):,} image(s) copied to {done.folder}:")
    table = Table("folder", "copied", "there already")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in done.names:
        table.add_row(visible(name), f"{done.copied.get(name, 0):,}", f"{done.already_there.get(name, 0):,}")
    out.print(table)
    if done.inside:
        out.print(f"{done.inside:,} image(s) lie in {done.folder} themselves, and are left where they are.")
    for path, reason in done.failed:
        out.print(f"not copied: {visible(path)}: {visible(reason)}")
