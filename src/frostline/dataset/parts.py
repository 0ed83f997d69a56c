"""From what a source says to three parts: who may be held out, what stays out of val and test, and why.

`splitting` decides where one unit goes; this file decides which images it is asked about. The test part
influences nothing else: which images are in train and val does not depend on any label of a given test part.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from frostline.dataset.folding import unit_ids
from frostline.dataset.manifest import PARTS, Conflict
from frostline.dataset.sources import Found
from frostline.dataset.splitting import Shares, hold_out, shared_out_whole, unit_keys

# Below this nothing is chosen on a hold-out: a val part of a fifth would be under 40 images, where accuracy
# has a standard error of .07, or hold one or two images of the scarcest class. Rules of thumb.
MIN_IMAGES_FOR_VAL = 200
MIN_CLASS_IMAGES_FOR_VAL = 10


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
    conflicts: list[Conflict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split(
    found: Sequence[Found], digests: Sequence[str], near: Sequence[tuple[int, int]], wish: Wish
) -> Split:
    """Give every image a part. `near` holds pairs of positions that must stay together."""
    given = {image.split for image in found}
    outcome = Split([image.split or "train" for image in found])
    contested = _set_conflicts_aside(found, digests, outcome)
    _set_leaks_aside(found, digests, outcome)
    units = unit_ids([image.group for image in found], digests, near)
    may_leave = np.array([image.split in ("", "train") for image in found], dtype=bool)
    may_leave &= ~np.isin(units, units[~may_leave]) & ~np.isin(units, units[contested])
    table = _Table(found, digests, units, may_leave)
    if "test" not in given:
        _carve(table, "test", wish.test, wish.seed, outcome)
        if given - {""} and wish.test > 0:
            outcome.notes.append("The source has no test part, so it was taken out of train.")
    if "val" not in given:
        _carve_val(table, wish, outcome)
    outcome.notes += _about_groups(found, outcome, given)
    outcome.notes += _about_classes(found, outcome)
    return outcome


@dataclass(frozen=True, slots=True)
class _Table:
    """What carving needs of every image, as (N,) columns."""

    found: Sequence[Found]
    digests: Sequence[str]
    units: np.ndarray
    may_leave: np.ndarray  # bool: not given to val or test, not contested, nor tied to one that is


def _carve(table: _Table, part: str, fraction: float, seed: int, outcome: Split) -> None:
    """Take `fraction` of the images in train that may leave it out for `part`; changes `outcome`."""
    stays = np.array([name == "train" for name in outcome.parts], dtype=bool)
    at = np.flatnonzero(table.may_leave & stays)
    if not len(at) or fraction <= 0:
        return
    leavers = [table.found[i] for i in at.tolist()]
    targets = np.unique(np.array([image.label for image in leavers], dtype=object), return_inverse=True)[1]
    units = np.unique(table.units[at], return_inverse=True)[1]
    keys = unit_keys(units, [image.group for image in leavers], [table.digests[i] for i in at.tolist()])
    for i in at[hold_out(targets, units, keys, fraction, seed, part)].tolist():
        outcome.parts[i] = part
    if shared_out_whole(Shares.of(targets, units)):
        outcome.notes.append(f"Only {len(keys)} groups to take {part} from: whole groups were shared out.")


def _carve_val(table: _Table, wish: Wish, outcome: Split) -> None:
    """Take val out of train, unless there are too few images to choose anything on it."""
    if wish.val <= 0:
        return
    labels = Counter(
        image.label for image, part in zip(table.found, outcome.parts, strict=True) if part == "train"
    )
    scarcest = min(labels.values(), default=0)
    if labels.total() < MIN_IMAGES_FOR_VAL or scarcest < MIN_CLASS_IMAGES_FOR_VAL:
        outcome.notes.append(
            f"No val part, since images are few: {labels.total()} to learn from, {scarcest} in the scarcest "
            f"class; at least {MIN_IMAGES_FOR_VAL} and {MIN_CLASS_IMAGES_FOR_VAL} are needed. All of them "
            "train; the schedule runs to its end, and a probe's L2 is chosen by cross-validation."
        )
        return
    _carve(table, "val", wish.val, wish.seed, outcome)


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
                outcome.reasons[i] = (
                    f"is identical to {found[other].path}, which is labelled {found[other].label!r}"
                )
    if outcome.conflicts:
        outcome.notes.append(
            f"{contested.sum()} images in {len(outcome.conflicts)} identical sets carry different labels: "
            "they are kept out of val and test."
        )
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
                    outcome.reasons[i] = f"is an exact copy of {found[keepers[0]].path} in the {guard} part"
            break


def _about_groups(found: Sequence[Found], outcome: Split, given: set[str]) -> list[str]:
    """Say how many groups each part got, and which a given split has torn apart."""
    parts_of: dict[str, set[str]] = defaultdict(set)
    for image, part in zip(found, outcome.parts, strict=True):
        if image.group and part:
            parts_of[image.group].add(part)
    if not parts_of:
        return []
    counts = ", ".join(f"{sum(part in parts for parts in parts_of.values())} in {part}" for part in PARTS)
    notes = [f"{len(parts_of)} groups: {counts}."]
    torn = sorted(group for group, parts in parts_of.items() if len(parts) > 1)
    if torn:
        notes.append(
            f"The given split puts {len(torn)} group(s) into more than one part ({', '.join(torn[:5])}): "
            "figures on such parts flatter the model."
        )
    return notes


def _about_classes(found: Sequence[Found], outcome: Split) -> list[str]:
    """Say which classes have no image in a part that others have images in."""
    notes = []
    labels = {image.label for image, part in zip(found, outcome.parts, strict=True) if part}
    for part in ("val", "test"):
        there = {image.label for image, name in zip(found, outcome.parts, strict=True) if name == part}
        missing = sorted(labels - there)
        if there and missing:
            names = ", ".join(map(repr, missing[:5])) + (" …" if len(missing) > 5 else "")
            notes.append(f"{len(missing)} class(es) have no image in {part}: {names}.")
    if "test" not in outcome.parts:
        notes.append("There is no test part: nothing can be said about images not seen before.")
    return notes


def _by_digest(digests: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        positions[digest].append(i)
    return {digest: at for digest, at in positions.items() if len(at) > 1}
