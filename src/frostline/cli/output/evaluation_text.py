"""Print an evaluation: figures, classes, confusions, values, differences, mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from frostline.cli.output.formatting import console_out
from frostline.metrics import SENSITIVITY
from frostline.reports.display_names import shortened, visible
from frostline.sentences import between, counted, named, percent, signed

if TYPE_CHECKING:
    from frostline.pipelines.evaluation import Estimate, Evaluation, PairedDifference
    from frostline.pipelines.evaluation.results import Mistake, UnknownClass

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "average_precision": "average precision",
    "auroc": "AUROC",
    "log_loss": "log loss (lower is better)",
    "brier": "Brier score (lower is better)",
    "ece": "calibration error (ECE)",
}
LOWER_IS_BETTER = ("log_loss", "brier")
SHOWN_ROWS = 40  # most classes or values in a table, as in that of predictions
SHOWN_CONFUSIONS = 10
NAME_LENGTH = 14  # of a class in the matrix
SHOWN_UNREADABLE = 20


def evaluation(result: Evaluation, mistakes: Sequence[Mistake], written: Sequence[str]) -> None:
    """Print everything about an evaluation, and which files were written."""
    out = console_out()
    if result.figures is None:
        out.print("No image is left to judge by: each was learned from, or is of a class that is not known.")
    else:
        _figures(out, result)
        for difference, other in zip(result.differences, result.others, strict=True):
            _difference(out, difference, result, other)
    _apart(out, result)
    for note in result.notes:
        out.print(note)
    if result.figures is not None:
        _classes(out, result)
        _confusion(out, result)
        _by_value(out, result)
        _mistakes(out, result, mistakes)
    for _, reason in result.unreadable[:SHOWN_UNREADABLE]:
        out.print(f"not used: {visible(reason)}")
    if len(result.unreadable) > SHOWN_UNREADABLE:
        out.print(f"… and {len(result.unreadable) - SHOWN_UNREADABLE:,} more that could not be used.")
    for path in written:
        out.print(f"Written: {path}")


def _named(name: str) -> str:
    """Return what a person calls a metric."""
    return NAMES.get(name) or name.replace("_", " ")


def _is_number(name: str) -> bool:
    """Return whether a metric is no percentage: a loss, kappa, or a function of the caller's."""
    return name in LOWER_IS_BETTER or not (not name or name in NAMES or name.startswith(SENSITIVITY))


def _order(result: Evaluation) -> list[str]:
    return [result.metric, *(name for name in NAMES if name != result.metric)]


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if _is_number(name) else percent(value)


