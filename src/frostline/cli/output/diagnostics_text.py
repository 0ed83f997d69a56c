"""Signals as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from frostline.cli.output.formatting import _out
from frostline.cost import Rates
from frostline.diagnostics import CurvePoint, Signals, Similarity, StageProbe
from frostline.diagnostics.similarity import FEWEST
from frostline.models.stage_table import count_text
from frostline.sentences import between, percent

# Words for a number, a choice. For lite0 photographs lie at 0.58 and 0.61, clip art and hands at 0.47 and
# 0.29, icons and spectrograms at 0.28 and 0.17 (docs/LOG.md 2026-11-24).
NEAR, FAR = 0.55, 0.25
RISING = 0.02  # of accuracy from twice the images: a choice
UNSURE = 0.05  # half an interval, beyond which a flat curve tells nothing: a choice


def signals(found: Signals) -> None:
    """Print what was measured: size, similarity, what each depth knows, and what more images would bring."""
    out = _out()
    for line in size_lines(found):
        out.print(line)
    if found.similarity:
        out.print(similarity_line(found.similarity, found.model))
    if found.confidence:
        c = found.confidence
        out.print(
            f"Its own classifier is sure of one of its {c.classes:,} classes to {percent(c.value)} on "
            f"average ({between(c.low, c.high)})."
        )
    if found.probe_by_stage:
        out.print(_depth_table(found))
        for line in _depth_lines(found):
            out.print(line)
    if found.rates:
        out.print(_rates_table(found.rates))
        out.print(_rates_line(found.rates))
    for note in found.notes:
        out.print(f"Note: {note}")


def size_lines(found: Signals) -> list[str]:
    """How much there is to learn from, and what to mind."""
    s = found.size
    fewest, middle, most = s.per_class
    spread = f"{middle} a class" if fewest == most else f"{fewest} to {most} a class, {middle} in the middle"
    lines = [
        f"{s.train:,} training images of {s.classes} classes ({spread}); {s.val:,} val, {s.test:,} test.",
        f"Typically {s.resolution[0]} × {s.resolution[1]} px, seen at {found.input_size} px.",
    ]
    more = []
    if s.imbalance >= 3:
        more.append(
            f"the largest class has {s.imbalance:.0f} times the images of the smallest, and always answering "
            f"it is right for {percent(most / s.train)}"
        )
    if s.copies:
        more.append(counted(s.copies, "exact copy", "exact copies"))
    if s.near_copies:
        more.append(counted(s.near_copies, "pair of near copies", "pairs of near copies"))
    if s.groups:
        more.append(f"{counted(s.groups, 'group', 'groups')} of images kept together")
    if s.set_aside:
        more.append(counted(s.set_aside, "file set aside", "files set aside"))
    if more:
        lines.append(f"Mind: {'; '.join(more)}.")
    return lines


def counted(number: int, one: str, several: str) -> str:
    """Write how many there are of something."""
    return f"{number:,} {one if number == 1 else several}"


def similarity_line(found: Similarity, model: str) -> str:
    """Similarity as a number, and in a word."""
    if not found.proven:
        word = "unproven for such a network"
    elif found.value >= NEAR:
        word = "near"
    else:
        word = "far" if found.value < FAR else "some way off"
    return (
        f"Similarity to what {model} was trained on: {found.value:.2f} ({found.low:.2f}–{found.high:.2f}), "
        f"{word} (by {found.basis}; 1 is the same, 0 is foreign)."
    )


def _depth_table(found: Signals) -> Table:
    title = "What each depth already knows: a probe, out of fold (95 % interval)"
    if any(row.random is not None for row in found.probe_by_stage):
        title += ", and one on random weights"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("after", "width", "similar", "probe", "95 %", "random", "LogME", "H-score", "5-NN")
    for name in columns:
        left = name == "after"
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    best = found.best_stage
    near = found.similarity.by_stage if found.similarity else {}
    for row in found.probe_by_stage:
        table.add_row(
            row.stage,
            str(row.width),
            f"{near[row.stage]:.2f}" if row.stage in near else "",
            percent(row.accuracy),
            between(row.low, row.high),
            "" if row.random is None else percent(row.random),
            f"{row.log_me:.2f}",
            f"{row.h_score:.2f}",
            percent(row.neighbours),
            style="bold" if row is best else None,
        )
    return table


def _rates_table(rates: Rates) -> Table:
    title = "What each stage costs on this machine: milliseconds an image, kilobytes a row"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("stage", "parameters", "frozen", "learning: forward", "backward", "row before it"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in rates.stages:
        learning = stage.learning[stage.plan]
        table.add_row(
            stage.name,
            count_text(stage.parameters),
            f"{1000 * stage.frozen_s:.2f}",
            f"{1000 * learning.forward_s:.2f}",
            f"{1000 * learning.backward_s:.2f}",
            f"{stage.row_bytes / 1000:.1f}",
        )
    return table


def _rates_line(rates: Rates) -> str:
    row = rates.last.row_bytes
    return (
        f"Reading and decoding {1000 * rates.file_s:.1f} ms an image, an augmented view of it "
        f"{1000 * rates.augment_s:.1f} ms; a row of {row / 1000:.1f} kB from the store "
        f"{1000 * rates.read.at(row):.3f} ms ({rates.threads} thread(s), batches of {rates.batch})."
    )


def _depth_lines(found: Signals) -> list[str]:
    best, last = found.best_stage, found.probe_by_stage[-1]
    assert best is not None
    if found.n_measured < FEWEST:
        return [f"Probes of {found.n_measured} images say next to nothing."]
    points = found.curve
    steps = ", ".join(f"{percent(point.accuracy)} from {point.images:,}" for point in points)
    return [
        _best_line(best, last),
        f"Learning curve of the last stage's probe: {steps} images; {_rise(found.curve)}.",
    ]


def _rise(points: Sequence[CurvePoint]) -> str:
    """Say what the curve says of more images; it is itself uncertain."""
    last = points[-1]
    if last.accuracy - points[-2].accuracy >= RISING:
        return "more images would probably still help a frozen network"
    if last.high - last.low > 2 * UNSURE:
        return "these are too few to tell whether more would help a frozen network"
    return "more of the same images would hardly help a frozen network"


def _best_line(best: StageProbe, last: StageProbe) -> str:
    if best is last:
        return f"The deepest features are the best: {percent(last.accuracy)}."
    if best.accuracy - last.accuracy <= (last.high - last.low) / 2:
        return f"The features of {best.stage} and of the last stage are not separated."
    gain = 100 * (best.accuracy - last.accuracy)
    return (
        f"The best features sit at {best.stage}, {gain:.0f} points above the last "
        "stage: the top of the network is tuned to other images; thawing it tends to pay."
    )
