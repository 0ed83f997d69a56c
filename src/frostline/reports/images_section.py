"""The first parts of the story: the images, and how the network sees them before any training."""

from __future__ import annotations

from typing import Any

from frostline.reports import chart_parts as b
from frostline.reports import charts as c
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import Found, forgotten_line, headline
from frostline.reports.display_names import told_apart, visible
from frostline.reports.section import MOST_BARS, MOST_LISTED, Section
from frostline.reports.study_reader import object_of
from frostline.sentences import between, counted, looks, percent


def images(found: Found) -> Section | None:
    """Classes, parts, what was set aside, copies."""
    data = found.told.data
    if data is None:
        return None
    section = Section("images", "The images", "Images")
    counts, names = data.counts, dict(zip(data.classes, told_apart(data.classes), strict=True))
    parts = [part for part in ("train", "val", "test") if any(n[part] for n in counts.values())]
    total = {part: sum(n[part] for n in counts.values()) for part in parts}
    roles = {"train": "to learn from", "val": "to choose by", "test": "to test on"}
    section.lead.append(
        f"{counted(len(data.samples), 'image')} in {counted(len(data.classes), 'class', 'classes')}: "
        + ", ".join(f"{total[part]:,} {roles[part]}" for part in parts)
        + "."
    )
    size = (found.told.signals or {}).get("size")
    if size:
        width, height = size["resolution"]
        seen = found.told.signals["input_size"] if found.told.signals else "?"
        section.lead.append(f"Typically {width} × {height} pixels; the network looks at {seen} × {seen}.")
    if "test" not in parts:
        head = headline(found)
        section.lead.append(f"There is no test part{f': the accuracy is {head.basis}' if head else ''}.")
    elif found.told.test_looks is not None:
        section.lead.append(f"The test part: {looks(found.told.test_looks)}.")
    copies = len(data.samples) - len({sample.digest for sample in data.samples})
    if copies:
        section.lead.append(
            f"{counted(copies, 'image is an exact copy', 'images are exact copies')} of another one; copies "
            "are kept together, so that no model is asked about a picture it has learned."
        )
    section.charts.append(_classes_chart(counts, names, parts))
    section.more = {
        "set_aside": [(gone.path, gone.label, gone.reason) for gone in data.set_aside[:MOST_LISTED]],
        "set_aside_more": max(0, len(data.set_aside) - MOST_LISTED),
        "conflicts": [list(zip(one.paths, one.labels, strict=True)) for one in data.conflicts[:MOST_LISTED]],
        "alike": [list(pair) for pair in data.suspects[:MOST_LISTED]],
        "alike_more": max(0, len(data.suspects) - MOST_LISTED),
    }
    return section


def _classes_chart(counts: dict[str, dict[str, int]], names: dict[str, str], parts: list[str]) -> Chart:
    order = sorted(names, key=lambda label: (-sum(counts[label].values()), label))
    values = [
        {"name": names[label], "part": part, "count": counts[label][part], "rank": rank}
        for label in order
        for rank, part in enumerate(parts)
    ]
    rows = tuple((visible(label), *(f"{counts[label][part]:,}" for part in parts)) for label in order)
    if len(order) <= MOST_BARS:
        spec = c.bars(values, [names[label] for label in order], parts)
    else:
        spec = c.histogram([{"count": sum(counts[label].values())} for label in order])
    most, fewest = (sum(counts[order[at]].values()) for at in (0, -1))
    return Chart(
        "classes-images",
        "Images of each class",
        f"{counted(most, 'image')} in each class."
        if most == fewest
        else f"From {fewest:,} to {most:,} images a class.",
        spec,
        ("class", *parts),
        rows,
    )


def seeing(found: Found) -> Section | None:
    """Similarity and probe by depth, and what more images would bring."""
    signals = found.told.signals
    if signals is None or not (signals["probe_by_stage"] or signals["similarity"]):
        return _moved(found)
    section = Section("seeing", "How the network sees them", "Depth")
    probes, near = signals["probe_by_stage"], signals["similarity"]
    if near:
        section.lead.append(
            "Before any training, the images were sent through the network once. How familiar they are to "
            f"it is measured by what its layers meet, from 0 to 1: here {near['value']:.2f} "
            f"({near['low']:.2f}–{near['high']:.2f})."
            + ("" if near["proven"] else " For such a network this measure was never proved.")
        )
    if probes:
        best, last = max(reversed(probes), key=lambda p: p["accuracy"]), probes[-1]
        section.lead.append(
            "At each depth a simple classifier (a probe) was asked how much the features there already know. "
            + _depth_sentence(best, last)
        )
        section.charts.append(probe_chart(probes))
    if near and near["by_stage"]:
        section.charts.append(_near_chart(near["by_stage"]))
    if len(signals["learning_curve"]) > 1:
        section.charts.append(_more_chart(signals["learning_curve"]))
    moved = _moved(found)
    if moved:
        section.lead += moved.lead
        section.charts += moved.charts
    return section


