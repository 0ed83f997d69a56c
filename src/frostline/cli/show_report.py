"""A report's conclusions, as a person reads them."""

from __future__ import annotations

from frostline.cli.show import _out, size
from frostline.reporting import Report
from frostline.reporting.naming import visible


def report(made: Report) -> None:
    """Print the conclusions, what could not be read, and where the page is."""
    out = _out()
    for number, line in enumerate(made.lines):
        out.print(visible(line), style="bold" if number == 0 else None, highlight=False)
    for note in made.notes:
        out.print(f"Note: {visible(note)}", highlight=False)
    out.print(f"\n{made.path} ({size(made.bytes)})", highlight=False)
