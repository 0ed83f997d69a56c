"""Index every image: its digest, and the traits in its header.

Files that are remembered and unchanged (path, size, time) are not read again. Images are held one at a time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from frostline.data.digest_cache import CachedContent, DigestCache, FileKey
from frostline.data.pixels import decoding, pixel_digest
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.image_traits import PLAIN, Traits, recheck_if_shrunk, with_decoded_traits
from frostline.data.pixels.rendering import GREY, WHITE
from frostline.data.sources.common import ImageEntry, Source
from frostline.data.splits.near_duplicates import DECODE_SIDE_PIXELS, Likeness, likeness, mark_of
from frostline.errors import DamagedImage, MissingImage
from frostline.progress import QUIET, Activity, Progress
from frostline.system.thread_pools import thread_pool

# Files looked at between two transactions: about a second of hashing, and one in BATCH_ROWS statements.
CHUNK_IMAGES = 500

# A file changed this recently may change once more without its time showing it: FAT keeps even seconds only.
RACY_NS = 2_000_000_000

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Indexed:
    """One image with its digest, traits and fault."""

    entry: ImageEntry
    digest: str = ""
    fault: str = ""  # why it cannot be used; "" = nothing seen so far
    key: FileKey | None = None  # set where the file had to be read
    traits: Traits = PLAIN
    header_read: bool = False  # its header was looked at, just now
    kind: str = "unreadable"  # of finding, where there is a fault


def index(source: Source, cache: DigestCache, progress: Progress, workers: int = 0) -> list[Indexed]:
    """Return every image of a source with its digest, or with the reason why it cannot be used."""
    images: list[Indexed] = []
    for start in range(0, len(source.images), CHUNK_IMAGES):
        chunk = source.images[start : start + CHUNK_IMAGES]
        if source.items:
            batch = _of_items(chunk, source, cache, workers)
        else:
            batch = _of_files(chunk, source.root or Path(), cache, workers)
        _recall(batch, source, cache, workers)
        images += batch
        progress(Activity.INDEX, len(images), len(source.images))
    return images


def likeness_of(
    source: Source,
    images: Sequence[Indexed],
    cache: DigestCache,
    progress: Progress = QUIET,
    workers: int = 0,
) -> Likeness:
    """Compare all images by their marks, decoding those not marked yet; damage found on the way is noted."""
    unique: dict[str, Indexed] = {}
    for image in images:
        if not image.fault:
            unique.setdefault(image.digest, image)
    waiting, marks, faults = list(unique.values()), dict[str, bytes](), dict[str, str]()
    traits: dict[str, Traits] = {}
    for start in range(0, len(waiting), CHUNK_IMAGES):
        for content in _marked(waiting[start : start + CHUNK_IMAGES], source, cache, workers):
            marks[content.digest], faults[content.digest] = content.mark, content.fault
            traits[content.digest] = content.traits
        progress(Activity.FIND_COPIES, min(start + CHUNK_IMAGES, len(waiting)), len(waiting))
    for image in images:
        image.fault = image.fault or faults.get(image.digest, "")
        image.traits = traits.get(image.digest, image.traits)
    return likeness({digest: mark for digest, mark in marks.items() if not faults[digest]})


def _marked(
    chunk: Sequence[Indexed], source: Source, cache: DigestCache, workers: int
) -> list[CachedContent]:
    """Return the marks of a chunk, from memory or by decoding."""
    contents = cache.contents_of(image.digest for image in chunk)
    unmarked = [image for image in chunk if image.digest not in contents or not contents[image.digest].mark]
    if source.items and not source.key:
        workers = 0  # the user's own code may not be thread-safe
    decoded = in_threads(lambda image: _mark(image, source), unmarked, workers)
    cache.remember(contents=[content for content in decoded if content.decoded])
    contents.update({content.digest: content for content in decoded})
    return [contents[image.digest] for image in chunk]


def decode_special(
    source: Source, images: Sequence[Indexed], cache: DigestCache, progress: Progress, workers: int
) -> None:
    """Decode deep and transparent images that were not marked, for their traits; plain ones cost nothing."""
    special = [image for image in images if image.traits.kind and not image.fault]
    likeness_of(source, special, cache, progress if special else QUIET, workers)


def _mark(image: Indexed, source: Source) -> CachedContent:
    """Decode one image for its mark; a file that changed since it was indexed gets none."""
    try:
        if source.items:
            content = source.items(image.entry.path)
            if source.key and hashlib.sha256(content).hexdigest() != image.digest:  # type: ignore[arg-type]
                return CachedContent(image.digest, decoded=False)
        else:
            content = decoding.read_bytes((source.root or Path()) / image.entry.path)
            if hashlib.sha256(content).hexdigest() != image.digest:
                return CachedContent(image.digest, decoded=False)
        small = isinstance(content, bytes)
        picture = (
            decoding.picture_small(content, DECODE_SIDE_PIXELS) if small else decoding.picture(content)  # type: ignore[arg-type]
        )
        traits = recheck_if_shrunk(content, picture, with_decoded_traits(picture, image.traits))
        mark = mark_of(picture, GREY if traits.hidden_on_white else WHITE)
        if not picture.shrunk:
            pixel_digest.note(image.digest, picture)
        elif isinstance(content, bytes):
            pixel_digest.note_top(image.digest, content)
        return CachedContent(image.digest, decoded=True, mark=mark, traits=traits)
    except DamagedImage as error:
        return CachedContent(image.digest, decoded=True, fault=str(error))


def _digest_of_item(picture: Picture) -> str:
    """Return the SHA-256 of decoded pixels and their shape, (H, W[, 3]), for images without a file."""
    pixels = np.asarray(picture.rgb()) if picture.deep is None else picture.deep.values
    return hashlib.sha256(repr(pixels.shape).encode("ascii") + pixels.tobytes()).hexdigest()


def in_threads(work: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """Map a function over items in threads, keeping their order.

    Parameters
    ----------
    work : callable
        Called with each item; hashing and decoding release the interpreter lock.
    items : sequence
    workers : int
        Number of threads; below 1 everything runs in the calling thread.

    Returns
    -------
    list
        The results, in the order of `items`.
    """
    if workers < 1:
        return [work(item) for item in items]
    with thread_pool(workers) as pool:
        return list(pool.map(work, items))


def _of_files(chunk: Sequence[ImageEntry], root: Path, cache: DigestCache, workers: int) -> list[Indexed]:
    """Return a chunk of files indexed, reading those that are not cached."""
    keys = [_key(root / entry.path) for entry in chunk]
    digests = cache.digests_of([key for key in keys if isinstance(key, FileKey)])

    def indexed(pair: tuple[ImageEntry, FileKey | DamagedImage]) -> Indexed:
        entry, key = pair
        if isinstance(key, DamagedImage):
            return Indexed(entry, fault=str(key), kind=_kind_of(key))
        return Indexed(entry, digests[key]) if key in digests else _of_file(entry, root / entry.path, key)

    images = in_threads(indexed, list(zip(chunk, keys, strict=True)), workers)
    settled = time.time_ns() - RACY_NS
    new_images = [image for image in images if image.key and image.digest]
    cache.remember(
        files=[
            (image.key, image.digest) for image in new_images if image.key and image.key.mtime_ns < settled
        ],
    )
    return images


def _of_file(entry: ImageEntry, path: Path, key: FileKey) -> Indexed:
    """Read one file's bytes and header."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            fault, traits = _header(file)
            return Indexed(entry, digest, fault, key, traits, header_read=True)
    except OSError as error:
        return Indexed(entry, fault=f"cannot be read ({error.strerror or error})")


