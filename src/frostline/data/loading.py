"""`load_data`: any source of labelled images in, one Manifest out."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, TypedDict

from frostline.data.decoding_threads import Workers, decoding_threads
from frostline.data.digest_cache import DigestCache
from frostline.data.findings import Finding
from frostline.data.image_scan import Indexed, decode_special, index, likeness_of
from frostline.data.labels import skip_unlabelled
from frostline.data.manifest import Manifest
from frostline.data.manifest_entries import SUBSETS, Sample, SkippedImage, demand_training_images
from frostline.data.manifest_file import study_header
from frostline.data.pixels import rendering_choice
from frostline.data.pixels.image_traits import Traits
from frostline.data.pixels.rendering import Rendering
from frostline.data.sources import python_datasets
from frostline.data.sources.arrays import Pairs, read_pairs
from frostline.data.sources.class_folders import read_folder
from frostline.data.sources.common import Source, listing
from frostline.data.sources.file_listing import missing_message
from frostline.data.sources.folder_layout import SplitNames, checked_split_names, split_names_text
from frostline.data.sources.remote import is_address, masked, read_remote_folder
from frostline.data.sources.separate_test_set import with_test_set, without_copies
from frostline.data.sources.table_cells import TABLE_SUFFIXES
from frostline.data.sources.tables import read_column, read_table
from frostline.data.sources.tar_shards import is_shards, read_shards
from frostline.data.splits.grouping import (
    AUTO,
    COLUMN,
    PARENT,
    PATTERN,
    GroupBy,
    folder_of,
    grouped,
    matched,
    parsed,
)
from frostline.data.splits.near_duplicates import NOTHING_ALIKE, Likeness
from frostline.data.splits.saved_splits import Assignment, assigned
from frostline.data.splits.split_notes import DEFAULT_SHARE, about_copies, about_losses, about_split
from frostline.data.splits.train_val_test import Split, SplitOptions, split
from frostline.errors import DataError, UsageError, demand_kind, demand_share, did_you_mean, option
from frostline.progress import OnProgress, Progress


class LoadOptions(TypedDict, total=False):
    """The keywords of `load_data` that `fit` takes as well."""

    strict: bool
    split_names: SplitNames
    intensity_range: str | tuple[float, float] | None
    alpha_background: str | None
    path_column: str | None
    label_column: str | None
    group_by: str | None
    test_data: str | Path | None


def load_data(
    source: Any,
    *,
    seed: int = 0,
    test_size: float = DEFAULT_SHARE,
    val_size: float = DEFAULT_SHARE,
    strict: bool = False,
    near_copies: bool = True,
    split_names: SplitNames = None,
    intensity_range: str | tuple[float, float] | None = None,
    alpha_background: str | None = None,
    progress: OnProgress | None = None,
    workers: Workers = "auto",
    study: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
    test_data: str | Path | None = None,
) -> Manifest:
    """Read labelled images from any source and split them into train, val and test.

    Each class has its share in each subset, by the lowest hashes of units (groups, copies) that stay
    together. When images are added or removed, others may change subsets, unless `study` names a study that
    remembers the subset of each image: then known images keep it, and new ones are assigned by hash where a
    class is short.

    Parameters
    ----------
    source : path, address, or dataset
        A folder with a folder per class, or with train/ val/ test/ inside; a CSV or Parquet table of
        `path,label[,split][,group]`, whose paths may be addresses; an address fsspec reads (`s3://…`) of
        such a folder; tar shards in the WebDataset layout, local or remote (`photos-*.tar`); a torch
        `Dataset` of (image, label); a Hugging Face `Dataset` or `DatasetDict`.
    seed : int
        Decides, with each image's content, the subset it is assigned to.
    test_size : float
        Share of all images in test, 0 ≤ share < 1, where the source has no test set.
    val_size : float
        Share of the remaining images in val, 0 ≤ share < 1, where the source has no val set.
    strict : bool
        Raise where any image would be skipped.
    near_copies : bool
        Find near copies, which decodes every image once (milliseconds an image; cached).
    split_names : mapping, "none" or None
        Which folder is which subset, where their names don't tell ({"fold0": "train", "fold1": "test"});
        "none" where folders that look like subsets are classes.
    intensity_range : str, tuple of float or None
        Which values of images deeper than 8 bits become black and white: "auto" (robust percentiles of the
        training images, one range for each kind), (LOW, HIGH) or "LOW,HIGH", or "per-image". None: as the
        study has it, else "auto".
    alpha_background : str or None
        Background of transparent pixels: "white", "grey", "black" or "R,G,B". None: as the study has it,
        else white, or grey where white would hide images.
    progress : callable or None
        Called now and then with (what, done, total).
    workers : int or "auto"
        Threads that read and decode files; 0 uses the calling thread.
    study : path or None
        Folder of a study whose images keep their subsets and folds. Images that new ones link to another
        subset are skipped, except those of the subset with precedence.
    path_column, label_column : str or None
        Columns of a table, or of a Hugging Face dataset, that hold the images and the labels.
    group_by : str or None
        What makes a group, whose images stay in one subset: "parent" (the folder of an image below its class
        folder), "column:NAME" (of a table or a Hugging Face dataset), "re:REGEX" (the first bracketed group,
        else the match, in the file's name, or in `Sample.path` where the expression holds a slash), or
        "auto" (the groups that `notes` propose). None: as the study has it, else a column `group`, and the
        patients that DICOM files name.
    test_data : path or None
        A labelled folder or table that is the test set alone. Its classes are matched by name: images of
        others are left out, as are exact copies of images of `source`. `test_size` then has no effect.

    Returns
    -------
    Manifest
        The images with labels, groups and subsets, and findings about them.

    Raises
    ------
    DataError
        The data cannot be used; the message says what was found and what to do.
    StudyError
        `study` is not a study, or is damaged.
    UsageError
        A share is outside 0 ≤ share < 1, or a range, a colour or `group_by` is invalid.
    """
    demand_kind("seed", seed, Integral, "a whole number")
    seed = int(seed)
    for name, share in (("test_size", test_size), ("val_size", val_size)):
        demand_share(name, share, DEFAULT_SHARE, zero=True)
    threads = decoding_threads(workers)
    if test_data is not None and test_size not in (0.0, DEFAULT_SHARE):
        raise UsageError(
            f"{option('test_size', test_size)} draws a test set, and {option('test_data')} is "
            "one: give one "
            "of the two."
        )
    rendering, earlier = (
        rendering_choice.rendering_options(intensity_range, alpha_background),
        rendering_choice.study_rendering(study),
    )
    assignment = Assignment() if study is None else assigned(study)
    grouping = parsed(group_by)
    inherited = None if grouping else parsed(study_header(study).get("reading", {}).get("group_by"))
    if inherited and (inherited.column is None or _has_columns(source)):
        grouping = inherited
    columns = _NamedColumns(path_column, label_column, grouping.column if grouping else None)
    listed = _source_of(
        source,
        checked_split_names(split_names),
        columns,
        grouping is not None and grouping.text == PARENT,
    )
    if test_data is not None:
        test_columns = columns if _has_columns(test_data) else _NamedColumns(None, None, None)
        in_folders = grouping is not None and grouping.text == PARENT
        with_test_set(listed, _source_of(test_data, None, test_columns, in_folders))
    skip_unlabelled(listed)
    cache = DigestCache()
    progress = Progress.of(progress)
    usable = index(listed, cache, progress, threads)
    if near_copies:
        likeness = likeness_of(listed, usable, cache, progress, threads)
    else:
        likeness = NOTHING_ALIKE
        decode_special(listed, usable, cache, progress, threads)
    usable = [image for image in usable if not _skip_faulty(image, listed)]
    if test_data is not None:
        usable = without_copies(usable, listed)
    _demand_classes(listed, usable)
    _group(usable, listed, grouping)
    if grouping is not None and grouping is inherited:
        listed.findings.append(Finding("groups", 0, f"Groups are by {grouping.text}, as in the study."))
    near = _positions(usable, likeness.near)
    split_options, digests = SplitOptions(seed, test_size, val_size), [image.digest for image in usable]
    split_result = split([image.entry for image in usable], digests, near, split_options, assignment.sides)
    listed.skipped += [image for _, image in sorted(split_result.skipped.items())]
    _demand_whole(listed, strict)
    manifest = _manifest(listed, usable, split_result, likeness, cache, split_options)
    traits = {image.digest: image.traits for image in usable}
    sizes = {
        digest: (image_traits.width, image_traits.height)
        for digest, image_traits in traits.items()
        if image_traits.width
    }
    reading = {
        "split_names": split_names_text(split_names),
        **asdict(columns),
        "group_by": grouping.text if grouping else None,
        "test_data": None if test_data is None else Path(test_data).name,
    }
    reading = {option: value for option, value in reading.items() if value and option != "group_column"}
    manifest = replace(manifest, earlier_folds=assignment.folds, reading=reading, sizes=sizes)
    return _with_rendering(manifest, traits, rendering, earlier).framed()


@dataclass(frozen=True)
class LabelledImages:
    """Images to evaluate on: none is split off, and a class may have any number of them.

    Attributes
    ----------
    manifest : Manifest
        All usable images, as the test set.
    by : dict of str to str or None
        Value of each image by its path, of what figures are wanted by; "" where it has none.
    """

    manifest: Manifest
    by: dict[str, str] | None = None


def load_labelled(
    source: Any,
    *,
    by: str | None = None,
    split_names: SplitNames = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
    progress: OnProgress | None = None,
    workers: Workers = "auto",
) -> LabelledImages:
    """Return all labelled images of a source, to evaluate a model that is finished.

    Unlike `load_data` it draws no subsets, needs no second class, and leaves out no copies: they count as one
    unit, with their groups.

    Parameters
    ----------
    source : path, address, dataset or Manifest
        As for `load_data`.
    by : str or None
        A table's column, "parent" (the folder below the class folder), or "re:REGEX" (in the file's name, or
        in the path where the expression holds a slash).
    split_names, path_column, label_column, group_by, progress, workers
        As for `load_data`.

    Returns
    -------
    LabelledImages

    Raises
    ------
    DataError
        There are no images with a label, or `by` names nothing that they have.
    UsageError
        `by` names a column, and the source has none.
    """
    if isinstance(source, Manifest):
        return LabelledImages(source, _by_values(source, None, by, path_column))
    threads, grouping = decoding_threads(workers), parsed(group_by)
    columns = _NamedColumns(path_column, label_column, grouping.column if grouping else None)
    in_folders = PARENT in (by, grouping.text if grouping else None)
    listed = _source_of(source, checked_split_names(split_names), columns, in_folders)
    skip_unlabelled(listed)
    cache, progress = DigestCache(), Progress.of(progress)
    usable = index(listed, cache, progress, threads)
    likeness = likeness_of(listed, usable, cache, progress, threads)
    usable = [image for image in usable if not _skip_faulty(image, listed)]
    if not usable:
        skipped = [f"{image.path} {image.reason}" for image in listed.skipped]
        hint = f" {listed.hint}" if listed.hint else ""
        raise DataError(f"None of {len(skipped)} images can be used.{hint} Skipped:{listing(skipped)}")
    _group(usable, listed, grouping)
    samples = tuple(
        Sample(image.entry.path, image.entry.label, image.digest, image.entry.group, "test")
        for image in usable
    )
    manifest = Manifest(
        root=listed.root,
        samples=samples,
        classes=tuple(sorted({sample.label for sample in samples})),
        skipped=tuple(listed.skipped),
        near_copies=_path_pairs(samples, likeness.near),
        data_findings=tuple(listed.findings),
        items=listed.items,
    )
    return LabelledImages(manifest, _by_values(manifest, source, by, path_column))


def _by_values(
    manifest: Manifest, source: Any, by: str | None, path_column: str | None
) -> dict[str, str] | None:
    """Return each image's value of what figures are wanted by. Raises as `load_labelled` does."""
    if by is None:
        return None
    rule = parsed(by if by == PARENT or by.startswith((PATTERN, COLUMN)) else f"{COLUMN}{by}")
    assert rule is not None
    if rule.column is not None:
        if not isinstance(source, str | os.PathLike) or not _has_columns(source):
            raise UsageError(
                f"--by {by} names a column of a table, and these images come from no table. Expected "
                f"--by {PARENT} (the folder below the class folder), --by {PATTERN}REGEX (found in the "
                "file's name), or a table as DATA."
            )
        cells = read_column(Path(source).expanduser(), rule.column, path_column)
        values = [cells.get(sample.path, "") for sample in manifest.samples]
    elif rule.text == PARENT:
        values = [folder_of(sample) for sample in manifest.samples]
    else:
        values = matched(manifest.samples, rule)
    if not any(values):
        examples = ", ".join(sample.path for sample in manifest.samples[:3])
        raise DataError(
            f"--by {by} gives no image a value. The images are named {examples}. Expected a column of the "
            f"table, {PARENT} where images lie in folders below their class folder, or {PATTERN}REGEX."
        )
    return {sample.path: value for sample, value in zip(manifest.samples, values, strict=True)}


