"""Print the findings of `frostline check`."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from frostline.data import PARTS, Finding, Manifest

MOST_CLASSES = 20  # most rows of the table


def checked(data: Manifest, page: str | None) -> None:
    """Print what was read and would be done, then each problem with what to do."""
    out = Console(markup=False, highlight=False)
    for finding in data.findings:
        if not finding.trouble:
            out.print(finding.note)
    out.print(_table(data))
    if len(data.classes) > MOST_CLASSES:
        out.print(f"… and {len(data.classes) - MOST_CLASSES:,} more classes.")
    trouble = [finding for finding in data.findings if finding.trouble]
    if not trouble:
        out.print("Nothing was found that may be wrong.")
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
    given = {part: "given" if part in data.given else "drawn" for part in PARTS}
    table = Table(title="How the images would be split", title_justify="left")
    table.add_column("class", overflow="fold")
    for part in PARTS:
        table.add_column(f"{part} ({given[part]})" if data.part(part) else part, justify="right")
    for name in data.classes[:MOST_CLASSES]:
        table.add_row(name, *(f"{data.counts[name][part]:,}" for part in PARTS))
    return table
