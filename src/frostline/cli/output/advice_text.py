"""Print advice."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from frostline.advice import Option, Planned
from frostline.advice.text import minutes
from frostline.cli.output.diagnostics_text import similarity_line, size_lines
from frostline.cli.output.formatting import console_out, size


def advice(planned: Planned, train: str) -> None:
    """Print every option, the recommendation with its reasons, and the next command.

    `train` is that command without the strategy.
    """
    out, advised = console_out(), planned.advice
    for line in size_lines(planned.signals):
        out.print(line)
    if planned.signals.similarity:
        out.print(similarity_line(planned.signals.similarity, planned.signals.model))
    out.print(_options(advised.options, advised.recommended))
    out.print(f"Recommended: {advised.recommended}", style="bold", highlight=False)
    out.print(hyperparameters_line(advised.hyperparameters), highlight=False)
    for line in advised.why:
        out.print(line, highlight=False)
    for line in advised.would_change:
        out.print(f"  · {line}", highlight=False)
    for note in (f"Basis: {advised.basis}. {' '.join(advised.notes)}".rstrip(), *planned.signals.notes):
        out.print(f"Note: {note}", highlight=False)
    rows = advised.option(advised.recommended).rows
    more = "" if rows == "auto" else f" --cache {rows}"
    out.print(f'\n  {train} --strategy "{advised.recommended}"{more}', highlight=False, soft_wrap=True)


def hyperparameters_line(settings: dict[str, Any]) -> str:
    """Return a line of a strategy's hyperparameters."""
    if not settings["epochs"]:
        return f"A linear head is fitted on frozen features, {settings['size']} px; nothing else is trained."
    return (
        f"Stages from {settings['cut']} on are trained for {settings['epochs']} epochs: learning rate "
        f"{settings['lr']:g} at the head, × {settings['layer_decay']:g} for each stage below; BatchNorm "
        f"{settings['bn']}, augmentation {settings['augment']}, {settings['size']} px, batch size "
        f"{settings['batch']}."
    )


def _options(options: tuple[Option, ...], recommended: str) -> Table:
    title = "Expected accuracy on new images (80 % interval) and cost of each strategy"
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
