"""A CSV or Parquet table of `path,label[,split][,group]`, paths relative to the table or absolute."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from frostline.dataset.remote import Fetcher, Place, is_address, masked
from frostline.dataset.sources import Found, Source, listing, part_named, unknown_part
from frostline.errors import DataError, did_you_mean

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group")
KNOWN = frozenset((*REQUIRED, *OPTIONAL))

# Choices, far above any table of labels, far below what fills a memory: a Parquet file of a few kilobytes can
# claim billions of rows.
MAX_COLUMNS = 10_000
MAX_ROWS = 50_000_000

# A column this close to an optional one ("groups", "splits") is a slip that would leak a split; other columns
# people have ("width", "source", "species", "fold", "patient") score .67 and below.
SLIP_LIKENESS = 0.8

SHOWN = 20  # columns named in a message

Row = dict[str, str]


def read_table(path: Path) -> Source:
    """List the images that a table names. Whether the files are there is found out later.

    Raises:
        DataError: everything that is wrong with the table, at once.
    """
    columns, rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    mistakes = _column_mistakes(columns)
    if not mistakes and not rows:
        mistakes = ["it has a header but no rows"]
    if mistakes:
        raise DataError(f"{path} cannot be used:{listing(mistakes)}")
    root = path.resolve().parent
    source = Source(root, hint=f"Paths that are not absolute count from the table's folder, {root}.")
    mistakes = _collect(rows, source)
    _add_addresses(source)
    if mistakes:
        raise DataError(f"{path} has {len(mistakes)} mistake(s):{listing(mistakes)}")
    return source


def read_paths(path: Path) -> list[str]:
    """Return the column "path" of a table that needs no other column. Raises `DataError` without one."""
    columns, rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if "path" not in columns:
        raise DataError(f"{path} has no column 'path' ({_listed(columns)}).{did_you_mean('path', columns)}")
    return [row["path"] for _, row in rows if row["path"]]


def _collect(rows: Iterable[tuple[int, Row]], source: Source) -> list[str]:
    """Add every row to `source`; return what is wrong with them."""
    mistakes: list[str] = []
    first: dict[str, tuple[int, Found]] = {}
    repeats = 0
    for line, row in rows:
        found, wrong = _found(row, source.root or Path())
        mistakes += [f"row {line}: {words}" for words in wrong]
        if wrong:
            continue
        before = first.setdefault(found.path, (line, found))
        if before[0] == line:
            source.found.append(found)
            continue
        repeats += 1
        difference = _difference(*before, found)
        mistakes += [f"row {line}: {difference}"] if difference else []
    if repeats and not mistakes:
        source.notes.append(f"{repeats} row(s) repeat an earlier row and count once.")
    return mistakes


def _found(row: Row, root: Path) -> tuple[Found, list[str]]:
    """Return one row as `Found`, and what is wrong with it."""
    wrong = [f"{name} is empty" for name in REQUIRED if not row[name]]
    part = part_named(row.get("split", "")) or ""
    if row.get("split") and not part:
        wrong.append(unknown_part(row["split"]))
    path = _reference(row["path"], root) if row["path"] else ""
    return Found(path, unicodedata.normalize("NFC", row["label"]), row.get("group", ""), part), wrong


def _add_addresses(source: Source) -> None:
    """Have images at addresses fetched, and named without what may be secret; others stay files."""
    if not any(is_address(found.path) for found in source.found):
        return
    fetcher = Fetcher(source.root)
    source.found = [
        replace(found, path=fetcher.add(masked(found.path), Place(found.path)))
        if is_address(found.path)
        else found
        for found in source.found
    ]
    source.items, source.key = fetcher, fetcher.key


def _reference(text: str, root: Path) -> str:
    """Return a path as the manifest keeps it: relative to `root` where it lies below, else absolute."""
    if is_address(text):
        return text
    path = root / text
    try:
        if "\\" in text and not path.exists() and (other := root / text.replace("\\", "/")).exists():
            path = other  # written on Windows
        if ".." in path.parts:
            path = path.resolve()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # too long a name, a NUL, a loop of links: said when it is read
        path = root / text
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _difference(line: int, before: Found, now: Found) -> str:
    """Say how two rows for one image contradict each other, or return ""."""
    for name in ("label", "split", "group"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            more = " (several labels for one image are not supported yet)" if name == "label" else ""
            shown = masked(now.path) if is_address(now.path) else now.path
            return f"{shown} has {name} {new!r} here and {old!r} in row {line}; expected one{more}"
    return ""


def _slip(name: str, columns: list[str]) -> str:
    """Name the column that is probably meant to be `name`."""
    near = get_close_matches(name, [c for c in columns if c not in REQUIRED], n=1, cutoff=SLIP_LIKENESS)
    return f"; rename {near[0]!r} to {name!r}" if near else ""


def _column_mistakes(columns: list[str]) -> list[str]:
    """Say which columns are missing, doubled or probably misspelt."""
    named = _listed(columns)
    if len(columns) > MAX_COLUMNS:
        return [f"it has {len(columns):,} columns ({named}); expected at most {MAX_COLUMNS:,}"]
    mistakes = [
        f"column {name!r} is missing ({named}){_slip(name, columns)}"
        for name in REQUIRED
        if name not in columns
    ]
    mistakes += [f"column {name!r} appears twice" for name, count in Counter(columns).items() if count > 1]
    for name in OPTIONAL:
        slip = get_close_matches(name, columns, n=1, cutoff=SLIP_LIKENESS)
        if slip and name not in columns:
            mistakes.append(
                f"column {slip[0]!r} is not known. Did you mean {name!r}? Rename it, or leave it out."
            )
    return mistakes


def _listed(columns: list[str]) -> str:
    """Name the columns that were found, as many as a message bears."""
    shown = [repr(name[:80]) for name in columns[:SHOWN]]
    more = f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else ""
    return f"found {', '.join(shown) or 'none'}{more}"


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """Return a CSV's column names and its rows with their line numbers; comma, semicolon or tab."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8."
        ) from error
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = _names(next(reader, []))
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV: {error} (line {reader.line_num}).") from error
    known = [(place, name) for place, name in enumerate(columns) if name in KNOWN]
    return columns, [(line, _row(known, cells)) for line, cells in lines]


