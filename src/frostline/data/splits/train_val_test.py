"""Assign images to three subsets: which may be held out, and which are excluded from val and test.

`splitting` decides where one unit goes; this file decides which images are considered. The test set
influences nothing else: which images are in train and val does not depend on any label of a given test set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from frostline.data.findings import Finding, first_examples, name_few
from frostline.data.manifest_entries import SUBSETS, Conflict, SkippedImage
from frostline.data.sources.common import ImageEntry
from frostline.data.splits.folding import unit_ids
from frostline.data.splits.splitting import hold_out, unit_keys
from frostline.sentences import counted

# Below this nothing is chosen on a hold-out: a val set of a fifth would be under 40 images, where accuracy
# has a standard error of .07, or hold one or two images of the scarcest class. Rules of thumb.
MIN_IMAGES_FOR_VAL = 200
MIN_CLASS_IMAGES_FOR_VAL = 10
NEW = -1  # the side of an image that none is remembered of; others are places in `SUBSETS`


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """The requested split."""

    seed: int
    test: float  # share of all images, where the source has no test set
    val: float  # share of the remaining ones, where it has no val set


@dataclass(slots=True)
class Split:
    """The result: a subset for each image that stays, and findings."""

    subsets: list[str]  # one for each image; "" = skipped
    skipped: dict[int, SkippedImage] = field(default_factory=dict)  # by position
    conflicts: list[Conflict] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def skip(self, position: int, entry: ImageEntry, kind: str, reason: str) -> None:
        """Give an image no subset."""
        self.subsets[position] = ""
        self.skipped[position] = SkippedImage(entry.path, entry.label, reason, kind)


def too_few_for_val(images: Collection[int]) -> bool:
    """Return whether nothing should be chosen on a val set taken from so many images of each class."""
    return sum(images) < MIN_IMAGES_FOR_VAL or min(images, default=0) < MIN_CLASS_IMAGES_FOR_VAL


def split(
    entries: Sequence[ImageEntry],
    digests: Sequence[str],
    near: Sequence[tuple[int, int]],
    options: SplitOptions,
    sides: Mapping[str, str] | None = None,
    contested: Collection[str] = (),
) -> Split:
    """Give every image a subset.

    `near` holds pairs of positions that must stay together. `sides` holds the subset that images of these
    digests had before, and keep unless the source itself names their subset or the one they were in. Images
    of `contested` digests carry different labels in the source, all copies of it here or not.
    """
    result = Split([image.split or "train" for image in entries])
    in_doubt = _skip_conflicts(entries, digests, result)
    if contested:
        in_doubt |= np.array([digest in contested for digest in digests], dtype=bool)
    _skip_leaks(entries, digests, result)
    units = unit_ids([image.group for image in entries], digests, near)
    in_val_or_test = np.array([image.split in ("val", "test") for image in entries], dtype=bool)
    may_leave = ~np.isin(units, units[in_val_or_test | in_doubt])
    pinned = np.zeros(len(entries), dtype=bool)
    if sides:
        pinned = _pin(entries, units, _sides(entries, digests, sides, result), in_doubt, result)
    table = _Table(entries, digests, units, pinned, pinned | may_leave)
    named_subsets = {image.split for image in entries}
    if "test" not in named_subsets:
        _carve(table, "test", options.test, options.seed, result)
    if "val" not in named_subsets:
        _carve_val(table, options, result)
    return result


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns of all images, (N,) each, that carving needs."""

    entries: Sequence[ImageEntry]
    digests: Sequence[str]
    units: np.ndarray
    pinned: np.ndarray  # bool: it has the subset that it had before
    counted: np.ndarray  # bool: pinned, or not given to val or test, not contested, nor tied to one that is


def _carve(table: _Table, subset: str, fraction: float, seed: int, result: Split) -> None:
    """Take `fraction` of the images that no subset which guards more holds for `subset`; changes `result`."""
    below = ("", *SUBSETS[SUBSETS.index(subset) + 1 :])
    at = np.flatnonzero(table.counted & np.array([name not in below for name in result.subsets], dtype=bool))
    if not len(at) or fraction <= 0:
        return
    counted = [table.entries[i] for i in at.tolist()]
    targets = np.unique(np.array([image.label for image in counted], dtype=object), return_inverse=True)[1]
    units = np.unique(table.units[at], return_inverse=True)[1]
    keys = unit_keys(units, [image.group for image in counted], [table.digests[i] for i in at.tolist()])
    in_subset = np.array([result.subsets[i] == subset for i in at.tolist()], dtype=bool)
    pins = np.zeros(len(keys), dtype=np.int64)
    pins[units[table.pinned[at]]] = -1
    pins[units[table.pinned[at] & in_subset]] = 1
    for i in at[hold_out(targets, units, keys, fraction, seed, subset, pins)].tolist():
        result.subsets[i] = subset


