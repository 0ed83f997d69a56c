"""The stages of a backbone as a table for the terminal and as a picture.

Marks are given by the caller as {strategy: cut index}, so this file knows shapes and not strategies. Frozen
and trainable are told apart by hatching and by words as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.backbone import Backbone, Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import RenderableType


def shape_text(shape: tuple[int, ...]) -> str:
    """Return `32 × 112 × 112`."""
    return " × ".join(str(extent) for extent in shape) or "–"


def count_text(count: int) -> str:
    """Return a count of parameters for people: `928`, `39.7 k`, `1.65 M`."""
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= limit:
            scaled = count / limit
            return f"{scaled:.2f} {unit}" if scaled < 10 else f"{scaled:.1f} {unit}"
    return str(count)


def rows(backbone: Backbone, marks: Mapping[str, int] | None = None) -> list[tuple[str, ...]]:
    """Return one row a stage, stem first: index, name, output, parameters, share of compute, cuts here.

    The last column says what a cut before this stage is: which strategies start to train here, an exact cut
    that no strategy uses, or that there is none.
    """
    offered = {cut.index for cut in backbone.cuts}
    return [
        (
            str(index),
            stage.name,
            shape_text(stage.shape),
            count_text(stage.parameters),
            f"{100 * stage.compute_share:.1f} %",
            _cut_text(index, offered, _here(index, marks)),
        )
        for index, stage in enumerate(backbone.stages)
    ]


def _here(index: int, marks: Mapping[str, int] | None) -> list[str]:
    return [name for name, cut in (marks or {}).items() if cut == index]


def _cut_text(index: int, offered: set[int], names: list[str]) -> str:
    if names:
        return ", ".join(names)
    return "·" if index in offered else "no exact cut"


def text(backbone: Backbone, marks: Mapping[str, int] | None = None) -> RenderableType:
    """Return the table that `frostline stages` prints, for `rich.console.Console.print`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    side = backbone.preprocessing.size
    table = Table(title=f"{backbone.name}, {side} × {side} pixels", title_justify="left", pad_edge=False)
    for heading in ("#", "stage", "output"):
        table.add_column(heading, no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("compute", justify="right", no_wrap=True)
    table.add_column("trains from here on")
    for row in rows(backbone, marks):
        table.add_row(*row)
    total = sum(stage.parameters for stage in backbone.stages)
    lines = [
        f"{count_text(total)} parameters. Everything above a cut is frozen, that row and below it train."
    ]
    return Group(table, *(Text(line) for line in (*lines, *backbone.notes)))


FROZEN, TRAINABLE = (
    "#cfe3f2",
    "#f4a261",
)  # pale ice and warm orange: distinct in grey print and to the colour-blind
INK, FAINT = "#1d2b3a", "#7b8794"
WIDTH_IN, TOP_IN, STRIP_IN = 11.5, 3.1, 0.34  # inches: the page, the blocks, one strategy's strip


def image(backbone: Backbone, path: Path | str, marks: Mapping[str, int] | None = None) -> None:
    """Draw the stages as blocks, stem left, and below them a strip for each strategy; write it to `path`.

    A block is as high as its output is (square root of the side) and as wide as its share of compute allows.
    Raises `OSError` if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    marks = dict(sorted((marks or {}).items(), key=lambda pair: -pair[1]))
    height = TOP_IN + STRIP_IN * max(len(marks), 1) + 0.9
    figure = Figure(figsize=(WIDTH_IN, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    edges = _edges(backbone.stages)
    _draw_blocks(_axes(figure, edges, height, TOP_IN, 0.55), backbone, edges)
    _draw_strips(_axes(figure, edges, height, height - TOP_IN - 0.75, TOP_IN + 0.55), backbone, edges, marks)
    figure.savefig(path, metadata={"Software": None})


def _axes(figure: Figure, edges: list[float], height: float, high: float, top: float) -> Axes:
    """Return axes over the whole width, `high` inches high, `top` inches below the upper edge."""
    axes = figure.add_axes((0.145, 1 - (top + high) / height, 0.84, high / height))
    axes.set_xlim(0, edges[-1])
    axes.set_axis_off()
    return axes


def _edges(stages: tuple[Stage, ...]) -> list[float]:
    """Return where stages begin and end: all have room for their name, busy ones a little more."""
    edges = [0.0]
    for stage in stages:
        edges.append(edges[-1] + 1.0 + 0.8 * stage.compute_share)
    return edges


def _draw_blocks(axes: Axes, backbone: Backbone, edges: list[float]) -> None:
    from matplotlib.patches import Rectangle

    axes.set_ylim(-0.75, 1.5)
    small = 8.5 if len(backbone.stages) <= 10 else 6.5
    for index, stage in enumerate(backbone.stages):
        left, right = edges[index], edges[index + 1]
        middle, high = (left + right) / 2, _height(stage, backbone.preprocessing.size)
        shade = 1 - index / max(len(backbone.stages) - 1, 1)
        colour = (0.16 + 0.62 * shade, 0.33 + 0.50 * shade, 0.47 + 0.43 * shade)
        axes.add_patch(
            Rectangle(
                (left + 0.08, 0.5 - high / 2), right - left - 0.16, high, facecolor=colour, edgecolor=INK
            )
        )
        axes.text(
            middle, 1.16, stage.name, ha="center", va="bottom", fontsize=small + 1, color=INK, weight="bold"
        )
        lines = (
            _short_shape(stage.shape),
            count_text(stage.parameters),
            f"{100 * stage.compute_share:.0f} %",
        )
        axes.text(
            middle, -0.1, "\n".join(lines), ha="center", va="top", fontsize=small, color=INK, linespacing=1.5
        )
    axes.text(
        -0.1,
        -0.1,
        "output\nparameters\ncompute",
        ha="right",
        va="top",
        fontsize=8.5,
        color=FAINT,
        linespacing=1.5,
    )
    axes.annotate(
        "", xy=(edges[-1], 1.42), xytext=(0, 1.42), arrowprops={"arrowstyle": "->", "color": FAINT, "lw": 1.2}
    )
    for place, words, align in (
        (0.05, "general: edges, colours, textures", "left"),
        (edges[-1] - 0.15, "specific: parts, objects, classes", "right"),
    ):
        axes.text(place, 1.47, words, ha=align, va="bottom", fontsize=9, color=FAINT, style="italic")
    side = backbone.preprocessing.size
    axes.text(-0.1, 1.47, f"{side} × {side} image", ha="right", va="bottom", fontsize=9, color=INK)


def _short_shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(extent) for extent in shape) or "–"


def _height(stage: Stage, side: int) -> float:
    """Return the drawn height, 0.12–1: the square root of the output's side over the image's."""
    if len(stage.shape) == 3:
        own = sorted(stage.shape)[0] if stage.shape[1] != stage.shape[2] else stage.shape[1]
    else:
        own = round(sqrt(prod(stage.shape[:-1]))) if len(stage.shape) == 2 else 1
    return max(0.12, min(1.0, sqrt(own / side)))


def _draw_strips(axes: Axes, backbone: Backbone, edges: list[float], marks: Mapping[str, int]) -> None:
    """Draw for each strategy which stages are frozen (hatched) and which train (plain)."""
    from matplotlib.patches import Rectangle

    count = max(len(marks), 1)
    axes.set_ylim(count, 0)
    for row, (name, cut) in enumerate(marks.items()):
        axes.text(-0.1, row + 0.5, name, ha="right", va="center", fontsize=9, color=INK)
        spans = ((0.0, edges[cut], FROZEN, "///", "frozen"), (edges[cut], edges[-1], TRAINABLE, "", "trains"))
        for left, right, colour, hatch, word in spans:
            if right <= left:
                continue
            axes.add_patch(
                Rectangle(
                    (left, row + 0.12),
                    right - left,
                    0.76,
                    facecolor=colour,
                    hatch=hatch,
                    edgecolor="#8fb3cc" if hatch else "none",
                    lw=0,
                )
            )
            plate = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
            axes.text(
                (left + right) / 2,
                row + 0.5,
                word,
                ha="center",
                va="center",
                fontsize=8,
                color=INK,
                bbox=plate,
            )
