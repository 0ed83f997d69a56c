"""Print the result of `export`."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from frostline.cli.output.formatting import size
from frostline.exports import Export
from frostline.reports.display_names import visible
from frostline.studies.best_run import PassedOver, passed_over_line


def export(exported: Export) -> None:
    """Print which run was exported, how it was checked, and how to load it."""
    out = Console(markup=False, soft_wrap=True)
    check = exported.check
    before = ", before it was quantised" if exported.int8 else ""
    out.print(
        f"Run {exported.run} ({exported.strategy} on {visible(exported.model)}): {exported.why}.\n"
        f"{check['images']} {check['of']}{before}: the same predictions as by predict, probabilities at most "
        f"{check['largest_difference']:.1g} apart.",
        highlight=False,
    )
    if exported.passed_over:
        out.print(
            visible(passed_over_line([PassedOver(**run) for run in exported.passed_over])), highlight=False
        )
    for note in exported.notes:
        out.print(visible(note), highlight=False)
    names = Counter({row["name"].partition("/")[0]: 0 for row in exported.files})
    for row in exported.files:  # a folder is one entry
        names[row["name"].partition("/")[0]] += row["bytes"]
    files = ", ".join(f"{name} {size(size_bytes)}" for name, size_bytes in names.items())
    out.print(f"\n{exported.path} ({files})\n", highlight=False)
    for line in exported.usage.splitlines():
        out.print(f"  {line.replace('path/to/this/folder', str(exported.path))}", highlight=False)