def _carve_val(table: _Table, options: SplitOptions, result: Split) -> None:
    """Take val out of train, unless there are too few images to choose anything on it."""
    labels = [
        image.label for image, subset in zip(table.entries, result.subsets, strict=True) if subset == "train"
    ]
    if "val" in result.subsets or not too_few_for_val(np.unique(labels, return_counts=True)[1].tolist()):
        _carve(table, "val", options.val, options.seed, result)


def _sides(
    entries: Sequence[ImageEntry], digests: Sequence[str], sides: Mapping[str, str], result: Split
) -> np.ndarray:
    """Return the side to keep of every image, (N,): `NEW` where the source has the say, or none is known."""
    place = {subset: at for at, subset in enumerate(SUBSETS)}
    named_subsets = {image.split for image in entries}
    before = np.full(len(entries), NEW, dtype=np.int64)
    for i, (image, digest) in enumerate(zip(entries, digests, strict=True)):
        side = sides.get(digest)
        decided = image.split in ("val", "test") or (
            image.split == "train" and side in named_subsets - {"train"}
        )
        if side is not None and not decided and result.subsets[i]:
            before[i] = place[side]
    return before


def _pin(
    entries: Sequence[ImageEntry], units: np.ndarray, side: np.ndarray, in_doubt: np.ndarray, result: Split
) -> np.ndarray:
    """Put what is remembered, and what hangs together with it, where it was: (N,) bool; changes `result`.

    A unit that is remembered in two subsets keeps the images of the one with precedence. Its other images are
    skipped: they belong together with these, and new images with both.
    """
    count = int(units.max()) + 1
    highest, lowest = np.full(count, NEW), np.full(count, len(SUBSETS))
    remembered_before = side != NEW
    np.maximum.at(highest, units[remembered_before], side[remembered_before])
    np.minimum.at(lowest, units[remembered_before], side[remembered_before])
    guard, torn = highest[units], (lowest < highest)[units]
    remembered = (guard != NEW) & np.array(
        [
            bool(subset) and image.split in ("", "train")
            for image, subset in zip(entries, result.subsets, strict=True)
        ]
    )
    leaves = remembered & ((torn & (side != guard)) | (in_doubt & (guard > 0)))
    for i in np.flatnonzero(remembered & ~leaves).tolist():
        result.subsets[i] = SUBSETS[guard[i]]
    for i in np.flatnonzero(leaves).tolist():
        doubt = "is identical to an image with another label, and " if in_doubt[i] else ""
        reason = f"{doubt}belongs together with images of the {SUBSETS[guard[i]]} set that stay there"
        result.skip(i, entries[i], "tied", reason)
    tied = [entries[i].path for i in np.flatnonzero(leaves).tolist()]
    if tied:
        message = (
            f"{len(tied)} image(s) are skipped, since new images link images of two subsets: "
            f"{name_few(tied)}. Those of the subset with precedence (test, then val, then train) stay; the "
            "others are not used."
        )
        result.findings.append(Finding("tied", len(tied), message, examples=first_examples(tied)))
    return np.asarray(remembered & ~leaves)


def _skip_conflicts(entries: Sequence[ImageEntry], digests: Sequence[str], result: Split) -> np.ndarray:
    """Return identical images with different labels, (N,) bool; skip those given to val or test."""
    contested = np.zeros(len(entries), dtype=bool)
    for digest, at in _by_digest(digests).items():
        labels = tuple(entries[i].label for i in at)
        if len(set(labels)) < 2:
            continue
        result.conflicts.append(Conflict(digest, tuple(entries[i].path for i in at), labels))
        for i in at:
            contested[i] = True
            if entries[i].split in ("val", "test"):
                twin = next(j for j in at if entries[j].label != entries[i].label)
                reason = f"is identical to {entries[twin].path}, which is labelled {entries[twin].label!r}"
                result.skip(i, entries[i], "conflict", reason)
    if result.conflicts:
        message = (
            f"{contested.sum()} images in {counted(len(result.conflicts), 'set')} of identical ones carry "
            "different labels: "
            "they are excluded from val and test."
        )
        paths = first_examples(path for conflict in result.conflicts for path in conflict.paths)
        result.findings.append(Finding("conflict", int(contested.sum()), message, examples=paths))
    return contested


def _skip_leaks(entries: Sequence[ImageEntry], digests: Sequence[str], result: Split) -> None:
    """Skip exact copies of images in a given subset with precedence: test, then val."""
    for at in _by_digest(digests).values():
        for guard in ("test", "val"):
            keepers = [i for i in at if entries[i].split == guard]
            if not keepers:
                continue
            for i in at:
                if entries[i].split != guard:
                    reason = f"is an exact copy of {entries[keepers[0]].path} in the {guard} set"
                    result.skip(i, entries[i], "leak", reason)
            break


def _by_digest(digests: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        positions[digest].append(i)
    return {digest: at for digest, at in positions.items() if len(at) > 1}
