"""What `export` wrote, in a few lines."""

from __future__ import annotations

from rich.console import Console

from frostline.cli.output.formatting import size
from frostline.exports import Export
from frostline.reports.display_names import visible
from frostline.studies.best_run import PassedOver, passed_over_line


def export(found: Export) -> None:
    """Print which run was exported, how it was checked, and how to load it."""
    out = Console(markup=False, soft_wrap=True)
    check = found.check
    out.print(
        f"Run {found.run} ({found.strategy} on {visible(found.model)}): {found.why}.\n"
        f"{check['images']} {check['of']}: the same answers as predict's, probabilities at most "
        f"{check['largest_difference']:.1g} apart.",
        highlight=False,
    )
    if found.passed_over:
        out.print(
            visible(passed_over_line([PassedOver(**one) for one in found.passed_over])), highlight=False
        )
    for note in found.notes:
        out.print(visible(note), highlight=False)
    files = ", ".join(f"{row['name']} {size(row['bytes'])}" for row in found.files)
    out.print(f"\n{found.path} ({files})\n", highlight=False)
    for line in found.usage.splitlines():
        out.print(f"  {line.replace('path/to/this/folder', str(found.path))}", highlight=False)
