"""Text output that never fails, whatever bytes a name holds and whatever an encoding lacks.

A file's name is bytes, and Python holds bytes that are not UTF-8 as lone surrogates (PEP 383), which no
encoding takes. In files they become their own bytes again; on a terminal they are written out, `\\xe9`, as is
every character that its encoding lacks.
"""

from __future__ import annotations

import codecs
import contextlib
import sys
from typing import TextIO

IN_FILES, ON_TERMINALS = "frostline-bytes", "frostline-escaped"

# What this program's own sentences hold beyond ASCII, for terminals that lack it.
PLAIN = {"×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "±": "+/-", "≥": ">=", "≤": "<=", "’": "'"}


def encoded(text: str) -> bytes:
    """Return text as UTF-8, names of files in their own bytes; never raises."""
    return text.encode(errors=IN_FILES)


def never_fail(*streams: TextIO) -> None:
    """Have streams write what their encoding lacks in other words, instead of raising.

    A terminal shows bytes of file names written out; a pipe and a file get the bytes themselves.
    """
    for stream in streams:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # no stream of Python's, or closed
            stream.reconfigure(errors=ON_TERMINALS if stream.isatty() else IN_FILES)  # type: ignore[attr-defined]


def standard_streams() -> None:
    """Have standard output and standard error write whatever they are given."""
    never_fail(sys.stdout, sys.stderr)


def _escape(text: str) -> str:
    return "".join(PLAIN.get(letter) or _code(ord(letter)) for letter in text)


def _code(number: int) -> str:
    if 0xDC80 <= number <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return chr(number).encode("ascii", "backslashreplace").decode()


def _on_terminals(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escape(error.object[error.start : error.end]), error.end


def _in_files(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    wide = error.encoding.startswith(("utf-16", "utf-32"))  # in which one byte is no letter
    if 0xDC80 <= ord(letter) <= 0xDCFF and not wide:
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return _escape(letter), error.start + 1


codecs.register_error(IN_FILES, _in_files)
codecs.register_error(ON_TERMINALS, _on_terminals)
