"""One section of the report, and limits of what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frostline.reports.chart_parts import Chart

MOST_BARS = 40  # classes drawn one by one
MOST_CELLS, MOST_COUNTS = 60, 22  # classes of a confusion matrix, and of one with numbers in it
MOST_LISTED = 20  # files named in a list


@dataclass
class Section:
    """One section of the report. `more` holds the values of its own template part."""

    key: str
    title: str
    short: str  # name in the page's menu
    lead: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
