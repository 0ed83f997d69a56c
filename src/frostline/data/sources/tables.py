"""A CSV or Parquet table of `path,label[,split][,group]`, paths relative to the table or absolute.

cells ── columns ── tables      the cells; which column is what; the images
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frostline.data.findings import Finding
from frostline.data.labels import read_labels
from frostline.data.pixels.formats import suffixes
from frostline.data.sources.common import ImageEntry, Source, listing, subset_named, unknown_subset
from frostline.data.sources.file_listing import is_hidden
from frostline.data.sources.remote import Fetcher, ImageLocation, is_address, masked
from frostline.data.sources.table_cells import Cells, as_text, own_bytes, read_cells
from frostline.data.sources.table_columns import IS_VALID, ColumnChoice, choose, listed
from frostline.errors import DataError, did_you_mean

# What fastai and pandas write for true and false, in lower case.
TRUTH = {"true": "val", "1": "val", "yes": "val", "false": "train", "0": "train", "no": "train", "": "train"}


def read_table(
    path: Path,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
) -> Source:
    """List the images that a table names. Whether the files are there is found out later.

    `path_column`, `label_column` and `group_column` name columns that are called otherwise.

    Raises:
        DataError: everything that is wrong with the table, at once.
    """
    column_names = {"path": path_column, "label": label_column}
    cells, chosen = _opened(path, column_names | ({"group": group_column} if group_column else {}))
    lines, rows = _columns(path, cells, chosen)
    if not lines:
        raise DataError(f"{path} cannot be used:{listing(['it has a header but no rows'])}")
    root = path.resolve().parent
    source = Source(root, hint=f"Paths that are not absolute count from the table's folder, {root}.")
    names = Names(root, cells.western)
    try:
        labels = read_labels(rows["label"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    mistakes = [*cells.mistakes, *_collect(lines, rows, labels, names, source)]
    _add_addresses(source)
    assumed = [*cells.notes, *chosen.notes, *names.notes()]
    source.findings += [Finding("assumed", len(lines), text) for text in assumed]
    if mistakes:
        raise DataError(f"{path} has {len(mistakes)} mistake(s):{listing(mistakes)}")
    return source


def read_paths(path: Path, path_column: str | None = None) -> tuple[list[str], list[str]]:
    """Return the image paths of a table, and notes on what was assumed.

    Parameters
    ----------
    path : Path
        CSV or Parquet file.
    path_column : str or None
        Column that holds the paths.

    Returns
    -------
    paths : list of str
        Relative to the working directory, or addresses.
    notes : list of str

    Raises
    ------
    DataError
        No column holds paths.
    """
    cells, chosen = _opened(path, {"path": path_column})
    _, rows = _columns(path, cells, chosen)
    names = Names(path.parent, cells.western)
    paths = [names.find(text) for value in rows["path"] if (text := as_text(value))]
    mistakes = [*cells.mistakes, *names.mistakes]
    if mistakes:
        raise DataError(f"{path} has {len(mistakes)} mistake(s):{listing(mistakes)}")
    places = [text if is_address(text) else str(path.parent / text) for text in paths]
    return places, [*cells.notes, *chosen.notes, *names.notes()]


def read_column(path: Path, name: str, path_column: str | None = None) -> dict[str, str]:
    """Return the cells of one column by the image's path, as `read_table` names it.

    Parameters
    ----------
    path : Path
        CSV or Parquet file.
    name : str
        The column.
    path_column : str or None
        Column that holds the paths.

    Returns
    -------
    dict of str to str
        Empty where a cell is.

    Raises
    ------
    DataError
        There is no such column, or none that holds paths.
    """
    cells, chosen = _opened(path, {"path": path_column})
    if name.strip().lower() not in cells.columns:
        guess = did_you_mean(name.strip().lower(), cells.columns)
        raise DataError(f"{path} has no column {name!r} ({listed(cells.columns)}).{guess}")
    place = cells.columns.index(name.strip().lower())
    root = path.resolve().parent
    names = Names(root, cells.western)
    values: dict[str, str] = {}
    for _, (path_cell, cell) in cells.rows([chosen.places["path"], place]):
        if text := as_text(path_cell):
            reference = _reference(names.find(text), root)
            values[masked(reference) if is_address(reference) else reference] = as_text(cell)
    return values


def _opened(path: Path, column_names: dict[str, str | None]) -> tuple[Cells, ColumnChoice]:
    cells = read_cells(path)
    chosen = choose(cells.columns, column_names)
    if chosen.mistakes:
        raise DataError(f"{path} cannot be used:{listing(chosen.mistakes)}")
    return cells, chosen


def _columns(path: Path, cells: Cells, chosen: ColumnChoice) -> tuple[list[int], dict[str, list[Any]]]:
    """Return the rows' line numbers, and the chosen columns by what they are."""
    rows = cells.rows(list(chosen.places.values()))
    columns = zip(*(values for _, values in rows), strict=True) if rows else [[] for _ in chosen.places]
    values_of = {role: list(values) for role, values in zip(chosen.places, columns, strict=True)}
    if any(isinstance(value, dict | list) for value in values_of["path"]):
        name = cells.columns[chosen.places["path"]]
        raise DataError(
            f"The column {name!r} of {path} holds images or records, not paths. Where it is a Hugging Face "
            "dataset, pass datasets.load_dataset(...) in Python."
        )
    return [line for line, _ in rows], values_of


