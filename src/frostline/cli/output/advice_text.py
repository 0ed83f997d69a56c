"""Print what was measured and what is advised: `measure`, `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from frostline.advice import Option, Planned
from frostline.advice.advice_wording import NOT_DIFFERENT, seconds_between
from frostline.cli.output.formatting import Row, console_out, size, table
from frostline.cost import Bottleneck, Rates
from frostline.diagnostics import CurvePoint, SeveralStageProbe, Signals, Similarity, StageProbe
from frostline.diagnostics.pretraining_similarity import FEWEST
from frostline.models.stage_table import count_text
from frostline.sentences import Closeness, between, last_stages, percent
from frostline.strategies import names_rate, parse

RISING = 0.02  # gain of accuracy from twice the images that counts as rising: a choice
# What decides how long a run takes, where pictures are decoded beside computing.
DECIDES = {
    Bottleneck.DECODING: "The bottleneck is decoding: images take longer to decode than to pass through the "
    "network.",
    Bottleneck.NETWORK: "The bottleneck is the network: images are decoded faster than it needs them.",
}
NOT_SIGNIFICANT = "n.s."
UNSURE = 0.05  # half-width of an interval beyond which a flat curve is inconclusive: a choice


def signals(measured: Signals) -> None:
    """Print what was measured: size, similarity, probes by depth, and the learning curve."""
    out = console_out()
    for line in size_lines(measured):
        out.print(line)
    if measured.similarity:
        out.print(similarity_line(measured.similarity, measured.model))
    if measured.confidence:
        c = measured.confidence
        out.print(
            f"Its own classifier's largest probability, over {c.classes:,} classes, is {percent(c.value)} on "
            f"average ({between(c.low, c.high)})."
        )
    if measured.probe_by_stage:
        out.print(_depth_table(measured))
        for line in _depth_lines(measured):
            out.print(line)
    if measured.rates:
        out.print(_rates_table(measured.rates))
        out.print(_rates_line(measured.rates))
    for note in measured.notes:
        out.print(f"Note: {note}")


def size_lines(signals: Signals) -> list[str]:
    """Return lines about the number of images, their size, and possible problems."""
    s = signals.size
    fewest, middle, most = s.per_class
    spread = f"{middle} per class" if fewest == most else f"{fewest} to {most} per class, median {middle}"
    lines = [
        f"{s.train:,} training images of {s.classes} classes ({spread}); {s.val:,} val, {s.test:,} test.",
        f"Typically {s.resolution[0]} × {s.resolution[1]} px, used at {signals.input_size} px.",
    ]
    remarks = []
    if s.imbalance >= 3:
        remarks.append(
            f"the largest class has {s.imbalance:.0f} times the images of the smallest, and always "
            f"predicting it has {percent(most / s.train)} accuracy"
        )
    if s.copies:
        remarks.append(counted(s.copies, "exact copy", "exact copies"))
    if s.near_copies:
        remarks.append(counted(s.near_copies, "pair of near copies", "pairs of near copies"))
    if s.groups:
        remarks.append(f"{counted(s.groups, 'group', 'groups')} of images kept together")
    if s.skipped:
        remarks.append(counted(s.skipped, "file skipped", "files skipped"))
    if remarks:
        lines.append(f"Note: {'; '.join(remarks)}.")
    return lines


def counted(number: int, one: str, several: str) -> str:
    """Return a number with its noun, singular or plural."""
    return f"{number:,} {one if number == 1 else several}"


def similarity_line(similarity: Similarity, model: str) -> str:
    """Return a line with the similarity as a number and in a word."""
    closeness = Closeness.of(similarity.value).value if similarity.proven else "unreliable for such a network"
    return (
        f"Similarity to what {model} was trained on: {similarity.value:.2f} "
        f"({similarity.low:.2f}–{similarity.high:.2f}), {closeness} (by {similarity.basis}; 1 is identical, "
        "0 is unrelated)."
    )


def _depth_table(signals: Signals) -> Table:
    title = "Out-of-fold probe at each depth (95 % interval)"
    if any(row.random is not None for row in signals.probe_by_stage):
        title += ", and one on random weights"
    names = ("after", "width", "similar", "probe", "95 %", "random", "LogME", "H-score", "5-NN")
    rows: list[Row] = []
    best = signals.best_stage
    near = signals.similarity.by_stage if signals.similarity else {}
    for row in signals.probe_by_stage:
        cells = (
            row.stage,
            str(row.width),
            f"{near[row.stage]:.2f}" if row.stage in near else "",
            percent(row.accuracy),
            between(row.low, row.high),
            "" if row.random is None else percent(row.random),
            f"{row.log_me:.2f}",
            f"{row.h_score:.2f}",
            percent(row.neighbours),
        )
        rows.append((cells, "bold" if row is best else None))
    return table(title, names, rows, {"after": len("blocks.0")})


def _rates_table(rates: Rates) -> Table:
    rows: list[Row] = []
    for stage in rates.stages:
        learning = stage.learning[stage.plan]
        cells = (
            stage.name,
            count_text(stage.parameters),
            f"{1000 * stage.frozen_s:.2f}",
            f"{1000 * learning.forward_s:.2f}",
            f"{1000 * learning.backward_s:.2f}",
            f"{stage.row_bytes / 1000:.1f}",
        )
        rows.append((cells, None))
    title = "Cost of each stage on this machine: milliseconds per image, kilobytes of features per image"
    names = ("stage", "parameters", "frozen", "training: forward", "backward", "features before it")
    return table(title, names, rows, {"stage": len("blocks.0")})


def _rates_line(rates: Rates) -> str:
    row = rates.last.row_bytes
    return (
        f"Reading and decoding {1000 * rates.file_s:.1f} ms an image, an augmented view of it "
        f"{1000 * rates.augment_s:.1f} ms; features of {row / 1000:.1f} kB from the cache "
        f"{1000 * rates.read.at(row):.3f} ms ({rates.threads} thread(s), batches of {rates.batch})."
    )


def _depth_lines(signals: Signals) -> list[str]:
    best, last = signals.best_stage, signals.probe_by_stage[-1]
    assert best is not None
    if signals.n_measured < FEWEST:
        return [f"Probes on {signals.n_measured} images are inconclusive."]
    points = signals.curve
    steps = ", ".join(f"{percent(point.accuracy)} from {point.images:,}" for point in points)
    return [
        _best_line(best, last),
        *_several_lines(signals.linear_probe),
        f"Learning curve of the last stage's probe: {steps} images; {_rise(signals.curve)}.",
    ]


def _several_lines(several: SeveralStageProbe | None) -> list[str]:
    if several is None:
        return []
    what = f"linear_probe, which reads {last_stages(several.layers)} at once"
    return [f"{what}: {percent(several.accuracy)} ({between(several.low, several.high)}) out of fold."]


def _rise(points: Sequence[CurvePoint]) -> str:
    """Return what the learning curve suggests about more images, as text."""
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
        return f"The features of {best.stage} and of the last stage are not significantly different."
    gain = 100 * (best.accuracy - last.accuracy)
    return (
        f"The best features are those of {best.stage}, {gain:.0f} points above the last stage: the top of "
        "the network is specialised to other images; unfreezing it tends to help."
    )


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
    if any(shortly(option) == NOT_SIGNIFICANT for option in advised.options):
        out.print(f"{NOT_SIGNIFICANT}: {NOT_DIFFERENT} from the recommended one.")
    out.print(f"Recommended: {advised.recommended}", style="bold")
    out.print(hyperparameters_line(advised.hyperparameters))
    if bottleneck := advised.option(advised.recommended).cost.decides:
        out.print(DECIDES[bottleneck])
    for line in advised.why:
        out.print(line)
    for line in advised.would_change:
        out.print(f"  · {line}")
    basis = [] if advised.basis == "none" else [f"Basis: {advised.basis}.", *advised.notes]
    for note in (*filter(None, [" ".join(basis)]), *planned.signals.notes):
        out.print(f"Note: {note}")
    cache = advised.option(advised.recommended).cache
    more = "" if cache == "auto" else f" --cache {cache}"
    if advised.hyperparameters["batch_lowered"]:  # for the memory, which `train` isn't told
        more += f" --batch-size {advised.hyperparameters['batch']}"
        if not names_rate(parse(advised.recommended)):
            more += f" --lr {advised.hyperparameters['lr']:.4g}"
    out.print(f'\n  {train} --strategy "{advised.recommended}"{more}', soft_wrap=True)


def _why_batch(settings: dict[str, Any]) -> str:
    reason = settings.get("batch_reason")
    return f" ({reason})" if reason else ""


def hyperparameters_line(settings: dict[str, Any]) -> str:
    """Return a line of a strategy's hyperparameters."""
    if not settings["epochs"]:
        return f"A linear head is fitted on frozen features, {settings['size']} px; nothing else is trained."
    return (
        f"Stages from {settings['cut']} on are trained for {settings['epochs']} epochs: learning rate "
        f"{settings['lr']:g} at the head, × {settings['layer_decay']:g} for each stage below; BatchNorm "
        f"{settings['bn']}, augmentation {settings['augment']}, {settings['size']} px, batch size "
        f"{settings['batch']}{_why_batch(settings)}."
    )


