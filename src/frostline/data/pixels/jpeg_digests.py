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

TOP_ROWS = 128  # of 12 megapixels: 2 ms of a core, beside 52 for all rows
# Decoded and dropped: colour at a half is interpolated with the row below. One row of blocks is 16 at most.
BELOW_ROWS = 16
# A JPEG of a smaller side is decoded whole: so the first rows are a seventh of it at most. A choice.
LEAST_SIDE = 1024
GRID = 256  # places a side at most that a digest is of, evenly spread; as `pixel_digest`

# Markers of a JPEG (ITU T.81, table B.1). A frame's header holds its height after two bytes of length and one
# of precision (B.2.2).
SEQUENTIAL, SCAN, ALONE = (0xC0, 0xC1), 0xDA, (0x01, *range(0xD0, 0xD9))
OTHER_FRAMES = tuple(code for code in range(0xC2, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
HEIGHT = slice(5, 7)


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
            rows = decoding.upright(image.crop((0, 0, image.width, TOP_ROWS))).convert("RGB")
            width = image.width
    except Exception:  # as decoding does: Pillow's parsers raise whatever they stumble over
        return b""
    size = (width, height) if rows.width == width else (height, width)
    return b"" if is_flat(rows) else _digest(size, rows)


def candidates(picture: Picture) -> tuple[bytes, ...]:
    """Return the digests that `digest_of` would give for a picture's file: one for each way it is turned."""
    if picture.deep is not None:
        return ()
    image = picture.rgb()
    width, height = image.size
    if min(width, height) < LEAST_SIDE:
        return ()
    sides = (
        (0, 0, width, TOP_ROWS),
        (0, height - TOP_ROWS, width, height),
        (0, 0, TOP_ROWS, height),
        (width - TOP_ROWS, 0, width, height),
    )
    return tuple(_digest(image.size, image.crop(side)) for side in sides)


def _digest(size: tuple[int, int], rows: Image.Image) -> bytes:
    grid = (min(rows.width, GRID), min(rows.height, GRID))
    pixels = rows.resize(grid, Image.Resampling.NEAREST).tobytes()
    return hashlib.sha256(f"first rows of {size} {rows.size}".encode() + pixels).digest()[:8]


def _height_at(content: bytes) -> slice | None:
    """Return where a sequential JPEG holds its height; `None` for other files."""
    if content[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(content) and content[at] == 0xFF:
        code = content[at + 1]
        if code in SEQUENTIAL:
            return slice(at + HEIGHT.start, at + HEIGHT.stop)
        if code == SCAN or code in OTHER_FRAMES:
            return None
        if code == 0xFF:  # a byte of padding
            at += 1
        elif code in ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None
