"""Reads the images of samples from their files, or as they were handed over in memory.

What decoding shows is remembered by the content's digest: damage, traits, and the digest of the pixels. What
the first bytes of a file say, its size and whether it is a JPEG, is read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from PIL import Image

from frostline.data.digest_cache import CachedContent, DigestCache
from frostline.data.manifest_entries import Sample
from frostline.data.pixels import decoding, pixel_digest
from frostline.data.pixels.cropping import Size
from frostline.data.pixels.decoding import JpegDecoder, Picture
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.image_traits import Traits, with_decoded_traits
from frostline.errors import DamagedImage, DataError
from frostline.progress import Activity, Progress

# Images decoded between two writes to the memory and two calls of `progress`: a second or less of work.
CHECK_CHUNK_IMAGES = 128
JPEG_START = b"\xff\xd8\xff"  # ISO/IEC 10918-1: a start of image, and the next marker

Items = Callable[[str], "Image.Image | Deep | bytes"]  # "dataset[12]" → the image, or its file's bytes


class SampleReader:
    """Reads the images of samples.

    Parameters
    ----------
    root : Path or None
        Folder that the samples' paths start from; None for images that are not stored here.
    items : callable or None
        Returns an image or a file's bytes by name, for images in memory.
    sizes : mapping of str to (width, height)
        Upright sizes in pixels that are known already, by digest.
    """

    def __init__(self, root: Path | None, items: Items | None, sizes: Mapping[str, Size]) -> None:
        self._root, self._items = root, items
        self._sizes, self._jpegs = dict(sizes), dict[str, bool]()
        self._upright = set[str]()  # digests of JPEGs whose EXIF was looked at, and turns nothing

    # --- pixels ---------------------------------------------------------------------------------------------

    def picture(self, sample: Sample, side_pixels: int = 0, decoder: JpegDecoder | None = None) -> Picture:
        """Return a sample decoded, before it is rendered; a JPEG perhaps smaller, as `side_pixels` allows.

        A plain JPEG that is wanted whole is decoded by `decoder`, where there is one. Raises `DamagedImage`,
        which is remembered, and `DataError` where the file changed or was removed.
        """
        try:
            picture = self._decoded(sample, side_pixels, decoder)
        except DamagedImage as error:
            DigestCache().remember(contents=[CachedContent(sample.digest, decoded=True, fault=str(error))])
            raise DamagedImage(f"{sample.path} {error}") from error
        if not picture.shrunk:
            pixel_digest.note(sample.digest, picture)
        return picture

    def top_digest(self, sample: Sample) -> bytes:
        """Return the digest of the topmost pixels of a large JPEG, 8 bytes; empty for any other image."""
        content = self._content(sample)
        if not isinstance(content, bytes):
            return b""
        self._demand_unchanged(sample, content)
        return pixel_digest.note_top(sample.digest, content)

    def faults(self, samples: Iterable[Sample], progress: Progress) -> dict[str, str]:
        """Return the reason of every damaged digest, decoding what is not known yet."""
        sample_of = {sample.digest: sample for sample in reversed(tuple(samples))}
        cache = DigestCache()
        contents = cache.contents_of(sample_of)
        faults = {
            digest: contents[digest].fault
            for digest in sample_of
            if digest in contents and contents[digest].fault
        }
        waiting = [
            sample
            for digest, sample in sample_of.items()
            if digest not in contents or not contents[digest].decoded
        ]
        for start in range(0, len(waiting), CHECK_CHUNK_IMAGES):
            chunk = waiting[start : start + CHECK_CHUNK_IMAGES]
            decoded = [self._decoded_content(sample, contents) for sample in chunk]
            cache.remember(contents=decoded)
            faults.update({content.digest: content.fault for content in decoded if content.fault})
            progress(Activity.DECODE, min(start + CHECK_CHUNK_IMAGES, len(waiting)), len(waiting))
        return faults

    def _decoded_content(self, sample: Sample, contents: Mapping[str, CachedContent]) -> CachedContent:
        """Decode a sample, and return what that showed."""
        try:
            picture = self._decoded(sample)
        except DamagedImage as error:
            return CachedContent(sample.digest, decoded=True, fault=str(error))
        header = contents[sample.digest].traits if sample.digest in contents else Traits()
        return CachedContent(sample.digest, decoded=True, traits=with_decoded_traits(picture, header))

    def _decoded(self, sample: Sample, side_pixels: int = 0, decoder: JpegDecoder | None = None) -> Picture:
        """Decode one sample. Raises `DamagedImage` with the reason alone, `DataError` where it changed."""
        content = self._content(sample)
        if isinstance(content, bytes):
            self._demand_unchanged(sample, content)
        if side_pixels and isinstance(content, bytes):
            return decoding.picture_small(content, side_pixels)
        if decoder is not None and isinstance(content, bytes):
            upright = sample.digest in self._upright
            by_decoder = decoding.picture_by(decoder, content, upright=upright)
            if by_decoder is not None:
                self._upright.add(sample.digest)
                return by_decoder
        return decoding.picture(content)

    def _content(self, sample: Sample) -> Image.Image | Deep | bytes:
        if self._items is not None:
            return self._items(sample.path)
        if self._root is None:
            raise DataError(
                f"{sample.path} was passed in Python and is not stored here: load the same dataset again."
            )
        path = self._root / sample.path
        fault = decoding.file_fault(path)
        if fault:
            raise DataError(f"{path} {fault}, but existed when it was indexed: load the data again.")
        return decoding.read_bytes(path)

    # --- headers --------------------------------------------------------------------------------------------

    def size(self, sample: Sample) -> Size:
        """Return the upright width and height in pixels; (0, 0) where they are not known."""
        size = self._sizes.get(sample.digest, (0, 0))
        if min(size) == 0 and self._root is not None:
            with contextlib.suppress(OSError), open(self._root / sample.path, "rb") as file:
                size = self._sizes[sample.digest] = decoding.header(file).size
        return size

    def jpeg_fraction(self, sample: Sample, side_pixels: int) -> int:
        """Return n where `picture` decodes at 1/n of the size: 1 for all but files that are JPEGs."""
        if self._items is not None or self._root is None:
            return 1
        if not sample.path.lower().endswith(decoding.JPEG_NAMES):
            return 1
        fraction = decoding.jpeg_fraction(self.size(sample), side_pixels)
        return fraction if fraction == 1 or self._is_jpeg(self._root / sample.path, sample.digest) else 1

    def _is_jpeg(self, path: Path, digest: str) -> bool:
        """Return whether a file begins as a JPEG does: its name may say so of another format."""
        if digest not in self._jpegs:
            try:
                with open(path, "rb") as file:
                    self._jpegs[digest] = file.read(len(JPEG_START)) == JPEG_START
            except OSError:  # who reads it says so
                return False
        return self._jpegs[digest]

    def _demand_unchanged(self, sample: Sample, content: bytes) -> None:
        """Raise `DataError` for bytes that are not the sample's, and forget that its path held these."""
        if hashlib.sha256(content).hexdigest() == sample.digest:
            return
        if self._items is None and self._root is not None:
            DigestCache().forget_file(os.fsencode(self._root / sample.path))
        raise DataError(
            f"{sample.path} has changed since it was indexed: load the data again, or repeat the command."
        )
