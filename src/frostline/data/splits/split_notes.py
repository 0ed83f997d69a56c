"""What a person should know of a split, told from the split alone: sizes, shares, groups, copies, gaps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from frostline.data.findings import Finding, shown, some
from frostline.data.samples import PARTS, Sample, SetAside
from frostline.data.splits import grouping
from frostline.data.splits.parts import MIN_CLASS_IMAGES_FOR_VAL, MIN_IMAGES_FOR_VAL, Wish, too_few_for_val

# From here on `train`, `compare` and the report say how balanced accuracy differs from accuracy, too.
UNEVEN = 5
NAMED_CLASSES = 5
NAMED_GROUPS = 3
# Kinds of images that are set aside, and what they are called.
ASIDE = {
    "unreadable": "file(s) can't be used",
    "missing": "file(s) are not there",
    "left_out": "image(s) belong to no class",
    "leak": "image(s) of a part that guards less are set aside",
}
TAKEN = "The source has no test part, so it was taken out of train."
NO_TEST = "There is no test part: nothing can be said about images not seen before."


def about_split(
    samples: Sequence[Sample],
    classes: Sequence[str],
    given: Collection[str],
    wish: Wish,
    near: Sequence[tuple[str, str]],
) -> list[Finding]:
    """Return what there is to say. `given` are the parts that the source named, `near` pairs of paths."""
    counts = {part: Counter(sample.label for sample in samples if sample.split == part) for part in PARTS}
    said = [_summary(counts, classes)]
    if given and "test" not in given and wish.test > 0:
        said.append(Finding("no_test", counts["test"].total(), TAKEN))
    if "val" not in given and wish.val > 0 and not counts["val"]:
        said += _about_no_val(counts["train"])
    for part, share in (("test", wish.test), ("val", wish.val)):
        if part not in given and share > 0:
            said += _about_shares(counts, classes, part, share)
    return [
        *said,
        *_about_groups(samples),
        *_about_whole_classes(samples, classes),
        *_about_gaps(counts, classes),
        *_about_sizes(counts, classes),
        *_about_near_copies(samples, near),
        *_about_names(samples, given),
    ]


def _about_whole_classes(samples: Sequence[Sample], classes: Sequence[str]) -> list[Finding]:
    """Say it where a class is one group and larger than an image: it can't be shared out."""
    of_class: dict[str, list[str]] = {name: [] for name in classes}
    for sample in samples:
        of_class[sample.label].append(sample.group)
    whole = [
        name for name, groups in of_class.items() if len(groups) > 1 and len({*groups}) == 1 and groups[0]
    ]
    if not whole:
        return []
    names = _names(map(repr, whole))
    message = f"{len(whole)} class(es) are one group each, which stays in one part: {names}."
    return [Finding("groups", len(whole), message)]


def _summary(counts: dict[str, Counter[str]], classes: Sequence[str]) -> Finding:
    parts = []
    for part, of_class in counts.items():
        fewest, most = min(of_class[name] for name in classes), max(of_class[name] for name in classes)
        spread = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        parts.append(f"{of_class.total()} {part}" + (f" ({spread} a class)" if most else ""))
    total = sum(of_class.total() for of_class in counts.values())
    return Finding("split", total, f"{total} images in {len(classes)} classes: {', '.join(parts)}.")


def _about_no_val(train: Counter[str]) -> list[Finding]:
    if not too_few_for_val(train.values()):
        return []
    scarcest = min(train.values(), default=0)
    said = (
        f"No val part, since images are few: {train.total()} to learn from, {scarcest} in the scarcest "
        f"class; at least {MIN_IMAGES_FOR_VAL} and {MIN_CLASS_IMAGES_FOR_VAL} are needed. All of them "
        "train; the schedule runs to its end, and a probe's L2 is chosen by cross-validation."
    )
    return [Finding("no_val", train.total(), said)]


def _about_shares(
    counts: dict[str, Counter[str]], classes: Sequence[str], part: str, share: float
) -> list[Finding]:
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
    said = (
        f"{part} holds {spread}, where {100 * share:g} % was asked for: "
        "what hangs together is kept whole, and what had a part keeps it."
    )
    return [Finding("shares", sum(held.values()), said)]


