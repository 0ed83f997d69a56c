"""Digests of decoded pixels, which recognise an image saved again without loss.

Decoding is dear, so an image's pixels are digested whenever it is decoded for something else, and remembered;
of a large JPEG that was only decoded at a fraction, the first rows (`jpeg_digests`).
"""

from __future__ import annotations

import hashlib
import threading
from functools import lru_cache
from typing import Any

import numpy as np
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
    width, height = picture.size
    grid = (min(width, GRID), min(height, GRID))
    if picture.pixels is not None:
        columns, rows = (_nearest(side, places) for side, places in zip(picture.size, grid, strict=True))
        thin = np.empty((*grid[::-1], 3), dtype=np.uint8)
        for colour in range(3):  # each lies by itself in memory, which makes this three times as fast
            thin[..., colour] = picture.pixels[..., colour].take(rows, axis=0).take(columns, axis=1)
        pixels = thin.tobytes()
    else:
        image = picture.rgb()
        pixels = (image if image.size == grid else image.resize(grid, Image.Resampling.NEAREST)).tobytes()
    return hashlib.sha256(repr(picture.size).encode("ascii") + pixels).digest()[:8]


@lru_cache(maxsize=256)
def _nearest(side: int, places: int) -> NDArray[np.int64]:
    """Return the pixels that Pillow's NEAREST takes of a side: it adds up steps, and so does this."""
    step = side / places
    return np.cumsum([step / 2, *[step] * (places - 1)]).astype(np.int64)


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
