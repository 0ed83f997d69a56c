"""The report's sections on the strategies tried: accuracy against run time, each run's details, the cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from frostline.reports import chart_parts, charts
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import ReportContext, duration, headline
from frostline.reports.display_names import shortened, visible
from frostline.reports.network_chart import Flow, flow
from frostline.reports.section import Section
from frostline.reports.tried_strategies import (
    Row,
    epoch_curves,
    pareto_front,
    rows_of_backbone,
    run_count,
    runs_s,
    strategy_count,
)
from frostline.sentences import between, counted, percent

MOST_SHOWN = 24  # rows with details


def trials(context: ReportContext) -> Section | None:
    """Return the section on the strategies tried, their accuracy and cost, and the details of each."""
    rows = context.rows[:MOST_SHOWN]
    if not rows:
        return None
    single = len(rows) == 1
    section = Section("tried", "What was done" if single else "What was tried, and what it cost", "Tried")
    section.lead = [*_lead(context), *_differences(context)]
    front = pareto_front(rows)
    if len([row for row in rows if row.accuracy is not None and row.seconds]) > 1:
        section.charts.append(_scatter(rows, front))
    shown = next((row for row in rows if row.winner), rows[0])
    points = epoch_curves(rows)
    section.more = {
        "rows": [_cells(row, row in front) for row in rows],
        "left_out": len(context.rows) - len(rows),
        "shown": shown.key,
        "details": [_details(context, row) for row in rows],
        "curves": _curve_charts(points, shown) if points else [],
        "has_curves": sorted({point["row"] for point in points}),
    }
    return section


def _lead(context: ReportContext) -> list[str]:
    comparison, rows = context.contents.comparison, context.rows
    n_strategies, n_runs = strategy_count(context.contents, rows), run_count(context.contents, rows)
    strategies = counted(n_strategies, *(("candidate",) if rows[0].model else ("strategy", "strategies")))
    if comparison is None:
        in_runs = f" in {counted(n_runs, 'run')}" if n_runs != n_strategies else ""
        lead = (
            f"{strategies} {'was' if n_strategies == 1 else 'were'} trained{in_runs}, on the same split. "
            f"Accuracy is on {rows[0].evaluated_on}, with 95 % intervals."
        )
        return [lead]
    if comparison.result is None:
        return ["The comparison is not finished: metrics are of the runs finished so far."]
    result = comparison.result
    folds = f", each of them in {result['folds']} folds" if result["folds"] > 1 else ""
    if result.get("judged_on_folds", result["folds"]) < result["folds"] and result["differences"]:
        folds = f" of one fold of {result['folds']}"
    repeats = int(result["repeats"])
    resampling = f"{counted(repeats, 'repeat')}{folds}" if repeats else "no complete repeat within the time"
    command_s, all_s = float(result["seconds"]), runs_s(context.contents)
    limit = f" of {duration(float(result['budget_seconds']))}" if result["budget_seconds"] else ""
    # Runs that earlier commands made, or several at a time, took longer than the command.
    spent = (
        f" in {duration(command_s)}{limit}"
        if command_s >= all_s
        else f", which took {duration(all_s)} in all"
    )
    n_not_started = len(rows) - n_strategies
    not_started = f" {n_not_started} more did not start within the time." if n_not_started else ""
    return [
        (
            f"{strategies} tried on the same splits: {resampling}, {counted(n_runs, 'run')}{spent}."
            f"{not_started} Accuracy is on images that the model was not trained on; the 95 % "
            "intervals are of a new model's accuracy on new images."
        ),
        *_optimism_note(context),
        *_backbones(context),
        *_earlier_runs(context),
    ]


def _earlier_runs(context: ReportContext) -> list[str]:
    """Return which earlier runs joined the comparison, and which did not."""
    assert context.contents.comparison is not None
    assert context.contents.comparison.result is not None
    joined = ", ".join(map(str, context.contents.comparison.result.get("joined") or ()))
    not_compared = "; ".join(map(str, context.contents.not_compared))
    return [
        *(
            [f"Trained in this study before, and therefore compared, too: {visible(joined)}."]
            if joined
            else []
        ),
        *([f"Trained in this study and not compared: {visible(not_compared)}."] if not_compared else []),
    ]


def _optimism_note(context: ReportContext) -> list[str]:
    """Return why the headline's accuracy is lower than the same strategy's row."""
    head = headline(context)
    if head is None or not round(100 * (head.record.get("optimism") or 0.0), 1):
        return []
    assert context.contents.comparison is not None
    assert context.contents.comparison.result is not None
    result = context.contents.comparison.result
    if any(row["winner"] and row.get("all_folds_accuracy") is not None for row in result["standings"]):
        return []  # its row is of other images, as the verdict says
    line = (
        f"Rows show the measured accuracy. The headline's {percent(head.accuracy)} "
        f"({between(head.low, head.high)}) is {100 * head.record['optimism']:.1f} points below the chosen "
        "one's row, since the measured accuracy of the best of several is too optimistic."
    )
    return [line]


def _backbones(context: ReportContext) -> list[str]:
    """Return which backbones were screened, which were compared, and why the others were not."""
    candidates = (context.contents.fit or {}).get("models")
    if not candidates:
        return []
    compared = ", ".join(str(row["model"]) for row in candidates if row["selected"])
    left_out = [f"{row['model']} ({row['reason']})" for row in candidates if not row["selected"]]
    tail = f" Left out: {'; '.join(left_out)}." if left_out else ""
    return [f"{counted(len(candidates), 'backbone')} screened; compared: {compared}.{tail}"]


def _differences(context: ReportContext) -> list[str]:
    comparison = context.contents.comparison
    return [str(line) for line in comparison.result["verdict"]] if comparison and comparison.result else []


def _scatter(rows: list[Row], front: list[Row]) -> Chart:
    timed_rows = [row for row in rows if row.accuracy is not None and row.seconds]
    seconds = [row.seconds for row in timed_rows if row.seconds]
    labelled_keys = {row.key for row in front} | {row.key for row in timed_rows if row.winner}
    values = [
        {
            "key": row.key,
            "name": _name(row),
            "label": shortened(row.title, 26) if row.key in labelled_keys or len(timed_rows) <= 8 else "",
            "accuracy": row.accuracy,
            "low": row.low if row.low is not None else row.accuracy,
            "high": row.high if row.high is not None else row.accuracy,
            "seconds": row.seconds,
            "side": chart_parts.side_of(row.seconds or 1.0, seconds),
            "kind": "chosen" if row.winner else ("tried" if row.complete else "short"),
        }
        for row in timed_rows
    ]
    line = [{"seconds": row.seconds, "accuracy": row.accuracy} for row in front]
    short = any(not row.complete and not row.winner for row in timed_rows)
    return Chart(
        "tried-scatter",
        "Accuracy against time",
        "Up and to the left is better. The diamond was chosen; the dashed line is the Pareto front."
        + (" Triangles were not run to the end." if short else "")
        + " Click a mark to show its details below.",
        charts.scatter(values, line, timed_rows[0].evaluated_on, _axis_limits(values)),
        ("strategy", "accuracy", "95 % interval", "seconds per run"),
        tuple((_name(row), _percent(row.accuracy), _span(row), f"{row.seconds:.1f}") for row in timed_rows),
    )


def _axis_limits(values: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the limits of the accuracy axis: all intervals with a margin, within 0–1."""
    low, high = min(value["low"] for value in values), max(value["high"] for value in values)
    margin = max(0.01, 0.08 * (high - low))
    return max(0.0, low - margin), min(1.0, high + margin)


