"""What the first bytes of image files say, each opened once: the size, and whether it is a JPEG."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from frostline.data.manifest_entries import Sample
from frostline.data.pixels import decoding
from frostline.data.pixels.cropping import Size

JPEG_START = b"\xff\xd8\xff"  # ISO/IEC 10918-1: a start of image, and the next marker


class FileHeaders:
    """Headers of the files below a folder; `sizes` are known already, by digest."""

    def __init__(self, root: Path, sizes: Mapping[str, Size]) -> None:
        self._root, self._sizes, self._jpegs = root, dict(sizes), dict[str, bool]()

    def size(self, sample: Sample) -> Size:
        """Return the upright width and height in pixels; (0, 0) where the file can't be read."""
        size = self._sizes.get(sample.digest, (0, 0))
        if min(size) == 0:
            with contextlib.suppress(OSError), open(self._root / sample.path, "rb") as file:
                size = self._sizes[sample.digest] = decoding.header(file).size
        return size

    def fraction(self, sample: Sample, side_pixels: int) -> int:
        """Return n where `decoding.picture_small` decodes at 1/n of the size: 1 for all but JPEGs."""
        if not sample.path.lower().endswith(decoding.JPEG_NAMES):
            return 1
        fraction = decoding.jpeg_fraction(self.size(sample), side_pixels)
        return fraction if fraction == 1 or self._is_jpeg(sample) else 1

    def _is_jpeg(self, sample: Sample) -> bool:
        """Return whether a file begins as a JPEG does: its name may say so of another format."""
        known = self._jpegs.get(sample.digest)
        if known is None:
            try:
                with open(self._root / sample.path, "rb") as file:
                    known = file.read(len(JPEG_START)) == JPEG_START
            except OSError:  # who reads it says so
                return False
            self._jpegs[sample.digest] = known
        return known
