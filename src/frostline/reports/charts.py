"""Vega-Lite specifications of the report's charts, from rows of plain values."""

from __future__ import annotations

from collections.abc import Sequence

from frostline.reports.chart_parts import (
    COOL,
    INK,
    PAPER,
    ROW_PX,
    SOFT,
    THIRD,
    WARM,
    Spec,
    axis,
    category,
    labels,
    quantity,
    ranged,
    spec,
    tooltip_fields,
)

# No label for a tick between two whole numbers: charts of several layers lose `tickMinStep`.
WHOLE = "datum.value % 1 ? '' : datum.label"


def bars(values: Sequence[Spec], order: Sequence[str], subsets: Sequence[str]) -> Spec:
    """Return horizontal bars of `count` for each `name`, stacked by `subset`."""
    colours = dict(zip(("train", "val", "test"), (COOL, THIRD, WARM), strict=True))
    layer = {
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "y": category("name", order, labelOverlap=False),
            "x": {**quantity("count", "images", zero=True), "stack": "zero"},
            "color": {
                "field": "subset",
                "type": "nominal",
                "scale": {"domain": list(subsets), "range": [colours[subset] for subset in subsets]},
                "legend": {} if len(subsets) > 1 else None,
            },
            "order": {"field": "rank", "type": "quantitative"},
            "tooltip": tooltip_fields(
                ("name", "class", ""), ("subset", "subset", ""), ("count", "images", ",d")
            ),
        },
    }
    return spec(ROW_PX * len(order) + 10, values, [layer])


def histogram(values: Sequence[Spec]) -> Spec:
    """Return a histogram of images per class, for more classes than bars can show."""
    layer = {
        "mark": {"type": "bar", "color": COOL},
        "encoding": {
            "x": {
                "field": "count",
                "type": "quantitative",
                "bin": {"maxbins": 30},
                "axis": axis("images per class"),
            },
            "y": {"aggregate": "count", "type": "quantitative", "axis": axis("classes")},
        },
    }
    return spec(220, values, [layer])


def scatter(
    values: Sequence[Spec], front: Sequence[Spec], evaluated_on: str, limits: tuple[float, float]
) -> Spec:
    """Return accuracy against seconds, with intervals and the Pareto front; a click selects a row."""
    x = {
        **quantity("seconds", "seconds per run (logarithmic)", scale={"type": "log"}),
        "axis": axis("seconds of one run (logarithmic)", tickCount=4, format="~g", grid=False),
    }
    y = quantity(
        "accuracy",
        f"accuracy on {evaluated_on}",
        share=True,
        scale={"domain": list(limits), "nice": False},
    )
    kinds = {"domain": ["chosen", "tried", "short"], "range": [WARM, COOL, SOFT]}
    colour = {"field": "kind", "type": "nominal", "scale": kinds, "legend": None}
    layers: list[Spec] = [
        {
            "data": {"values": list(front)},
            "mark": {
                "type": "line",
                "interpolate": "step-after",
                "color": SOFT,
                "strokeDash": [4, 4],
                "strokeWidth": 1.5,
            },
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "rule"},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
        },
        {
            "mark": {"type": "point", "size": 130, "cursor": "pointer", "stroke": PAPER, "strokeWidth": 1.5},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "shape": {
                    "field": "kind",
                    "type": "nominal",
                    "scale": {"domain": kinds["domain"], "range": ["diamond", "circle", "triangle-up"]},
                    "legend": None,
                },
                "tooltip": tooltip_fields(
                    ("name", "strategy", ""),
                    ("accuracy", "accuracy", ".1%"),
                    ("low", "from", ".1%"),
                    ("high", "to", ".1%"),
                    ("seconds", "seconds per run", ".1f"),
                ),
            },
        },
        *labels(x, y),
    ]
    return spec(340, values, layers)


