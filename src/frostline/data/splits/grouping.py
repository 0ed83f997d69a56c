"""Groups by name: as requested, and as file names suggest.

Frames of one video, slices of one scan, pictures of one person look alike without being copies. Parted by
chance, they let a model be judged by what it has learned. Groups are proposed from names, never applied
unasked: a name can mean anything.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol

from frostline.data.findings import Finding, name_few
from frostline.data.pixels.formats import suffixes
from frostline.data.sources.common import ImageEntry
from frostline.errors import DataError, UsageError, did_you_mean, option

PARENT, COLUMN, PATTERN, AUTO = "parent", "column:", "re:", "auto"
EXPECTED = "parent, column:NAME, re:REGEX or auto"
SEARCHED = " An expression is searched in the file's name, or in the whole path where it holds a slash."

# Beginnings of names that cameras, programs and data sets give to every file: they tell nothing apart.
COMMON = frozenset(
    {
        "",
        "img",
        "image",
        "images",
        "im",
        "pic",
        "picture",
        "photo",
        "dsc",
        "dscn",
        "dscf",
        "pxl",
        "p",
        "frame",
    }
    | {"screenshot", "scan", "slice", "file", "sample", "untitled", "unnamed", "download", "train", "test"}
)
AROUND_A_COUNTER = " _.-("
# The end of what may be a hexadecimal code, such as 1f9f of 1f9f9: the digits that follow count nothing.
CODE = re.compile(r"(?:^|[^0-9a-zA-Z])(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]+$")
# Choices. Fewer images than this share in groups of several, and names are nearly all different.
LEAST_IN_GROUPS = 0.2
# A class whose largest group holds more than this share of it is one group, and a few odd files.
MOST_IN_ONE = 0.8
# This share of the images lies in classes of several groups: else names repeat the class.
LEAST_VARIED = 0.5


class NamedImage(Protocol):
    """An image by its path and label."""

    @property
    def path(self) -> str: ...

    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class GroupBy:
    """The requested rule for groups."""

    text: str

    @property
    def column(self) -> str | None:
        """The column that names groups, if one does."""
        return self.text.removeprefix(COLUMN) if self.text.startswith(COLUMN) else None

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The expression that finds a group's name in a path, if one does."""
        return _compiled(self.text.removeprefix(PATTERN)) if self.text.startswith(PATTERN) else None


def _compiled(expression: str) -> re.Pattern[str]:
    """Compile an expression, without what Python says of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(expression)


def parsed(text: str | None) -> GroupBy | None:
    """Return the rule of a `--group-by` text. Raises `UsageError` where it is none."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise UsageError(f"{option('group_by')} is {text!r}; expected {EXPECTED}.")
    if text.startswith(PATTERN) and text != PATTERN:
        try:
            _compiled(text.removeprefix(PATTERN))
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"{text!r} is not a regular expression: {error}.") from None
    elif not (text in (PARENT, AUTO) or (text.startswith(COLUMN) and text.removeprefix(COLUMN).strip())):
        guess = "" if text in (COLUMN, PATTERN) else did_you_mean(text, (PARENT, AUTO, COLUMN, PATTERN))
        if text in (COLUMN, PATTERN):
            guess = f" Nothing stands after {text!r}."
        raise UsageError(f"Images can't be grouped by {text!r}; expected {EXPECTED}.{guess}")
    return GroupBy(text)


def grouped(images: Sequence[ImageEntry], by: GroupBy) -> tuple[list[ImageEntry], list[Finding]]:
    """Return the images with their groups, and findings.

    An image that the rule names no group for stands alone. Groups of a column came with the source.
    Raises `DataError` where no image is given a group, or all are given one.
    """
    if by.column is not None:
        return list(images), _about([image.group for image in images], images, by)
    if by.text == AUTO:
        if any(image.group for image in images):
            return list(images), []
        proposal = proposed(images)
        if proposal is None:
            message = "File names show no groups: with --group-by auto every image is its own group."
            return list(images), [Finding("groups", 0, message)]
        groups: Sequence[str] = proposal.groups
    elif by.text == PARENT:
        groups = [folder_of(image) for image in images]
    else:
        groups = matched(images, by)
    findings = _about(groups, images, by)
    return [replace(image, group=group) for image, group in zip(images, groups, strict=True)], findings


