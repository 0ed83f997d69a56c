"""Names from users, made fit for display: no invisible characters, not too long, still unique."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

JOINERS = "\u200c\u200d"  # used in Persian, Indic scripts and emoji: they don't change the reading direction
LONGEST = 48  # characters of a name in a chart or a table; the whole name is in its tooltip


def visible(name: str) -> str:
    """Return the name with invisible characters, and those that change the reading direction, escaped.

    Letters of every script stay as they are; a right-to-left override becomes `\\u202e`.
    """
    return "".join(_visible(letter) for letter in name)


def visible_lines(text: str) -> str:
    """Return a text as `visible` does, with its line breaks."""
    return "\n".join(map(visible, text.split("\n")))


def _visible(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    if not hidden or letter in JOINERS:
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


def titled(row: Mapping[str, Any]) -> str:
    """Return the name of a row of a comparison's standings, with its backbone where there are several."""
    return f"{row['strategy']} on {row['model']}" if "model" in row else str(row["strategy"])


def shortened(name: str, longest: int = LONGEST) -> str:
    """Return a visible name of at most `longest` characters, its middle left out."""
    text = visible(name)
    if len(text) <= longest:
        return text
    head = (longest - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def unique_names(names: Iterable[str], longest: int = LONGEST) -> list[str]:
    """Return a unique display name for each: names that shortening makes equal get a number."""
    counts: dict[str, int] = {}
    shown = []
    for name in names:
        text = shortened(name, longest) or "(no name)"
        while text in counts:
            counts[text] += 1
            text = f"{text} ({counts[text]})"
        counts[text] = 1
        shown.append(text)
    return shown
