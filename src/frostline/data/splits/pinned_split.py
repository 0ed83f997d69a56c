"""Split a manifest again with the subsets of some images fixed, and update its findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from frostline.data.findings import Finding
from frostline.data.manifest_entries import Sample, SkippedImage, demand_training_images
from frostline.data.sources.common import ImageEntry
from frostline.data.splits.split_notes import about_split
from frostline.data.splits.train_val_test import SplitOptions, split
from frostline.errors import DataError

if TYPE_CHECKING:
    from frostline.data.manifest import Manifest


def redraw(data: Manifest, sides: Mapping[str, str]) -> Manifest:
    """Return the manifest with its drawn subsets drawn anew, images of these digests pinned to these subsets.

    The same manifest where nothing changes. Raises `DataError` where it does not know its seed and shares, or
    a class is left without a training image.
    """
    if data.shares is None or data.seed is None:
        raise DataError("This manifest does not record how its subsets were drawn: load the data again.")
    split_result = split(
        [ImageEntry(s.path, s.label, s.group, _source_subset(s, data.predefined)) for s in data.samples],
        [sample.digest for sample in data.samples],
        data.positions(data.near_copies),
        SplitOptions(data.seed, *data.shares),
        sides,
        contested=frozenset(conflict.digest for conflict in data.conflicts),
    )
    if split_result.subsets == [sample.split for sample in data.samples]:
        return data
    moved = [image for _, image in sorted(split_result.skipped.items())]
    samples = tuple(
        replace(sample, split=subset)
        for sample, subset in zip(data.samples, split_result.subsets, strict=True)
        if subset
    )
    demand_training_images(samples, data.classes, moved)
    findings = [finding for finding in split_result.findings if finding not in data.data_findings and moved]
    return with_samples(data, samples, moved, findings)


def _source_subset(sample: Sample, given_subsets: tuple[str, ...]) -> str:
    """Return the subset that the source had named for an image, as far as a manifest knows."""
    return sample.split if sample.split in given_subsets else "train" if "train" in given_subsets else ""


def with_samples(
    data: Manifest, samples: tuple[Sample, ...], moved: list[SkippedImage], findings: list[Finding]
) -> Manifest:
    """Return the manifest of these samples, `moved` skipped, with new findings on the split."""
    gone = {item.path for item in moved}
    near, suspects = (
        tuple(pair for pair in pairs if not gone & set(pair)) for pairs in (data.near_copies, data.suspects)
    )
    result = replace(
        data,
        samples=samples,
        skipped=(*data.skipped, *moved),
        near_copies=near,
        suspects=suspects,
    )
    replaced = set(split_findings(data))
    return replace(
        result,
        data_findings=(
            *split_findings(result),
            *(finding for finding in data.data_findings if finding not in replaced),
            *findings,
        ),
    )


def split_findings(data: Manifest) -> list[Finding]:
    """Return the findings on the current split."""
    options = SplitOptions(data.seed or 0, *(data.shares or (0.0, 0.0)))
    return about_split(data.samples, data.classes, data.predefined, options, data.near_copies)
