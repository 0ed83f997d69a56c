"""Find the columns of a table: by name, by a usual alias, or as given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from frostline.data.labels import LABEL_COLUMNS
from frostline.data.sources.table_cells import MAX_COLUMNS
from frostline.errors import did_you_mean

# Names for the column of images, as fastai, Keras, Hugging Face's imagefolder, PyTorch tutorials and Kaggle
# have them. The second line counts only where the first has none: an id beside a file is no path.
ALIASES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "path": (
        ("filename", "file_name", "filepath", "file_path", "file", "fname", "image_path", "img_path", "image",
         "img", "image_name"),
        ("image_id", "id", "name"),
    ),
    "label": (LABEL_COLUMNS[1:],),
}  # fmt: skip
OPTIONAL = ("split", "group")
IS_VALID = "is_valid"  # fastai's: true for images of the validation set

# A column this close to an optional one ("groups", "splits") is a slip that would leak a split; other columns
# people have ("width", "source", "species", "fold", "patient") score .67 and below.
SLIP_LIKENESS = 0.8

SHOWN = 20  # columns named in a message


@dataclass(slots=True)
class ColumnChoice:
    """The position of each chosen column by role, what was assumed, and what is wrong."""

    places: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


def choose(
    columns: Sequence[str], column_names: Mapping[str, str | None], *, of_data: bool = True
) -> ColumnChoice:
    """Return the columns of the roles in `column_names`, by the given name or a usual one, and optional ones.

    A column that nothing is read from may be called anything, twice or not at all. Tables that are not
    `of_data` hold predictions: they have no optional columns, and no options that name theirs.
    """
    chosen = ColumnChoice()
    if len(columns) > MAX_COLUMNS:
        chosen.mistakes.append(
            f"it has {len(columns):,} columns ({listed(columns)}); expected at most {MAX_COLUMNS:,}"
        )
        return chosen
    for role, name in column_names.items():
        _choose(role, name, columns, chosen, of_data)
    if "label" in column_names and of_data:
        for role in OPTIONAL:
            if role not in column_names:
                _choose_optional(role, columns, chosen)
        if IS_VALID in columns and "split" not in columns:
            chosen.places[IS_VALID] = list(columns).index(IS_VALID)
    count = Counter(columns)
    for at in chosen.places.values():
        if count[columns[at]] > 1:
            chosen.mistakes.append(f"column {columns[at]!r} appears twice")
    return chosen


def _choose(role: str, name: str | None, columns: Sequence[str], chosen: ColumnChoice, of_data: bool) -> None:
    option = f"--{role}-column"
    if name is not None:
        if name.strip().lower() in columns:
            chosen.places[role] = list(columns).index(name.strip().lower())
        else:
            guess = did_you_mean(name.strip().lower(), columns)
            chosen.mistakes.append(f"there is no column {name!r} ({listed(columns)}).{guess}")
        return
    if role in columns:
        chosen.places[role] = list(columns).index(role)
        return
    for aliases in ALIASES[role]:
        present = [alias for alias in aliases if alias in columns]
        if len(present) > 1:
            way = f"name one, as {option} {present[0]}" if of_data else f"rename one to {role!r}"
            chosen.mistakes.append(
                f"column {role!r} is missing, and {', '.join(map(repr, present))} could each be it: {way}"
            )
            return
        if present:
            chosen.places[role] = list(columns).index(present[0])
            another = f"; {option} names another" if of_data else ""
            chosen.notes.append(f"The column {present[0]!r} was read as {role}{another}.")
            return
    near = get_close_matches(role, [c for c in columns if c not in ALIASES], n=1, cutoff=SLIP_LIKENESS)
    slip = f"; rename {near[0]!r} to {role!r}" if near else ""
    way = f", or name it with {option}" if of_data else f"; expected one that is called {role!r}"
    chosen.mistakes.append(f"column {role!r} is missing ({listed(columns)}){slip}{way}")


def _choose_optional(role: str, columns: Sequence[str], chosen: ColumnChoice) -> None:
    if role in columns:
        chosen.places[role] = list(columns).index(role)
        return
    used_columns = {columns[at] for at in chosen.places.values()}
    unused_columns = [column for column in columns if column not in used_columns]
    slip = get_close_matches(role, unused_columns, n=1, cutoff=SLIP_LIKENESS)
    if slip:
        chosen.mistakes.append(
            f"column {slip[0]!r} is unknown. Did you mean {role!r}? Rename it, or leave it out."
        )


def listed(columns: Sequence[str]) -> str:
    """Name the columns that were found, as many as a message bears."""
    quoted = [repr(name[:80]) for name in columns[:SHOWN]]
    more = f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else ""
    return f"found {', '.join(quoted) or 'none'}{more}"
