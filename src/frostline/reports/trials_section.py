"""The part of the story about what was tried: accuracy against seconds, each run's flow, curves, the cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from frostline.reports import chart_parts as b
from frostline.reports import charts as c
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import Found, duration, headline
from frostline.reports.display_names import shortened, visible
from frostline.reports.network_chart import Flow, flow
from frostline.reports.section import Section
from frostline.reports.tried_strategies import Row, curves, of_network, pareto, runs, strategies_tried
from frostline.sentences import between, counted, percent

MOST_SHOWN = 24  # rows that can be looked at one by one


def tried(found: Found) -> Section | None:
    """What was tried and what it cost; each row can be looked at."""
    rows = found.rows[:MOST_SHOWN]
    if not rows:
        return None
    alone = len(rows) == 1
    section = Section("tried", "What was done" if alone else "What was tried, and what it cost", "Tried")
    section.lead = [*_lead(found), *_differences(found)]
    front = pareto(rows)
    if len([row for row in rows if row.accuracy is not None and row.seconds]) > 1:
        section.charts.append(_scatter(rows, front))
    shown = next((row for row in rows if row.winner), rows[0])
    points = curves(rows)
    section.more = {
        "rows": [_cells(row, row in front) for row in rows],
        "left_out": len(found.rows) - len(rows),
        "shown": shown.key,
        "looks": [_look(found, row) for row in rows],
        "curves": _curve_charts(points, shown) if points else [],
        "has_curves": sorted({point["row"] for point in points}),
    }
    return section


def _lead(found: Found) -> list[str]:
    race, rows = found.told.comparison, found.rows
    tried, total = strategies_tried(found.told, rows), runs(found.told, rows)
    many = counted(tried, *(("candidate",) if rows[0].model else ("strategy", "strategies")))
    if race is None:
        each = f" in {counted(total, 'run')}" if total != tried else ""
        lead = (
            f"{many} {'was' if tried == 1 else 'were'} trained{each}, on the same split. Accuracy is of "
            f"{rows[0].on}, with 95 % intervals."
        )
        return [lead]
    if race.result is None:
        return ["The comparison is at work: figures are of the runs that are finished so far."]
    result = race.result
    folds = f", each of them in {result['folds']} folds" if result["folds"] > 1 else ""
    repeats = int(result["repeats"])
    seen = f"{counted(repeats, 'repeat')}{folds}" if repeats else "no whole repeat in the time"
    spent = duration(float(result["seconds"]))
    budget = f" of {duration(float(result['budget_seconds']))}" if result["budget_seconds"] else ""
    left = len(rows) - tried
    without = f" {left} more had no time to begin." if left else ""
    return [
        (
            f"{many} tried on the same splits: {seen}, {counted(total, 'run')} in {spent}{budget}.{without} "
            "Accuracy is of images that the model asked had not seen; the 95 % intervals are of a new "
            "model's accuracy on new images."
        ),
        *_lowered(found),
        *_networks(found),
        *_earlier(found),
    ]


def _earlier(found: Found) -> list[str]:
    """Say which candidates had been trained one by one, and which such runs were not compared."""
    assert found.told.comparison is not None
    assert found.told.comparison.result is not None
    joined = ", ".join(map(str, found.told.comparison.result.get("joined") or ()))
    apart = "; ".join(map(str, found.told.apart))
    return [
        *([f"Trained in this study before, and so compared, too: {visible(joined)}."] if joined else []),
        *([f"Trained in this study and not compared: {visible(apart)}."] if apart else []),
    ]


def _lowered(found: Found) -> list[str]:
    """Say why the headline's figure is lower than the same strategy's row."""
    head = headline(found)
    if head is None or not head.record.get("optimism"):
        return []
    line = (
        f"Rows are as they were seen. The headline's {percent(head.accuracy)} "
        f"({between(head.low, head.high)}) is {100 * head.record['optimism']:.1f} points below the chosen "
        "one's row, since the best of several looks better than it is."
    )
    return [line]


def _networks(found: Found) -> list[str]:
    """Say which networks were looked at, and why the others did not race."""
    looked = (found.told.fit or {}).get("models")
    if not looked:
        return []
    raced = ", ".join(str(row["model"]) for row in looked if row["kept"])
    out = [f"{row['model']} ({row['reason']})" for row in looked if not row["kept"]]
    tail = f" Left out: {'; '.join(out)}." if out else ""
    return [f"{counted(len(looked), 'network')} looked at; raced: {raced}.{tail}"]


def _differences(found: Found) -> list[str]:
    race = found.told.comparison
    return [str(line) for line in race.result["verdict"]] if race and race.result else []


def _scatter(rows: list[Row], front: list[Row]) -> Chart:
    known = [row for row in rows if row.accuracy is not None and row.seconds]
    seconds = [row.seconds for row in known if row.seconds]
    labelled = {row.key for row in front} | {row.key for row in known if row.winner}
    values = [
        {
            "key": row.key,
            "name": _name(row),
            "label": shortened(row.title, 26) if row.key in labelled or len(known) <= 8 else "",
            "accuracy": row.accuracy,
            "low": row.low if row.low is not None else row.accuracy,
            "high": row.high if row.high is not None else row.accuracy,
            "seconds": row.seconds,
            "side": b.side_of(row.seconds or 1.0, seconds),
            "kind": "chosen" if row.winner else ("tried" if row.whole else "short"),
        }
        for row in known
    ]
    line = [{"seconds": row.seconds, "accuracy": row.accuracy} for row in front]
    short = any(not row.whole and not row.winner for row in known)
    return Chart(
        "tried-scatter",
        "Accuracy against time",
        "Up and to the left is better. The diamond was chosen; the dashed line joins what nothing beats in "
        "both (the Pareto front)."
        + (" Triangles were not run to the end." if short else "")
        + " Click a mark to look at it below.",
        c.scatter(values, line, known[0].on, _ends(values)),
        ("strategy", "right", "95 % interval", "seconds a run"),
        tuple((_name(row), _percent(row.accuracy), _span(row), f"{row.seconds:.1f}") for row in known),
    )


def _ends(values: list[dict[str, Any]]) -> tuple[float, float]:
    """Return what the accuracy's axis spans: all intervals, with some room, and never above 1."""
    low, high = min(value["low"] for value in values), max(value["high"] for value in values)
    room = max(0.01, 0.08 * (high - low))
    return max(0.0, low - room), min(1.0, high + room)


