"""The first look at every image: its digest, and what its header gives away.

Files that are remembered and unchanged (path, size, time) are not read again. Images are held one at a time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from frostline.data.digest_cache import FileKey, Known, Memory
from frostline.data.pixels import decoding
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.rendering import GREY, WHITE
from frostline.data.pixels.traits import PLAIN, Traits, confirmed, looked_at
from frostline.data.sources.common import Found, OnProgress, Source
from frostline.data.splits.near_duplicates import DECODE_SIDE_PIXELS, Likeness, likeness, mark_of
from frostline.errors import DamagedImage

# Files looked at between two transactions: about a second of hashing, and one in BATCH_ROWS statements.
CHUNK_IMAGES = 500

# A file changed this recently may change once more without its time showing it: FAT keeps even seconds only.
RACY_NS = 2_000_000_000

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Indexed:
    """One image and what it turned out to be."""

    found: Found
    digest: str = ""
    fault: str = ""  # why it cannot be used; "" = nothing seen so far
    key: FileKey | None = None  # set where the file had to be read
    traits: Traits = PLAIN
    looked: bool = False  # its header was looked at, just now


def index(
    source: Source, memory: Memory, progress: OnProgress | None = None, workers: int = 0
) -> list[Indexed]:
    """Return every image of a source with its digest, or with the reason why it cannot be used."""
    images: list[Indexed] = []
    for start in range(0, len(source.found), CHUNK_IMAGES):
        chunk = source.found[start : start + CHUNK_IMAGES]
        if source.items:
            fresh = _of_items(chunk, source, memory, workers)
        else:
            fresh = _of_files(chunk, source.root or Path(), memory, workers)
        _recall(fresh, source, memory, workers)
        images += fresh
        if progress:
            progress("indexing", len(images), len(source.found))
    return images


def likeness_of(
    source: Source,
    images: Sequence[Indexed],
    memory: Memory,
    progress: OnProgress | None = None,
    workers: int = 0,
) -> Likeness:
    """Compare all images by their marks, decoding those not marked yet; damage found on the way is noted."""
    first: dict[str, Indexed] = {}
    for image in images:
        if not image.fault:
            first.setdefault(image.digest, image)
    waiting, marks, faults = list(first.values()), dict[str, bytes](), dict[str, str]()
    traits: dict[str, Traits] = {}
    for start in range(0, len(waiting), CHUNK_IMAGES):
        for known in _marked(waiting[start : start + CHUNK_IMAGES], source, memory, workers):
            marks[known.digest], faults[known.digest] = known.mark, known.fault
            traits[known.digest] = known.traits
        if progress:
            progress("looking for copies", min(start + CHUNK_IMAGES, len(waiting)), len(waiting))
    for image in images:
        image.fault = image.fault or faults.get(image.digest, "")
        image.traits = traits.get(image.digest, image.traits)
    return likeness({digest: mark for digest, mark in marks.items() if not faults[digest]})


def _marked(chunk: Sequence[Indexed], source: Source, memory: Memory, workers: int) -> list[Known]:
    """Return the marks of a chunk, from memory or by decoding."""
    known = memory.contents_of(image.digest for image in chunk)
    new = [image for image in chunk if image.digest not in known or not known[image.digest].mark]
    if source.items and not source.key:
        workers = 0  # the person's own code may not bear threads
    looks = in_threads(lambda image: _mark(image, source), new, workers)
    memory.remember(contents=[look for look in looks if look.decoded])
    known.update({look.digest: look for look in looks})
    return [known[image.digest] for image in chunk]


def look_at_special(
    source: Source, images: Sequence[Indexed], memory: Memory, progress: OnProgress | None, workers: int
) -> None:
    """Decode deep and transparent images that were not marked, for their traits; plain ones cost nothing."""
    special = [image for image in images if image.traits.kind and not image.fault]
    likeness_of(source, special, memory, progress if special else None, workers)


def _mark(image: Indexed, source: Source) -> Known:
    """Decode one image for its mark; a file that changed since it was indexed gets none."""
    try:
        if source.items:
            content = source.items(image.found.path)
            if source.key and hashlib.sha256(content).hexdigest() != image.digest:  # type: ignore[arg-type]
                return Known(image.digest, decoded=False)
        else:
            content = decoding.read_bytes((source.root or Path()) / image.found.path)
            if hashlib.sha256(content).hexdigest() != image.digest:
                return Known(image.digest, decoded=False)
        small = isinstance(content, bytes)
        picture = (
            decoding.picture_small(content, DECODE_SIDE_PIXELS) if small else decoding.picture(content)  # type: ignore[arg-type]
        )
        traits = confirmed(content, picture, looked_at(picture, image.traits))
        mark = mark_of(picture, GREY if traits.hidden_on_white else WHITE)
        return Known(image.digest, decoded=True, mark=mark, traits=traits)
    except DamagedImage as error:
        return Known(image.digest, decoded=True, fault=str(error))


def pixel_digest(picture: Picture) -> str:
    """Return the SHA-256 of decoded pixels and their shape, (H, W[, 3]), for images without a file."""
    pixels = np.asarray(picture.rgb()) if picture.deep is None else picture.deep.values
    return hashlib.sha256(repr(pixels.shape).encode("ascii") + pixels.tobytes()).hexdigest()


def in_threads(work: Callable[[T], R], things: Sequence[T], workers: int) -> list[R]:
    """Map `work` over `things` in `workers` threads (hashing and decoding release the lock), or here."""
    if workers < 1:
        return [work(thing) for thing in things]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, things))


def _of_files(chunk: Sequence[Found], root: Path, memory: Memory, workers: int) -> list[Indexed]:
    """Look at a chunk of files, reading those that are not remembered."""
    keys = [_key(root / found.path) for found in chunk]
    known = memory.digests_of([key for key in keys if isinstance(key, FileKey)])

    def look(pair: tuple[Found, FileKey | str]) -> Indexed:
        found, key = pair
        if isinstance(key, str):
            return Indexed(found, fault=key)
        return Indexed(found, known[key]) if key in known else _of_file(found, root / found.path, key)

    images = in_threads(look, list(zip(chunk, keys, strict=True)), workers)
    settled = time.time_ns() - RACY_NS
    read = [image for image in images if image.key and image.digest]
    memory.remember(
        files=[(image.key, image.digest) for image in read if image.key and image.key.mtime_ns < settled],
    )
    return images


def _of_file(found: Found, path: Path, key: FileKey) -> Indexed:
    """Read one file's bytes and header."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            fault, traits = _header(file)
            return Indexed(found, digest, fault, key, traits, looked=True)
    except OSError as error:
        return Indexed(found, fault=f"cannot be read ({error.strerror or error})")


