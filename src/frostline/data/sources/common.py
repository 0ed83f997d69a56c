"""The common form of every source of labelled images, and the names of subsets.

Every reader in this package returns a `Source`; `loading` makes a Manifest of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from frostline.data.digest_cache import FileKey
from frostline.data.findings import Finding
from frostline.data.manifest_entries import SkippedImage
from frostline.data.pixels.deep_pixels import Deep
from frostline.errors import did_you_mean

# The names people give the three subsets: torchvision, Keras, Hugging Face and Kaggle sets between them.
SUBSET_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

# As many examples as fit a message that a person still reads.
EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One labelled image as the source names it; nothing of it has been read."""

    path: str  # relative to the source's root, else absolute, or "dataset[12]"
    label: str
    group: str = ""
    split: str = ""  # "" = not given


@dataclass(slots=True)
class Source:
    """All that a source lists: images, skipped images and findings."""

    root: Path | None
    images: list[ImageEntry] = field(default_factory=list)
    skipped: list[SkippedImage] = field(default_factory=list)  # not usable, and why
    findings: list[Finding] = field(default_factory=list)
    hint: str = ""  # what to check when not one image can be used
    items: Callable[[str], Image.Image | Deep | bytes] | None = None  # where there are no files
    key: Callable[[str], FileKey | None] | None = None  # what tells an unchanged item without reading it


def outside(path: str) -> SkippedImage:
    """Return the record of an image that no class folder holds."""
    return SkippedImage(path, "", "lies outside the class folders, so it has no label", "left_out")


def subset_named(name: str) -> str | None:
    """Return "train", "val" or "test" for one of the names people give them, else None."""
    return SUBSET_NAMES.get(name.strip().lower())


def unknown_subset(name: str) -> str:
    """Return what is wrong with the name of a subset."""
    guess = did_you_mean(name.strip().lower(), SUBSET_NAMES)
    return f"split {name!r} is unknown; expected train, val or test.{guess}"


def listing(lines: list[str]) -> str:
    """Return a message's lines as an indented list: the first `EXAMPLES`, and how many more there are."""
    bullets = [f"\n  - {line}" for line in lines[:EXAMPLES]]
    more = f"\n  - and {len(lines) - EXAMPLES} more" if len(lines) > EXAMPLES else ""
    return "".join(bullets) + more