@dataclass(frozen=True, slots=True)
class _NamedColumns:
    """Columns of a table that were named."""

    path_column: str | None
    label_column: str | None
    group_column: str | None  # by `group_by`


def _with_rendering(
    manifest: Manifest,
    traits: Mapping[str, Traits],
    options: rendering_choice.RenderingOptions,
    earlier: Rendering | None,
) -> Manifest:
    """Return the manifest with what was decided of deep and transparent pixels, and notes on that."""
    training = [traits[digest] for digest in sorted({sample.digest for sample in manifest.subset("train")})]
    rendering = rendering_choice.choose_rendering(training, options, earlier)
    images = [(sample.path, traits[sample.digest]) for sample in manifest.samples]
    kinds = rendering_choice.kinds_of({sample.digest: traits[sample.digest] for sample in manifest.samples})
    findings = rendering_choice.findings(images, rendering)
    return replace(
        manifest, rendering=rendering, kinds=kinds, data_findings=(*manifest.data_findings, *findings)
    )


def _source_of(
    source: Any, split_names: SplitNames, columns: _NamedColumns, groups_inside: bool = False
) -> Source:
    """List what `source` holds. Raises `DataError` where it is nothing of the kind."""
    if any(astuple(columns)) and not _has_columns(source):
        names = (columns.path_column, columns.label_column, columns.group_column)
        options = ("--path-column", "--label-column", "--group-by")
        options_given = " and ".join(option for option, name in zip(options, names, strict=True) if name)
        description = (
            os.fspath(source) if isinstance(source, str | os.PathLike) else f"a {type(source).__name__}"
        )
        raise UsageError(f"{options_given} name(s) a column of a table, and {description} is not a table.")
    if isinstance(source, str) and is_address(source):
        return _source_at_address(source, split_names, groups_inside)
    if isinstance(source, str | os.PathLike):
        return _source_at(Path(source).expanduser(), split_names, columns, groups_inside)
    if split_names:
        raise UsageError(
            f"{option('split_names')} is for folders; a table or a dataset names its subsets itself."
        )
    if isinstance(source, Pairs):
        return read_pairs(source)
    python_datasets.demand_no_frame(source)
    if (pairs := Pairs.of_paths(source)) is not None:
        return read_pairs(pairs)
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
    if address.lower().endswith(TABLE_SUFFIXES):
        raise DataError(
            f"{masked(address)} is a table at an address; expected one on this machine. Copy it here: "
            "its column path may hold addresses."
        )
    return read_remote_folder(address, split_names, groups_inside)


