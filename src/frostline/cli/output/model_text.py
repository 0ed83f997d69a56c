"""Print models: `models`, `stages`, `export`."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from frostline import strategies
from frostline.cli.output.formatting import console_out, size
from frostline.models.stage_table import count_text
from frostline.models.zoo.catalogue import LAPTOP_GMACS, SMALL_GPU_GMACS
from frostline.reports.display_names import visible
from frostline.studies.best_run import passed_over_line

if TYPE_CHECKING:
    from frostline.exports import Export
    from frostline.models import Backbone

LIMITS = {
    "laptop CPU": f"up to {LAPTOP_GMACS:g} GMACs (10⁹ multiply-adds) an image",
    "small GPU": f"up to {SMALL_GPU_GMACS:g} GMACs",
    "large GPU": "more",
}

GETTING = """\
What is not here is downloaded with --download, or after a question; frostline stages NAME --download \
downloads it alone. fit --models auto chooses among those that are here."""
OTHERS = """\
Other names: timm/NAME, torchvision/NAME, hf/OWNER/NAME. Your own: a .safetensors FILE with \
--architecture timm/NAME, a FOLDER of save_pretrained or of frostline export, a STUDY; in Python your \
nn.Module."""


def models(listing: dict[str, Any]) -> None:
    """Print the list, cheapest first."""
    out = console_out()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("--model")
    for name in ("licence", "download", "here"):
        table.add_column(name, no_wrap=True)
    for device, rows in groupby(listing["models"], lambda row: row["device"]):
        table.add_section()
        table.add_row(f"{device}: {LIMITS[device]}", style="bold")
        for row in rows:
            _add(table, row)
    out.print(table)
    if listing["others_on_disk"]:
        out.print(f"Also on this disk: {', '.join(listing['others_on_disk'])}.")
    for line in (GETTING, OTHERS):
        out.print(line)


def _add(table: Table, row: dict[str, Any]) -> None:
    prefix = "" if row["download_exact"] else "about "
    facts = f"{count_text(row['parameters'])} parameters, {row['input_size']} px, {row['gmacs']:g} GMACs"
    table.add_row(
        Group(Text(row["name"]), Padding(Text(f"{facts}\n{row['what']}"), (0, 0, 0, 2))),
        row["licence"] or f"not stated: see {row['page']}",
        f"{prefix}{row['download_bytes'] / 1e6:.0f} MB",
        "yes" if row["on_disk"] else "",
    )


def cut_marks(stage_count: int) -> dict[str, int]:
    """Return where each named strategy cuts a network of so many stages (its last phase's cut)."""
    marks = {}
    for text in strategies.NAMED:
        phases = strategies.schedule(strategies.parse(text), stages=stage_count, images=1000, batch=32)
        marks[text] = min((s.cut for s in phases), default=stage_count - 1)
    return marks


def stages(backbone: Backbone, marks: dict[str, int], picture: str | None) -> None:
    """Print the network's stages from stem to head."""
    from frostline.models import stage_table

    out = console_out()
    out.print(stage_table.text(backbone, marks))
    for note in backbone.notes:
        out.print(note)
    if picture:
        out.print(f"Drawing written to {picture}")


def export(exported: Export) -> None:
    """Print which run was exported, how it was checked, and how to load it."""
    out = console_out(soft_wrap=True)
    check = exported.check
    before = ", before it was quantised" if exported.int8 else ""
    out.print(
        f"Run {exported.run} ({exported.strategy} on {visible(exported.model)}): {exported.why}.\n"
        f"{check['images']} {check['of']}{before}: the same predictions as by predict, probabilities at most "
        f"{check['largest_difference']:.1g} apart."
    )
    if exported.best.passed_over:
        out.print(visible(passed_over_line(exported.best.passed_over)))
    for note in exported.notes:
        out.print(visible(note))
    sizes = Counter({row["name"].partition("/")[0]: 0 for row in exported.files})
    for row in exported.files:  # a folder is one entry
        sizes[row["name"].partition("/")[0]] += row["bytes"]
    files = ", ".join(f"{name} {size(size_bytes)}" for name, size_bytes in sizes.items())
    out.print(f"\n{exported.path} ({files})\n")
    for line in exported.usage.splitlines():
        out.print(f"  {line.replace('path/to/this/folder', str(exported.path))}")
