"""A table's cells: CSV as spreadsheets and people write it, or Parquet; notes say what was assumed.

CSV: comma, semicolon, tab or `|`; UTF-8 with or without a byte order mark, UTF-16 with one, else
Windows-1252; Excel's `sep=;`, its trailing separators and blank lines are no content.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.errors import DataError

# Choices, far above any table of labels, far below what fills a memory: a Parquet file of a few kilobytes can
# claim billions of rows.
MAX_COLUMNS = 10_000
MAX_ROWS = 50_000_000

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t|"
NO_DELIMITER = "\x1f"  # of a table with one column: no text that people write holds it
END = "\x1eend"  # a last row of its own: a quote that is not closed takes it in
CLOSE_IT = 'Close it; within quotes, "" stands for one quote.'
WESTERN = "cp1252"  # what Excel on Windows writes in Western Europe and America, unless asked for UTF-8
SEP_LINE = re.compile(r'"?sep=(.)"?')  # Excel's own first line, which names the separator

Rows = list[tuple[int, list[Any]]]


@dataclass(slots=True)
class Cells:
    """A table: the columns' names in lower case, and on demand the rows of some of them."""

    columns: list[str]
    rows: Callable[[Sequence[int]], Rows]  # places of columns → (line, one cell for each)
    notes: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    western: bool = False  # whether text was read as Windows-1252, of which file names may know nothing


def read_cells(path: Path) -> Cells:
    """Open a table. Raises `DataError` where it is none."""
    return _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)


def own_bytes(text: str) -> str:
    """Return the file name whose bytes were read as Windows-1252 letters."""
    return os.fsdecode(text.encode(WESTERN, "surrogateescape"))


def _csv(path: Path) -> Cells:
    text, western = _text(path)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = _first_filled(lines, 0)
    sep_line = SEP_LINE.fullmatch(lines[first].strip(" "))
    first = _first_filled(lines, first + 1) if sep_line else first
    header = lines[first] if first < len(lines) else ""
    delimiter = sep_line[1] if sep_line else delimiter_of(header)
    content = io.StringIO("\n".join([*lines[first:], END]), newline="")
    reader = csv.reader(content, delimiter=delimiter)
    try:
        columns = _names(next(reader, []))
        parsed_rows = [(first + reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV: {error} (line {first + reader.line_num}).") from error
    if not parsed_rows or parsed_rows.pop()[1] != [END]:
        begun = parsed_rows[-1][0] + 1 if parsed_rows else first + 1
        raise DataError(
            f"{path} has a quote that is opened in line {begun} or later and not closed. {CLOSE_IT}"
        )

    def rows(places: Sequence[int]) -> Rows:
        """A short row does not grow to the width of its table."""
        return [
            (line, [_cell(path, line, cells, at, delimiter) for at in places]) for line, cells in parsed_rows
        ]

    table = Cells(columns, rows, western=western, mistakes=_too_long(columns, parsed_rows))
    nameless = [at for at, name in enumerate(columns) if not name and at]  # the first is pandas' index
    unread = sum(any(cells[at].strip() for at in nameless if at < len(cells)) for _, cells in parsed_rows)
    if unread:
        table.notes.append(f"{unread} row(s) have text under a column without a name; it is ignored.")
    if western:
        odd = next((cell for _, cells in parsed_rows for cell in cells if not cell.isascii()), "")
        table.notes.append(
            f"{path.name} is not UTF-8 and was read as Windows-1252, for example {odd.strip()[:60]!r}. "
            "If that is wrong, save it as UTF-8."
        )
    return table


def _cell(path: Path, line: int, cells: Sequence[str], place: int, delimiter: str) -> str:
    """Return one cell; raise `DataError` where it holds the next rows, up to the next quote."""
    cell = cells[place].strip() if place < len(cells) else ""
    if "\n" in cell and (delimiter in cell or '"' in cell):
        raise DataError(
            f"{path} has a quote that is opened in line {line} or before and not closed: one cell would be "
            f"{cell[:60]!r}. {CLOSE_IT}"
        )
    return cell


def _first_filled(lines: Sequence[str], start: int) -> int:
    """Return the place of the first line from `start` on that holds more than separators, else `start`."""
    return next((n for n in range(start, len(lines)) if lines[n].strip(DELIMITERS + " ")), start)


def _text(path: Path) -> tuple[str, bool]:
    """Return a file's text, and whether it is Windows-1252 for want of anything better."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's "Unicode text"
            return data.decode("utf-16"), False
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return data.decode(WESTERN, "surrogateescape"), True


def delimiter_of(header: str) -> str:
    """Return what the header is separated by; quoted names may hold anything."""
    bare = re.sub(r'"[^"]*"', "", header)
    best = max(DELIMITERS, key=bare.count)
    return best if best in bare else NO_DELIMITER


def _too_long(columns: Sequence[str], rows: Rows) -> list[str]:
    """Say which rows have text beyond the last column: a separator inside a name, which would be cut off."""
    width = len(columns)
    return [
        f"row {line} has {len(cells)} cells under {width} columns; quote names that hold the separator"
        for line, cells in rows
        if any(cell.strip() for cell in cells[width:])
    ]


def _parquet(path: Path) -> Cells:
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
        if metadata.num_rows > MAX_ROWS or metadata.num_columns > MAX_COLUMNS:
            raise DataError(
                f"{path} claims {metadata.num_rows:,} rows and {metadata.num_columns:,} columns; expected at "
                f"most {MAX_ROWS:,} and {MAX_COLUMNS:,}."
            )
        names = list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # names that are no UTF-8, too
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error

    def rows(places: Sequence[int]) -> Rows:
        try:
            table = pyarrow.parquet.read_table(path, columns=[names[at] for at in places])
            columns = [table.column(names[at]).to_pylist() for at in places]
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} is not a readable Parquet file: {error}") from error
        return [(line, list(cells)) for line, cells in enumerate(zip(*columns, strict=True), start=1)]

    return Cells(_names(names), rows)


def _names(columns: Iterable[str]) -> list[str]:
    return [column.strip().lower() for column in columns]


def as_text(value: object) -> str:
    """Return a cell as text; a whole number keeps no decimal point, a missing value is empty."""
    if value is None or value != value:  # NaN, the missing value of a column of floats
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (os.fsdecode(value) if isinstance(value, bytes) else str(value)).strip()
