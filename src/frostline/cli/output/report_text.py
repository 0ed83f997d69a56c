"""Print a report's conclusions. Imports no torch."""

from __future__ import annotations

from rich.console import Console

from frostline.reports import Report
from frostline.reports.display_names import visible


def report(written: Report) -> None:
    """Print the conclusions, what could not be read, and where the page is."""
    out = Console(markup=False, soft_wrap=True)  # names are no markup; paths stay whole
    for number, line in enumerate(written.lines):
        out.print(visible(line), style="bold" if number == 0 else None, highlight=False)
    for note in written.notes:
        out.print(f"Note: {visible(note)}", highlight=False)
    out.print(f"\n{written.path} ({written.bytes / 1e6:.1f} MB)", highlight=False)
