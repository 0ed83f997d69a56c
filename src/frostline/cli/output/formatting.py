"""What several commands print: sizes, notes on the data, the feature cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from frostline.reports.display_names import visible_lines
from frostline.sentences import percent, skipped_lines

if TYPE_CHECKING:
    from frostline.data import Manifest
    from frostline.feature_cache import FeatureCache

AGAIN = "Already finished, shown again"  # for a command whose work was done before


Row = tuple[Sequence[str], str | None]  # of a table: cells, and a style
WIDE = 100  # columns of a terminal from which a table's columns stand two spaces apart: a choice


class _PlainConsole(Console):
    """A console whose text holds no control characters: names of files and classes may hold any."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible_lines(text), **options)


def console_out(*, soft_wrap: bool = False) -> Console:
    """Return a console on standard output; with `soft_wrap` long lines, such as paths, stay whole."""
    return _PlainConsole(markup=False, highlight=False, soft_wrap=soft_wrap)


def table(title: str, names: Sequence[str], rows: Sequence[Row], texts: Mapping[str, int]) -> Table:
    """Return a table whose numbers stay on one line, and whose texts fold where the terminal is narrow.

    Rich alone takes what is lacking from texts in proportion, down to a letter a line.

    Parameters
    ----------
    title : str
    names : sequence of str
        Headings.
    rows : sequence of (cells, style)
        A style is rich's, such as "bold", or None.
    texts : mapping of str to int
        The columns that hold text, by heading, and the fewest characters that each may be left with.
    """
    width = console_out().width
    padding = int(width >= WIDE)
    natural = [
        max(map(cell_len, column)) for column in zip(names, *(cells for cells, _ in rows), strict=True)
    ]
    widths = [
        min(one, texts[name]) if name in texts else one for name, one in zip(names, natural, strict=True)
    ]
    free = width - sum(widths) - len(names) * (1 + padding) - 1  # beside a space around each column
    while free > 0 and widths != natural:
        lacking = [one - now for one, now in zip(natural, widths, strict=True)]
        widths[lacking.index(max(lacking))] += 1
        free -= 1
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0))
    for name, chosen in zip(names, widths, strict=True):
        left = name in texts
        result.add_column(name, justify="left" if left else "right", width=chosen, overflow="fold")
    for cells, style in rows:
        result.add_row(*cells, style=style)
    return result


def size(value_bytes: float) -> str:
    """Return a number of bytes as text."""
    return f"{value_bytes / 1e6:,.0f} MB" if value_bytes >= 1e6 else f"{value_bytes / 1e3:,.0f} kB"


def data_lines(data: Manifest) -> str:
    """Return lines about the data: notes and skipped files."""
    lines = list(data.notes)
    lines += skipped_lines([(item.path, item.reason) for item in data.skipped])
    return visible_lines("\n".join(lines))


def cache_table(cache: FeatureCache) -> None:
    """Print the contents of the feature cache."""
    out, holdings = console_out(), cache.holdings()
    if not holdings:
        out.print(f"Nothing is cached in {cache.path} yet.")
        return
    rows: list[Row] = []
    for holding in sorted(holdings, key=lambda h: (h.about.get("model", ""), h.about.get("index", 0))):
        requests = holding.hits + holding.misses
        cells = (
            str(holding.about.get("model", "?")),
            str(holding.about.get("cut", "?")),
            str(holding.about.get("preprocessing", {}).get("size", "?")),
            f"{holding.features:,}",
            f"{holding.form.row_bytes / 1000:,.1f} kB" if holding.form else "",
            size(holding.bytes),
            percent(holding.hits / requests) if requests else "",
            f"{datetime.fromtimestamp(holding.used):%Y-%m-%d}",
        )
        rows.append((cells, None))
    names = ("model", "cut", "pixels", "count", "each", "total", "hits", "last used")
    title = f"{size(cache.total_bytes())} in {cache.path}"
    out.print(table(title, names, rows, {"model": 8, "cut": len("statistics")}))