def _name(row: Row) -> str:
    return visible(row.title) + ("" if row.augment in ("standard", "none", "None") else f", {row.augment}")


def _percent(value: float | None) -> str:
    return "" if value is None else percent(value)


def _span(row: Row) -> str:
    return "" if row.low is None or row.high is None else between(row.low, row.high)


def _cells(row: Row, best: bool) -> dict[str, Any]:
    """Return the cells of one row of the strategies table."""
    remarks = []
    if row.winner:
        remarks.append("chosen")
    if best:
        remarks.append("Pareto-optimal")
    if row.folds_done:
        remarks.append(f"evaluated on {row.folds_done}")
    if row.epoch_share < 1:
        remarks.append(f"short runs, {row.epoch_share:g} of its epochs" if row.count else "no time for it")
    if row.stopped:
        remarks.append("stopped by its time limit")
    return {
        "key": row.key,
        "name": _name(row),
        "accuracy": _percent(row.accuracy),
        "span": _span(row),
        "seconds": "" if row.seconds is None else duration(row.seconds),
        "runs": row.count,
        "remark": "; ".join(remarks),
        "winner": row.winner,
    }


def _details(context: ReportContext, row: Row) -> dict[str, Any]:
    """Return a row's details: the network with its learning rates, and facts of a run."""
    run = row.example_run
    network_flow: Flow | None = flow(context.contents, run) if run else None
    facts: list[tuple[str, str]] = []
    if run is not None and run.result is not None:
        result = run.result
        facts = [
            ("trainable parameters", f"{int(result['trainable_parameters']):,}"),
            ("training images", f"{int(result['n_train']):,}"),
            ("optimizer steps", f"{int(result['steps']):,}"),
            ("peak memory", f"{float(result['peak_memory_bytes']) / 1e6:,.0f} MB"),
            ("flipped in training", "yes" if result["flip"] == "horizontal" else "no"),
            *(
                [("rotated in training", str(result["rotate"]))]
                if result.get("rotate", "none") != "none"
                else []
            ),
            ("seed", str(run.config.get("seed", ""))),
        ]
        if row.count > 1:
            facts.append(("runs", f"{row.count:,}, one of them shown"))
    return {
        "key": row.key,
        "name": _name(row),
        "flow": network_flow,
        "facts": facts,
        "run": run.path if run else "",
    }


