"""Findings on a split, from the split alone: sizes, shares, groups, copies, gaps."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal

from frostline.data.findings import Finding, first_examples, name_few
from frostline.data.labels import WORDS_FOR_NONE
from frostline.data.manifest_entries import SUBSETS, Sample, SkippedImage
from frostline.data.splits import grouping
from frostline.data.splits.train_val_test import (
    MIN_CLASS_IMAGES_FOR_VAL,
    MIN_IMAGES_FOR_VAL,
    SplitOptions,
    too_few_for_val,
)

# From here on `train`, `compare` and the report say how balanced accuracy differs from accuracy, too.
UNEVEN = 5
DEFAULT_SHARE = 0.2  # of the test and the val set: a fifth is the usual choice
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # but 1 2 is not 12
BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])[-_\s]+(?=\w)")  # a grade A- keeps its hyphen, and so does 1-2
NAMED_CLASSES = 5
NAMED_GROUPS = 3
# Kinds of skipped images, and how messages name them.
SKIPPED = {
    "unreadable": "file(s) can't be used",
    "missing": "file(s) do not exist",
    "left_out": "image(s) belong to no class",
    "leak": "image(s) are skipped, since a subset with precedence holds them",
}
TAKEN = "The source has no labelled test set; one was drawn from train."
NO_TEST = "There is no test set: accuracy on new images cannot be measured."


def about_split(
    samples: Sequence[Sample],
    classes: Sequence[str],
    given_subsets: Collection[str],
    options: SplitOptions,
    near: Sequence[tuple[str, str]],
) -> list[Finding]:
    """Return findings on a split. `given_subsets` are those the source named, `near` holds pairs of paths."""
    counts = {
        subset: Counter(sample.label for sample in samples if sample.split == subset) for subset in SUBSETS
    }
    findings = [_summary(counts, classes)]
    if given_subsets and "test" not in given_subsets and options.test > 0:
        findings.append(Finding("no_test", counts["test"].total(), TAKEN))
    if "val" not in given_subsets and options.val > 0 and not counts["val"]:
        findings += _about_no_val(counts["train"])
    for subset, share in (("test", options.test), ("val", options.val)):
        if subset not in given_subsets and share > 0:
            findings += _about_shares(counts, classes, subset, share)
        elif subset in given_subsets and share not in (0, DEFAULT_SHARE):
            findings.append(_about_given(counts[subset].total(), subset, share))
    return [
        *findings,
        *_about_groups(samples),
        *_about_whole_classes(samples, classes),
        *_about_gaps(counts, classes),
        *_about_sizes(counts, classes),
        *_about_near_copies(samples, near),
        *_about_names(samples, given_subsets),
    ]


def _about_whole_classes(samples: Sequence[Sample], classes: Sequence[str]) -> list[Finding]:
    """Say it where a class is one group and larger than an image: it can't be shared out."""
    of_class: dict[str, list[str]] = {name: [] for name in classes}
    for sample in samples:
        of_class[sample.label].append(sample.group)
    single_group_classes = [
        name for name, groups in of_class.items() if len(groups) > 1 and len({*groups}) == 1 and groups[0]
    ]
    if not single_group_classes:
        return []
    names = _names(map(repr, single_group_classes))
    message = f"{len(single_group_classes)} class(es) are one group each, which stays in one subset: {names}."
    return [Finding("groups", len(single_group_classes), message)]


def _summary(counts: dict[str, Counter[str]], classes: Sequence[str]) -> Finding:
    subsets = []
    for subset, of_class in counts.items():
        fewest, most = min(of_class[name] for name in classes), max(of_class[name] for name in classes)
        spread = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        subsets.append(f"{of_class.total()} {subset}" + (f" ({spread} a class)" if most else ""))
    total = sum(of_class.total() for of_class in counts.values())
    return Finding("split", total, f"{total} images in {len(classes)} classes: {', '.join(subsets)}.")