@dataclass(slots=True)
class Names:
    """From a path as a table writes it to that of a file, counting what had to be assumed."""

    folder: Path
    western: bool = False  # names may be bytes that were read as letters
    windows: int = 0
    added: dict[str, int] = field(default_factory=dict)  # by the suffix that was added
    mistakes: list[str] = field(default_factory=list)
    _stems: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, text: str) -> str:
        """Return the path of the file that is meant, or `text` where there is no telling."""
        if is_address(text):
            return text
        try:
            return self._existing_path(text)
        except (OSError, ValueError):  # too long a name, a NUL: reported when it is read
            return text

    def _existing_path(self, text: str) -> str:
        odd = self.western and not text.isascii()
        bare = Path(text.replace("\\", "/")).suffix.lower() not in suffixes()
        if not (odd or bare or "\\" in text) or (self.folder / text).exists():
            return text
        if odd and (self.folder / own_bytes(text)).exists():
            return own_bytes(text)
        posix_text = text.replace("\\", "/")  # written on Windows
        if posix_text != text and (self.folder / posix_text).exists():
            self.windows += 1
            return posix_text
        return self._with_suffix(posix_text) or text

    def _with_suffix(self, text: str) -> str:
        """Return the path of the one image of this name, "" where there is none."""
        place = self.folder / text
        if place.parent not in self._stems:
            self._stems[place.parent] = _stems(place.parent)
        fitting = self._stems[place.parent].get(place.name, [])
        if len(fitting) > 1:
            self.mistakes.append(f"{text} has no suffix. Did you mean {' or '.join(sorted(fitting)[:3])}?")
        if len(fitting) != 1:
            return ""
        suffix = fitting[0][len(place.name) :]
        self.added[suffix] = self.added.get(suffix, 0) + 1
        return text + suffix

    def notes(self) -> list[str]:
        """Return what was assumed."""
        notes = [f"{self.windows} path(s) were read with / for \\."] if self.windows else []
        for suffix, count in sorted(self.added.items()):
            notes.append(
                f"{count} path(s) had no suffix and were read as the {suffix} files of the same name."
            )
        return notes


def _stems(folder: Path) -> dict[str, list[str]]:
    """Return the images of a folder by their names without suffix."""
    names_by_stem: dict[str, list[str]] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes() and not is_hidden(name):
            names_by_stem.setdefault(stem, []).append(name)
    return names_by_stem


