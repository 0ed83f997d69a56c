"""Print the list of `frostline models`."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from frostline.models.stage_table import count_text
from frostline.models.zoo.catalogue import LAPTOP_GMACS, SMALL_GPU_GMACS

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
    out = Console(markup=False)
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
        out.print(f"Also on this disk: {', '.join(listing['others_on_disk'])}.", highlight=False)
    for line in (GETTING, OTHERS):
        out.print(line, highlight=False)


def _add(table: Table, row: dict[str, Any]) -> None:
    prefix = "" if row["download_exact"] else "about "
    facts = f"{count_text(row['parameters'])} parameters, {row['input_size']} px, {row['gmacs']:g} GMACs"
    table.add_row(
        Group(Text(row["name"]), Padding(Text(f"{facts}\n{row['what']}"), (0, 0, 0, 2))),
        row["licence"] or f"not stated: see {row['page']}",
        f"{prefix}{row['download_bytes'] / 1e6:.0f} MB",
        "yes" if row["on_disk"] else "",
    )
