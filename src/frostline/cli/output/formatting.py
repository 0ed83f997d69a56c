"""What a person sees: tables and sentences. Nothing here computes a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from frostline import strategies
from frostline.models.stage_table import count_text
from frostline.sentences import between, caveats, percent
from frostline.system import processor

if TYPE_CHECKING:
    from frostline.data import Manifest
    from frostline.feature_cache import FeatureCache
    from frostline.models import Backbone
    from frostline.pipelines import Baseline, Demo
    from frostline.training import Run

DEMO_OPENING = (
    "frostline demo: {model}, trained on ImageNet photographs, meets 8 × 8 handwritten digits.\n"
    "10 training images a class, 1,000 held-out images to test on, everything on this machine:"
)
AGAIN = "Already finished, shown again"  # of a command whose work had been done before
MEANING = {
    "linear_probe": "the network stays as it is; only a linear classifier on its features is solved for",
    "top_k(2)": "the last two stages and the head learn, the bottom stays frozen",
    "lp_ft": "the head starts from the probe, then everything learns",
    "full": "everything learns from the first step",
}


def _out() -> Console:
    return Console(markup=False)  # names of files and classes are no markup


def size(value_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{value_bytes / 1e6:,.0f} MB" if value_bytes >= 1e6 else f"{value_bytes / 1e3:,.0f} kB"


def data_lines(data: Manifest) -> str:
    """What was found, in a few lines."""
    lines = list(data.notes)
    if data.set_aside:
        lines.append(f"{len(data.set_aside)} file(s) cannot be used and are set aside:")
        lines += [f"  {item.path}: {item.reason}" for item in data.set_aside[:20]]
        if len(data.set_aside) > 20:
            lines.append(f"  … and {len(data.set_aside) - 20} more (in the study's manifest.jsonl)")
    return "\n".join(lines)


def run(done: Run, explain: bool = False) -> None:
    """One run's figures, and with `explain` the arithmetic behind what was kept."""
    out, found = _out(), done.result
    if done.again:
        out.print(f"{AGAIN}: run {found['run']}, with the figures from then.")
    table = Table(title=f"{found['strategy']} on {found['model']}, run {found['run']}", title_justify="left")
    for name in ("", "accuracy", "95 % interval", "balanced", "images"):
        table.add_column(name, justify="right" if name else "left")
    if found["accuracy"] is None:
        _without_test(out, found)
        return
    table.add_row(
        "test",
        percent(found["accuracy"]),
        between(found["low"], found["high"]),
        _known(found["balanced_accuracy"]),
        f"{found['n_test']:,}",
    )
    if found["val_accuracy"] is not None:
        table.add_row("val", percent(found["val_accuracy"]), "", "", f"{found['n_val']:,}")
    table.add_row("always the commonest class", percent(found["majority_share"]), "", "", "")
    out.print(table)
    for line in caveats(found):
        out.print(line, style="bold", highlight=False)
    out.print(_classes(found["per_class"]))
    out.print(
        f"{found['trainable_parameters']:,} parameters learned, {found['seconds']:.1f} s, "
        f"{size(found['peak_memory_bytes'])} at the peak."
    )
    if "forgetting" in found:
        from frostline.reports.conclusions import forgotten_line

        out.print(forgotten_line(found["forgetting"]))
    for line in [*_remarks(found), *(_arithmetic(found) if explain else [])]:
        out.print(line)
    out.print(f"\nNext: frostline predict {found['study']} YOUR_IMAGES")


def _without_test(out: Console, found: dict[str, Any]) -> None:
    out.print(f"{found['strategy']} on {found['model']} is trained. No test image, so no figure to trust.")
    if found["val_accuracy"] is not None:
        out.print(f"Accuracy on val, which chose: {percent(found['val_accuracy'])}")


def _known(value: float | None, why_not: str = "unknown") -> str:
    return why_not if value is None else percent(value)


