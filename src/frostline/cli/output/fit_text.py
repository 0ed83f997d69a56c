"""Print the result of `fit`."""

from __future__ import annotations

import shlex
from typing import Any

from rich import box
from rich.table import Table

from frostline import sentences
from frostline.advice.text import minutes
from frostline.cli.output.comparison_text import again_line, standings
from frostline.cli.output.formatting import console_out
from frostline.pipelines import Fitted
from frostline.sentences import between, percent


def networks(rows: list[dict[str, Any]]) -> Table:
    """Return a table of the screened networks."""
    title = "Networks: out-of-fold linear probe (95 % interval), latency of one image, size of the weights"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("network", "accuracy", "95 %", "an image", "weights", ""):
        left = name in ("network", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=bool(name))
    for row in rows:
        probed = row["probe_accuracy"] is not None
        table.add_row(
            row["model"],
            percent(row["probe_accuracy"]) if probed else "",
            between(row["low"], row["high"]) if probed else "",
            f"{row['latency_ms']:.1f} ms",
            f"{row['size_mb']:.1f} MB",
            row["reason"],
            style="bold" if row["kept"] else None,
        )
    return table


def fitted(outcome: Fitted) -> None:
    """Print the standings, the verdict, the accuracy with its basis, and the next command."""
    out = console_out()
    if outcome.result.get("models"):
        out.print(networks(outcome.result["models"]))
    if outcome.again:
        out.print(again_line(outcome.comparison is None or outcome.comparison.finished))
    if outcome.comparison:
        out.print(standings(outcome.comparison.result))
    for line in outcome.verdict[:3]:
        out.print(line, highlight=False)
    out.print(sentences.accuracy(outcome.result["headline"]), style="bold", highlight=False)
    if outcome.recommended not in (None, outcome.strategy):
        out.print(f"The advice had recommended {outcome.recommended}.", highlight=False)
    spent, budget = minutes(outcome.seconds), minutes(outcome.budget_seconds)
    on_every_image = outcome.comparison is None or outcome.comparison.every_image
    suffix = "; the model was trained on all train and val images" if on_every_image else ""
    out.print(f"{spent} of {budget}{suffix}.")
    command = f"frostline predict {shlex.quote(str(outcome.study))} IMAGES"
    out.print(f"\n  {command}", highlight=False, soft_wrap=True)