def _about_no_val(train: Counter[str]) -> list[Finding]:
    if not too_few_for_val(train.values()):
        return []
    scarcest = min(train.values(), default=0)
    message = (
        f"No val set, since there are few images: {train.total()} for training, {scarcest} in the smallest "
        f"class. Whatever share is requested, a val set takes {MIN_IMAGES_FOR_VAL} training images or more, "
        f"and {MIN_CLASS_IMAGES_FOR_VAL} of each class. All of them are used for training; the schedule runs "
        "to its end, and a probe's L2 is chosen by cross-validation."
    )
    return [Finding("no_val", train.total(), message)]


def _about_given(images: int, subset: str, share: float) -> Finding:
    """Say that a share was asked for of a subset that the source names itself."""
    message = (
        f"The {subset} set is the source's own, of {images} image(s): the share that was asked for, "
        f"{share:g}, has no effect."
    )
    return Finding("shares", images, message)


def _about_shares(
    counts: dict[str, Counter[str]], classes: Sequence[str], subset: str, share: float
) -> list[Finding]:
    """Return how uneven a drawn subset is where a class misses its share by an image or more."""
    below = SUBSETS[: SUBSETS.index(subset)]
    in_subset = {name: counts[subset][name] for name in classes}
    available = {
        name: in_subset[name] + sum(counts[lower_subset][name] for lower_subset in below) for name in classes
    }
    if not any(in_subset.values()) or all(
        abs(in_subset[name] - share * available[name]) < 1 for name in classes
    ):
        return []
    percent = {name: 100 * in_subset[name] / available[name] for name in classes if available[name]}
    low, high = min(percent, key=percent.__getitem__), max(percent, key=percent.__getitem__)
    spread = f"{percent[low]:.0f} % of {low!r} to {percent[high]:.0f} % of {high!r}"
    if round(percent[low]) == round(percent[high]):
        spread = f"{percent[low]:.0f} % of each class"
    message = (
        f"{subset} holds {spread}, where {100 * share:g} % was requested: "
        "groups and copies stay together, and images that had a subset keep it."
    )
    return [Finding("shares", sum(in_subset.values()), message)]


def _about_groups(samples: Sequence[Sample]) -> list[Finding]:
    """Return how many groups each subset got, which a given split has torn apart, and who has none."""
    subsets_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group:
            subsets_of[sample.group].add(sample.split)
    if not subsets_of:
        return []
    counts = ", ".join(
        f"{sum(subset in subsets for subsets in subsets_of.values())} in {subset}" for subset in SUBSETS
    )
    findings = [Finding("groups", len(subsets_of), f"{len(subsets_of)} groups: {counts}.")]
    torn = sorted(group for group, subsets in subsets_of.items() if len(subsets) > 1)
    if torn:
        message = (
            f"The given split puts {len(torn)} group(s) into more than one subset ({', '.join(torn[:5])}): "
            "accuracy on these subsets is too high."
        )
        images = [sample.path for group in torn for sample in samples if sample.group == group]
        findings.append(Finding("leak", len(torn), message, examples=first_examples(images)))
    if ungrouped := [sample.path for sample in samples if not sample.group]:
        message = (
            f"{len(ungrouped)} of {len(samples)} image(s) have no group, and may lie in other subsets than "
            "images that they belong with."
        )
        findings.append(Finding("ungrouped", len(ungrouped), message, examples=first_examples(ungrouped)))
    return [*findings, *_about_group_names(samples, sorted(subsets_of))]


def _about_group_names(samples: Sequence[Sample], groups: Sequence[str]) -> list[Finding]:
    """Return which groups may be one, spelt in two ways, and which are named with a word for "none"."""
    findings = []
    alike = defaultdict(list)
    for group in groups:
        alike[_plain(group)].append(group)
    several = [names for names in alike.values() if len(names) > 1]
    if several:
        pairs = _names(" and ".join(map(repr, names)) for names in several)
        message = (
            f"{len(several)} group(s) may be spelt in several ways, which then count as groups of their own "
            f"and may lie in different subsets: {pairs}."
        )
        findings.append(
            _of_groups("group_names", message, samples, {name for names in several for name in names})
        )
    empty_names = [group for group in groups if group.strip().casefold() in WORDS_FOR_NONE]
    if empty_names:
        message = (
            f"The group(s) {_names(map(repr, empty_names))} are named with a word for a missing value, and "
            "their images stay together as those of one group do."
        )
        findings.append(_of_groups("group_words", message, samples, set(empty_names)))
    return findings


