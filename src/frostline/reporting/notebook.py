"""Results in a notebook: a small table, a data frame, a chart. Imports no torch; pandas is asked for late."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.errors import UsageError
from frostline.reporting import charting
from frostline.reporting.naming import visible

MOST_ROWS = 40  # of a table that is shown as it stands
CELL = 'style="text-align:left;padding:.25em .9em .25em 0"'


@dataclass(frozen=True)
class Plot:
    """A chart that a notebook draws; `spec` is its Vega-Lite specification."""

    spec: dict[str, Any]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """For notebooks that know Vega-Lite, and as an image for those that don't."""
        import vl_convert

        return {
            "application/vnd.vegalite.v6+json": self.spec,
            "image/svg+xml": vl_convert.vegalite_to_svg(self.spec),
            "text/plain": f"<frostline.Plot of {len(self.spec['data']['values'])} values>",
        }

    def save(self, path: str) -> None:
        """Write the chart as an SVG file."""
        import vl_convert

        with open(path, "w", encoding="utf-8") as file:
            file.write(vl_convert.vegalite_to_svg(self.spec))


def plot(spec: dict[str, Any]) -> Plot:
    """Return a chart with colours of its own."""
    return Plot(charting.concrete(spec))


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas data frame. Raises `UsageError` where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise UsageError("to_pandas() needs pandas, which is not installed: pip install pandas") from None
    return pandas.DataFrame(list(rows))


def table_html(title: str, rows: Sequence[Mapping[str, Any]], lines: Sequence[str] = ()) -> str:
    """Return a small table with a title and sentences under it; every word is escaped."""
    shown = list(rows)[:MOST_ROWS]
    names = list(dict.fromkeys(name for row in shown for name in row))
    head = "".join(f"<th {CELL}>{_text(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td {CELL}>{_text(row.get(name))}</td>" for name in names) + "</tr>"
        for row in shown
    )
    left = len(rows) - len(shown)
    more = f"<p>… and {left:,} more.</p>" if left > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if shown else ""
    return f"<div><strong>{_text(title)}</strong>{table}{more}{_sentences(lines)}</div>"


def lines_html(title: str, lines: Sequence[str], where: str = "") -> str:
    """Return a title and sentences."""
    place = f"<p><code>{_text(where)}</code></p>" if where else ""
    return f"<div><strong>{_text(title)}</strong>{_sentences(lines)}{place}</div>"


def _sentences(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>" if lines else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    shown = f"{value:.4g}" if isinstance(value, float) else visible(str(value))
    return html.escape(shown)