def against_cut(values: Sequence[Spec], stages: Sequence[str], title: str, *, share: bool) -> Spec:
    """Return accuracy, or seconds, by the lowest trained stage; the frozen network is last."""
    x = {
        "field": "stage",
        "type": "ordinal",
        "sort": list(stages),
        "scale": {"domain": list(stages)},
        "axis": axis(
            "lowest trained stage",
            labelAngle=-30,
            labelOverlap=False,
        ),
    }
    style = ".1%" if share else ".1f"
    tooltip = tooltip_fields(
        ("name", "strategy", ""), ("value", title, style), ("low", "from", style), ("high", "to", style)
    )
    chart_spec = ranged(values, x, height=260, tooltip=tooltip, line=False)
    kinds = {"domain": ["chosen", "tried"], "range": [WARM, COOL]}
    for layer in chart_spec["layer"]:
        layer["encoding"]["color"] = {"field": "kind", "type": "nominal", "scale": kinds, "legend": None}
        layer["encoding"]["y"]["axis"] = axis(title, format=".0%" if share else "~g", tickCount=5, grid=share)
        if not share:
            layer["encoding"]["y"]["scale"] = {"type": "log"}
        layer["encoding"]["xOffset"] = {
            "field": "offset",
            "type": "quantitative",
            "scale": {"domain": [-1, 1]},
        }
    return chart_spec


def curves(
    values: Sequence[Spec], first_row: str, series: Sequence[str], title: str, *, share: bool = False
) -> Spec:
    """Return lines by epoch for the row that is shown; bands are the range over its runs."""
    x = {
        "field": "epoch",
        "type": "quantitative",
        "scale": {"zero": False, "nice": False},
        "axis": axis("epoch", labelExpr=WHOLE, format="d", grid=False),
    }
    y = quantity("value", title, share=share)
    legend = {"symbolType": "stroke", "symbolOpacity": 1, "symbolFillColor": "transparent"}
    colours = {"domain": list(series), "range": [COOL, WARM][: len(series)]}
    colour = {
        "field": "what",
        "type": "nominal",
        "scale": colours,
        "legend": legend if len(series) > 1 else None,
    }
    style = ".1%" if share else ".3f"
    layers: list[Spec] = [
        {
            "mark": {"type": "area", "opacity": 0.15},
            "encoding": {
                "x": x,
                "y": {**y, "field": "low"},
                "y2": {"field": "high"},
                "color": colour,
            },
        },
        {"mark": {"type": "line"}, "encoding": {"x": x, "y": y, "color": colour}},
        {
            "mark": {"type": "point", "size": 35},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "tooltip": tooltip_fields(
                    ("what", "images", ""), ("epoch", "epoch", "d"), ("value", title, style)
                ),
            },
        },
    ]
    return spec(
        220,
        [value for value in values if value["what"] in series],
        layers,
        params=[{"name": "shown", "value": first_row}],
        transform=[{"filter": "datum.row === shown"}],
    )


def confusion(values: Sequence[Spec], order: Sequence[str], *, counts: bool) -> Spec:
    """Return the confusion matrix, true by predicted class; shade is the share of the true class."""
    scale = {"padding": 0.06, "domain": list(order)}  # classes that are never predicted have a column, too
    upright = all(len(name) <= 3 for name in order)  # slanted names would be cut off at the right
    x = {
        **category(
            "predicted",
            order,
            "predicted class",
            labelAngle=0 if upright else -90,
            orient="top",
            labelOverlap=False,
        ),
        "scale": scale,
    }
    y = {**category("true", order, "true class", labelOverlap=False), "scale": scale}
    layers: list[Spec] = [
        {
            "mark": {"type": "rect", "cornerRadius": 2},
            "encoding": {
                "x": x,
                "y": y,
                "color": {
                    "field": "kind",
                    "type": "nominal",
                    "scale": {"domain": ["correct", "wrong"], "range": [COOL, WARM]},
                    "legend": None,
                },
                "opacity": {
                    "field": "share",
                    "type": "quantitative",
                    "scale": {"domain": [0, 1], "range": [0.14, 1]},
                    "legend": None,
                },
                "tooltip": tooltip_fields(
                    ("true", "true", ""),
                    ("predicted", "predicted", ""),
                    ("count", "images", ",d"),
                    ("share", "of the true class", ".1%"),
                ),
            },
        }
    ]
    if counts:
        layers.append(
            {
                "mark": {"type": "text"},
                "encoding": {
                    "x": x,
                    "y": y,
                    "text": {"field": "count", "type": "quantitative"},
                    "color": {"condition": {"test": "datum.share > 0.5", "value": PAPER}, "value": INK},
                },
            }
        )
    return spec(max(120, (ROW_PX if counts else 11) * len(order)), values, layers)