def _row(known: list[tuple[int, str]], cells: list[str]) -> Row:
    """Return a row's known columns alone: a short row must not grow to the width of its table."""
    return {name: cells[place].strip() if place < len(cells) else "" for place, name in known}


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """Return a Parquet file's column names and its rows, numbered from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        about = pyarrow.parquet.read_metadata(path)
        if about.num_rows > MAX_ROWS or about.num_columns > MAX_COLUMNS:
            raise DataError(
                f"{path} says it has {about.num_rows:,} rows and {about.num_columns:,} columns; expected "
                f"at most {MAX_ROWS:,} and {MAX_COLUMNS:,}."
            )
        schema = pyarrow.parquet.read_schema(path)
        wanted = [name for name in schema.names if name.strip().lower() in (*REQUIRED, *OPTIONAL)]
        table = pyarrow.parquet.read_table(path, columns=wanted)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # names that are no UTF-8, too
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    kept = _names(wanted)
    values = [[_cell(value) for value in table.column(name).to_pylist()] for name in wanted]
    rows = [dict(zip(kept, cells, strict=True)) for cells in zip(*values, strict=True)]
    return _names(schema.names), list(enumerate(rows, start=1))


def _names(columns: Iterable[str]) -> list[str]:
    return [column.strip().lower() for column in columns]


def _cell(value: object) -> str:
    """Return a Parquet value as text; a whole number keeps no decimal point, a missing value is empty."""
    if value is None or value != value:  # NaN, the missing value of a column of floats
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