def matched(images: Sequence[NamedImage], by: GroupBy) -> list[str]:
    """Return what the expression finds: its first group, or the whole match; "" where it finds nothing.

    It is searched in a file's name, and where it holds a slash in the whole path as notes show it.
    """
    pattern = by.pattern
    assert pattern is not None
    on_whole_path, groups = "/" in pattern.pattern, []
    for image in images:
        match = pattern.search(image.path if on_whole_path else _inner(image.path).rpartition("/")[2])
        groups.append("" if match is None else (match[1] if pattern.groups else match[0]) or "")
    return groups


def _about(groups: Sequence[str], images: Sequence[ImageEntry], by: GroupBy) -> list[Finding]:
    """Return how many images have no group. Raises `DataError` where the rule says nothing of any use."""
    alone = [image.path for image, group in zip(images, groups, strict=True) if not group]
    if len(alone) == len(images):
        why = {PARENT: "no image lies in a folder of its own below its class folder"}.get(
            by.text, "the column is empty" if by.column is not None else "it matches no image's name"
        )
        raise DataError(
            f"--group-by {by.text} gives no image a group: {why}. The images are named {name_few(alone)}."
            + (SEARCHED if by.pattern else "")
        )
    if not alone and len(set(groups)) == 1 and len(images) > 1:
        raise DataError(
            f"--group-by {by.text} puts all {len(images)} images into one group, {groups[0]!r}: nothing "
            "could be held out. Expected several groups per class."
        )
    if not alone:
        return []
    message = (
        f"{len(alone)} image(s) have no group by --group-by {by.text}; each is its own group: "
        f"{name_few(alone)}."
    )
    return [Finding("groups", len(alone), message)]


@dataclass(frozen=True)
class Proposal:
    """Groups that names give away: one for each image, "" where it stands alone."""

    groups: tuple[str, ...]
    by: str  # what `--group-by` is to be given for these groups
    origin: str  # what they were read from, as a sentence begins

    @property
    def option(self) -> str:
        """The option that applies it."""
        return f"--group-by {self.by}"


def proposed(images: Sequence[NamedImage]) -> Proposal | None:
    """Return the groups that folders below the classes, else names before a counter, give away.

    None where names are all different, or where they only repeat the class: one group a class is no group.
    """
    rules = ((folder_of, PARENT, "Folders below the classes"), (name_of, AUTO, "File names"))
    for rule, by, origin in rules:
        groups = [rule(image) for image in images]
        if _worth_it(groups, [image.label for image in images]):
            return Proposal(tuple(groups), by, origin)
    return None


def _worth_it(groups: Sequence[str], labels: Sequence[str]) -> bool:
    """Tell if these look like groups: many images in groups of several, most classes of several groups."""
    sizes = Counter(group for group in groups if group)
    several = {group for group, size in sizes.items() if size > 1}
    if len(several) < 2 or sum(sizes[group] for group in several) < LEAST_IN_GROUPS * len(groups):
        return False
    group_sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        if group in several:
            group_sizes[label][group] += 1
    images = Counter(labels)
    varied = sum(
        images[label]
        for label, sizes_in_class in group_sizes.items()
        if len(sizes_in_class) > 1 and max(sizes_in_class.values()) <= MOST_IN_ONE * images[label]
    )
    return varied >= LEAST_VARIED * len(groups)


def folder_of(image: NamedImage) -> str:
    """Return the folders between the class folder and the image; "" where it lies in the class folder.

    The class folder is the first one of the label's name. Where there is none, all folders count.
    """
    *folders, _ = _inner(image.path).split("/")
    plain = [unicodedata.normalize("NFC", folder) for folder in folders]
    if image.label in plain:
        folders = folders[plain.index(image.label) + 1 :]
        while folders and unicodedata.normalize("NFC", folders[0]).casefold() == image.label.casefold():
            folders = folders[1:]  # a folder that holds only one of its own name
    return "/".join(folders)


def name_of(image: NamedImage) -> str:
    """Return a file's name up to the number at its end; "" where there is none, or it tells nothing apart.

    The number is a counter: of a hexadecimal code it is not.
    """
    name = PurePosixPath(_inner(image.path).rpartition("/")[2])
    stem = name.stem if name.suffix.lower() in suffixes() else name.name
    bare = stem.rstrip(") ")
    before = bare.rstrip("0123456789")
    if before == bare or CODE.search(before):
        return ""
    start = before.rstrip(AROUND_A_COUNTER)
    return "" if start.casefold() in COMMON | {image.label.casefold()} else start


def _inner(path: str) -> str:
    """Return the path within a tar shard, else the path: shards are no groups."""
    return path.rpartition(".tar!")[2]
