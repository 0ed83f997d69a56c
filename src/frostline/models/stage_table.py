"""The stages of a backbone as a table for the terminal and as a picture.

Marks are given by the caller as {strategy: cut index}, so this file knows shapes and not strategies. Frozen
and trainable differ by hatching and by text as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.models import Backbone, Stage

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
            _cut_text(index, offered, _marks_at(index, marks)),
        )
        for index, stage in enumerate(backbone.stages)
    ]


def _marks_at(index: int, marks: Mapping[str, int] | None) -> list[str]:
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
        f"{count_text(total)} parameters. A cut freezes the rows above it; its own and those below train."
    ]
    return Group(table, *(Text(line) for line in (*lines, *backbone.notes)))


# Pale ice and warm orange: distinct in grey print and to the colour-blind, and hatched as well.
FROZEN, TRAINABLE = "#cfe3f2", "#f4a261"
INK, FAINT, ICE = "#1d2b3a", "#6b7783", "#8fb3cc"
WIDTH_IN, TITLE_IN, BLOCKS_IN, STRIP_IN = 11.5, 0.45, 3.0, 0.34  # the page, its parts, one strategy's strip
LEFT, SHARE = 0.145, 0.84  # of the width: where drawing starts, and how much of it there is
LINES = (-0.16, -0.33, -0.50)  # heights of the three lines of numbers, in the blocks' own units
CROWDED = 10  # stages: with more, letters get smaller


def image(backbone: Backbone, path: Path | str, marks: Mapping[str, int] | None = None) -> None:
    """Draw the stages as blocks, stem left, and below them a strip for each strategy; write it to `path`.

    A block's height goes with the square root of its output's side, its width with its share of compute.
    Raises `OSError` if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strips = dict(sorted((marks or {}).items(), key=lambda pair: -pair[1]))
    strips_in = STRIP_IN * (len(strips) + 1)
    height = TITLE_IN + BLOCKS_IN + strips_in + 0.15
    figure = Figure(figsize=(WIDTH_IN, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    side, total = backbone.preprocessing.size, sum(stage.parameters for stage in backbone.stages)
    title = f"{backbone.name}   {side} × {side} pixels, {count_text(total)} parameters"
    figure.text(0.02, 1 - 0.3 / height, title, fontsize=12, color=INK, weight="bold", va="center")
    edges = _edges(backbone.stages)
    _draw_blocks(_axes(figure, edges, height, BLOCKS_IN, TITLE_IN), backbone, edges)
    _draw_strips(_axes(figure, edges, height, strips_in, TITLE_IN + BLOCKS_IN), backbone, edges, strips)
    # The bytes say nothing of matplotlib's version; other formats know no such field.
    metadata = {"Software": None} if str(path).lower().endswith(".png") else None
    figure.savefig(path, metadata=metadata)


def _axes(figure: Figure, edges: list[float], height: float, high: float, top: float) -> Axes:
    """Return axes over the whole width, `high` inches high, `top` inches below the upper edge."""
    axes = figure.add_axes((LEFT, 1 - (top + high) / height, SHARE, high / height))
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
    """Draw the arrow from general to specific, and each stage as a block with its numbers below."""
    axes.set_ylim(-0.7, 1.55)
    end = edges[-1]
    grey: dict[str, Any] = {"fontsize": 9, "color": FAINT}
    axes.annotate("", xy=(end, 1.4), xytext=(0, 1.4), arrowprops={"arrowstyle": "->", "color": FAINT})
    axes.text(0.05, 1.44, "general: edges, colours, textures", va="bottom", style="italic", **grey)
    caption = "specific: parts, objects, classes"
    axes.text(end - 0.1, 1.44, caption, ha="right", va="bottom", style="italic", **grey)
    for y, label in zip(LINES, ("output", "parameters", "compute"), strict=True):
        axes.text(-0.012 * end, y, label, ha="right", va="center", **grey)
    sides = [sqrt(_side(stage.shape)) for stage in backbone.stages]
    for index, stage in enumerate(backbone.stages):
        high = max(0.1, sides[index] / max(sides))
        _draw_block(axes, stage, (edges[index], edges[index + 1]), high, (index, len(sides)))


def _draw_block(
    axes: Axes, stage: Stage, span: tuple[float, float], high: float, place: tuple[int, int]
) -> None:
    """Draw one stage; `place` is its index and how many there are. Blocks darken towards the head."""
    from matplotlib.patches import Rectangle

    (left, right), (index, count) = span, place
    pale = 1 - index / max(count - 1, 1)
    colour = (0.16 + 0.62 * pale, 0.33 + 0.50 * pale, 0.47 + 0.43 * pale)
    corner = (left + 0.08, 0.52 - high / 2)
    axes.add_patch(Rectangle(corner, right - left - 0.16, high, facecolor=colour, edgecolor=INK))
    letters = 8.5 if count <= CROWDED else 6.6
    centred: dict[str, Any] = {"x": (left + right) / 2, "ha": "center", "color": INK}
    name = stage.name.replace("-", "-\n") if len(stage.name) > 11 else stage.name
    axes.text(y=1.12, s=name, va="bottom", fontsize=letters + 0.8, weight="bold", **centred)
    shape = "×".join(str(extent) for extent in stage.shape) or "–"
    numbers = (shape, count_text(stage.parameters), f"{100 * stage.compute_share:.0f} %")
    for y, number in zip(LINES, numbers, strict=True):
        axes.text(y=y, s=number, va="center", fontsize=letters, **centred)


def _side(shape: tuple[int, ...]) -> float:
    """Return the side of a map (channels first or last) or of as many tokens, 1 for a vector."""
    if len(shape) == 3:
        return shape[1] if shape[1] == shape[2] else min(shape)
    return sqrt(shape[0]) if len(shape) == 2 else 1


def _draw_strips(axes: Axes, backbone: Backbone, edges: list[float], strips: Mapping[str, int]) -> None:
    """Draw where exact cuts are, and for each strategy what is frozen (hatched) and what trains (plain)."""
    axes.set_ylim(len(strips), -1)
    beside = -0.012 * edges[-1]
    axes.text(beside, -0.5, "exact cuts", ha="right", va="center", fontsize=9, color=FAINT)
    places = [edges[cut.index] for cut in backbone.cuts]
    axes.plot(places, [-0.4] * len(places), "v", color=INK, markersize=6, clip_on=False)
    axes.vlines(places[1:], -0.4, len(strips), color=FAINT, lw=0.6, linestyles=":", zorder=0)
    for row, (name, cut) in enumerate(strips.items()):
        axes.text(beside, row + 0.5, name, ha="right", va="center", fontsize=9, color=INK)
        if cut > 0:
            _draw_strip(axes, row, (0.0, edges[cut]), FROZEN, "///", "frozen")
        _draw_strip(axes, row, (edges[cut], edges[-1]), TRAINABLE, "", "trains")


def _draw_strip(axes: Axes, row: int, span: tuple[float, float], colour: str, hatch: str, word: str) -> None:
    from matplotlib.patches import Rectangle

    left, right = span
    axes.add_patch(
        Rectangle((left, row + 0.12), right - left, 0.76, facecolor=colour, hatch=hatch, edgecolor=ICE, lw=0)
    )
    plate = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
    middle = (left + right) / 2
    axes.text(middle, row + 0.5, word, ha="center", va="center", fontsize=8, color=INK, bbox=plate)