def recalls(values: Sequence[Spec], order: Sequence[str]) -> Spec:
    """Return the recall of each class with its interval; precision as an open mark."""
    y = category("name", order, labelOverlap=False)
    x = quantity(
        "recall",
        "recall (dot)  ·  precision (ring)",
        share=True,
        scale={"domainMax": 1},
    )
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "color": COOL},
            "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": False, "color": WARM, "size": 90},
            "encoding": {"y": y, "x": {**x, "field": "precision"}},
        },
        {
            "mark": {"type": "point", "color": COOL},
            "encoding": {
                "y": y,
                "x": x,
                "tooltip": tooltip_fields(
                    ("name", "class", ""),
                    ("recall", "recall", ".1%"),
                    ("low", "from", ".1%"),
                    ("high", "to", ".1%"),
                    ("precision", "precision", ".1%"),
                    ("images", "images", ",d"),
                ),
            },
        },
    ]
    return spec(ROW_PX * len(order) + 10, values, layers)


def calibration(values: Sequence[Spec]) -> Spec:
    """Return the reliability diagram, accuracy against confidence; the diagonal is perfect."""
    x = quantity("confidence", "confidence", share=True, scale={"domain": [0, 1]})
    y = quantity("accuracy", "accuracy", share=True, scale={"domain": [0, 1]})
    diagonal = [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]
    layers: list[Spec] = [
        {
            "data": {"values": diagonal},
            "mark": {"type": "line", "color": SOFT, "strokeDash": [4, 4], "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "rule", "color": COOL},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "color": COOL},
            "encoding": {
                "x": x,
                "y": y,
                "size": {
                    "field": "images",
                    "type": "quantitative",
                    "scale": {"range": [30, 400]},
                    "legend": None,
                },
                "tooltip": tooltip_fields(
                    ("confidence", "confidence", ".1%"),
                    ("accuracy", "accuracy", ".1%"),
                    ("images", "images", ",d"),
                ),
            },
        },
    ]
    return spec(300, values, layers)


def forecast(values: Sequence[Spec], order: Sequence[str]) -> Spec:
    """Return the expected and the measured accuracy of each strategy, one above the other."""
    y = {"field": "name", "type": "nominal", "sort": list(order), "axis": axis(None)}
    x = quantity("value", "accuracy", share=True)
    kinds = {"domain": ["expected", "measured"], "range": [SOFT, WARM]}
    colour = {"field": "kind", "type": "nominal", "scale": kinds, "legend": {}}
    offset = {"field": "kind", "type": "nominal", "sort": kinds["domain"]}
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {
                "y": y,
                "yOffset": offset,
                "x": {**x, "field": "low"},
                "x2": {"field": "high"},
                "color": colour,
            },
        },
        {
            "mark": {"type": "point"},
            "encoding": {
                "y": y,
                "yOffset": offset,
                "x": x,
                "color": colour,
                "tooltip": tooltip_fields(
                    ("name", "strategy", ""),
                    ("kind", "", ""),
                    ("value", "accuracy", ".1%"),
                    ("low", "from", ".1%"),
                    ("high", "to", ".1%"),
                ),
            },
        },
    ]
    return spec(44 * len(order) + 10, values, layers)


def costs(values: Sequence[Spec], limits: tuple[float, float]) -> Spec:
    """Return measured against predicted seconds of a run; the diagonal is perfect."""
    scale = {"type": "log", "domain": list(limits), "nice": False}
    x = {
        **quantity("predicted", "predicted seconds", scale=scale),
        "axis": axis("predicted seconds", tickCount=4, format="~g", grid=False),
    }
    y = {
        **quantity("measured", "measured seconds", scale=scale),
        "axis": axis("measured seconds", tickCount=4, format="~g", grid=False),
    }
    diagonal = [{"predicted": limit, "measured": limit} for limit in limits]
    layers: list[Spec] = [
        {
            "data": {"values": diagonal},
            "mark": {"type": "line", "color": SOFT, "strokeDash": [4, 4], "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "point", "color": COOL, "size": 110},
            "encoding": {
                "x": x,
                "y": y,
                "tooltip": tooltip_fields(
                    ("name", "strategy", ""),
                    ("predicted", "predicted s", ".1f"),
                    ("measured", "measured s", ".1f"),
                ),
            },
        },
        *labels(x, y),
    ]
    return spec(280, values, layers)