def _name(row: Row) -> str:
    return visible(row.title) + ("" if row.augment in ("standard", "none", "None") else f", {row.augment}")


def _percent(value: float | None) -> str:
    return "" if value is None else percent(value)


def _span(row: Row) -> str:
    return "" if row.low is None or row.high is None else between(row.low, row.high)


def _cells(row: Row, best: bool) -> dict[str, Any]:
    """One line of the table of what was tried."""
    remark = []
    if row.winner:
        remark.append("chosen")
    if best:
        remark.append("best for its time")
    if row.part:
        remark.append(f"seen on {row.part}")
    if row.share < 1:
        remark.append(f"short runs, {row.share:g} of its epochs" if row.count else "no time left for it")
    if row.stopped:
        remark.append("stopped by its time limit")
    return {
        "key": row.key,
        "name": _name(row),
        "accuracy": _percent(row.accuracy),
        "span": _span(row),
        "seconds": "" if row.seconds is None else duration(row.seconds),
        "runs": row.count,
        "remark": "; ".join(remark),
        "winner": row.winner,
    }


def _look(found: Found, row: Row) -> dict[str, Any]:
    """What a row shows when it is picked: its flow and its facts."""
    run = row.one
    drawn: Flow | None = flow(found.told, run) if run else None
    facts: list[tuple[str, str]] = []
    if run is not None and run.result is not None:
        result = run.result
        facts = [
            ("parameters that learned", f"{int(result['trainable_parameters']):,}"),
            ("images it learned from", f"{int(result['n_train']):,}"),
            ("optimizer steps", f"{int(result['steps']):,}"),
            ("memory at the peak", f"{float(result['peak_memory_bytes']) / 1e6:,.0f} MB"),
            ("mirrored in training", "yes" if result["flip"] == "horizontal" else "no"),
            *(
                [("turned in training", str(result["rotate"]))]
                if result.get("rotate", "none") != "none"
                else []
            ),
            ("seed", str(run.config.get("seed", ""))),
        ]
        if row.count > 1:
            facts.append(("runs", f"{row.count:,}, one of them drawn"))
    return {"key": row.key, "name": _name(row), "flow": drawn, "facts": facts, "run": run.path if run else ""}


