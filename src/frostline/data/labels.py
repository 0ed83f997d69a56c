"""The one reader of labels: from values of a table, a dataset or an array to class names.

A missing label is no class: it becomes "", and `skip_unlabelled` skips its image. Several labels for one
image, vectors and numbers with a fraction are refused for the whole column at once, with how many images
have them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from frostline.data.findings import Finding, first_examples
from frostline.data.manifest_entries import SkippedImage
from frostline.data.sources.common import Source
from frostline.errors import DataError

# Column names that mean "the label" where none is called so, in the order they are tried.
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")

HIDDEN = -1  # where classes are numbered, this is how Hugging Face and torchvision store a label not given

# Texts by which spreadsheets, pandas, R and SQL write that a value is missing; as a class each gets a note.
WORDS_FOR_NONE = frozenset({"nan", "none", "na", "n/a", "#n/a", "<na>", "nat", "null", "nil"})

TIGHT_BAR = re.compile(r"\S\|\S")  # Glas|wet: no name of one class has that
SEPARATORS = "|;,"  # between several labels in one text
WRITTEN_LIST = re.compile(r"\[.*[^,\s].*[,\s].*[^,\s].*\]", re.DOTALL)  # as Python and numpy print one
# Numbers with a fraction, as text, are read as a measured quantity where there are this many different ones
# an image. A choice: in a regression nearly every image has its own, in classes such as 0.5 and 1.0 few do.
MEASURED_SHARE = 0.5


def read_labels(values: Iterable[Any], names: Sequence[str] = (), classes: Collection[str] = ()) -> list[str]:
    """Return the class of each image from labels of any supported type.

    Parameters
    ----------
    values : iterable
        Texts, whole numbers, bytes (UTF-8), or any of these in a list or array of one.
    names : sequence of str
        Class names, where labels are numbers from 0.
    classes : collection of str
        Names that are known to be of one class, even if they look like several.

    Returns
    -------
    list of str
        Class names; "" where a label is missing.

    Raises
    ------
    DataError
        Images have several labels, a vector or a number with a fraction, or a number has no name.
    """
    plain = [_plain(value) for value in values]
    _refuse_several(plain)
    _refuse_fractions(plain)
    texts = [_text(value, names) for value in plain]
    _refuse_joined(texts, classes)
    return texts


def is_missing(value: Any) -> bool:
    """Return whether a value means "missing": None, NaN, pandas' NA and NaT, or blank text."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, str):
        return not value.strip()
    try:
        return bool(value != value)  # NaN alone differs from itself: floats', Decimal's and numpy's
    except (TypeError, ValueError, RuntimeError):  # an array, a tensor
        return False


def skip_unlabelled(source: Source) -> None:
    """Skip images without a label, count them, and note classes that are words for "none"."""
    source.skipped += [
        SkippedImage(entry.path, "", "has no label", "unlabelled")
        for entry in source.images
        if not entry.label
    ]
    source.images = [entry for entry in source.images if entry.label]
    unlabelled = [image.path for image in source.skipped if image.kind == "unlabelled"]
    if unlabelled:
        message = f"{len(unlabelled)} image(s) have no label and are skipped."
        source.findings.append(
            Finding("unlabelled", len(unlabelled), message, examples=first_examples(unlabelled))
        )
    for label, count in sorted(Counter(entry.label for entry in source.images).items()):
        if label.strip().casefold() in WORDS_FOR_NONE:
            source.findings.append(
                Finding(
                    "label_words",
                    count,
                    f"The class {label!r} ({count} image(s)) is named with a word for a missing label, and "
                    "is learned as a class.",
                    "If it means that there is none, leave the label empty.",
                    first_examples(entry.path for entry in source.images if entry.label == label),
                )
            )


def _plain(value: Any) -> Any:
    """Return a value as plain Python: None where it is missing, a tuple where it is not one value."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        inner = [_plain(item) for item in value]
        return (inner[0] if inner else None) if len(inner) < 2 else tuple(inner)
    if isinstance(value, bytes | bytearray):
        value = _decoded(bytes(value))
    if is_missing(value):
        return None
    if isinstance(value, dict):
        raise DataError(
            f"A label is a record with {', '.join(map(repr, list(value)[:5])) or 'nothing'} in it; "
            "expected one name or whole number an image."
        )
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip())
    return value


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"A label is {value[:20]!r}, bytes that are not UTF-8; expected a name or whole number an image."
        ) from None


def _refuse_several(values: Sequence[Any]) -> None:
    several = [value for value in values if isinstance(value, tuple)]
    if several:
        raise DataError(
            f"{len(several)} of {len(values)} images have several labels, or a vector of numbers, such as "
            f"{str(list(several[0]))[:60]}; expected one name or whole number an image. Several labels for "
            "one image, and soft labels, are not supported yet."
        )


def _refuse_fractions(values: Sequence[Any]) -> None:
    numbers = [value for value in values if _is_float(value)]
    fractions = [value for value in numbers if not float(value).is_integer()]
    texts = [value for value in values if isinstance(value, str)]
    if not fractions and texts:
        parsed_numbers = [_number(text) for text in texts]
        are_whole = [number is not None and number.is_integer() for number in parsed_numbers]
        if (
            None not in parsed_numbers
            and not all(are_whole)
            and len(set(parsed_numbers)) >= MEASURED_SHARE * len(parsed_numbers)
        ):
            fractions = [
                number for number, is_whole in zip(parsed_numbers, are_whole, strict=True) if not is_whole
            ]
    if fractions:
        raise DataError(
            f"{len(fractions)} of {len(values)} labels are numbers with a fraction, such as {fractions[0]}: "
            "this looks like regression, which is not supported; expected classes. If each number is the "
            "name of a class, write it with a letter in it, such as 'dose 0.5'."
        )


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or type(value).__name__ == "Decimal"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any, names: Sequence[str]) -> str:
    if value is None:
        return ""
    if _is_float(value):
        value = int(value)
    if not names or not isinstance(value, int):
        return str(value)
    if value == HIDDEN:
        return ""
    if not 0 <= value < len(names):
        raise DataError(
            f"A label is {value}, but the dataset names {len(names)} classes, 0 to {len(names) - 1}."
        )
    return unicodedata.normalize("NFC", str(names[value]))


def _refuse_joined(texts: Sequence[str], known: Collection[str]) -> None:
    """Refuse texts that hold several labels: `a|b`, `[a, b]`, and `a;b` or `a,b` of labels seen elsewhere.

    Not those that are `known` to be the name of one class.
    """
    classes = {text for text in texts if text}
    joined = {text for text in classes if TIGHT_BAR.search(text) or WRITTEN_LIST.fullmatch(text)}
    for separator in SEPARATORS:
        joined |= _joined_by(separator, classes)
    joined -= set(known)
    count = sum(text in joined for text in texts)
    if count:
        raise DataError(
            f"{count} of {len(texts)} images have several labels in one text, such as {min(joined)!r}; "
            "expected one class an image, since several are not supported yet. Where it is the name of one "
            "class, write it without '|', ';', ',' and square brackets."
        )


def _joined_by(separator: str, classes: set[str]) -> set[str]:
    """Return the labels all of whose pieces are labels themselves, or pieces of another label, too."""
    pieces = {
        text: [piece.strip() for piece in text.split(separator)] for text in classes if separator in text
    }
    uses = Counter(piece for parts in pieces.values() for piece in set(parts))
    return {
        text
        for text, parts in pieces.items()
        if len(set(parts)) > 1 and all(part and (part in classes or uses[part] > 1) for part in parts)
    }
