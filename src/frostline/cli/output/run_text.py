"""Print runs and what is concluded from them: `train`, `demo`, `report`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from frostline import sentences
from frostline.cli.output.formatting import AGAIN, console_out, size
from frostline.reports import Report
from frostline.reports.display_names import visible
from frostline.sentences import between, caveats, percent, signed
from frostline.strategies import BatchSize, hyperparameters, parse
from frostline.system import cpu_threads

if TYPE_CHECKING:
    from frostline.pipelines import Baseline, Demo
    from frostline.training import Run

DEMO_OPENING = (
    "frostline demo: {model}, pretrained on ImageNet photographs, adapted to 8 × 8 handwritten digits.\n"
    "10 training images per class, 1,000 test images, everything on this machine:"
)
MEANING = {
    "linear_probe": "the network is frozen; only a linear classifier on its features is fitted",
    "top_k(2)": "the last two stages and the head are trained, the rest is frozen",
    "lp_ft": "the head starts from the probe, then everything is trained",
    "full": "everything is trained from the first step",
}


def run(run_: Run, explain: bool = False) -> None:
    """Print one run's figures, and with `explain` the arithmetic behind --cache auto."""
    out, result = console_out(), run_.result
    if run_.reused:
        out.print(f"{AGAIN}: run {result['run']}, with the figures from then.")
    title, parent = f"{result['strategy']} on {result['model']}, run {result['run']}", result.get("parent")
    if parent:
        title += f", {sentences.counted(parent['extra_epochs'], 'epoch')} after run {parent['run']}"
    table = Table(title=title, title_justify="left")
    for name in ("", "accuracy", "95 % interval", "balanced", "images"):
        table.add_column(name, justify="right" if name else "left")
    if result["accuracy"] is None:
        _without_test(out, result)
        _metric(out, result)
        _decided(out, result)
        return
    table.add_row(
        "test",
        percent(result["accuracy"]),
        between(result["low"], result["high"]),
        _percent_or(result["balanced_accuracy"]),
        f"{result['n_test']:,}",
    )
    if result["val_accuracy"] is not None:
        table.add_row("val", percent(result["val_accuracy"]), "", "", f"{result['n_val']:,}")
    table.add_row("always the commonest class", percent(result["majority_share"]), "", "", "")
    out.print(table)
    _metric(out, result)
    for line in caveats(result):
        out.print(line, style="bold")
    out.print(_classes(result["per_class"]))
    _decided(out, result)
    out.print(
        f"{result['trainable_parameters']:,} parameters learned, {result['seconds']:.1f} s, "
        f"{size(result['peak_memory_bytes'])} at the peak."
    )
    if "forgetting" in result:
        from frostline.reports.conclusions import forgotten_line

        out.print(forgotten_line(result["forgetting"]))
    for line in [*_notes(result), *(_arithmetic(result) if explain else [])]:
        out.print(line)
    if interpolation := result.get("interpolation"):
        out.print(f"Its weights are interpolated {sentences.interpolated(interpolation['share'])}.")
    out.print(f"\nNext: frostline predict {shlex.quote(str(result['study']))} YOUR_IMAGES")


def _metric(out: Console, result: dict[str, Any]) -> None:
    """Print the metric that choices were made by, where that is not accuracy."""
    for name in (key.removeprefix("val_") for key in result if key.startswith("val_")):
        values = {"test": result.get(name), "val": result[f"val_{name}"]}
        known = [f"{value:.4f} on {subset}" for subset, value in values.items() if value is not None]
        if name not in ("accuracy", "goodness") and known:
            out.print(f"{name}, by which choices are made: {', '.join(known)}.")


def _decided(out: Console, result: dict[str, Any]) -> None:
    """Print what the operating point promises, where there is one, and what follows it."""
    lines = (result.get("operating_point") or {}).get("sentences", ())
    for line in lines:
        out.print(line)
    if lines and result["accuracy"] is not None:
        out.print(
            "The accuracy above is of the likeliest class; predict, evaluate and exports of this run follow "
            "this rule from now on."
        )