def _collect(
    lines: Sequence[int], rows: dict[str, list[Any]], labels: Sequence[str], names: Names, source: Source
) -> list[str]:
    """Add every row to `source`; return what is wrong with them."""
    mistakes: list[str] = []
    first_rows: dict[str, tuple[int, ImageEntry]] = {}
    repeats = 0
    subsets, subset_mistakes = _subsets(lines, rows, source)
    mistakes += subset_mistakes
    groups = [as_text(value) for value in rows.get("group", [""] * len(lines))]
    paths = [as_text(value) for value in rows["path"]]
    for line, path, label, subset, group in zip(lines, paths, labels, subsets, groups, strict=True):
        if not path:
            mistakes.append(f"row {line}: path is empty")
            continue
        entry = ImageEntry(_reference(names.find(path), source.root or Path()), label, group, subset)
        before = first_rows.setdefault(entry.path, (line, entry))
        if before[0] == line:
            source.images.append(entry)
            continue
        repeats += 1
        difference = _difference(*before, entry)
        mistakes += [f"row {line}: {difference}"] if difference else []
    if repeats and not mistakes:
        message = f"{repeats} row(s) repeat an earlier row and are used once."
        source.findings.append(Finding("repeated", repeats, message))
    return mistakes + names.mistakes


def _subsets(lines: Sequence[int], rows: dict[str, list[Any]], source: Source) -> tuple[list[str], list[str]]:
    """Return each row's subset, "" where none is given, and the rows that name another."""
    if IS_VALID in rows:
        texts = [as_text(value).lower() for value in rows[IS_VALID]]
        mistakes = [
            f"row {line}: {IS_VALID} {text!r} is neither true nor false"
            for line, text in zip(lines, texts, strict=True)
            if text not in TRUTH
        ]
        subsets = [TRUTH.get(text, "") for text in texts]
        message = (
            f"The column {IS_VALID!r} was read as fastai does: {subsets.count('val')} image(s) are val, "
            f"{subsets.count('train')} train."
        )
        source.findings.append(Finding("assumed", len(lines), message))
        return subsets, mistakes
    texts = [as_text(value) for value in rows.get("split", [""] * len(lines))]
    subset_by_text = {text: subset_named(text) or "" for text in set(texts)}
    mistakes = [
        f"row {line}: {unknown_subset(text)}"
        for line, text in zip(lines, texts, strict=True)
        if text and not subset_by_text[text]
    ]
    if 0 < (empty := texts.count("")) < len(texts):
        message = f"{empty} of {len(texts)} row(s) name no subset: they are train, and what is drawn from it."
        source.findings.append(Finding("assumed", empty, message))
    return [subset_by_text[text] for text in texts], mistakes


def _add_addresses(source: Source) -> None:
    """Have images at addresses fetched, and named without what may be secret; others stay files."""
    if not any(is_address(entry.path) for entry in source.images):
        return
    fetcher = Fetcher(source.root)
    source.images = [
        replace(entry, path=fetcher.add(masked(entry.path), ImageLocation(entry.path)))
        if is_address(entry.path)
        else entry
        for entry in source.images
    ]
    source.items, source.key = fetcher, fetcher.key


def _reference(text: str, root: Path) -> str:
    """Return a path as the manifest keeps it: relative to `root` where it lies below, else absolute."""
    if is_address(text):
        return text
    path = root / text
    try:
        if ".." in path.parts:
            path = path.resolve()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL, a loop of links
        path = root / text
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _difference(line: int, before: ImageEntry, now: ImageEntry) -> str:
    """Return how two rows for one image contradict each other, or return ""."""
    for name in ("label", "split", "group"):
        before_value, now_value = getattr(before, name), getattr(now, name)
        if before_value != now_value:
            more = " (several labels for one image are not supported yet)" if name == "label" else ""
            image = masked(now.path) if is_address(now.path) else now.path
            return (
                f"{image} has {name} {now_value!r} and, in row {line}, {before_value!r}; expected one{more}"
            )
    return ""