def _of_groups(kind: str, message: str, samples: Sequence[Sample], groups: set[str]) -> Finding:
    images = [sample.path for sample in samples if sample.group in groups]
    return Finding(kind, len(images), message, examples=first_examples(images))


def _about_gaps(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[Finding]:
    """Return which classes have no image in a subset that others have images in."""
    findings = []
    for subset in ("val", "test"):
        missing = [name for name in classes if not counts[subset][name]]
        if counts[subset] and missing:
            names = _names(repr(name) for name in missing)
            message = f"{len(missing)} class(es) have no image in {subset}: {names}."
            findings.append(Finding("gaps", len(missing), message))
    if not counts["test"]:
        findings.append(Finding("no_test", 0, NO_TEST))
    return findings


def _about_sizes(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[Finding]:
    """Return which classes are small, and where classes are of very different size."""
    class_sizes = {name: sum(of_class[name] for of_class in counts.values()) for name in classes}
    few = [name for name in classes if class_sizes[name] < MIN_CLASS_IMAGES_FOR_VAL]
    findings = []
    if few:
        names = _names(f"{name!r} ({class_sizes[name]})" for name in few)
        message = f"{len(few)} class(es) have fewer than {MIN_CLASS_IMAGES_FOR_VAL} images: {names}."
        findings.append(Finding("few", len(few), message))
    least, most = min(classes, key=class_sizes.__getitem__), max(classes, key=class_sizes.__getitem__)
    if class_sizes[most] >= UNEVEN * class_sizes[least]:
        message = (
            f"The largest class, {most!r}, has {class_sizes[most] / class_sizes[least]:.1f} times the images "
            f"of the smallest, {least!r} ({class_sizes[most]} and {class_sizes[least]})."
        )
        findings.append(Finding("imbalance", class_sizes[most], message))
    return findings


def _about_near_copies(samples: Sequence[Sample], near: Sequence[tuple[str, str]]) -> list[Finding]:
    """Return which near copies a given split has put into two subsets, and which have two labels."""
    by_path = {sample.path: sample for sample in samples}
    sample_pairs = [
        (by_path[path_a], by_path[path_b])
        for path_a, path_b in near
        if path_a in by_path and path_b in by_path
    ]
    torn = [pair for pair in sample_pairs if pair[0].split != pair[1].split]
    apart = [pair for pair in sample_pairs if pair[0].label != pair[1].label]
    findings = []
    if torn:
        message = (
            f"{len(torn)} pair(s) of near copies are in two of the given subsets, which makes accuracy too "
            f"high: {_pairs(torn)}."
        )
        findings.append(Finding("leak", len(torn), message, examples=_paths(torn)))
    if apart:
        message = f"{len(apart)} pair(s) of near copies carry different labels: {_pairs(apart)}."
        findings.append(Finding("near_conflict", len(apart), message, examples=_paths(apart)))
    return findings


def _about_names(samples: Sequence[Sample], given_subsets: Collection[str]) -> list[Finding]:
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
        f"{proposal.origin} look like {len(several)} groups of {sum(sizes[group] for group in several)} "
        f"images, such as frames of one video or slices of one scan; the largest has {sizes[several[0]]} "
        f"({name_few(images[several[0]])}). {_mates(samples, proposal.groups)}"
    ).rstrip()
    if set(given_subsets) & {"val", "test"}:
        advice = f"If they are, divide the given subsets by group; {proposal.option} reports groups in two."
    else:
        advice = f"If they are, only {proposal.option} keeps each group in one subset."
    examples = first_examples(path for paths in images.values() for path in paths)
    return [Finding("groups_proposed", len(several), message, advice, examples)]


def about_copies(
    samples: Sequence[Sample],
    near: Sequence[tuple[str, str]],
    suspects: Sequence[tuple[str, str]],
    cut_short: bool,
) -> list[Finding]:
    """Return how many copies there are, exact and near."""
    findings, paths = [], defaultdict[str, list[str]](list)
    for sample in samples:
        paths[sample.digest].append(sample.path)
    exact = len(samples) - len(paths)
    if exact:
        message = f"{exact} image(s) are exact copies of another; copies stay in one subset."
        alike = first_examples(path for copies in paths.values() if len(copies) > 1 for path in copies)
        findings.append(Finding("copies", exact, message, examples=alike))
    if suspects:
        more = ", and there are more than are listed" if cut_short else ""
        message = (
            f"{len(suspects)} pair(s) of images look alike, {len(near)} of them so much that they count as "
            f"copies and stay in one subset{more}; the study's manifest.jsonl names them."
        )
        pairs = first_examples(path for pair in near or suspects for path in pair)
        findings.append(Finding("near_copies", len(suspects), message, examples=pairs))
    return findings


def about_losses(lost: Collection[str], classes: Sequence[str]) -> list[Finding]:
    """Return findings on classes without images, and classes that differ by case; `lost`: skipped labels."""
    gone = sorted(set(lost) - set(classes) - {""})
    findings = [
        Finding("empty", 1, f"The class {label!r} has no usable image left and is not learned.")
        for label in gone
    ]
    spelt: dict[str, str] = {}
    for label in classes:
        first_spelling = spelt.setdefault(_plain(label), label)
        if first_spelling != label:
            how = (
                "are the same number"
                if NUMBER.fullmatch(_composed(label))
                else "differ in case, spaces, hyphens or the form of their characters only"
            )
            question = f"The classes {first_spelling!r} and {label!r} {how}: are they one?"
            findings.append(Finding("class_names", 2, question))
    return findings


def _plain(label: str) -> str:
    """Return what is left of a class name without what a typist varies: equal for '1' and '1.0', too."""
    text = _composed(label)
    if NUMBER.fullmatch(text):
        return f"{Decimal(text).normalize():f}"
    return SPACES.sub("", BETWEEN_WORDS.sub("", text))


def _composed(label: str) -> str:
    """Return a name in small letters of one form (NFKC), without invisible characters."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cf")).strip()


def about_skipped(skipped: Sequence[SkippedImage]) -> list[Finding]:
    """Return findings on files that can't be used, by kind; the split and the labels report the others."""
    findings = []
    for kind, description in SKIPPED.items():
        images = [image for image in skipped if image.kind == kind]
        if images:
            reasons = Counter(image.reason for image in images)
            why = "; ".join(f"{image.path} {image.reason}" for image in images[:NAMED_GROUPS])
            more = " …" if len(images) > NAMED_GROUPS else ""
            if len(reasons) == 1:
                why, more = f"{name_few([image.path for image in images])} {images[0].reason}", ""
            message = f"{len(images)} {description}: {why}{more}."
            findings.append(
                Finding(kind, len(images), message, examples=first_examples(image.path for image in images))
            )
    return findings


def _mates(samples: Sequence[Sample], groups: Sequence[str]) -> str:
    """Return how many held-out images have a group-mate among those that train."""
    train = {
        group for sample, group in zip(samples, groups, strict=True) if group and sample.split == "train"
    }
    held_out_groups = [
        group for sample, group in zip(samples, groups, strict=True) if sample.split != "train"
    ]
    mates = sum(group in train for group in held_out_groups)
    if not held_out_groups:
        return ""
    count = len(held_out_groups)
    return f"In the current split, {mates} of {count} val and test images share such a group with train."


def _names(names: Iterable[str]) -> str:
    shown_names = list(names)
    return ", ".join(shown_names[:NAMED_CLASSES]) + (" …" if len(shown_names) > NAMED_CLASSES else "")


def _pairs(pairs: Sequence[tuple[Sample, Sample]]) -> str:
    text = "; ".join(f"{sample_a.path} and {sample_b.path}" for sample_a, sample_b in pairs[:3])
    return text + (" …" if len(pairs) > 3 else "")


def _paths(pairs: Sequence[tuple[Sample, Sample]]) -> tuple[str, ...]:
    return first_examples(sample.path for pair in pairs for sample in pair)