def _moved(found: Found) -> Section | None:
    """How far adapting moved the features of the model that answers, and what it can no longer do."""
    run = found.told.answering
    if run is None or run.result is None:
        return None
    section = Section("seeing", "What adapting changed in the network", "Depth")
    forgotten = object_of(found.told, run.folder / "forgetting.json")
    if forgotten:
        section.lead.append(forgotten_line(forgotten))
    drift = run.result.get("drift")
    if drift:
        section.charts.append(_drift_chart(drift))
    return section if section.lead or section.charts else None


def _depth_sentence(best: dict[str, Any], last: dict[str, Any]) -> str:
    if best is last:
        return f"The deepest features know most: {percent(last['accuracy'])}."
    if best["accuracy"] - last["accuracy"] <= (last["high"] - last["low"]) / 4:
        return f"The deepest features are about as good as any: {percent(last['accuracy'])}."
    return (
        f"Those of {best['stage']} know most ({percent(best['accuracy'])}), more than the last ones "
        f"({percent(last['accuracy'])}): the top of the network is tuned to other pictures."
    )


def probe_chart(probes: list[dict[str, Any]]) -> Chart:
    """Draw what each depth knows, from rows as `Signals.as_dict` gives them."""
    stages = [probe["stage"] for probe in probes]
    values = [
        {"stage": p["stage"], "value": p["accuracy"], "low": p["low"], "high": p["high"]} for p in probes
    ]
    x = {
        "field": "stage",
        "type": "ordinal",
        "sort": stages,
        "axis": b.axis("depth: after this stage", labelAngle=-30, labelOverlap=False),
    }
    tooltip = b.told(
        ("stage", "after", ""), ("value", "right", ".1%"), ("low", "from", ".1%"), ("high", "to", ".1%")
    )
    spec = b.ranged(values, x, height=240, tooltip=tooltip)
    if all(probe["random"] is not None for probe in probes):
        blind = [{"stage": p["stage"], "value": p["random"]} for p in probes]
        spec["layer"].append(
            {
                "data": {"values": blind},
                "mark": {"type": "line", "color": b.SOFT, "strokeDash": [4, 4], "strokeWidth": 1.5},
                "encoding": {"x": x, "y": {"field": "value", "type": "quantitative"}},
            }
        )
    return Chart(
        "probe-depth",
        "What each depth already knows",
        "Share of held-out images that a simple classifier on the features after each stage gets right.",
        spec,
        ("after", "right", "95 % interval", "with random weights"),
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


def _near_chart(by_stage: dict[str, float]) -> Chart:
    stages = list(by_stage)
    values = [{"stage": stage, "value": value} for stage, value in by_stage.items()]
    y = b.quantity("value", "familiar, 0 to 1", zero=True, scale={"domain": [0, 1]})
    return Chart(
        "near-depth",
        "How familiar the images are, stage by stage",
        "1: like the pictures that the network was trained on; 0: nothing like them.",
        _stage_bars(values, stages, y, ("value", "similarity", ".2f")),
        ("stage", "similarity"),
        tuple((visible(stage), f"{value:.2f}") for stage, value in by_stage.items()),
    )


def _drift_chart(drift: dict[str, float]) -> Chart:
    stages = list(drift)
    values = [{"stage": stage, "value": max(0.0, value)} for stage, value in drift.items()]
    y = b.quantity("value", "drift, 0 to 1", zero=True)
    return Chart(
        "drift-depth",
        "How far adapting moved the features, stage by stage",
        "0: the same as before, up to rotation and scale; 1: unrelated. Measured on images of yours "
        "(1 − debiased linear CKA); what moved need not be forgotten.",
        _stage_bars(values, stages, y, ("value", "drift", ".3f")),
        ("stage", "drift"),
        tuple((visible(stage), f"{value:.3f}") for stage, value in drift.items()),
    )


def _stage_bars(
    values: list[dict[str, Any]], stages: list[str], y: dict[str, Any], told: tuple[str, str, str]
) -> dict[str, Any]:
    """Draw a bar for each stage."""
    layer = {
        "mark": {"type": "bar", "color": b.COOL, "cornerRadiusEnd": 2},
        "encoding": {
            "x": {
                "field": "stage",
                "type": "ordinal",
                "sort": stages,
                "axis": b.axis("stage", labelAngle=-30, labelOverlap=False),
            },
            "y": y,
            "tooltip": b.told(("stage", "stage", ""), told),
        },
    }
    return b.spec(240, values, [layer])


def _more_chart(points: list[dict[str, Any]]) -> Chart:
    values = [
        {"images": p["images"], "value": p["accuracy"], "low": p["low"], "high": p["high"]} for p in points
    ]
    x = {
        "field": "images",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "axis": b.axis("images learned from", values=[p["images"] for p in points], format=",d"),
    }
    tooltip = b.told(("images", "images", ",d"), ("value", "right", ".1%"))
    slope = points[-1]["accuracy"] - points[-2]["accuracy"]
    verdict = (
        "Still rising: more images would help."
        if slope >= 0.02
        else "Nearly flat: more of the same would add little to a frozen network."
    )
    return Chart(
        "more-images",
        "What more images would bring",
        f"The same classifier on the last stage, with fewer images to learn from. {verdict}",
        b.ranged(values, x, height=240, tooltip=tooltip),
        ("images", "right", "95 % interval"),
        tuple((f"{p['images']:,}", percent(p["accuracy"]), between(p["low"], p["high"])) for p in points),
    )
