"""One part of the story, and how much of it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frostline.reports.chart_parts import Chart

MOST_BARS = 40  # classes drawn one by one
MOST_CELLS, MOST_COUNTS = 60, 22  # classes of a confusion matrix, and of one with numbers in it
MOST_LISTED = 20  # files named in a list


@dataclass
class Section:
    """One part of the story. `more` is what its own piece of the template shows."""

    key: str
    title: str
    short: str  # its name in the page's menu
    lead: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