def _classes(per_class: dict[str, dict[str, Any]]) -> Table:
    table = Table()
    for name in ("class", "precision", "recall", "test images"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, row in per_class.items():
        table.add_row(
            name,
            _known(row["precision"], "never answered"),
            _known(row["recall"], "never asked"),
            f"{row['images']:,}",
        )
    return table


def _remarks(found: dict[str, Any]) -> list[str]:
    plan = found["numeric_plan"]
    format_ = "channels-last" if plan["channels_last"] else "contiguous"
    threads = f"{plan['threads']} thread{'s' if plan['threads'] > 1 else ''}"
    lines = [*found.get("notes", [])]
    lines.append(f"Computed in {plan['precision']}, {format_}, {threads}: {plan['reason']}.")
    if plan["wait"] == processor.PASSIVE:
        lines.append(f"{plan['load']} as it began, so threads wait for each other without spinning.")
    if found.get("flip_test"):
        word = "on" if found["flip"] == "horizontal" else "off"
        told = percent(found["flip_test"]["told"])
        lines.append(
            f"Mirror images in training are {word}: a small classifier tells images from their mirror images "
            f"{told} of the time (50 % is guessing). --flip sets it."
        )
    if found.get("rotate_test"):
        word = "on" if found["rotate"] != "none" else "off"
        told = percent(found["rotate_test"]["told"])
        lines.append(
            f"Quarter turns in training are {word}: a small classifier tells images from themselves turned "
            f"{told} of the time (50 % is guessing). --rotate sets it."
        )
    if found.get("stopped"):
        kept = "the best on val so far" if found["best_epoch"] else "the last weights"
        lines.insert(
            0,
            f"Stopped by --{found['stopped']} after {found['steps']:,} of {found['steps_planned']:,} steps, "
            f"with {kept}.",
        )
    rows = found["store"]
    lines.append(
        f"Frozen layers: {rows['rows_computed']:,} rows computed, {rows['rows_read']:,} read from the store."
    )
    return lines


def _arithmetic(found: dict[str, Any]) -> list[str]:
    """Read or recompute, cut by cut."""
    lines = []
    for row in found["numeric_plan"]["frozen"]["rows"]:
        word = f"{len(row['views_kept'])} view(s) kept" if row["views_kept"] else "computed each time"
        lines.append(f"Cut {row['cut']}: {word}; {row['why']}.")
    return lines or ["No rows to keep: nothing is trained above a frozen part."]


def store(kept: FeatureCache) -> None:
    """What is kept of frozen layers."""
    out, held = _out(), kept.holdings()
    if not held:
        out.print(f"Nothing is kept in {kept.path} yet.")
        return
    table = Table(title=f"{size(kept.total_bytes())} in {kept.path}", title_justify="left")
    for name in ("model", "cut", "pixels", "rows", "a row", "in all", "found there", "last used"):
        table.add_column(name, justify="left" if name in ("model", "cut") else "right")
    for one in sorted(held, key=lambda h: (h.about.get("model", ""), h.about.get("index", 0))):
        asked = one.hits + one.misses
        table.add_row(
            str(one.about.get("model", "?")),
            str(one.about.get("cut", "?")),
            str(one.about.get("preprocessing", {}).get("size", "?")),
            f"{one.rows:,}",
            f"{one.form.row_bytes / 1000:,.1f} kB" if one.form else "",
            size(one.bytes),
            percent(one.hits / asked) if asked else "",
            f"{datetime.fromtimestamp(one.used):%Y-%m-%d %H:%M}",
        )
    out.print(table)


def warnings(found: dict[str, Any]) -> list[str]:
    """What must be said on standard error, to scripts as well: many looks at one test part."""
    looks = found["test_looks"]
    if looks is None or looks < 2:
        return []
    text = f"{looks} configurations have looked at this test part, in this study and others. "
    if found["val_accuracy"] is None:
        return [text + "Their test figures are no fair way to choose: the best of several is too good."]
    return [text + "Choose between them by val_accuracy: the best of several test figures is too good."]


def cut_marks(stage_count: int) -> dict[str, int]:
    """Where each named strategy cuts a network of so many stages (its last phase's cut)."""
    marks = {}
    for text in strategies.NAMED:
        phases = strategies.schedule(strategies.parse(text), stages=stage_count, images=1000, batch=32)
        marks[text] = min((s.cut for s in phases), default=stage_count - 1)
    return marks


def stages(backbone: Backbone, marks: dict[str, int], picture: str | None) -> None:
    """The network from stem to head."""
    from frostline.models import stage_table

    out = _out()
    out.print(stage_table.text(backbone, marks))
    for note in backbone.notes:
        out.print(note)
    if picture:
        out.print(f"Drawn to {picture}")


def demo(found: Demo) -> None:
    """The one table, and in plain words what happened."""
    out = _out()
    if all(done.again for done in found.runs):
        out.print(f"{AGAIN}, with the figures from then.")
    table = Table(title="Handwritten digits, 10 training images a class", title_justify="left")
    for name in ("strategy", "trainable", "accuracy", "95 % interval", "seconds", "peak memory"):
        table.add_column(name, justify="left" if name in ("strategy", "trainable") else "right")
    for done in found.runs:
        r = done.result
        table.add_row(
            r["strategy"],
            _trainable(r),
            percent(r["accuracy"]),
            between(r["low"], r["high"]),
            f"{r['seconds']:.1f}",
            size(r["peak_memory_bytes"]),
        )
    table.add_section()
    for row in (found.majority, found.pixels):
        table.add_row(
            row.name,
            "no network",
            percent(row.accuracy),
            between(row.low, row.high),
            f"{row.seconds:.1f}",
            "",
        )
    out.print(table)
    for line in _what_happened([r.result for r in found.runs], found.pixels):
        out.print(line)
    out.print("\nWith your own pictures, one folder per class:")
    out.print('  frostline train photos/ --strategy "top_k(2)"')
    best = max((r.result for r in found.runs), key=lambda r: r["accuracy"])
    out.print(f"\nLabel images with the run of {best['strategy']}:")
    out.print(f"  frostline predict {found.study} {found.study}/digits/3 --run {best['run']}")


def _trainable(result: dict[str, Any]) -> str:
    where = {"head": "head only", "stem": "everything"}.get(str(result["cut"]), f"from {result['cut']} on")
    return f"{where} ({count_text(result['trainable_parameters'])})"


def _what_happened(results: Sequence[dict[str, Any]], pixels: Baseline) -> list[str]:
    """Plain words about the table; differences inside the noise are called that."""
    best = max(results, key=lambda r: r["accuracy"])
    probe = next((r for r in results if r["strategy"] == "linear_probe"), best)
    gain = best["accuracy"] - probe["accuracy"]
    lines = []
    if best is probe:
        lines.append("Nothing beat the linear probe: here the frozen features were enough.")
    else:
        verdict = "a real gain" if gain > _noise(best, probe) else "within the noise of this test"
        lines.append(
            f"Frozen features alone reached {percent(probe['accuracy'])}; {best['strategy']} reached "
            f"{percent(best['accuracy'])}, {100 * gain:+.1f} points: {verdict} (the best of several looks "
            "at one test part flatters a little). Digits are far from the photographs the network knows, "
            "which is where thawing layers tends to pay."
        )
    against = best["accuracy"] - pixels.accuracy
    margin = math.hypot((pixels.high - pixels.low) / 2, (best["high"] - best["low"]) / 2)
    if abs(against) <= margin:
        lines.append(
            f"An SVM that never saw a network reached {percent(pixels.accuracy)}: too close to call. "
            "For tiny, centred digits raw pixels are already good features."
        )
    elif against < 0:
        lines.append(
            f"An SVM that never saw a network did better, {percent(pixels.accuracy)}: for tiny, centred "
            "digits raw pixels are very good features. Photographs are another matter."
        )
    else:
        lines.append(
            f"An SVM on the raw pixels reached {percent(pixels.accuracy)}: less, by more than the noise."
        )
    behind = [r["strategy"] for r in results if r is not best and r["accuracy"] < pixels.accuracy]
    if against > 0 and behind:
        lines.append(f"It did better than {' and '.join(behind)}, though, and needs no network at all.")
    return lines


def _noise(one: dict[str, float], other: dict[str, float]) -> float:
    """Half-widths of two 95 % intervals, added as independent errors."""
    return math.hypot((one["high"] - one["low"]) / 2, (other["high"] - other["low"]) / 2)
