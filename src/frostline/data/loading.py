"""`load_data`: any source of labelled images in, one Manifest out. `load_data` reads as the list of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

from frostline.data.digest_cache import Memory
from frostline.data.findings import Finding
from frostline.data.image_index import Indexed, index, likeness_of, look_at_special
from frostline.data.labels import settled
from frostline.data.manifest import Manifest
from frostline.data.manifest_file import kept_header
from frostline.data.pixels import rendering_choice
from frostline.data.pixels.decoding import LINK_TO_NOTHING, NOT_THERE
from frostline.data.pixels.rendering import Rendering
from frostline.data.pixels.traits import Traits
from frostline.data.samples import PARTS, Sample, SetAside, demand_training_images
from frostline.data.sources import python_datasets
from frostline.data.sources.arrays import Pairs, read_pairs
from frostline.data.sources.class_folders import read_folder
from frostline.data.sources.common import NOT_BESIDE, OUTSIDE, UNLABELLED, OnProgress, Source, listing
from frostline.data.sources.file_listing import missing_message
from frostline.data.sources.folder_layout import SplitNames, checked, written
from frostline.data.sources.remote import is_address, masked, read_remote_folder
from frostline.data.sources.tables import read_table
from frostline.data.sources.tar_shards import is_shards, read_shards
from frostline.data.splits.assignment import Assignment, assigned
from frostline.data.splits.grouping import AUTO, PARENT, GroupBy, grouped, parsed
from frostline.data.splits.near_duplicates import NOTHING_ALIKE, Likeness
from frostline.data.splits.parts import Split, Wish, split
from frostline.data.splits.split_notes import about_copies, about_losses, about_split
from frostline.errors import DataError, UsageError, did_you_mean

TABLE_SUFFIXES = (".csv", ".parquet")
# Kinds of findings by why an image was set aside before it was looked at; all else could not be read.
KIND_OF = {
    UNLABELLED: "unlabelled",
    NOT_BESIDE: "unlabelled",
    OUTSIDE: "left_out",
    NOT_THERE: "missing",
    LINK_TO_NOTHING: "missing",
}


def load_data(
    source: Any,
    *,
    seed: int = 0,
    test_size: float = 0.2,
    val_size: float = 0.2,
    strict: bool = False,
    near_copies: bool = True,
    split_names: SplitNames = None,
    intensity_range: str | tuple[float, float] | None = None,
    alpha_background: str | None = None,
    progress: OnProgress | None = None,
    workers: int = 0,
    study: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
) -> Manifest:
    """Read labelled images from wherever they are and split them into train, val and test.

    Each class has its share in each part, by the lowest hashes of what must stay together. When images come
    or go, others may change sides, unless `study` names a study that remembers where each was: then known
    images stay, and new ones go, by hash, where a class is short.

    Args:
        source: A folder with a folder per class, or with train/ val/ test/ inside; a CSV or Parquet table of
            `path,label[,split][,group]`, whose paths may be addresses; an address fsspec knows (`s3://…`) of
            such a folder; tar shards in the WebDataset layout, here or at an address (`photos-*.tar`); a
            torch `Dataset` of (image, label); a Hugging Face `Dataset` or `DatasetDict`.
        seed: Decides, with each image's content, which part it goes to.
        test_size: Share of all images to test on, where the source has no test part.
        val_size: Share of the remaining images to choose on, where the source has no val part.
        strict: Refuse where any image would be set aside.
        near_copies: Look for near copies, which decodes every image once (milliseconds; remembered).
        split_names: Which folder is which part, where their names don't say ({"fold0": "train", "fold1":
            "test"}); "none" where folders that look like parts are classes.
        intensity_range: Which values of images deeper than 8 bits become black and white: "auto" (robust
            percentiles of the training images, one range for each kind), (LOW, HIGH) or "LOW,HIGH", or
            "per-image"; without it, as `study` has it, else "auto".
        alpha_background: What transparent pixels are laid on: "white", "grey", "black" or "R,G,B"; without
            it, as `study` has it, else white, or grey where white would hide images.
        progress: Called now and then with (what, done, total).
        path_column: The column of a table, or of a Hugging Face dataset, that holds the images.
        label_column: The one that holds the labels.
        group_by: What makes a group, whose images stay in one part: "parent" (the folder an image lies in,
            below the class folder), "column:NAME" (of a table or a Hugging Face dataset), "re:REGEX" (what
            the first group in brackets, else all of it, finds in the file's name, or in the path as
            `Sample.path` has it where the expression holds a slash), or "auto" (the groups that `notes`
            propose). Without it as `study` has it, else a column `group` counts, and what DICOM files say.
        workers: Threads for reading and decoding files; 0 = none besides this one.
        study: Folder of a study: images that it knows keep their part, and folds, in it. What comes to tie
            images of two parts together is set aside with those of the part that guards less.

    Raises:
        DataError: the data cannot be used; the message says what was found and what to do.
        StudyError: `study` is no study, or damaged.
        UsageError: a share is not in 0 ≤ share < 1, or a range, a colour or `group_by` is none.
    """
    _demand_shares(test_size=test_size, val_size=val_size)
    show, earlier = (
        rendering_choice.wished(intensity_range, alpha_background),
        rendering_choice.kept_in(study),
    )
    before = Assignment() if study is None else assigned(study)
    by = parsed(group_by)
    inherited = None if by else parsed(kept_header(study).get("reading", {}).get("group_by"))
    if inherited and (inherited.column is None or _has_columns(source)):
        by = inherited
    columns = _Columns(path_column, label_column, by.column if by else None)
    read = _source_of(source, checked(split_names), columns, by is not None and by.text == PARENT)
    settled(read)
    memory = Memory()
    usable = index(read, memory, progress, workers)
    if near_copies:
        alike = likeness_of(read, usable, memory, progress, workers)
    else:
        alike = NOTHING_ALIKE
        look_at_special(read, usable, memory, progress, workers)
    usable = [image for image in usable if not _moved_aside(image, read)]
    _demand_classes(read, usable)
    _group(usable, read, by)
    if by is not None and by is inherited:
        read.said.append(Finding("groups", 0, f"Groups are by {by.text}, as the study has them."))
    near = _positions(usable, alike.near)
    wish, digests = Wish(seed, test_size, val_size), [image.digest for image in usable]
    outcome = split([image.found for image in usable], digests, near, wish, before.sides)
    read.aside += [(usable[i].found, reason) for i, reason in sorted(outcome.reasons.items())]
    _demand_whole(read, strict)
    manifest = _manifest(read, usable, outcome, alike, memory, wish)
    traits = {image.digest: image.traits for image in usable}
    sizes = {digest: (one.width, one.height) for digest, one in traits.items() if one.width}
    reading = {"split_names": written(split_names), **asdict(columns), "group_by": by.text if by else None}
    reading = {option: value for option, value in reading.items() if value and option != "group_column"}
    manifest = replace(manifest, earlier_folds=before.folds, reading=reading, sizes=sizes)
    return _shown(manifest, traits, show, earlier).framed()


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of a table that were named."""

    path_column: str | None
    label_column: str | None
    group_column: str | None  # by `group_by`


