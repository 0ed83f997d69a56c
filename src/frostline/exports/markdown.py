"""Text from users in Markdown: shown as it is, never read as markup."""

from __future__ import annotations

import re

from frostline.reports.display_names import visible

# Everything that CommonMark or GitHub's dialect may read as markup, a link, a mention or HTML. A numeric
# character reference is text wherever it stands (CommonMark 0.31, section 2.5).
_MARKUP = re.compile(r"[\\`*{}\[\]<>#!|~&$@^=]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_AT_THE_START = re.compile(r"^([-+.]|\d+[.)])")


def escaped(text: str) -> str:
    """Return text that a Markdown reader shows as it stands; what is invisible is written out."""
    safe = _MARKUP.sub(lambda found: f"&#{ord(found[0])};", visible(text))
    safe = safe.replace("www.", "www&#46;")
    return _AT_THE_START.sub(lambda found: found[0][:-1] + f"&#{ord(found[0][-1])};", safe)
