"""What a person should know of a split, told from the split alone: sizes, shares, groups, copies, gaps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from frostline.dataset.parts import (
    MIN_CLASS_IMAGES_FOR_VAL,
    MIN_IMAGES_FOR_VAL,
    Wish,
    too_few_for_val,
)
from frostline.dataset.samples import PARTS, Sample


def about_split(
    samples: Sequence[Sample],
    classes: Sequence[str],
    given: Collection[str],
    wish: Wish,
    near: Sequence[tuple[str, str]],
) -> list[str]:
    """Return plain sentences. `given` are the parts that the source named, `near` pairs of paths."""
    counts = {part: Counter(sample.label for sample in samples if sample.split == part) for part in PARTS}
    notes = [_summary(counts, classes)]
    if given and "test" not in given and wish.test > 0:
        notes.append("The source has no test part, so it was taken out of train.")
    if "val" not in given and wish.val > 0 and not counts["val"]:
        notes += _about_no_val(counts["train"])
    for part, share in (("test", wish.test), ("val", wish.val)):
        if part not in given and share > 0:
            notes += _about_shares(counts, classes, part, share)
    return [
        *notes,
        *_about_groups(samples),
        *_about_gaps(counts, classes),
        *_about_torn_copies(samples, near),
    ]


def _summary(counts: dict[str, Counter[str]], classes: Sequence[str]) -> str:
    parts = []
    for part, of_class in counts.items():
        fewest, most = min(of_class[name] for name in classes), max(of_class[name] for name in classes)
        spread = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        parts.append(f"{of_class.total()} {part}" + (f" ({spread} a class)" if most else ""))
    total = sum(of_class.total() for of_class in counts.values())
    return f"{total} images in {len(classes)} classes: {', '.join(parts)}."


def _about_no_val(train: Counter[str]) -> list[str]:
    if not too_few_for_val(train.values()):
        return []
    scarcest = min(train.values(), default=0)
    note = (
        f"No val part, since images are few: {train.total()} to learn from, {scarcest} in the scarcest "
        f"class; at least {MIN_IMAGES_FOR_VAL} and {MIN_CLASS_IMAGES_FOR_VAL} are needed. All of them "
        "train; the schedule runs to its end, and a probe's L2 is chosen by cross-validation."
    )
    return [note]


def _about_shares(
    counts: dict[str, Counter[str]], classes: Sequence[str], part: str, share: float
) -> list[str]:
    """Say how uneven a drawn part is where a class misses its share by an image or more."""
    below = PARTS[: PARTS.index(part)]
    held = {name: counts[part][name] for name in classes}
    whole = {name: held[name] + sum(counts[other][name] for other in below) for name in classes}
    if not any(held.values()) or all(abs(held[name] - share * whole[name]) < 1 for name in classes):
        return []
    percent = {name: 100 * held[name] / whole[name] for name in classes if whole[name]}
    low, high = min(percent, key=percent.__getitem__), max(percent, key=percent.__getitem__)
    spread = f"{percent[low]:.0f} % of {low!r} to {percent[high]:.0f} % of {high!r}"
    if round(percent[low]) == round(percent[high]):
        spread = f"{percent[low]:.0f} % of each class"
    note = (
        f"{part} holds {spread}, where {100 * share:g} % was asked for: "
        "what hangs together is kept whole, and what had a part keeps it."
    )
    return [note]


def _about_groups(samples: Sequence[Sample]) -> list[str]:
    """Say how many groups each part got, and which a given split has torn apart."""
    parts_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group:
            parts_of[sample.group].add(sample.split)
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


def _about_gaps(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[str]:
    """Say which classes have no image in a part that others have images in."""
    notes = []
    for part in ("val", "test"):
        missing = [name for name in classes if not counts[part][name]]
        if counts[part] and missing:
            names = ", ".join(map(repr, missing[:5])) + (" …" if len(missing) > 5 else "")
            notes.append(f"{len(missing)} class(es) have no image in {part}: {names}.")
    if not counts["test"]:
        notes.append("There is no test part: nothing can be said about images not seen before.")
    return notes


def _about_torn_copies(samples: Sequence[Sample], near: Sequence[tuple[str, str]]) -> list[str]:
    """Say which near copies a given split has put into two parts."""
    part = {sample.path: sample.split for sample in samples}
    here = [(one, other) for one, other in near if one in part and other in part]
    torn = [f"{one} and {other}" for one, other in here if part[one] != part[other]]
    note = (
        f"{len(torn)} pair(s) of near copies lie in two of the given parts, which flatters figures: "
        f"{'; '.join(torn[:3])}{' …' if len(torn) > 3 else ''}."
    )
    return [note] if torn else []