def _shown(
    manifest: Manifest, traits: Mapping[str, Traits], show: rendering_choice.Wish, earlier: Rendering | None
) -> Manifest:
    """Return the manifest with what was decided of deep and transparent pixels, and notes on that."""
    training = [traits[digest] for digest in sorted({sample.digest for sample in manifest.part("train")})]
    rendering = rendering_choice.decided(training, show, earlier)
    images = [(sample.path, traits[sample.digest]) for sample in manifest.samples]
    kinds = rendering_choice.kinds_of({sample.digest: traits[sample.digest] for sample in manifest.samples})
    said = rendering_choice.findings(images, rendering)
    return replace(manifest, rendering=rendering, kinds=kinds, said=(*manifest.said, *said))


def _demand_shares(**shares: float) -> None:
    wrong = [f"{name}={share!r}" for name, share in shares.items() if not 0 <= share < 1]
    if wrong:
        raise UsageError(f"Found {', '.join(wrong)}; expected a share of the images, from 0 up to but not 1.")


def _source_of(
    source: Any, split_names: SplitNames, columns: _Columns, groups_inside: bool = False
) -> Source:
    """List what `source` holds. Raises `DataError` where it is nothing of the kind."""
    if any(astuple(columns)) and not _has_columns(source):
        named = (columns.path_column, columns.label_column, columns.group_column)
        options = ("--path-column", "--label-column", "--group-by")
        given = " and ".join(option for option, name in zip(options, named, strict=True) if name)
        what = source if isinstance(source, str | Path) else f"a {type(source).__name__}"
        raise UsageError(f"{given} name(s) a column of a table, and {what} is none.")
    if isinstance(source, str) and is_address(source):
        return _source_at_address(source, split_names, groups_inside)
    if isinstance(source, str | Path):
        return _source_at(Path(source).expanduser(), split_names, columns, groups_inside)
    if split_names:
        raise UsageError("split_names is for folders; a table or a data set names its parts itself.")
    if isinstance(source, Pairs):
        return read_pairs(source)
    if python_datasets.is_hugging_face(source):
        return python_datasets.read_hugging_face(source, *astuple(columns))
    if python_datasets.is_indexable(source):
        return python_datasets.read_torch(source)
    raise DataError(
        f"Found a {type(source).__name__}; expected the path of a folder, a .csv or a .parquet, "
        "a torch Dataset with a length, or a Hugging Face Dataset."
    )