def _kind_of(fault: DamagedImage) -> str:
    """Return the kind of finding, as in `findings.KINDS`."""
    return "missing" if isinstance(fault, MissingImage) else "unreadable"


def _key(path: Path) -> FileKey | DamagedImage:
    """Return what tells a file's content without reading it, or why it cannot be read."""
    fault = decoding.file_fault(path)
    if fault:
        return fault
    try:
        status = path.stat()
    except OSError as error:
        return DamagedImage(f"cannot be read ({error.strerror or error})")
    return FileKey(os.fsencode(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _of_items(chunk: Sequence[ImageEntry], source: Source, cache: DigestCache, workers: int) -> list[Indexed]:
    """Return a chunk of items indexed, reading those that are not cached."""
    if source.key is None:
        return [_of_item(entry, source) for entry in chunk]
    keys = [source.key(entry.path) for entry in chunk]
    digests = cache.digests_of([key for key in keys if key])

    def indexed(pair: tuple[ImageEntry, FileKey | None]) -> Indexed:
        entry, key = pair
        return Indexed(entry, digests[key]) if key and key in digests else _of_item(entry, source)

    images = in_threads(indexed, list(zip(chunk, keys, strict=True)), workers)
    new_digests = [
        (key, image.digest) for key, image in zip(keys, images, strict=True) if key and image.digest
    ]
    cache.remember(
        files=[(key, digest) for key, digest in new_digests if key not in digests],
    )
    return images


def _of_item(entry: ImageEntry, source: Source) -> Indexed:
    """Return one image in memory indexed."""
    assert source.items is not None
    try:
        content = source.items(entry.path)
        if isinstance(content, bytes):
            fault, traits = _header(BytesIO(content))
            return Indexed(entry, hashlib.sha256(content).hexdigest(), fault, None, traits, header_read=True)
        picture, fault = decoding.picture(content), decoding.size_fault(*content.size)
        width, height = content.size if isinstance(content, Deep) else decoding.upright_size(content)
        traits = Traits(picture.kind, width=width, height=height)
        return Indexed(entry, _digest_of_item(picture), fault, None, traits, header_read=True)
    except DamagedImage as error:
        return Indexed(entry, fault=str(error), kind=_kind_of(error))


def _header(file: BinaryIO) -> tuple[str, Traits]:
    header = decoding.header(file)
    width, height = header.size
    return header.fault, Traits(
        header.kind, several=header.several, group=header.group, width=width, height=height
    )


def _recall(images: Sequence[Indexed], source: Source, cache: DigestCache, workers: int) -> None:
    """Add cached traits of the same contents; keep those that were read just now.

    An unchanged file whose header this decoder never read is opened for that.
    """
    contents = cache.contents_of(image.digest for image in images if image.digest)
    without_header = [
        image for image in images if image.digest and image.digest not in contents and not image.header_read
    ]
    in_threads(lambda image: _read_header(image, source), without_header, workers)
    new_contents = {
        image.digest: image for image in images if image.header_read and image.digest not in contents
    }
    cache.remember(
        contents=[
            CachedContent(digest, decoded=False, fault=image.fault, traits=image.traits)
            for digest, image in new_contents.items()
            if digest
        ]
    )
    for image in images:
        if not image.fault and image.digest in contents:
            image.fault, image.traits = contents[image.digest].fault, contents[image.digest].traits


def _read_header(image: Indexed, source: Source) -> None:
    """Read the header of an image whose digest is cached."""
    try:
        if source.items:
            content = source.items(image.entry.path)
            assert isinstance(content, bytes)
            image.fault, image.traits = _header(BytesIO(content))
        else:
            with open((source.root or Path()) / image.entry.path, "rb") as file:
                image.fault, image.traits = _header(file)
    except DamagedImage as error:
        image.fault, image.kind = str(error), _kind_of(error)
    except OSError as error:
        image.fault = f"cannot be read ({error.strerror or error})"
    image.header_read = True
