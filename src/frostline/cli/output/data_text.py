"""Print images and what was found in them: `check`, `predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from frostline.cli.output.formatting import console_out
from frostline.data import SUBSETS, Finding, Manifest, SortedImages
from frostline.reports.display_names import visible

if TYPE_CHECKING:
    from frostline.inference.prediction_rows import Predictions

MOST_CLASSES = 20  # most rows of the table


def checked(data: Manifest, page: str | None) -> None:
    """Print what was read and would be done, then each problem with what to do."""
    out = console_out()
    for finding in data.findings:
        if not finding.trouble:
            out.print(finding.note)
    out.print(_table(data))
    if len(data.classes) > MOST_CLASSES:
        out.print(f"… and {len(data.classes) - MOST_CLASSES:,} more classes.")
    trouble = [finding for finding in data.findings if finding.trouble]
    if not trouble:
        out.print("No problems were found.")
    for finding in trouble:
        _print(finding, out)
    if page:
        out.print(f"\nThe pictures concerned: {page}")


def _print(finding: Finding, out: Console) -> None:
    out.print(f"\n{finding.kind}", style="bold", end="  ")
    out.print(finding.message)
    if finding.advice:
        out.print(Padding(f"→ {finding.advice}", (0, 0, 0, 2)))


def _table(data: Manifest) -> Table:
    given = {subset: "given" if subset in data.predefined else "drawn" for subset in SUBSETS}
    table = Table(title="How the images would be split", title_justify="left")
    table.add_column("class", overflow="fold")
    for subset in SUBSETS:
        table.add_column(f"{subset} ({given[subset]})" if data.subset(subset) else subset, justify="right")
    for name in data.classes[:MOST_CLASSES]:
        table.add_row(visible(name), *(f"{data.counts[name][subset]:,}" for subset in SUBSETS))
    return table


TABLE_ROWS = 40  # most predictions shown in a terminal


def predictions(labelled: Predictions, written: str | None, copied: SortedImages | None = None) -> None:
    """Print the predictions, or where they were written, or where the images were copied to."""
    out = console_out()
    if written:
        out.print(f"{len(labelled.rows):,} predictions of run {labelled.run} written to {written}")
    if copied:
        _copied(out, copied)
    elif not written:
        uncertain = ["unsure"] if labelled.marks_unsure else []
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
    for line in labelled.decided_by:
        out.print(line)
    if labelled.marks_unsure:
        count = sum(row.unsure is not None for row in labelled.rows)
        out.print(f"{count:,} of {len(labelled.rows):,} are too uncertain to use.", *_why_unsure(labelled))
    for _, reason in labelled.unreadable:
        out.print(f"not readable: {visible(reason)}")


def _why_unsure(labelled: Predictions) -> list[str]:
    """Return what makes a prediction unsure, in sentences."""
    lines = []
    if labelled.min_confidence is not None:
        lines.append(f"Probabilities below {100 * labelled.min_confidence:g} % are.")
    return lines if labelled.doubts is None else [*lines, labelled.doubts.sentence]


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