def _without_test(out: Console, result: dict[str, Any]) -> None:
    out.print(
        f"{result['strategy']} on {result['model']} is trained. There are no test images, so its accuracy is "
        "unknown."
    )
    if result["val_accuracy"] is not None:
        out.print(f"Accuracy on val, which also chose the weights: {percent(result['val_accuracy'])}")


def _percent_or(value: float | None, why_not: str = "unknown") -> str:
    return why_not if value is None else percent(value)


def _classes(per_class: dict[str, dict[str, Any]]) -> Table:
    table = Table()
    for name in ("class", "precision", "recall", "test images"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, row in per_class.items():
        table.add_row(
            name,
            _percent_or(row["precision"], "never predicted"),
            _percent_or(row["recall"], "no images"),
            f"{row['images']:,}",
        )
    return table


def _notes(result: dict[str, Any]) -> list[str]:
    plan = result["numeric_plan"]
    format_ = "channels-last" if plan["channels_last"] else "contiguous"
    threads = f"{plan['threads']} thread{'s' if plan['threads'] > 1 else ''}"
    lines = [*result.get("notes", [])]
    lines.append(f"Computed in {plan['precision']}, {format_}, {threads}: {plan['reason']}.")
    batch = plan.get("batch")
    if batch and parse(result["strategy"]).trains:
        lines.append(f"Batches of {BatchSize(**batch)}.")
    if plan["wait"] == cpu_threads.PASSIVE:
        lines.append(f"{plan['load']} at the start, so threads wait for each other without spinning.")
    for name, chosen, changed, images in (
        ("flip", "horizontal", "Mirror images", "mirrored"),
        ("rotate", "90", "Quarter turns", "turned"),
    ):
        if test := result.get(f"{name}_test"):
            state = "on" if result[name] == chosen else "off"
            why = (
                "too few images can be held out to test them"
                if test["distinguished"] is None
                else f"a small classifier distinguishes images from {images} ones with "
                f"{percent(test['distinguished'])} accuracy (50 % is chance)"
            )
            lines.append(f"{changed} in training are {state}: {why}. --{name} sets it.")
    if result.get("stopped"):
        weights = "the best on val so far" if result["best_epoch"] else "the last weights"
        lines.insert(
            0,
            f"Stopped by --{result['stopped']} after {result['steps']:,} of {result['steps_planned']:,} "
            f"steps, with {weights}.",
        )
    early = result.get("early_stopping")
    if early and early["epochs_saved"]:
        lines.insert(0, sentences.stopped_early(early, result["best_epoch"]))
    if hyperparameters(parse(result["strategy"])).mixes and plan["frozen"]["cached"]:
        lines.append(
            "MixUp and CutMix mix pixels, so features of training images were not cached: the frozen layers "
            "were computed anew for each batch."
        )
    features = result["features"]
    lines.append(
        f"Frozen layers: {features['computed']:,} features computed, {features['from_cache']:,} read "
        "from the cache."
    )
    return lines


def _arithmetic(result: dict[str, Any]) -> list[str]:
    """Return a line for each cut: whether its features are cached or recomputed, and why."""
    lines = []
    for row in result["numeric_plan"]["frozen"]["cached"]:
        state = f"{len(row['views'])} view(s) kept" if row["views"] else "computed each time"
        lines.append(f"Cut {row['cut']}: {state}; {row['why']}.")
    return lines or ["Nothing to cache: no layers are trained on top of frozen ones."]


def warnings(result: dict[str, Any]) -> list[str]:
    """Return warnings for standard error: several evaluations on one test set."""
    evaluations = result["test_evaluations"]
    if evaluations is None or evaluations < 2:
        return []
    text = f"{evaluations} configurations were evaluated on this test set, in this study and others. "
    if result["val_accuracy"] is None:
        return [text + "Do not choose by test figures: the best of several is too optimistic."]
    return [text + "Choose between them by val_accuracy: the best of several test figures is too optimistic."]


def demo(demo: Demo) -> None:
    """Print a table of the runs and baselines, and sentences about it."""
    out = console_out()
    if all(run_.reused for run_ in demo.runs):
        out.print(f"{AGAIN}, with the figures from then.")
    table = Table(title="Handwritten digits, 10 training images per class", title_justify="left")
    for name in ("strategy", "trainable", "accuracy", "95 % interval", "seconds", "peak memory"):
        table.add_column(name, justify="left" if name in ("strategy", "trainable") else "right")
    for run_ in demo.runs:
        r = run_.result
        table.add_row(
            r["strategy"],
            _trainable(r),
            percent(r["accuracy"]),
            between(r["low"], r["high"]),
            f"{r['seconds']:.1f}",
            size(r["peak_memory_bytes"]),
        )
    table.add_section()
    for row in (demo.majority, demo.pixels):
        table.add_row(
            row.name,
            "no network",
            percent(row.accuracy),
            between(row.low, row.high),
            f"{row.seconds:.1f}",
            "",
        )
    out.print(table)
    for line in _what_happened([r.result for r in demo.runs], demo.pixels):
        out.print(line)
    out.print("\nWith your own pictures, one folder per class:")
    out.print('  frostline train photos/ --strategy "top_k(2)"')
    best = max((r.result for r in demo.runs), key=lambda r: r["accuracy"])
    out.print(f"\nLabel images with the run of {best['strategy']}:")
    out.print(f"  frostline predict {demo.study} {demo.study}/digits/3 --run {best['run']}")


def _trainable(result: dict[str, Any]) -> str:
    from frostline.models.stage_table import count_text  # imports torch, which `report` needs not

    where = {"head": "head only", "stem": "everything"}.get(str(result["cut"]), f"from {result['cut']} on")
    return f"{where} ({count_text(result['trainable_parameters'])})"


def _what_happened(results: Sequence[dict[str, Any]], pixels: Baseline) -> list[str]:
    """Return sentences about the table; differences within the noise are called that."""
    best = max(results, key=lambda r: r["accuracy"])
    probe = next((r for r in results if parse(r["strategy"]).name == "linear_probe"), best)
    gain = best["accuracy"] - probe["accuracy"]
    lines = []
    if best is probe:
        lines.append("No strategy beat the linear probe: the frozen features are sufficient here.")
    else:
        verdict = "a real gain" if gain > _noise(best, probe) else "within the noise of this test"
        lines.append(
            f"Frozen features alone reached {percent(probe['accuracy'])}; {best['strategy']} reached "
            f"{percent(best['accuracy'])}, {signed(100 * gain)} points: {verdict} (the best of several "
            "on one test set is slightly optimistic). Digits are far from the photographs that the network "
            "was trained on, where unfreezing layers tends to help."
        )
    lead = best["accuracy"] - pixels.accuracy
    margin = math.hypot((pixels.high - pixels.low) / 2, (best["high"] - best["low"]) / 2)
    if abs(lead) <= margin:
        lines.append(
            f"An SVM without a network reached {percent(pixels.accuracy)}: not significantly different. For "
            "tiny, centred digits raw pixels are already good features."
        )
    elif lead < 0:
        lines.append(
            f"An SVM without a network did better, {percent(pixels.accuracy)}: for tiny, centred digits raw "
            "pixels are very good features, unlike for photographs."
        )
    else:
        lines.append(
            f"An SVM on the raw pixels reached {percent(pixels.accuracy)}: less, by more than the noise."
        )
    worse = [r["strategy"] for r in results if r is not best and r["accuracy"] < pixels.accuracy]
    if lead > 0 and worse:
        lines.append(f"It did better than {' and '.join(worse)}, though, without any network.")
    return lines


def _noise(holding: dict[str, float], other: dict[str, float]) -> float:
    """Return the half-widths of two 95 % intervals, added as independent errors."""
    return math.hypot((holding["high"] - holding["low"]) / 2, (other["high"] - other["low"]) / 2)


def report(written: Report) -> None:
    """Print the conclusions, what could not be read, and where the page is."""
    out = console_out(soft_wrap=True)
    for number, line in enumerate(written.lines):
        out.print(visible(line), style="bold" if number == 0 else None)
    for note in written.notes:
        out.print(f"Note: {visible(note)}")
    out.print(f"\n{written.path} ({written.bytes / 1e6:.1f} MB)")
