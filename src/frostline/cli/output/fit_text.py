"""What `fit` found, in ten lines."""

from __future__ import annotations

import shlex
from typing import Any

from rich import box
from rich.table import Table

from frostline import sentences
from frostline.advice.text import minutes
from frostline.cli.output.comparison_text import again_line, standings
from frostline.cli.output.formatting import _out
from frostline.pipelines import Fitted
from frostline.sentences import between, percent


def networks(looked: list[dict[str, Any]]) -> Table:
    """A table of the networks that were looked at."""
    title = "Networks: a linear probe out of fold (95 % interval), one image's time, size of the weights"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("network", "accuracy", "95 %", "an image", "weights", ""):
        left = name in ("network", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=bool(name))
    for row in looked:
        known = row["probe_accuracy"] is not None
        table.add_row(
            row["model"],
            percent(row["probe_accuracy"]) if known else "",
            between(row["low"], row["high"]) if known else "",
            f"{row['latency_ms']:.1f} ms",
            f"{row['size_mb']:.1f} MB",
            row["reason"],
            style="bold" if row["kept"] else None,
        )
    return table


def fitted(found: Fitted) -> None:
    """Print the race, the winner, its accuracy worded for what it is, and what to do with the model."""
    out = _out()
    if found.result.get("models"):
        out.print(networks(found.result["models"]))
    if found.again:
        out.print(again_line(found.comparison is None or found.comparison.finished))
    if found.comparison:
        out.print(standings(found.comparison.result))
    for line in found.verdict[:3]:
        out.print(line, highlight=False)
    out.print(sentences.accuracy(found.result["headline"]), style="bold", highlight=False)
    if found.recommended not in (None, found.strategy):
        out.print(f"Experience had advised {found.recommended}.", highlight=False)
    spent, budget = minutes(found.seconds), minutes(found.budget_seconds)
    whole = found.comparison is None or found.comparison.every_image
    learned = "; the model has learned from all that may be learned from" if whole else ""
    out.print(f"{spent} of {budget}{learned}.")
    command = f"frostline predict {shlex.quote(str(found.study))} IMAGES"
    out.print(f"\n  {command}", highlight=False, soft_wrap=True)
