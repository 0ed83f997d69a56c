"""A manifest's text: JSON Lines, one header and then a sample a line; a study is read from it without images.

No pickle. This file knows the lines, not what they mean; `manifest` builds itself from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frostline.errors import DataError

VERSION = 2  # raised when a line changes its keys or its meaning


def text_of(header: dict[str, Any], rows: Iterable[tuple[str, ...]]) -> str:
    """Return the text of a manifest: ASCII, newline-terminated lines."""
    lines = [{"frostline_manifest": VERSION, **header}, *rows]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def parse(text: str) -> tuple[dict[str, Any], list[list[str]]]:
    """Return the header and the rows of `text_of`'s output. Raises `DataError` where it is something else."""
    try:
        header, *rows = [json.loads(line) for line in text.splitlines()]
        version = header["frostline_manifest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"This is not a manifest ({error!r}); expected a study's manifest.jsonl.") from error
    if version != VERSION:
        raise DataError(f"This manifest has format {version}; expected {VERSION}. Load the data again.")
    return header, rows


def study_header(study: str | Path | None) -> dict[str, Any]:
    """Return the header of the manifest that a study began with; empty where it has none yet.

    Raises `DataError` where it is damaged.
    """
    path = None if study is None else Path(study) / "manifest.jsonl"
    if path is None or not path.is_file():
        return {}
    try:
        with open(path, encoding="ascii") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}): how the study reads and renders images is unknown."
        ) from None
    if not isinstance(header, dict) or not isinstance(header.get("reading", {}), dict):
        raise DataError(f"{path} is damaged: its first line reads {str(header)[:80]!r}.")
    return header


def read_text(path: Path) -> str:
    """Return a manifest file's text. Raises `DataError` where it is missing or not one."""
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected a study's manifest.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a manifest: it is not ASCII text.") from error
