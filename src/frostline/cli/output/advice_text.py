"""Advice as a person reads it."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from frostline.advice import Option, Planned
from frostline.advice.text import minutes
from frostline.cli.output.diagnostics_text import similarity_line, size_lines
from frostline.cli.output.formatting import _out, size


def advice(found: Planned, train: str) -> None:
    """Print every option, the recommendation with its reasons, and the command that follows it.

    `train` is that command without the strategy.
    """
    out, said = _out(), found.advice
    for line in size_lines(found.signals):
        out.print(line)
    if found.signals.similarity:
        out.print(similarity_line(found.signals.similarity, found.signals.model))
    out.print(_options(said.options, said.recommended))
    out.print(f"Recommended: {said.recommended}", style="bold", highlight=False)
    out.print(hyperparameters_line(said.hyperparameters), highlight=False)
    for line in said.why:
        out.print(line, highlight=False)
    for line in said.would_change:
        out.print(f"  · {line}", highlight=False)
    for note in (f"Basis: {said.basis}. {' '.join(said.notes)}".rstrip(), *found.signals.notes):
        out.print(f"Note: {note}", highlight=False)
    rows = said.option(said.recommended).rows
    more = "" if rows == "auto" else f" --cache {rows}"
    out.print(f'\n  {train} --strategy "{said.recommended}"{more}', highlight=False, soft_wrap=True)


def hyperparameters_line(found: dict[str, Any]) -> str:
    """What a strategy decides, with every default filled in."""
    if not found["epochs"]:
        return f"A linear head is solved for on frozen features, {found['size']} px; nothing else learns."
    return (
        f"Stages from {found['cut']} on learn, {found['epochs']} epochs: rate {found['lr']:g} at the head, "
        f"× {found['layer_decay']:g} for each stage below; BatchNorm {found['bn']}, augmentation "
        f"{found['augment']}, {found['size']} px, batches of {found['batch']}."
    )


def _options(options: tuple[Option, ...], recommended: str) -> Table:
    title = "What to expect of each strategy on new images (80 % interval), and what it costs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("strategy", "expected", "80 %", "time", "memory", "disk", ""):
        left = name in ("strategy", "")
        narrowest = 18 if name == "strategy" else None
        table.add_column(name, justify="left" if left else "right", min_width=narrowest, no_wrap=not left)
    for option in options:
        accuracy, low, high = option.expected_accuracy, option.low, option.high
        style = "bold" if option.strategy == recommended else (None if option.fits else "dim")
        table.add_row(
            option.strategy,
            "?" if accuracy is None else f"{100 * accuracy:.0f} %",  # errors are points, not tenths of them
            "" if low is None or high is None else f"{100 * low:.0f}–{100 * high:.0f} %",
            minutes(option.cost.seconds),
            size(option.cost.peak_memory_bytes),
            size(option.cost.disk_bytes),
            option.reason,
            style=style,
        )
    return table
