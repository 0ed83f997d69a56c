"""The report's first sections: the images, and how well the network's features fit them before training."""

from __future__ import annotations

from typing import Any

from frostline.reports import chart_parts, charts
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import ReportContext, forgotten_line, headline
from frostline.reports.display_names import unique_names, visible
from frostline.reports.section import MOST_BARS, MOST_LISTED, Section
from frostline.reports.study_reader import read_json_object
from frostline.sentences import between, counted, percent, test_evaluations_text


def images(context: ReportContext) -> Section | None:
    """Return the section on the images: classes, subsets, skipped files, copies."""
    data = context.contents.data
    if data is None:
        return None
    section = Section("images", "The images", "Images")
    counts, shown_names = data.counts, dict(zip(data.classes, unique_names(data.classes), strict=True))
    subsets = [
        subset for subset in ("train", "val", "test") if any(count[subset] for count in counts.values())
    ]
    total = {subset: sum(count[subset] for count in counts.values()) for subset in subsets}
    purposes = {"train": "for training", "val": "for validation", "test": "for testing"}
    section.lead.append(
        f"{counted(len(data.samples), 'image')} in {counted(len(data.classes), 'class', 'classes')}: "
        + ", ".join(f"{total[subset]:,} {purposes[subset]}" for subset in subsets)
        + "."
    )
    size = (context.contents.signals or {}).get("size")
    if size:
        width, height = size["resolution"]
        input_size = context.contents.signals["input_size"] if context.contents.signals else "?"
        section.lead.append(
            f"Typically {width} × {height} pixels; the network's input is {input_size} × {input_size}."
        )
    if "test" not in subsets:
        head = headline(context)
        section.lead.append(f"There is no test set{f': the accuracy is {head.basis}' if head else ''}.")
    elif context.contents.test_evaluations is not None:
        section.lead.append(f"The test set: {test_evaluations_text(context.contents.test_evaluations)}.")
    copies = len(data.samples) - len({sample.digest for sample in data.samples})
    if copies:
        section.lead.append(
            f"{counted(copies, 'image is an exact copy', 'images are exact copies')} of another one; copies "
            "stay in one subset, so that no model is evaluated on an image it was trained on."
        )
    section.charts.append(_classes_chart(counts, shown_names, subsets))
    section.more = {
        "skipped": [(skipped.path, skipped.label, skipped.reason) for skipped in data.skipped[:MOST_LISTED]],
        "skipped_more": max(0, len(data.skipped) - MOST_LISTED),
        "conflicts": [
            list(zip(conflict.paths, conflict.labels, strict=True))
            for conflict in data.conflicts[:MOST_LISTED]
        ],
        "alike": [list(pair) for pair in data.suspects[:MOST_LISTED]],
        "alike_more": max(0, len(data.suspects) - MOST_LISTED),
    }
    return section


def _classes_chart(
    counts: dict[str, dict[str, int]], shown_names: dict[str, str], subsets: list[str]
) -> Chart:
    order = sorted(shown_names, key=lambda label: (-sum(counts[label].values()), label))
    values = [
        {"name": shown_names[label], "subset": subset, "count": counts[label][subset], "rank": rank}
        for label in order
        for rank, subset in enumerate(subsets)
    ]
    rows = tuple((visible(label), *(f"{counts[label][subset]:,}" for subset in subsets)) for label in order)
    if len(order) <= MOST_BARS:
        spec = charts.bars(values, [shown_names[label] for label in order], subsets)
    else:
        spec = charts.histogram([{"count": sum(counts[label].values())} for label in order])
    most, fewest = (sum(counts[order[index]].values()) for index in (0, -1))
    return Chart(
        "classes-images",
        "Images of each class",
        f"{counted(most, 'image')} in each class."
        if most == fewest
        else f"From {fewest:,} to {most:,} images per class.",
        spec,
        ("class", *subsets),
        rows,
    )


def features(context: ReportContext) -> Section | None:
    """Return the section on the network's features: similarity and probe by depth, learning curve, drift."""
    signals = context.contents.signals
    if signals is None or not (signals["probe_by_stage"] or signals["similarity"]):
        return _drift_section(context)
    section = Section("seeing", "How the network sees them", "Depth")
    probes, similarity = signals["probe_by_stage"], signals["similarity"]
    if similarity:
        section.lead.append(
            "Before any training, the images were passed through the network once. Their similarity to its "
            f"pretraining images, from the statistics of its activations, is {similarity['value']:.2f} "
            f"({similarity['low']:.2f}–{similarity['high']:.2f}) on a scale from 0 to 1."
            + (
                ""
                if similarity["proven"]
                else " The measure has not been validated for this kind of network."
            )
        )
    if probes:
        best, last = max(reversed(probes), key=lambda p: p["accuracy"]), probes[-1]
        section.lead.append(
            "After each stage a linear classifier (a probe) was trained on the frozen features. "
            + _depth_sentence(best, last)
        )
        section.charts.append(probe_chart(probes))
    if similarity and similarity["by_stage"]:
        section.charts.append(_similarity_chart(similarity["by_stage"]))
    if len(signals["learning_curve"]) > 1:
        section.charts.append(_learning_curve_chart(signals["learning_curve"]))
    drift_section = _drift_section(context)
    if drift_section:
        section.lead += drift_section.lead
        section.charts += drift_section.charts
    return section


def _drift_section(context: ReportContext) -> Section | None:
    """Return the section on what adapting changed: feature drift and forgetting of the best run's model."""
    run = context.contents.best_run
    if run is None or run.result is None:
        return None
    section = Section("seeing", "What adapting changed in the network", "Depth")
    forgetting = read_json_object(context.contents, run.folder / "forgetting.json")
    if forgetting:
        section.lead.append(forgotten_line(forgetting))
    drift = run.result.get("drift")
    if drift:
        section.charts.append(_drift_chart(drift))
    return section if section.lead or section.charts else None


