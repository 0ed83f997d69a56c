"""Images of a second source as the test set of the first: `--test-data`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from frostline.data.findings import Finding
from frostline.data.image_scan import Indexed
from frostline.data.manifest_entries import SkippedImage
from frostline.data.sources.common import Source
from frostline.errors import DataError, UsageError, option
from frostline.sentences import counted, named


def with_test_set(source: Source, test: Source) -> None:
    """Add the images of `test` to `source` as its test set.

    Classes are matched by name; images of others are left out, and named in a finding.

    Raises
    ------
    UsageError
        `source` names a test set itself, or one of the two is not made of files.
    DataError
        No class of `test` is one of `source`.
    """
    if source.root is None or test.root is None or source.items is not None or test.items is not None:
        raise UsageError(
            f"{option('test_data')} is for images in files on this machine, and so must DATA be: a "
            "folder, or a table. A dataset in memory or at an address names its own test set."
        )
    if any(image.split == "test" for image in source.images):
        raise UsageError(
            f"DATA has a test set, and {option('test_data')} names another: leave {option('test_data')} "
            f"out, or take DATA without its test set ({option('split_names')} says which folder is which "
            "subset)."
        )
    classes = {image.label for image in source.images}
    unknown = Counter(image.label for image in test.images if image.label not in classes)
    if sum(unknown.values()) == len(test.images):
        raise DataError(
            f"None of the classes of {option('test_data')} ({named(sorted(unknown)) or 'none'}) is one "
            f"of DATA: {named(sorted(classes))}. Classes are matched by name: rename the folders, or "
            "correct the "
            "column of labels."
        )
    for image in test.images:
        path = os.fspath((test.root / image.path).absolute())
        if image.label in unknown:
            reason = f"is of class {image.label}, of which DATA has no image"
            source.skipped.append(SkippedImage(path, image.label, reason, "left_out"))
            continue
        source.images.append(replace(image, path=path, split="test"))
    source.skipped += [
        replace(skipped, path=os.fspath((test.root / skipped.path).absolute())) for skipped in test.skipped
    ]
    if unknown:
        listed = named([f"{label} ({counted(count, 'image')})" for label, count in sorted(unknown.items())])
        message = f"Classes of the test data that DATA does not have, left out of the test set: {listed}."
        source.findings.append(Finding("left_out", sum(unknown.values()), message))


def without_copies(images: Sequence[Indexed], source: Source) -> list[Indexed]:
    """Return the images without those of the test set that are exact copies of others; these are skipped.

    A file that both sources name is a copy of itself. Raises `DataError` where no test image is left.
    """
    path_of = {image.digest: image.entry.path for image in reversed(images) if image.entry.split != "test"}
    usable, copies = [], 0
    for image in images:
        if image.entry.split != "test" or image.digest not in path_of:
            usable.append(image)
            continue
        path, other = image.entry.path, path_of[image.digest]
        what = "is an image of DATA" if path == other else f"is an exact copy of {other}"
        source.skipped.append(
            SkippedImage(path, image.entry.label, f"{what}, which may be learned from", "leak")
        )
        copies += 1
    if not any(image.entry.split == "test" for image in usable):
        raise DataError(
            f"No image of {option('test_data')} can be used: {counted(copies, 'image')} of it are images of "
            "DATA, or exact copies of them. Expected images that the model does not learn from."
        )
    return usable