def _key(path: Path) -> FileKey | str:
    """Return what tells a file's content without reading it, or why it cannot be read."""
    fault = decoding.file_fault(path)
    if fault:
        return fault
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return FileKey(os.fsencode(path), status.st_size, status.st_mtime_ns)


def _of_items(chunk: Sequence[Found], source: Source, memory: Memory, workers: int) -> list[Indexed]:
    """Look at a chunk of items, reading those that are not remembered."""
    if source.key is None:
        return [_of_item(found, source) for found in chunk]
    keys = [source.key(found.path) for found in chunk]
    known = memory.digests_of([key for key in keys if key])

    def look(pair: tuple[Found, FileKey | None]) -> Indexed:
        found, key = pair
        return Indexed(found, known[key]) if key and key in known else _of_item(found, source)

    images = in_threads(look, list(zip(chunk, keys, strict=True)), workers)
    read = [(key, image.digest) for key, image in zip(keys, images, strict=True) if key and image.digest]
    memory.remember(
        files=[(key, digest) for key, digest in read if key not in known],
    )
    return images


def _of_item(found: Found, source: Source) -> Indexed:
    """Look at one image that was handed over in memory."""
    assert source.items is not None
    try:
        content = source.items(found.path)
        if isinstance(content, bytes):
            fault, traits = _header(BytesIO(content))
            return Indexed(found, hashlib.sha256(content).hexdigest(), fault, None, traits, looked=True)
        picture, fault = decoding.picture(content), decoding.size_fault(*content.size)
        width, height = content.size if isinstance(content, Deep) else decoding.upright_size(content)
        traits = Traits(picture.kind, width=width, height=height)
        return Indexed(found, pixel_digest(picture), fault, None, traits, looked=True)
    except DamagedImage as error:
        return Indexed(found, fault=str(error))


def _header(file: BinaryIO) -> tuple[str, Traits]:
    seen = decoding.header(file)
    width, height = seen.size
    return seen.fault, Traits(seen.kind, several=seen.several, group=seen.group, width=width, height=height)


def _recall(images: Sequence[Indexed], source: Source, memory: Memory, workers: int) -> None:
    """Add what earlier looks found out about the same contents; keep what was found out just now.

    An unchanged file of which this decoder never saw the header is opened for that.
    """
    known = memory.contents_of(image.digest for image in images if image.digest)
    unseen = [image for image in images if image.digest and image.digest not in known and not image.looked]
    in_threads(lambda image: _look_at_header(image, source), unseen, workers)
    fresh = {image.digest: image for image in images if image.looked and image.digest not in known}
    memory.remember(
        contents=[
            Known(digest, decoded=False, fault=image.fault, traits=image.traits)
            for digest, image in fresh.items()
            if digest
        ]
    )
    for image in images:
        if not image.fault and image.digest in known:
            image.fault, image.traits = known[image.digest].fault, known[image.digest].traits


def _look_at_header(image: Indexed, source: Source) -> None:
    """Look at the header of an image whose digest is remembered."""
    try:
        if source.items:
            content = source.items(image.found.path)
            assert isinstance(content, bytes)
            image.fault, image.traits = _header(BytesIO(content))
        else:
            with open((source.root or Path()) / image.found.path, "rb") as file:
                image.fault, image.traits = _header(file)
    except DamagedImage as error:
        image.fault = str(error)
    except OSError as error:
        image.fault = f"cannot be read ({error.strerror or error})"
    image.looked = True