def _source_at_address(address: str, split_names: SplitNames, groups_inside: bool) -> Source:
    if is_shards(address):
        return read_shards(address)
    if address.endswith(TABLE_SUFFIXES):
        raise DataError(
            f"{masked(address)} is a table at an address; expected one on this machine. Copy it here: "
            "its column path may hold addresses."
        )
    return read_remote_folder(address, split_names, groups_inside)


def _has_columns(source: Any) -> bool:
    if isinstance(source, str | Path):
        return str(source).lower().endswith(TABLE_SUFFIXES)
    return python_datasets.is_hugging_face(source)


def _source_at(path: Path, split_names: SplitNames, columns: _Columns, groups_inside: bool) -> Source:
    if split_names and not path.is_dir() and path.exists():
        raise UsageError(f"split_names is for folders, and {path} is a file: it names its parts itself.")
    if is_shards(path.name) and not path.is_dir():
        return read_shards(str(path.absolute()))
    if not path.exists():
        raise DataError(missing_message(path))
    if path.is_dir():
        return read_folder(path, split_names, groups_inside)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path} is a single file; expected a folder with a folder per class, or a table ending in "
            f"{' or '.join(TABLE_SUFFIXES)}.{did_you_mean(path.suffix.lower(), TABLE_SUFFIXES)}"
        )
    return read_table(path, *astuple(columns))


def _group(usable: Sequence[Indexed], read: Source, by: GroupBy | None) -> None:
    """Give images the groups that were asked for, and those that their files name where they have none."""
    if by is not None and by.text != AUTO:
        _regroup(usable, read, by)
    _group_by_file(usable, read)
    if by is not None and by.text == AUTO:
        _regroup(usable, read, by)


def _regroup(usable: Sequence[Indexed], read: Source, by: GroupBy) -> None:
    images, said = grouped([image.found for image in usable], by)
    read.said += said
    for image, found in zip(usable, images, strict=True):
        image.found = found


