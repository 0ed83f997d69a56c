"""Escape users' text in Markdown, so that it is never read as markup."""

from __future__ import annotations

import re

from frostline.reports.display_names import visible

# Everything that CommonMark or GitHub's dialect may read as markup, a link, a mention or HTML. A numeric
# character reference is always text (CommonMark 0.31, section 2.5).
_MARKUP = re.compile(r"[\\`*{}\[\]<>#!|~&$@^=]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_AT_THE_START = re.compile(r"^([-+.]|\d+[.)])")


def escaped(text: str) -> str:
    """Return text that Markdown renders unchanged, with invisible characters written out."""
    escaped_text = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", visible(text))
    escaped_text = escaped_text.replace("www.", "www&#46;")
    return _AT_THE_START.sub(lambda match: match[0][:-1] + f"&#{ord(match[0][-1])};", escaped_text)
