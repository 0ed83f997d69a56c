"""What a manifest consists of: a usable image, a skipped image, identical images with different labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from frostline.errors import DataError

SUBSETS = ("train", "val", "test")  # a later subset takes precedence: what it holds must not be learned from


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable image."""

    path: str  # relative to the manifest's root, with forward slashes; else absolute, or "dataset[12]"
    label: str
    digest: str  # SHA-256, hex: of the file's bytes, or of decoded pixels and shape where there is no file
    group: str  # "" = the image stands alone
    split: str  # one of SUBSETS


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """One skipped image, and why."""

    path: str
    label: str
    reason: str
    kind: str = "unreadable"  # of finding, as in `findings.KINDS`


@dataclass(frozen=True, slots=True)
class Conflict:
    """Identical images that carry different labels. They are kept out of val and test."""

    digest: str
    paths: tuple[str, ...]
    labels: tuple[str, ...]  # one for each path


def demand_training_images(
    samples: Iterable[Sample], classes: Sequence[str], skipped: Sequence[SkippedImage]
) -> None:
    """Raise `DataError` naming every class that has no training image."""
    in_train = {sample.label for sample in samples if sample.split == "train"}
    missing = [label for label in classes if label not in in_train]
    if not missing:
        return
    losses = [f"{image.path} {image.reason}" for image in skipped if image.label in missing][:5]
    raise DataError(
        f"No training image for {', '.join(map(repr, missing))}; every class needs at least one. "
        "Add images, correct the label or its split, or leave the class out."
        + (" Skipped: " + "; ".join(losses) + "." if losses else "")
    )