def _curve_charts(points: list[dict[str, Any]], shown: Row) -> list[Chart]:
    curve_charts = []
    keys_with_curves = {str(point["row"]) for point in points}
    # Hidden by the page while another row is selected.
    first_key = shown.key if shown.key in keys_with_curves else min(keys_with_curves)
    first_points = [point for point in points if point["row"] == first_key]
    available = {point["what"] for point in points}
    kinds = [
        (
            "curve-loss",
            "Loss by epoch",
            [name for name in ("training", "held out") if name in available],
            "loss",
            False,
        ),
        ("curve-right", "Accuracy on held-out images by epoch", ["accuracy"], "accuracy", True),
    ]
    for key, title, series, axis, share in kinds:
        if not set(series) & available or not series:
            continue
        curve_charts.append(
            Chart(
                key,
                title,
                "The line is the mean over the runs of this strategy, the band their range.",
                charts.curves(points, first_key, series, axis, share=share),
                ("epoch", "images", axis),
                tuple(
                    (str(p["epoch"]), p["what"], percent(p["value"]) if share else f"{p['value']:.3f}")
                    for p in first_points
                    if p["what"] in series
                ),
            )
        )
    return curve_charts


def cuts(context: ReportContext) -> Section | None:
    """Return the section on accuracy and run time by cut, where at least three cuts were tried."""
    backbone = context.contents.backbone or next(
        (run.backbone for run in context.contents.all_runs if run.backbone), None
    )
    backbone_rows = rows_of_backbone(context.contents, context.rows)
    rows = [row for row in backbone_rows if row.cut is not None and row.accuracy is not None and row.complete]
    if backbone is None or len({row.cut for row in rows}) < 3:
        return None
    stages = [str(stage["name"]) for stage in backbone["stages"]]
    section = Section("cut", "How much of the network to train", "Cut")
    comparison = context.contents.comparison
    all_cuts = bool(comparison and comparison.result and comparison.result.get("cuts"))
    section.lead.append(
        "A cut freezes every stage before it. This is the accuracy by the lowest trained stage"
        + (", tried at every stage boundary where the network can be cut exactly." if all_cuts else ".")
    )
    section.charts += [_cut_chart(rows, stages), _cut_cost_chart(rows, stages)]
    best = next((row for row in rows if row.winner), None)
    # Differences are stored where all strategies ran on every repeat.
    has_differences = bool(comparison and comparison.result and comparison.result["differences"])
    if all_cuts and has_differences and best is not None and best.cut is not None:
        section.lead.append(
            f"Train {counted(len(stages) - best.cut, 'stage')} ({best.strategy}): the fewest stages whose "
            "accuracy is not significantly different from the best."
        )
    return section


def _cut_chart(rows: list[Row], stages: list[str]) -> Chart:
    values = _by_cut(rows, stages, lambda row: (row.accuracy, row.low, row.high))
    return Chart(
        "cut-curve",
        "Accuracy against the cut",
        f"At “{visible(stages[-1])}” only the classifier was trained; further left, more of the network. "
        "Orange was chosen.",
        charts.against_cut(values, _used(values, stages), f"accuracy on {rows[0].evaluated_on}", share=True),
        ("lowest trained stage", "strategy", "accuracy", "95 % interval"),
        tuple(
            (visible(v["stage"]), v["name"], percent(v["value"]), between(v["low"], v["high"]))
            for v in values
        ),
    )


def _cut_cost_chart(rows: list[Row], stages: list[str]) -> Chart:
    values = _by_cut([row for row in rows if row.seconds], stages, _seconds)
    return Chart(
        "cut-seconds",
        "Seconds against the cut",
        "Time of one run, on a logarithmic scale; the line is the range over the runs of a strategy.",
        charts.against_cut(values, _used(values, stages), "seconds of one run", share=False),
        ("lowest trained stage", "strategy", "seconds per run", "range"),
        tuple(
            (visible(v["stage"]), v["name"], f"{v['value']:.1f}", f"{v['low']:.1f}–{v['high']:.1f}")
            for v in values
        ),
    )


def _seconds(row: Row) -> tuple[float | None, float | None, float | None]:
    """Return the mean, least and most seconds of a row's runs."""
    seconds = [float(run.result["seconds"]) for run in row.runs if run.result]
    return row.seconds, min(seconds, default=None), max(seconds, default=None)


def _by_cut(
    rows: list[Row],
    stages: list[str],
    interval_of: Callable[[Row], tuple[float | None, float | None, float | None]],
) -> list[dict[str, Any]]:
    """Return a value and its interval for each row, side by side where several share a cut."""
    values: list[dict[str, Any]] = []
    for cut in sorted({row.cut for row in rows if row.cut is not None}):
        cut_rows = [row for row in rows if row.cut == cut]
        for index, row in enumerate(cut_rows):
            value, low, high = interval_of(row)
            values.append(
                {
                    "stage": stages[cut],
                    "name": _name(row),
                    "value": value,
                    "low": value if low is None else low,
                    "high": value if high is None else high,
                    "offset": 0.0 if len(cut_rows) == 1 else -0.4 + 0.8 * index / (len(cut_rows) - 1),
                    "kind": "chosen" if row.winner else "tried",
                }
            )
    return values


def _used(values: list[dict[str, Any]], stages: list[str]) -> list[str]:
    return [stage for stage in stages if any(value["stage"] == stage for value in values)]
