"""Images and labels side by side, as in scikit-learn: arrays in memory, or paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from frostline.data.digest_cache import DigestCache
from frostline.data.image_scan import decode_special, index
from frostline.data.labels import read_labels
from frostline.data.manifest import Manifest
from frostline.data.manifest_entries import Sample
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.rendering import PLAIN, Rendering
from frostline.data.pixels.rendering_choice import kinds_of, notes_on, rendered_from_traits
from frostline.data.sources.common import ImageEntry, Source, listing
from frostline.data.sources.python_datasets import NAME, picture
from frostline.errors import DamagedImage, DataError
from frostline.progress import QUIET


@dataclass(frozen=True)
class Pairs:
    """One label for each image; images are all paths, or all PIL images or arrays (h, w[, 3]).

    `subsets` names the subset of each image ("train", "val", "test", "" where it is not given).
    """

    images: Sequence[Any]
    labels: Sequence[str]
    subsets: Sequence[str] | None = None

    @classmethod
    def of_paths(cls, source: object) -> Pairs | None:
        """Return a list of (path, label) as pairs; None for anything else."""
        if not isinstance(source, list | tuple) or not source:
            return None
        if not all(isinstance(item, list | tuple) and len(item) == 2 for item in source):
            return None
        if not all(isinstance(path, str | os.PathLike) for path, _ in source):
            return None
        if any("://" in os.fspath(path) for path, _ in source):
            raise DataError("Found addresses in a list; expected paths. A table may hold addresses.")
        return cls([path for path, _ in source], read_labels([label for _, label in source]))


def read_pairs(pairs: Pairs) -> Source:
    """List what there is; files are read later, as those of a folder are."""
    if all(isinstance(image, str | os.PathLike) for image in pairs.images):
        paths = [Path(image).expanduser().absolute().as_posix() for image in pairs.images]
        return Source(Path(), _entries(paths, pairs))
    names = [f"{NAME}[{position}]" for position in range(len(pairs.images))]
    return Source(None, _entries(names, pairs), items=_InMemory(pairs.images))


def unlabelled(
    images: Sequence[Any], workers: int = 0, rendering: Rendering = PLAIN
) -> tuple[Manifest, list[str]]:
    """Return a manifest of unlabelled images, all in the subset "test", and notes on their rendering.

    Parameters
    ----------
    images : sequence
        Paths, or PIL images or arrays (h, w[, 3]).
    workers : int
        Threads for decoding.
    rendering : Rendering

    Returns
    -------
    manifest : Manifest
        The images in their order.
    notes : list of str

    Raises
    ------
    DataError
        Images cannot be used; the message names them.
    """
    source = read_pairs(Pairs(images, [""] * len(images)))
    cache = DigestCache()
    indexed = index(source, cache, QUIET, workers)
    decode_special(source, indexed, cache, QUIET, workers)
    lost = [f"{image.entry.path} {image.fault}" for image in indexed if image.fault]
    if lost:
        raise DataError(f"{len(lost)} image(s) cannot be used:{listing(lost)}")
    samples = tuple(Sample(image.entry.path, "", image.digest, "", "test") for image in indexed)
    kinds = kinds_of({image.digest: image.traits for image in indexed})
    notes = notes_on(
        [rendered_from_traits(image.entry.path, image.traits, rendering) for image in indexed], rendering
    )
    return Manifest(source.root, samples, ("",), rendering=rendering, kinds=kinds, items=source.items), notes


def _entries(paths: Sequence[str], pairs: Pairs) -> list[ImageEntry]:
    subsets = [""] * len(paths) if pairs.subsets is None else pairs.subsets
    return [
        ImageEntry(path, label, split=subset)
        for path, label, subset in zip(paths, pairs.labels, subsets, strict=True)
    ]


@dataclass(frozen=True)
class _InMemory:
    """From "dataset[12]" to that image; a class, so that worker processes can be given it."""

    images: Sequence[Any]

    def __call__(self, path: str) -> Image.Image | Deep:
        position = int(path[:-1].rpartition("[")[2])
        try:
            return picture(self.images[position])
        except DataError as error:
            raise DamagedImage(str(error)) from error