def _curve_charts(points: list[dict[str, Any]], shown: Row) -> list[Chart]:
    charts = []
    drawn = {str(point["row"]) for point in points}
    first = shown.key if shown.key in drawn else min(drawn)  # hidden while its row isn't the one looked at
    mine = [point for point in points if point["row"] == first]
    has = {point["what"] for point in points}
    kinds = [
        (
            "curve-loss",
            "Loss, epoch by epoch",
            [w for w in ("training", "held out") if w in has],
            "loss",
            False,
        ),
        ("curve-right", "Right on images held out", ["accuracy"], "images answered right", True),
    ]
    for key, title, what, axis, share in kinds:
        if not set(what) & has or not what:
            continue
        charts.append(
            Chart(
                key,
                title,
                "The line is the mean over the runs of this strategy, the band their range.",
                c.curves(points, first, what, axis, share=share),
                ("epoch", "images", axis),
                tuple(
                    (str(p["epoch"]), p["what"], percent(p["value"]) if share else f"{p['value']:.3f}")
                    for p in mine
                    if p["what"] in what
                ),
            )
        )
    return charts


def cuts(found: Found) -> Section | None:
    """Accuracy against the cut: how much of the network to let learn."""
    network = found.told.backbone or next((r.backbone for r in found.told.everyone if r.backbone), None)
    mine = of_network(found.told, found.rows)
    rows = [row for row in mine if row.cut is not None and row.accuracy is not None and row.whole]
    if network is None or len({row.cut for row in rows}) < 3:
        return None
    stages = [str(stage["name"]) for stage in network["stages"]]
    section = Section("cut", "How much of the network to let learn", "Cut")
    race = found.told.comparison
    asked = bool(race and race.result and race.result.get("cuts"))
    section.lead.append(
        "A cut freezes everything before it. This is the accuracy by the lowest stage that was let learn"
        + (", tried at every place where the network can be cut exactly." if asked else ".")
    )
    section.charts += [_cut_chart(rows, stages), _cut_cost_chart(rows, stages)]
    best = next((row for row in rows if row.winner), None)
    decided = bool(race and race.result and race.result["differences"])  # all of them on every repeat
    if asked and decided and best is not None and best.cut is not None:
        section.lead.append(
            f"The answer: let {counted(len(stages) - best.cut, 'stage')} learn ({best.strategy}). It is the "
            "shallowest choice that cannot be told from the best."
        )
    return section


def _cut_chart(rows: list[Row], stages: list[str]) -> Chart:
    values = _by_cut(rows, stages, lambda row: (row.accuracy, row.low, row.high))
    return Chart(
        "cut-curve",
        "Accuracy against the cut",
        f"At “{visible(stages[-1])}” only the classifier on top learned; further left, more of the network "
        "did. Orange was chosen.",
        c.against_cut(values, _used(values, stages), f"right on {rows[0].on}", share=True),
        ("lowest stage that learns", "strategy", "right", "95 % interval"),
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
        "What a run took, on a logarithmic scale; the line is the range over the runs of a strategy.",
        c.against_cut(values, _used(values, stages), "seconds of one run", share=False),
        ("lowest stage that learns", "strategy", "seconds a run", "range"),
        tuple(
            (visible(v["stage"]), v["name"], f"{v['value']:.1f}", f"{v['low']:.1f}–{v['high']:.1f}")
            for v in values
        ),
    )


def _seconds(row: Row) -> tuple[float | None, float | None, float | None]:
    """What a run of a row took: the mean, the least and the most."""
    taken = [float(run.result["seconds"]) for run in row.runs if run.result]
    return row.seconds, min(taken, default=None), max(taken, default=None)


def _by_cut(
    rows: list[Row],
    stages: list[str],
    figures: Callable[[Row], tuple[float | None, float | None, float | None]],
) -> list[dict[str, Any]]:
    """Return a figure and its interval for each row, side by side where several share a cut."""
    values: list[dict[str, Any]] = []
    for cut in sorted({row.cut for row in rows if row.cut is not None}):
        mine = [row for row in rows if row.cut == cut]
        for place, row in enumerate(mine):
            value, low, high = figures(row)
            values.append(
                {
                    "stage": stages[cut],
                    "name": _name(row),
                    "value": value,
                    "low": value if low is None else low,
                    "high": value if high is None else high,
                    "offset": 0.0 if len(mine) == 1 else -0.4 + 0.8 * place / (len(mine) - 1),
                    "kind": "chosen" if row.winner else "tried",
                }
            )
    return values


def _used(values: list[dict[str, Any]], stages: list[str]) -> list[str]:
    return [stage for stage in stages if any(value["stage"] == stage for value in values)]


def tens(values: list[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that holds all values, with some room."""
    return min(values) / 1.6, max(values) * 1.6


def is_number(value: Any) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)
