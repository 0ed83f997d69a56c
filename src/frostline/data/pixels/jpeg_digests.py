"""Digests of a large JPEG's first rows, which recognise its pixels without decoding all of them.

A sequential JPEG holds its pixels row by row, so that the first rows cost their share of the whole. They are
the same bytes as in the picture decoded whole. What has other first rows is another picture; what has the
same ones need not be the same (a banner), so whoever asks compares a perceptual hash of the whole, too.
"""

from __future__ import annotations

import hashlib
import io

from PIL import Image

from frostline.data.pixels import decoding
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.image_traits import is_flat
from frostline.data.pixels.jpeg_segments import FRAMES, HEIGHT, SEQUENTIAL, segments

TOP_ROWS = 128  # of 12 megapixels: 2 ms of a core, beside 52 for all rows
# Decoded and dropped: colour at a half is interpolated with the row below. One row of blocks is 16 at most.
BELOW_ROWS = 16
# A JPEG of a smaller side is decoded whole: so the first rows are a seventh of it at most. A choice.
LEAST_SIDE = 1024
GRID = 256  # places a side at most that a digest is of, evenly spread; as `pixel_digest`


def digest_of(content: bytes) -> bytes:
    """Return 8 bytes that tell a large JPEG's first rows and its size from others, upright.

    Nothing is returned for another file, a small or progressive JPEG, or one whose first rows are of one
    colour.
    """
    height_at = _height_at(content)
    if height_at is None:
        return b""
    height = int.from_bytes(content[height_at])
    cut = content[: height_at.start] + (TOP_ROWS + BELOW_ROWS).to_bytes(2, "big") + content[height_at.stop :]
    try:
        with Image.open(io.BytesIO(cut), formats=("JPEG", "MPO")) as image:
            if min(image.width, height) < LEAST_SIDE or image.mode not in ("RGB", "L"):
                return b""
            rows = decoding.upright(image.crop((0, 0, image.width, TOP_ROWS)))
            rows, width = rows if rows.mode == "RGB" else rows.convert("RGB"), image.width
    except Exception:  # as decoding does: Pillow's parsers raise whatever they stumble over
        return b""
    size = (width, height) if rows.width == width else (height, width)
    thin = _thin(rows)
    return b"" if is_flat(thin) and is_flat(rows) else _digest(size, rows.size, thin)


def candidates(picture: Picture) -> tuple[bytes, ...]:
    """Return the digests that `digest_of` would give for a picture's file: one for each way it is turned."""
    if picture.deep is not None or min(picture.size) < LEAST_SIDE:
        return ()
    image = picture.rgb()
    width, height = image.size
    sides = (
        (0, 0, width, TOP_ROWS),
        (0, height - TOP_ROWS, width, height),
        (0, 0, TOP_ROWS, height),
        (width - TOP_ROWS, 0, width, height),
    )
    edges = (image.crop(side) for side in sides)
    return tuple(_digest(image.size, edge.size, _thin(edge)) for edge in edges)


def _thin(rows: Image.Image) -> Image.Image:
    grid = (min(rows.width, GRID), min(rows.height, GRID))
    return rows.resize(grid, Image.Resampling.NEAREST)


def _digest(size: tuple[int, int], edge_size: tuple[int, int], thin: Image.Image) -> bytes:
    return hashlib.sha256(f"first rows of {size} {edge_size}".encode() + thin.tobytes()).digest()[:8]


def _height_at(content: bytes) -> slice | None:
    """Return where a sequential JPEG holds its height; `None` for other files."""
    for code, at in segments(content):
        if code in FRAMES:
            return slice(at + HEIGHT.start, at + HEIGHT.stop) if code in SEQUENTIAL else None
    return None
