"""From what a source says to three parts: who may be held out, what stays out of val and test, and why.

`splitting` decides where one unit goes; this file decides which images it is asked about. The test part
influences nothing else: which images are in train and val does not depend on any label of a given test part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from frostline.data.findings import Finding, shown, some
from frostline.data.samples import PARTS, Conflict
from frostline.data.sources.common import Found
from frostline.data.splits.folding import unit_ids
from frostline.data.splits.splitting import hold_out, unit_keys

# Below this nothing is chosen on a hold-out: a val part of a fifth would be under 40 images, where accuracy
# has a standard error of .07, or hold one or two images of the scarcest class. Rules of thumb.
MIN_IMAGES_FOR_VAL = 200
MIN_CLASS_IMAGES_FOR_VAL = 10
NEW = -1  # the side of an image that none is remembered of; others are places in `PARTS`


@dataclass(frozen=True, slots=True)
class Wish:
    """What the person asked of the split."""

    seed: int
    test: float  # share of all images, where the source has no test part
    val: float  # share of the remaining ones, where it has no val part


@dataclass(slots=True)
class Split:
    """The outcome: a part for each image that stays, and what the person should know."""

    parts: list[str]  # one for each image; "" = it is set aside
    reasons: dict[int, str] = field(default_factory=dict)  # why, by position
    kinds: dict[int, str] = field(default_factory=dict)  # of finding, by position
    conflicts: list[Conflict] = field(default_factory=list)
    said: list[Finding] = field(default_factory=list)


def too_few_for_val(images: Collection[int]) -> bool:
    """Whether nothing should be chosen on a val part taken from so many images of each class."""
    return sum(images) < MIN_IMAGES_FOR_VAL or min(images, default=0) < MIN_CLASS_IMAGES_FOR_VAL


def split(
    found: Sequence[Found],
    digests: Sequence[str],
    near: Sequence[tuple[int, int]],
    wish: Wish,
    sides: Mapping[str, str] | None = None,
    contested: Collection[str] = (),
) -> Split:
    """Give every image a part.

    `near` holds pairs of positions that must stay together. `sides` holds the part that images of these
    digests had before, and keep unless the source itself names their part or the part they were in. Images of
    `contested` digests carry different labels in the source, all copies of it here or not.
    """
    outcome = Split([image.split or "train" for image in found])
    in_doubt = _set_conflicts_aside(found, digests, outcome)
    if contested:
        in_doubt |= np.array([digest in contested for digest in digests], dtype=bool)
    _set_leaks_aside(found, digests, outcome)
    units = unit_ids([image.group for image in found], digests, near)
    given = np.array([image.split in ("val", "test") for image in found], dtype=bool)
    may_leave = ~np.isin(units, units[given | in_doubt])
    pinned = np.zeros(len(found), dtype=bool)
    if sides:
        pinned = _pin(found, units, _sides(found, digests, sides, outcome), in_doubt, outcome)
    table = _Table(found, digests, units, pinned, pinned | may_leave)
    named = {image.split for image in found}
    if "test" not in named:
        _carve(table, "test", wish.test, wish.seed, outcome)
    if "val" not in named:
        _carve_val(table, wish, outcome)
    return outcome


@dataclass(frozen=True, slots=True)
class _Table:
    """What carving needs of every image, as (N,) columns."""

    found: Sequence[Found]
    digests: Sequence[str]
    units: np.ndarray
    pinned: np.ndarray  # bool: it has the part that it had before
    counted: np.ndarray  # bool: pinned, or not given to val or test, not contested, nor tied to one that is


def _carve(table: _Table, part: str, fraction: float, seed: int, outcome: Split) -> None:
    """Take `fraction` of the images that no part which guards more holds for `part`; changes `outcome`."""
    below = ("", *PARTS[PARTS.index(part) + 1 :])
    at = np.flatnonzero(table.counted & np.array([name not in below for name in outcome.parts], dtype=bool))
    if not len(at) or fraction <= 0:
        return
    counted = [table.found[i] for i in at.tolist()]
    targets = np.unique(np.array([image.label for image in counted], dtype=object), return_inverse=True)[1]
    units = np.unique(table.units[at], return_inverse=True)[1]
    keys = unit_keys(units, [image.group for image in counted], [table.digests[i] for i in at.tolist()])
    there = np.array([outcome.parts[i] == part for i in at.tolist()], dtype=bool)
    pins = np.zeros(len(keys), dtype=np.int64)
    pins[units[table.pinned[at]]] = -1
    pins[units[table.pinned[at] & there]] = 1
    for i in at[hold_out(targets, units, keys, fraction, seed, part, pins)].tolist():
        outcome.parts[i] = part


def _carve_val(table: _Table, wish: Wish, outcome: Split) -> None:
    """Take val out of train, unless there are too few images to choose anything on it."""
    labels = [image.label for image, part in zip(table.found, outcome.parts, strict=True) if part == "train"]
    if "val" in outcome.parts or not too_few_for_val(np.unique(labels, return_counts=True)[1].tolist()):
        _carve(table, "val", wish.val, wish.seed, outcome)


def _sides(
    found: Sequence[Found], digests: Sequence[str], sides: Mapping[str, str], outcome: Split
) -> np.ndarray:
    """Return the side to keep of every image, (N,): `NEW` where the source has the say, or none is known."""
    place = {part: at for at, part in enumerate(PARTS)}
    named = {image.split for image in found}
    before = np.full(len(found), NEW, dtype=np.int64)
    for i, (image, digest) in enumerate(zip(found, digests, strict=True)):
        side = sides.get(digest)
        decided = image.split in ("val", "test") or (image.split == "train" and side in named - {"train"})
        if side is not None and not decided and outcome.parts[i]:
            before[i] = place[side]
    return before


def _pin(
    found: Sequence[Found], units: np.ndarray, side: np.ndarray, in_doubt: np.ndarray, outcome: Split
) -> np.ndarray:
    """Put what is remembered, and what hangs together with it, where it was: (N,) bool; changes `outcome`.

    A unit that is remembered on two sides keeps the images of the side that guards more. Its others are set
    aside: they hang together with these, and newcomers with both.
    """
    count = int(units.max()) + 1
    highest, lowest = np.full(count, NEW), np.full(count, len(PARTS))
    old = side != NEW
    np.maximum.at(highest, units[old], side[old])
    np.minimum.at(lowest, units[old], side[old])
    guard, torn = highest[units], (lowest < highest)[units]
    taken = (guard != NEW) & np.array(
        [
            bool(part) and image.split in ("", "train")
            for image, part in zip(found, outcome.parts, strict=True)
        ]
    )
    leaves = taken & ((torn & (side != guard)) | (in_doubt & (guard > 0)))
    for i in np.flatnonzero(taken & ~leaves).tolist():
        outcome.parts[i] = PARTS[guard[i]]
    for i in np.flatnonzero(leaves).tolist():
        doubt = "is identical to an image with another label, and " if in_doubt[i] else ""
        outcome.parts[i] = ""
        outcome.kinds[i] = "tied"
        outcome.reasons[i] = (
            f"{doubt}hangs together with images of the {PARTS[guard[i]]} part that stay there"
        )
    tied = [found[i].path for i in np.flatnonzero(leaves).tolist()]
    if tied:
        said = (
            f"{len(tied)} image(s) are set aside, since newcomers tie images of two parts together: "
            f"{some(tied)}. Those of the part that guards more (test before val before train) stay; nothing "
            "learns from the others."
        )
        outcome.said.append(Finding("tied", len(tied), said, examples=shown(tied)))
    return np.asarray(taken & ~leaves)


def _set_conflicts_aside(found: Sequence[Found], digests: Sequence[str], outcome: Split) -> np.ndarray:
    """List identical images with different labels, (N,) bool; set aside those given to val or test."""
    contested = np.zeros(len(found), dtype=bool)
    for digest, at in _by_digest(digests).items():
        labels = tuple(found[i].label for i in at)
        if len(set(labels)) < 2:
            continue
        outcome.conflicts.append(Conflict(digest, tuple(found[i].path for i in at), labels))
        for i in at:
            contested[i] = True
            if found[i].split in ("val", "test"):
                other = next(j for j in at if found[j].label != found[i].label)
                outcome.parts[i] = ""
                outcome.kinds[i] = "conflict"
                outcome.reasons[i] = (
                    f"is identical to {found[other].path}, which is labelled {found[other].label!r}"
                )
    if outcome.conflicts:
        said = (
            f"{contested.sum()} images in {len(outcome.conflicts)} identical sets carry different labels: "
            "they are kept out of val and test."
        )
        paths = shown(path for one in outcome.conflicts for path in one.paths)
        outcome.said.append(Finding("conflict", int(contested.sum()), said, examples=paths))
    return contested


def _set_leaks_aside(found: Sequence[Found], digests: Sequence[str], outcome: Split) -> None:
    """Set aside exact copies of images that were given to a part that guards more: test, then val."""
    for at in _by_digest(digests).values():
        for guard in ("test", "val"):
            keepers = [i for i in at if found[i].split == guard]
            if not keepers:
                continue
            for i in at:
                if found[i].split != guard:
                    outcome.parts[i] = ""
                    outcome.kinds[i] = "leak"
                    outcome.reasons[i] = f"is an exact copy of {found[keepers[0]].path} in the {guard} part"
            break


def _by_digest(digests: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        positions[digest].append(i)
    return {digest: at for digest, at in positions.items() if len(at) > 1}