def _has_columns(source: Any) -> bool:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source).lower().endswith(TABLE_SUFFIXES)
    return python_datasets.is_hugging_face(source)


def _source_at(path: Path, split_names: SplitNames, columns: _NamedColumns, groups_inside: bool) -> Source:
    if split_names and not path.is_dir() and path.exists():
        raise UsageError(
            f"{option('split_names')} is for folders, and {path} is a file: it names its subsets itself."
        )
    if is_shards(path.name) and not path.is_dir():
        return read_shards(str(path.absolute()))
    if not path.exists():
        raise DataError(missing_message(path))
    if path.is_dir():
        return read_folder(path, split_names, groups_inside)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        guess = did_you_mean(path.suffix.lower(), TABLE_SUFFIXES)
        raise DataError(
            f"{path} is a single file; expected a folder with a folder per class, or a table ending in "
            f"{', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]}.{guess}"
        )
    return read_table(path, *astuple(columns))


def _group(usable: Sequence[Indexed], source: Source, group_by: GroupBy | None) -> None:
    """Give images the requested groups, or else those that their files name."""
    if group_by is not None and group_by.text != AUTO:
        _regroup(usable, source, group_by)
    _group_by_file(usable, source)
    if group_by is not None and group_by.text == AUTO:
        _regroup(usable, source, group_by)
    for image in usable:  # macOS spells é as two characters: one group would be two, as with labels
        if not unicodedata.is_normalized("NFC", image.entry.group):
            image.entry = replace(image.entry, group=unicodedata.normalize("NFC", image.entry.group))


