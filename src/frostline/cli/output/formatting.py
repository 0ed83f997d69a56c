"""What several commands print: sizes, notes on the data, the feature cache."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from frostline.sentences import percent, skipped_lines

if TYPE_CHECKING:
    from frostline.data import Manifest
    from frostline.feature_cache import FeatureCache

AGAIN = "Already finished, shown again"  # for a command whose work was done before


def console_out() -> Console:
    return Console(markup=False)  # names of files and classes are not markup


def size(value_bytes: float) -> str:
    """Return a number of bytes as text."""
    return f"{value_bytes / 1e6:,.0f} MB" if value_bytes >= 1e6 else f"{value_bytes / 1e3:,.0f} kB"


def data_lines(data: Manifest) -> str:
    """Return lines about the data: notes and skipped files."""
    lines = list(data.notes)
    lines += skipped_lines([(item.path, item.reason) for item in data.skipped])
    return "\n".join(lines)


def cache_table(cache: FeatureCache) -> None:
    """Print the contents of the feature cache."""
    out, holdings = console_out(), cache.holdings()
    if not holdings:
        out.print(f"Nothing is cached in {cache.path} yet.")
        return
    table = Table(title=f"{size(cache.total_bytes())} in {cache.path}", title_justify="left")
    for name in ("model", "cut", "pixels", "count", "each", "total", "hits", "last used"):
        table.add_column(name, justify="left" if name in ("model", "cut") else "right")
    for holding in sorted(holdings, key=lambda h: (h.about.get("model", ""), h.about.get("index", 0))):
        requests = holding.hits + holding.misses
        table.add_row(
            str(holding.about.get("model", "?")),
            str(holding.about.get("cut", "?")),
            str(holding.about.get("preprocessing", {}).get("size", "?")),
            f"{holding.features:,}",
            f"{holding.form.row_bytes / 1000:,.1f} kB" if holding.form else "",
            size(holding.bytes),
            percent(holding.hits / requests) if requests else "",
            f"{datetime.fromtimestamp(holding.used):%Y-%m-%d %H:%M}",
        )
    out.print(table)
