"""Building blocks of charts: Vega-Lite as plain data, colours by name, values never used as field names.

Colours are the page's CSS variables, so that one chart serves light, dark and print; `concrete` replaces them
with fixed colours for use elsewhere. Each chart carries the table of its values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# Light: distinguishable with any colour vision (Okabe and Ito's blue and vermilion, less saturated).
LIGHT = {
    "--ink": "#1d2b3a",
    "--soft": "#55636f",
    "--line": "#dfe5ea",
    "--paper": "#ffffff",
    "--cool": "#2272ad",
    "--warm": "#c85a11",
    "--third": "#5f7f4a",
    "--ice": "#cfe3f2",
}
FONT = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', "
    "'Liberation Sans', sans-serif"
)
LABEL_PX = 150  # longest label
INK, SOFT, LINE, PAPER = "var(--ink)", "var(--soft)", "var(--line)", "var(--paper)"
COOL, WARM, THIRD = "var(--cool)", "var(--warm)", "var(--third)"
ROW_PX = 24  # per class
Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart: `says` describes it for screen readers, `header` and `rows` are its values as a table."""

    key: str
    title: str
    says: str
    spec: Spec
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


CONFIG: Spec = {
    "aria": False,  # the figure has a name and a table; screen readers can't use unnamed marks
    "background": None,
    "font": FONT,
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "labelLimit": LABEL_PX,
        "gridColor": LINE,
        "domain": False,
        "tickColor": LINE,
        "titlePadding": 10,
        "labelOverlap": True,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": SOFT,
        "orient": "top",
        "direction": "horizontal",
        "labelFontSize": 12,
        "labelLimit": 260,
        "title": None,
        "symbolStrokeWidth": 2.5,
    },
    "header": {"labelColor": INK, "titleColor": SOFT},
    "line": {"strokeWidth": 2.5},
    "rule": {"strokeWidth": 1.5},
    "point": {"filled": True, "size": 70, "opacity": 1},
    "text": {"color": INK, "fontSize": 12},
}


def spec(height: int, values: Sequence[Spec], layer: Sequence[Spec], **more: Any) -> Spec:
    """Return a layered chart as wide as its container."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": list(values)},
        "layer": list(layer),
        "config": CONFIG,
        **more,
    }


def concrete(chart_spec: Spec) -> Spec:
    """Return the chart with light colours instead of the page's variables, for a notebook."""
    text = json.dumps(chart_spec)
    for name, colour in LIGHT.items():
        text = text.replace(f"var({name})", colour)
    coloured: Spec = json.loads(text)
    return {**coloured, "width": 560, "autosize": "pad", "background": "white"}


def axis(title: str | None = None, **more: Any) -> Spec:
    """Return an axis with its title."""
    return {"title": title, **more}


def quantity(field: str, title: str | None, *, zero: bool = False, share: bool = False, **more: Any) -> Spec:
    """Return the encoding of a number; shares are shown in per cent."""
    style = {"format": ".0%"} if share else {}
    scale = {"zero": zero, **more.pop("scale", {})}
    if scale.get("type") == "log":
        del scale["zero"]
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": axis(title, **{"tickCount": 6, **style, **more.pop("axis", {})}),
        **more,
    }


def category(field: str, order: Sequence[str] | None, title: str | None = None, **more: Any) -> Spec:
    """Return the encoding of a name, in the given order."""
    return {"field": field, "type": "nominal", "sort": order, "axis": axis(title, **more)}


def tooltip_fields(*pairs: tuple[str, str, str]) -> list[Spec]:
    """Return the fields of a tooltip, from (field, title, format)."""
    return [
        {"field": field, "title": title, "type": "quantitative" if style else "nominal", "format": style}
        if style
        else {"field": field, "title": title, "type": "nominal"}
        for field, title, style in pairs
    ]


def ranged(
    values: Sequence[Spec],
    x: Spec,
    *,
    height: int,
    tooltip: list[Spec],
    colour: str = COOL,
    line: bool = True,
) -> Spec:
    """Return points with intervals (`value`, `low`, `high`) over x, joined by a line."""
    y = quantity("value", "accuracy", share=True)
    layers: list[Spec] = []
    if line:
        layers.append(
            {
                "mark": {"type": "area", "color": colour, "opacity": 0.15},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            }
        )
        layers.append({"mark": {"type": "line", "color": colour}, "encoding": {"x": x, "y": y}})
    else:
        layers.append(
            {
                "mark": {"type": "rule", "color": colour},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            }
        )
    layers.append(
        {"mark": {"type": "point", "color": colour}, "encoding": {"x": x, "y": y, "tooltip": tooltip}}
    )
    return spec(height, values, layers)


def labels(x: Spec, y: Spec, dx: int = 10) -> list[Spec]:
    """Return names beside marks: to the left of marks on the right (`side`), so that none is cut off."""
    return [
        {
            "transform": [{"filter": f"datum.side === '{side}'"}],
            "mark": {
                "type": "text",
                "align": side,
                "dx": dx if side == "left" else -dx,
                "dy": -9,
                "limit": 150,
                "fontSize": 11,
                "color": SOFT,
            },
            "encoding": {"x": x, "y": y, "text": {"field": "label", "type": "nominal"}},
        }
        for side in ("left", "right")
    ]


def side_of(value: float, values: Sequence[float]) -> str:
    """Return a label's alignment to its mark on a logarithmic axis: `left` in the left half, else `right`."""
    return "left" if value**2 <= min(values) * max(values) else "right"
