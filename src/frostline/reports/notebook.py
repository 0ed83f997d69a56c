"""Results in a notebook: a small table, a data frame, a chart. Imports no torch; pandas is asked for late."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from frostline.errors import UsageError
from frostline.reports import chart_parts, charts
from frostline.reports.display_names import titled, visible

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
    return Plot(chart_parts.concrete(spec))


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


# --- what each result draws -------------------------------------------------------------------------------


def epochs_plot(epochs: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw a run's loss by epoch. Raises `UsageError` where it has no epochs: a head that was solved for."""
    if not epochs:
        raise UsageError("This run has no epochs to draw: its head was solved for in one go.")
    names = {"loss": "training", "val_loss": "held out"}
    values = [
        {"row": "run", "epoch": n + 1, "what": what, "value": row[key], "low": row[key], "high": row[key]}
        for n, row in enumerate(epochs)
        for key, what in names.items()
        if row.get(key) is not None
    ]
    what = [name for name in names.values() if any(value["what"] == name for value in values)]
    return plot(charts.curves(values, "run", what, "loss"))


def standings_plot(standings: Sequence[Mapping[str, Any]], winner: str, model: str) -> Plot:
    """Draw accuracy against seconds, a mark for each strategy that was compared.

    `winner` is its strategy, `model` its network.
    """
    known = [row for row in standings if row["accuracy"] is not None and row["run_seconds"]]
    if not known:
        raise UsageError("Nothing was run to its end, so there is nothing to draw.")
    seconds = [float(row["run_seconds"]) for row in known]
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
            "kind": "chosen"
            if (row["strategy"], row.get("model", model)) == (winner, model)
            else ("tried" if row["share"] == 1.0 else "short"),
        }
        for row in known
    ]
    ends = (min(v["low"] for v in values) - 0.02, min(1.0, max(v["high"] for v in values) + 0.02))
    return plot(charts.scatter(values, [], "images held out", (max(0.0, ends[0]), ends[1])))


def options_plot(options: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw what is expected of each strategy."""
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
        raise UsageError("Too little was measured to expect anything, so there is nothing to draw.")
    return plot(charts.forecast(values, [str(value["name"]) for value in values]))


def answers_plot(labels: Sequence[str]) -> Plot:
    """Draw how many images were given each label."""
    counts = {name: list(labels).count(name) for name in sorted(set(labels))}
    values = [{"name": visible(n), "part": "test", "count": count, "rank": 0} for n, count in counts.items()]
    return plot(charts.bars(values, [visible(name) for name in counts], ["test"]))


class Progress:
    """How far long work is, to pass as `progress=`: a bar in a notebook, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0
        self._notebook = _in_notebook()
        self._every_s = 0.2 if self._notebook else 10.0  # between two signs

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        now = time.monotonic()
        if done < total and now - self._shown < self._every_s:
            return
        self._shown = now
        if not self._notebook:
            print(f"  {what}: {done} of {total}", file=sys.stderr, flush=True)
            return
        # IPython is untyped where it is installed, and may not be; named by a string it is Any either way.
        notebook: Any = import_module("IPython.display")
        bar = f'<progress value="{int(done)}" max="{int(total)}"></progress>'
        shown = notebook.HTML(f"{bar} {_text(what)}: {done:,} of {total:,}")
        if self._handle is None:
            self._handle = notebook.display(shown, display_id=True)
        else:
            self._handle.update(shown)


def _in_notebook() -> bool:
    """Whether a notebook's kernel is running us."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and hasattr(found, "kernel")
