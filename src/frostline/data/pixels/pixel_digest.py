"""Digests of decoded pixels, which recognise an image saved again without loss.

Decoding is dear, so an image's pixels are digested whenever it is decoded for something else, and remembered;
of a large JPEG that was only decoded at a fraction, the first rows (`jpeg_digests`).
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from frostline.data.digest_cache import DigestCache
from frostline.data.pixels import deep_pixels, jpeg_digests
from frostline.data.pixels.decoding import Picture

# A digest is of the pixels at this many places a side at most, evenly spread: all of a small picture. It
# takes 0.2 ms for a photograph of 500 × 375 pixels, where decoding takes 4.6, and 0.4 for 12 megapixels.
GRID = 256
# Digests held back until so many can be written at once: a transaction takes milliseconds.
WRITTEN_TOGETHER = 64

_waiting: dict[str, bytes] = {}
_waiting_tops: dict[str, bytes] = {}
_waiting_edges: dict[str, bytes] = {}
_noted: set[str] = set()  # by this process: an image is decoded again in each epoch
_lock = threading.Lock()


def digest_of(picture: Picture) -> bytes:
    """Return 8 bytes that tell a decoded image from others: of its size and pixels, see `GRID`.

    Deep pixels count as the file holds them, and transparency as on white: no study's rendering has a say.
    """
    if picture.deep is not None:
        parts = [picture.deep.values, *([] if picture.deep.alpha is None else [picture.deep.alpha])]
        encoded = [f"{part.shape} {part.dtype.name}".encode() + _thin(part) for part in parts]
        return hashlib.sha256(b"".join(encoded)).digest()[:8]
    image = picture.rgb()
    grid = (min(image.width, GRID), min(image.height, GRID))
    pixels = image if image.size == grid else image.resize(grid, Image.Resampling.NEAREST)
    return hashlib.sha256(repr(image.size).encode("ascii") + pixels.tobytes()).digest()[:8]


def _thin(part: NDArray[Any]) -> bytes:
    return deep_pixels.thinned(part, GRID).tobytes()


def note(digest: str, picture: Picture) -> None:
    """Remember the digests of an image's pixels, now that it is decoded; `digest` is that of its file."""
    if digest in _noted:
        return
    pixels, edges = digest_of(picture), b"".join(jpeg_digests.candidates(picture))
    with _lock:
        _noted.add(digest)
        _waiting[digest], _waiting_edges[digest] = pixels, edges
        full = len(_waiting) >= WRITTEN_TOGETHER
    if full:
        write_waiting(DigestCache())


def note_top(digest: str, content: bytes) -> bytes:
    """Store and return the digest of a large JPEG's first rows (`jpeg_digests`); "" for others."""
    top = jpeg_digests.digest_of(content)
    with _lock:
        _waiting_tops[digest] = top
        full = len(_waiting_tops) >= WRITTEN_TOGETHER
    if full:
        write_waiting(DigestCache())
    return top


def write_waiting(memory: DigestCache) -> None:
    """Write what `note` and `note_top` hold back."""
    with _lock:
        waiting = (_waiting, _waiting_tops, _waiting_edges)
        pixels, tops, edges = (dict(digests) for digests in waiting)
        for digests in waiting:
            digests.clear()
    memory.remember(pixels=pixels.items(), tops=tops.items(), edges=edges.items())