def _interval(name: str, estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    if _is_number(name):
        return f"{estimate.low:.3f}–{estimate.high:.3f}"
    return between(estimate.low, estimate.high)


def _right_aligned(*headings: str, title: str | None = None) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    return table


def _figures(out: Console, result: Evaluation) -> None:
    assert result.figures is not None
    figures = result.figures
    groups = "" if figures.units == figures.images else f", {figures.units:,} independent of each other"
    title = f"{visible(result.model)} on {counted(figures.images, 'image')}{groups}"
    table = _right_aligned("", "value", "95 % interval", title=title)
    for name in _order(result):
        estimate = figures.estimate(name)
        if estimate.value is not None:
            style = "bold" if name == result.metric else None
            table.add_row(_named(name), _value(name, estimate.value), _interval(name, estimate), style=style)
    out.print(table)


def _difference(out: Console, difference: PairedDifference, first: Evaluation, other: Evaluation) -> None:
    assert other.figures is not None
    first_name, other_name = visible(difference.first), visible(difference.other)
    title = f"{first_name} compared with {other_name}, on the same {counted(difference.images, 'image')}"
    table = _right_aligned("", other_name, f"{first_name} is higher by", "95 % interval", title=title)
    for name in _order(first):
        if name not in difference.metrics:
            continue
        estimate = difference.metrics[name]
        table.add_row(
            _named(name),
            _value(name, other.figures.estimate(name).value),
            _signed(name, estimate.value),
            _signed_interval(name, estimate),
            style="bold" if name == first.metric else None,
        )
    out.print(table)
    p = "" if difference.mcnemar_p is None else f" (McNemar's exact p = {_p(difference.mcnemar_p)})"
    out.print(
        f"Only {first_name} is right on {counted(difference.only_first, 'image')}, only {other_name} on "
        f"{difference.only_other:,}{p}. {_verdict(difference, first.metric)}"
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _signed(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return signed(value, 3) if _is_number(name) else f"{signed(100 * value)} points"


def _signed_interval(name: str, estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "–"
    if _is_number(name):
        return f"{signed(estimate.low, 3)} to {signed(estimate.high, 3)}"
    return f"{signed(100 * estimate.low)} to {signed(100 * estimate.high)}"


def _verdict(difference: PairedDifference, metric: str) -> str:
    """Return whether the interval of the chosen metric's difference excludes zero, in a sentence."""
    name = metric if metric in difference.metrics else "accuracy"
    estimate = difference.metrics[name]
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.low <= 0 <= estimate.high:
        return f"By {_named(name).partition(' (')[0]} neither is shown to be better."
    first_is_better = (estimate.low > 0) != (name in LOWER_IS_BETTER)
    better = difference.first if first_is_better else difference.other
    return f"By {_named(name).partition(' (')[0]} {visible(better)} is better."


def _apart(out: Console, result: Evaluation) -> None:
    """Print what stands apart from the figures."""
    learned = result.learned
    if learned is not None:
        accuracy = learned.accuracy
        ends = between(accuracy.low or 0.0, accuracy.high or 0.0)
        out.print(
            f"Apart: {counted(learned.images, 'image')} that "
            f"{'a model' if result.others else 'the model'} learned from, accuracy "
            f"{percent(accuracy.value or 0.0)} ({ends}), which says nothing about new images."
        )
    if result.unknown:
        total = sum(one.images for one in result.unknown)
        models = sum(bool(one.run) for one in (result, *result.others))
        listed = "; ".join(_unknown(one, models) for one in result.unknown[:SHOWN_ROWS])
        out.print(f"Apart: {counted(total, 'image')} of classes that are not known: {listed}.")
    if result.absent:
        out.print(
            f"No image of {named([visible(name) for name in result.absent])}: means over classes leave "
            "them out."
        )


def _unknown(one: UnknownClass, models: int) -> str:
    text = f"{visible(one.name)} ({counted(one.images, 'image')}"
    if len(one.unknown_to) < models:
        text += f", not a class of {' and '.join(map(visible, one.unknown_to))}"
    if one.predicted:
        label = next(iter(one.predicted))
        text += f", {'all' if len(one.predicted) == 1 else 'mostly'} predicted as {visible(label)}"
    text += ")"
    return f"{text} – did you mean {visible(one.similar)}?" if one.similar else text


def _classes(out: Console, result: Evaluation) -> None:
    rows = [row for row in result.per_class if row.support or row.predicted]
    table = _right_aligned("class", "precision", "recall", "95 % interval", "F1", "images")
    shown = rows if len(rows) <= SHOWN_ROWS else sorted(rows, key=lambda row: row.recall or 0.0)[:SHOWN_ROWS]
    for row in shown:
        table.add_row(
            visible(row.name),
            "never predicted" if row.precision is None else percent(row.precision),
            "no images" if row.recall is None else percent(row.recall),
            "–" if row.low is None or row.high is None else between(row.low, row.high),
            "–" if row.f1 is None else percent(row.f1),
            f"{row.support:,}",
        )
    out.print(table)
    if len(rows) > len(shown):
        out.print(f"The {len(shown)} classes with the lowest recall of {len(rows):,}; --json gives all.")


def _confusion(out: Console, result: Evaluation) -> None:
    """Print the matrix where it fits the terminal, else the most frequent confusions."""
    counts = result.confusion.counts
    involved = [
        c for c in range(len(result.classes)) if counts[c].any() or counts[:, c].any()
    ]  # others are empty
    names = [shortened(result.classes[c], NAME_LENGTH) for c in involved]
    widths = [max(len(name), 5) + 3 for name in names]
    if sum(widths) + NAME_LENGTH + 4 <= out.width:
        table = _right_aligned("label \\ predicted", *names)
        for c, name in zip(involved, names, strict=True):
            table.add_row(name, *(f"{counts[c, other]:,}" if counts[c, other] else "·" for other in involved))
        out.print(table)
        return
    pairs = [(int(counts[a, b]), a, b) for a in involved for b in involved if a != b and counts[a, b]]
    if not pairs:
        return
    table = _right_aligned("most frequent confusions", "images", "of the class")
    for times, a, b in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:SHOWN_CONFUSIONS]:
        name = f"{shortened(result.classes[a])} predicted as {shortened(result.classes[b])}"
        table.add_row(name, f"{times:,}", percent(times / counts[a].sum()))
    out.print(table)
    out.print("The whole matrix: --confusion FILE.csv, or --plot FILE.png.")


def _by_value(out: Console, result: Evaluation) -> None:
    if not result.by_value:
        return
    metrics = list(dict.fromkeys([result.metric, "accuracy"]))
    headings = [heading for name in metrics for heading in (_named(name), "95 % interval")]
    table = _right_aligned(str(result.by), "images", *headings)
    rows = list(result.by_value)
    for row in rows[:SHOWN_ROWS]:
        estimates = [(name, row.figures.estimate(name)) for name in metrics]
        cells = [cell for name, one in estimates for cell in (_value(name, one.value), _interval(name, one))]
        table.add_row(visible(row.value) or "(none)", f"{row.figures.images:,}", *cells)
    out.print(table)
    if len(rows) > SHOWN_ROWS:
        out.print(f"… and {len(rows) - SHOWN_ROWS:,} more values; --json gives all.")


def _mistakes(out: Console, result: Evaluation, mistakes: Sequence[Mistake]) -> None:
    if not mistakes:
        return
    total = int((result.predicted != result.targets).sum())
    title = f"most confident of {counted(total, 'mistake')}"
    names = [Column(name, overflow="fold") for name in ("image", "label", "predicted")]  # whole, to be found
    table = Table(*names, "probability", "of the label", title=title, title_justify="left")
    for mistake in mistakes:
        table.add_row(
            visible(mistake.path),
            visible(mistake.label),
            visible(mistake.predicted),
            _value("", mistake.probability),
            _value("", mistake.true_probability),
        )
    out.print(table)