def _group_by_file(usable: Sequence[Indexed], read: Source) -> None:
    """Let the patient that a file names be its group, where the source names none."""
    named = [image for image in usable if image.traits.group and not image.found.group]
    for image in named:
        image.found = replace(image.found, group=image.traits.group)
    if named:
        many = len({image.found.group for image in named})
        said = (
            f"{len(named)} DICOM file(s) name {many} patient(s), each of whom is kept in one part as a group."
        )
        read.said.append(Finding("groups", len(named), said))


def _moved_aside(image: Indexed, read: Source) -> bool:
    """Whether an image cannot be used; if so it is listed as set aside."""
    if image.fault:
        read.aside.append((image.found, image.fault))
    return bool(image.fault)


def _demand_classes(read: Source, usable: Sequence[Indexed]) -> None:
    """Raise `DataError` unless two classes have images."""
    labels = sorted({image.found.label for image in usable})
    if len(labels) > 1:
        return
    lost = [f"{found.path} {reason}" for found, reason in read.aside]
    because = f" Set aside:{listing(lost)}" if lost else ""
    hint = f" {read.hint}" if read.hint else ""
    if not labels:
        raise DataError(f"Not one of {len(lost)} images can be used.{hint}{because}")
    raise DataError(
        f"Found one class, {labels[0]!r}, with {len(usable)} image(s); expected two or more, "
        f"since there is nothing to tell apart.{hint}{because}"
    )


def _demand_whole(read: Source, strict: bool) -> None:
    if strict and read.aside:
        lines = [f"{found.path} {reason}" for found, reason in read.aside]
        raise DataError(
            f"{len(lines)} image(s) would be set aside, and strict was asked for:{listing(lines)}\n"
            "Repair or remove them, or load without strict."
        )


def _positions(usable: Sequence[Indexed], pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Return pairs of digests as pairs of positions, each that of the first image with the digest."""
    first: dict[str, int] = {}
    for position, image in enumerate(usable):
        first.setdefault(image.digest, position)
    return [(first[one], first[other]) for one, other in pairs]


def _manifest(
    read: Source,
    usable: Sequence[Indexed],
    outcome: Split,
    alike: Likeness,
    memory: Memory,
    wish: Wish,
) -> Manifest:
    samples = tuple(
        Sample(image.found.path, image.found.label, image.digest, image.found.group, part)
        for image, part in zip(usable, outcome.parts, strict=True)
        if part
    )
    kinds = {usable[i].found.path: kind for i, kind in outcome.kinds.items()}
    set_aside = tuple(
        SetAside(gone.path, gone.label, why, kinds.get(gone.path) or KIND_OF.get(why, "unreadable"))
        for gone, why in read.aside
    )
    classes = tuple(sorted({sample.label for sample in samples}))
    demand_training_images(samples, classes, set_aside)
    near, suspects = _named(samples, alike.near), _named(samples, alike.suspects)
    given = tuple(part for part in PARTS if any(image.found.split == part for image in usable))
    said = [
        *about_split(samples, classes, given, wish, near),
        *read.said,
        *outcome.said,
        *about_copies(samples, near, suspects, alike.cut_short),
        *about_losses({gone.label for gone in set_aside}, classes),
        *([Finding("memory", len(samples), memory.trouble)] if memory.trouble else []),
    ]
    return Manifest(
        root=read.root,
        samples=samples,
        classes=classes,
        set_aside=set_aside,
        conflicts=tuple(outcome.conflicts),
        near_copies=near,
        suspects=suspects,
        said=tuple(said),
        given=given,
        shares=(wish.test, wish.val),
        seed=wish.seed,
        items=read.items,
    )


def _named(samples: Sequence[Sample], pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return pairs of digests as pairs of paths, each that of the first sample with the digest."""
    first: dict[str, str] = {}
    for sample in samples:
        first.setdefault(sample.digest, sample.path)
    return tuple((first[one], first[other]) for one, other in pairs if one in first and other in first)
