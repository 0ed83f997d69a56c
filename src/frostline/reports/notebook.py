"""Results in a notebook: a small table, a data frame, a chart. Imports no torch, and pandas only in use."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.errors import UsageError
from frostline.reports import chart_parts, charts
from frostline.reports.display_names import titled, visible

MOST_ROWS = 40  # shown of a table
CELL = 'style="text-align:left;padding:.25em .9em .25em 0"'


@dataclass(frozen=True)
class Plot:
    """A chart that a notebook draws; `spec` is its Vega-Lite specification."""

    spec: dict[str, Any]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the chart as Vega-Lite, and as an image for notebooks without Vega-Lite."""
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
    """Return the chart with fixed colours."""
    return Plot(chart_parts.concrete(spec))


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas data frame. Raises `UsageError` where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise UsageError("to_pandas() needs pandas, which is not installed: pip install pandas") from None
    return pandas.DataFrame(list(rows))


def table_html(title: str, rows: Sequence[Mapping[str, Any]], lines: Sequence[str] = ()) -> str:
    """Return a small table with a title and sentences under it; all text is escaped."""
    shown_rows = list(rows)[:MOST_ROWS]
    names = list(dict.fromkeys(name for row in shown_rows for name in row))
    head = "".join(f"<th {CELL}>{_text(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td {CELL}>{_text(row.get(name))}</td>" for name in names) + "</tr>"
        for row in shown_rows
    )
    n_hidden = len(rows) - len(shown_rows)
    more = f"<p>… and {n_hidden:,} more.</p>" if n_hidden > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if shown_rows else ""
    return f"<div><strong>{_text(title)}</strong>{table}{more}{_sentences(lines)}</div>"


def lines_html(title: str, lines: Sequence[str], path: str = "") -> str:
    """Return a title and sentences."""
    path_html = f"<p><code>{_text(path)}</code></p>" if path else ""
    return f"<div><strong>{_text(title)}</strong>{_sentences(lines)}{path_html}</div>"


def _sentences(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>" if lines else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    shown = f"{value:.4g}" if isinstance(value, float) else visible(str(value))
    return html.escape(shown)


# --- charts of each result -------------------------------------------------------------------------------


def epochs_plot(epochs: Sequence[Mapping[str, Any]]) -> Plot:
    """Return a run's loss by epoch. Raises `UsageError` where it has none: a head fitted in closed form."""
    if not epochs:
        raise UsageError("This run has no epochs to draw: its head was fitted in closed form.")
    names = {"loss": "training", "val_loss": "held out"}
    values = [
        {"row": "run", "epoch": n + 1, "what": series, "value": row[key], "low": row[key], "high": row[key]}
        for n, row in enumerate(epochs)
        for key, series in names.items()
        if row.get(key) is not None
    ]
    series = [name for name in names.values() if any(value["what"] == name for value in values)]
    return plot(charts.curves(values, "run", series, "loss"))


def standings_plot(standings: Sequence[Mapping[str, Any]]) -> Plot:
    """Return accuracy against seconds, a mark for each strategy; the winner is marked as chosen."""
    timed_rows = [row for row in standings if row["accuracy"] is not None and row["run_seconds"]]
    if not timed_rows:
        raise UsageError("No strategy was run to the end, so there is nothing to draw.")
    seconds = [float(row["run_seconds"]) for row in timed_rows]
    values = [
        {
            "key": titled(row),
            "name": visible(titled(row)),
            "label": visible(titled(row)),
            "accuracy": row["accuracy"],
            "low": row["accuracy"] if row["low"] is None else row["low"],
            "high": row["accuracy"] if row["high"] is None else row["high"],
            "seconds": row["run_seconds"],
            "side": chart_parts.side_of(float(row["run_seconds"]), seconds),
            "kind": "chosen" if row["winner"] else ("tried" if row["share"] == 1.0 else "short"),
        }
        for row in timed_rows
    ]
    limits = (min(v["low"] for v in values) - 0.02, min(1.0, max(v["high"] for v in values) + 0.02))
    return plot(charts.scatter(values, [], "held-out images", (max(0.0, limits[0]), limits[1])))


def options_plot(options: Sequence[Mapping[str, Any]]) -> Plot:
    """Return the expected accuracy of each strategy."""
    values = [
        {
            "name": visible(option["strategy"]),
            "kind": "expected",
            "value": option["expected_accuracy"],
            "low": option["low"],
            "high": option["high"],
        }
        for option in options
        if option["expected_accuracy"] is not None
    ]
    if not values:
        raise UsageError("Too little was measured to forecast an accuracy, so there is nothing to draw.")
    return plot(charts.forecast(values, [str(value["name"]) for value in values]))


def answers_plot(labels: Sequence[str]) -> Plot:
    """Return how many images were predicted as each label."""
    counts = {name: list(labels).count(name) for name in sorted(set(labels))}
    values = [
        {"name": visible(name), "subset": "test", "count": count, "rank": 0} for name, count in counts.items()
    ]
    return plot(charts.bars(values, [visible(name) for name in counts], ["test"]))