def _regroup(usable: Sequence[Indexed], source: Source, group_by: GroupBy) -> None:
    images, findings = grouped([image.entry for image in usable], group_by)
    source.findings += findings
    for image, entry in zip(usable, images, strict=True):
        image.entry = entry


def _group_by_file(usable: Sequence[Indexed], source: Source) -> None:
    """Let the patient that a file names be its group, where the source names none."""
    with_patient = [image for image in usable if image.traits.group and not image.entry.group]
    for image in with_patient:
        image.entry = replace(image.entry, group=image.traits.group)
    if with_patient:
        patients = len({image.entry.group for image in with_patient})
        message = (
            f"{len(with_patient)} DICOM file(s) name {patients} patient(s); the images of each patient form "
            "a group and stay in one subset."
        )
        source.findings.append(Finding("groups", len(with_patient), message))


def _skip_faulty(image: Indexed, source: Source) -> bool:
    """Return whether an image cannot be used; if so it is listed as skipped."""
    if image.fault:
        source.skipped.append(SkippedImage(image.entry.path, image.entry.label, image.fault, image.kind))
    return bool(image.fault)


def _demand_classes(source: Source, usable: Sequence[Indexed]) -> None:
    """Raise `DataError` unless two classes have images."""
    labels = sorted({image.entry.label for image in usable})
    if len(labels) > 1:
        return
    skipped = [f"{image.path} {image.reason}" for image in source.skipped]
    because = f" Skipped:{listing(skipped)}" if skipped else ""
    hint = f" {source.hint}" if source.hint else ""
    if not labels:
        raise DataError(f"None of {len(skipped)} images can be used.{hint}{because}")
    raise DataError(
        f"Found one class, {labels[0]!r}, with {len(usable)} image(s); expected two or more, "
        f"since there is nothing to classify.{hint}{because}"
    )