def _depth_sentence(best: dict[str, Any], last: dict[str, Any]) -> str:
    if best is last:
        return f"The last stage's features have the highest accuracy: {percent(last['accuracy'])}."
    if best["accuracy"] - last["accuracy"] <= (last["high"] - last["low"]) / 4:
        return f"The last stage's features are about as accurate as any: {percent(last['accuracy'])}."
    return (
        f"The features of {best['stage']} have the highest accuracy ({percent(best['accuracy'])}), above the "
        f"last stage's ({percent(last['accuracy'])}): the last stages are tuned to the pretraining images."
    )


def probe_chart(probes: list[dict[str, Any]]) -> Chart:
    """Return the chart of probe accuracy by depth, from the rows of `Signals.as_dict`."""
    stages = [probe["stage"] for probe in probes]
    values = [
        {"stage": p["stage"], "value": p["accuracy"], "low": p["low"], "high": p["high"]} for p in probes
    ]
    x = {
        "field": "stage",
        "type": "ordinal",
        "sort": stages,
        "axis": chart_parts.axis("depth: after this stage", labelAngle=-30, labelOverlap=False),
    }
    tooltip = chart_parts.tooltip_fields(
        ("stage", "after", ""), ("value", "accuracy", ".1%"), ("low", "from", ".1%"), ("high", "to", ".1%")
    )
    spec = chart_parts.ranged(values, x, height=240, tooltip=tooltip)
    if all(probe["random"] is not None for probe in probes):
        random_weights = [{"stage": p["stage"], "value": p["random"]} for p in probes]
        spec["layer"].append(
            {
                "data": {"values": random_weights},
                "mark": {"type": "line", "color": chart_parts.SOFT, "strokeDash": [4, 4], "strokeWidth": 1.5},
                "encoding": {"x": x, "y": {"field": "value", "type": "quantitative"}},
            }
        )
    return Chart(
        "probe-depth",
        "Probe accuracy by depth",
        "Accuracy of a linear classifier on the features after each stage, on held-out images.",
        spec,
        ("after", "accuracy", "95 % interval", "with random weights"),
        tuple(
            (
                visible(p["stage"]),
                percent(p["accuracy"]),
                between(p["low"], p["high"]),
                "" if p["random"] is None else percent(p["random"]),
            )
            for p in probes
        ),
    )


def _similarity_chart(by_stage: dict[str, float]) -> Chart:
    stages = list(by_stage)
    values = [{"stage": stage, "value": value} for stage, value in by_stage.items()]
    y = chart_parts.quantity("value", "similarity, 0 to 1", zero=True, scale={"domain": [0, 1]})
    return Chart(
        "near-depth",
        "Similarity to the pretraining images by stage",
        "1: like the images the network was pretrained on; 0: unlike them.",
        _stage_bars(values, stages, y, ("value", "similarity", ".2f")),
        ("stage", "similarity"),
        tuple((visible(stage), f"{value:.2f}") for stage, value in by_stage.items()),
    )


def _drift_chart(drift: dict[str, float]) -> Chart:
    stages = list(drift)
    values = [{"stage": stage, "value": max(0.0, value)} for stage, value in drift.items()]
    y = chart_parts.quantity("value", "drift, 0 to 1", zero=True)
    return Chart(
        "drift-depth",
        "Feature drift by stage",
        "0: the same features as before, up to rotation and scale; 1: unrelated. Measured on your images "
        "(1 − debiased linear CKA); drift does not imply forgetting.",
        _stage_bars(values, stages, y, ("value", "drift", ".3f")),
        ("stage", "drift"),
        tuple((visible(stage), f"{value:.3f}") for stage, value in drift.items()),
    )


def _stage_bars(
    values: list[dict[str, Any]], stages: list[str], y: dict[str, Any], tooltip_field: tuple[str, str, str]
) -> dict[str, Any]:
    """Return a bar chart with one bar per stage."""
    layer = {
        "mark": {"type": "bar", "color": chart_parts.COOL, "cornerRadiusEnd": 2},
        "encoding": {
            "x": {
                "field": "stage",
                "type": "ordinal",
                "sort": stages,
                "axis": chart_parts.axis("stage", labelAngle=-30, labelOverlap=False),
            },
            "y": y,
            "tooltip": chart_parts.tooltip_fields(("stage", "stage", ""), tooltip_field),
        },
    }
    return chart_parts.spec(240, values, [layer])


def _learning_curve_chart(points: list[dict[str, Any]]) -> Chart:
    values = [
        {"images": p["images"], "value": p["accuracy"], "low": p["low"], "high": p["high"]} for p in points
    ]
    x = {
        "field": "images",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "axis": chart_parts.axis("training images", values=[p["images"] for p in points], format=",d"),
    }
    tooltip = chart_parts.tooltip_fields(("images", "images", ",d"), ("value", "accuracy", ".1%"))
    slope = points[-1]["accuracy"] - points[-2]["accuracy"]
    verdict = (
        "It still rises: more images would help."
        if slope >= 0.02
        else "It is nearly flat: more images like these would add little to a frozen network."
    )
    return Chart(
        "more-images",
        "Accuracy by number of training images",
        f"The linear classifier on the last stage, trained on fewer images. {verdict}",
        chart_parts.ranged(values, x, height=240, tooltip=tooltip),
        ("images", "accuracy", "95 % interval"),
        tuple((f"{p['images']:,}", percent(p["accuracy"]), between(p["low"], p["high"])) for p in points),
    )