def shortly(option: Option) -> str:
    """Return the reason in two words, without what the column of times and the sentences below say."""
    if not option.fits:
        return option.reason
    return option.reason.partition(", ")[0].partition(":")[0].replace(NOT_DIFFERENT, NOT_SIGNIFICANT)


def _options(options: tuple[Option, ...], recommended: str) -> Table:
    on_gpu = any(option.cost.device_peak_bytes is not None for option in options)
    memories = ("memory", "GPU memory") if on_gpu else ("memory",)
    rows: list[Row] = []
    for option in options:
        accuracy, low, high = option.expected_accuracy, option.low, option.high
        style = "bold" if option.strategy == recommended else (None if option.fits else "dim")
        cells = (
            option.strategy,
            "?" if accuracy is None else f"{100 * accuracy:.0f} %",  # errors are points, not tenths of them
            "" if low is None or high is None else f"{100 * low:.0f}–{100 * high:.0f} %",
            seconds_between(*option.seconds_span),
            size(option.cost.peak_memory_upper_bytes),
            *([size(option.cost.device_peak_bytes or 0)] if on_gpu else []),
            size(option.cost.disk_bytes),
            shortly(option),
        )
        rows.append((cells, style))
    title = "Expected accuracy on new images, time (80 % intervals), peak memory at most, disk"
    names = ("strategy", "expected", "80 %", "time", *memories, "disk", "")
    return table(title, names, rows, {"strategy": len("lp_ft(refit_layers=4)"), "": len("recommended")})