def _demand_whole(source: Source, strict: bool) -> None:
    if strict and source.skipped:
        lines = [f"{image.path} {image.reason}" for image in source.skipped]
        raise DataError(
            f"{len(lines)} image(s) would be skipped, and {option('strict', True)} was "
            f"given:{listing(lines)}\n"
            f"Repair or remove them, or load without {option('strict')}."
        )


def _positions(usable: Sequence[Indexed], pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Return pairs of digests as pairs of positions, each that of the first image with the digest."""
    first_positions: dict[str, int] = {}
    for position, image in enumerate(usable):
        first_positions.setdefault(image.digest, position)
    return [(first_positions[digest_a], first_positions[digest_b]) for digest_a, digest_b in pairs]


def _manifest(
    source: Source,
    usable: Sequence[Indexed],
    split_result: Split,
    likeness: Likeness,
    cache: DigestCache,
    split_options: SplitOptions,
) -> Manifest:
    samples = tuple(
        Sample(image.entry.path, image.entry.label, image.digest, image.entry.group, subset)
        for image, subset in zip(usable, split_result.subsets, strict=True)
        if subset
    )
    skipped = tuple(source.skipped)
    classes = tuple(sorted({sample.label for sample in samples}))
    demand_training_images(samples, classes, skipped)
    near, suspects = _path_pairs(samples, likeness.near), _path_pairs(samples, likeness.suspects)
    given_subsets = tuple(
        subset for subset in SUBSETS if any(image.entry.split == subset for image in usable)
    )
    findings = [
        *about_split(samples, classes, given_subsets, split_options, near),
        *source.findings,
        *split_result.findings,
        *about_copies(samples, near, suspects, likeness.cut_short),
        *about_losses({entry.label for entry in skipped}, classes),
        *([Finding("memory", len(samples), cache.trouble)] if cache.trouble else []),
    ]
    return Manifest(
        root=source.root,
        samples=samples,
        classes=classes,
        skipped=skipped,
        conflicts=tuple(split_result.conflicts),
        near_copies=near,
        suspects=suspects,
        data_findings=tuple(findings),
        predefined=given_subsets,
        shares=(split_options.test, split_options.val),
        seed=split_options.seed,
        items=source.items,
    )


def _path_pairs(samples: Sequence[Sample], pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return pairs of digests as pairs of paths, each that of the first sample with the digest."""
    first_paths: dict[str, str] = {}
    for sample in samples:
        first_paths.setdefault(sample.digest, sample.path)
    return tuple(
        (first_paths[digest_a], first_paths[digest_b])
        for digest_a, digest_b in pairs
        if digest_a in first_paths and digest_b in first_paths
    )