def _about_groups(samples: Sequence[Sample]) -> list[Finding]:
    """Say how many groups each part got, and which a given split has torn apart."""
    parts_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group:
            parts_of[sample.group].add(sample.split)
    if not parts_of:
        return []
    counts = ", ".join(f"{sum(part in parts for parts in parts_of.values())} in {part}" for part in PARTS)
    said = [Finding("groups", len(parts_of), f"{len(parts_of)} groups: {counts}.")]
    torn = sorted(group for group, parts in parts_of.items() if len(parts) > 1)
    if torn:
        message = (
            f"The given split puts {len(torn)} group(s) into more than one part ({', '.join(torn[:5])}): "
            "figures on such parts flatter the model."
        )
        images = [sample.path for group in torn for sample in samples if sample.group == group]
        said.append(Finding("leak", len(torn), message, examples=shown(images)))
    return said


def _about_gaps(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[Finding]:
    """Say which classes have no image in a part that others have images in."""
    said = []
    for part in ("val", "test"):
        missing = [name for name in classes if not counts[part][name]]
        if counts[part] and missing:
            names = _names(repr(name) for name in missing)
            message = f"{len(missing)} class(es) have no image in {part}: {names}."
            said.append(Finding("gaps", len(missing), message))
    if not counts["test"]:
        said.append(Finding("no_test", 0, NO_TEST))
    return said


def _about_sizes(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[Finding]:
    """Say which classes are small, and where classes are of very different size."""
    whole = {name: sum(of_class[name] for of_class in counts.values()) for name in classes}
    few = [name for name in classes if whole[name] < MIN_CLASS_IMAGES_FOR_VAL]
    said = []
    if few:
        names = _names(f"{name!r} ({whole[name]})" for name in few)
        message = f"{len(few)} class(es) have fewer than {MIN_CLASS_IMAGES_FOR_VAL} images: {names}."
        said.append(Finding("few", len(few), message))
    least, most = min(classes, key=whole.__getitem__), max(classes, key=whole.__getitem__)
    if whole[most] >= UNEVEN * whole[least]:
        message = (
            f"The largest class, {most!r}, has {whole[most] / whole[least]:.1f} times the images of the "
            f"smallest, {least!r} ({whole[most]} and {whole[least]})."
        )
        said.append(Finding("imbalance", whole[most], message))
    return said


def _about_near_copies(samples: Sequence[Sample], near: Sequence[tuple[str, str]]) -> list[Finding]:
    """Say which near copies a given split has put into two parts, and which have two labels."""
    by_path = {sample.path: sample for sample in samples}
    here = [(by_path[one], by_path[other]) for one, other in near if one in by_path and other in by_path]
    torn = [pair for pair in here if pair[0].split != pair[1].split]
    apart = [pair for pair in here if pair[0].label != pair[1].label]
    said = []
    if torn:
        message = (
            f"{len(torn)} pair(s) of near copies lie in two of the given parts, which flatters figures: "
            f"{_pairs(torn)}."
        )
        said.append(Finding("leak", len(torn), message, examples=_paths(torn)))
    if apart:
        message = f"{len(apart)} pair(s) of near copies carry different labels: {_pairs(apart)}."
        said.append(Finding("near_conflict", len(apart), message, examples=_paths(apart)))
    return said


def _about_names(samples: Sequence[Sample], given: Collection[str]) -> list[Finding]:
    """Say where names look like groups, and what the split makes of them."""
    if any(sample.group for sample in samples):
        return []
    proposal = grouping.proposed(samples)
    if proposal is None:
        return []
    sizes = Counter(group for group in proposal.groups if group)
    several = [group for group, size in sizes.most_common() if size > 1]
    images: dict[str, list[str]] = {group: [] for group in several[:NAMED_GROUPS]}
    for sample, group in zip(samples, proposal.groups, strict=True):
        if group in images and len(images[group]) < NAMED_GROUPS + 1:
            images[group].append(sample.path)
    message = (
        f"{proposal.where} look like {len(several)} groups of {sum(sizes[group] for group in several)} "
        f"images, such as frames of one video or slices of one scan; the largest has {sizes[several[0]]} "
        f"({some(images[several[0]])}). {_mates(samples, proposal.groups)}"
    ).rstrip()
    if set(given) & {"val", "test"}:
        advice = f"If they are, divide the given parts by group; {proposal.option} then says what is torn."
    else:
        advice = f"If they are, only {proposal.option} keeps each group in one part."
    examples = shown(path for paths in images.values() for path in paths)
    return [Finding("groups_proposed", len(several), message, advice, examples)]


def about_copies(
    samples: Sequence[Sample],
    near: Sequence[tuple[str, str]],
    suspects: Sequence[tuple[str, str]],
    cut_short: bool,
) -> list[Finding]:
    """Say how many copies there are, exact and near."""
    said, paths = [], defaultdict[str, list[str]](list)
    for sample in samples:
        paths[sample.digest].append(sample.path)
    exact = len(samples) - len(paths)
    if exact:
        message = f"{exact} image(s) are exact copies of another; copies stay in one part."
        alike = shown(path for same in paths.values() if len(same) > 1 for path in same)
        said.append(Finding("copies", exact, message, examples=alike))
    if suspects:
        more = ", and there are more than are listed" if cut_short else ""
        message = (
            f"{len(suspects)} pair(s) of images look alike, {len(near)} of them so much that they count as "
            f"copies and stay in one part{more}; the study's manifest.jsonl names them."
        )
        pairs = shown(path for pair in near or suspects for path in pair)
        said.append(Finding("near_copies", len(suspects), message, examples=pairs))
    return said


def about_losses(lost: Collection[str], classes: Sequence[str]) -> list[Finding]:
    """Say which classes lost all images, and which differ by case alone; `lost` are labels set aside."""
    gone = sorted(set(lost) - set(classes) - {""})
    said = [
        Finding("empty", 1, f"The class {label!r} has no usable image left and is not learnt.")
        for label in gone
    ]
    spelt: dict[str, str] = {}
    for label in classes:
        other = spelt.setdefault(_plain(label), label)
        if other != label:
            question = f"The classes {other!r} and {label!r} differ in case or spaces only: are they one?"
            said.append(Finding("class_names", 2, question))
    return said


def _plain(label: str) -> str:
    return "".join(label.casefold().split())


def about_set_aside(set_aside: Sequence[SetAside]) -> list[Finding]:
    """Say which files can't be used, by kind; of the other kinds the split and the labels speak."""
    said = []
    for kind, what in ASIDE.items():
        gone = [one for one in set_aside if one.kind == kind]
        if gone:
            reasons = Counter(one.reason for one in gone)
            why = "; ".join(f"{one.path} {one.reason}" for one in gone[:NAMED_GROUPS])
            more = " …" if len(gone) > NAMED_GROUPS else ""
            if len(reasons) == 1:
                why, more = f"{some([one.path for one in gone])} {gone[0].reason}", ""
            message = f"{len(gone)} {what}: {why}{more}."
            said.append(Finding(kind, len(gone), message, examples=shown(one.path for one in gone)))
    return said


def _mates(samples: Sequence[Sample], groups: Sequence[str]) -> str:
    """Say how many held-out images have a group-mate among those that train."""
    train = {
        group for sample, group in zip(samples, groups, strict=True) if group and sample.split == "train"
    }
    held = [group for sample, group in zip(samples, groups, strict=True) if sample.split != "train"]
    mates = sum(group in train for group in held)
    if not held:
        return ""
    return f"As the images are divided now, {mates} of {len(held)} val and test images have a mate in train."


def _names(names: Iterable[str]) -> str:
    shown_names = list(names)
    return ", ".join(shown_names[:NAMED_CLASSES]) + (" …" if len(shown_names) > NAMED_CLASSES else "")


def _pairs(pairs: Sequence[tuple[Sample, Sample]]) -> str:
    named = "; ".join(f"{one.path} and {other.path}" for one, other in pairs[:3])
    return named + (" …" if len(pairs) > 3 else "")


def _paths(pairs: Sequence[tuple[Sample, Sample]]) -> tuple[str, ...]:
    return shown(sample.path for pair in pairs for sample in pair)
