"""What a JPEG says before its pixels: its segments, and whether it is one that every decoder reads alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import ExifTags, Image

START = b"\xff\xd8"
# Markers (ITU T.81, table B.1). A frame's header holds, after two bytes of length: one of precision, two of
# height, two of width and one that counts the colours (B.2.2).
SEQUENTIAL, PROGRESSIVE, SCAN, ALONE = (0xC0, 0xC1), 0xC2, 0xDA, (0x01, *range(0xD0, 0xD9))
FRAMES = tuple(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
PRECISION, HEIGHT, WIDTH, COLOURS = 4, slice(5, 7), slice(7, 9), 9
APP1 = 0xE1  # holds EXIF, or XMP
EXIF = b"Exif\x00\x00"


def segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment and where it begins, up to the first scan; nothing for other files."""
    if content[:2] != START:
        return
    at = 2
    while at + COLOURS < len(content) and content[at] == 0xFF:
        code = content[at + 1]
        if code == 0xFF:  # a byte of padding
            at += 1
        elif code in ALONE:
            at += 2
        else:
            yield code, at
            if code == SCAN:
                return
            at += 2 + int.from_bytes(content[at + 2 : at + 4])


@dataclass(frozen=True, slots=True)
class PlainJpeg:
    """A JPEG that libjpeg decodes to the picture that is seen.

    `data` is the file without its EXIF and XMP, which other decoders read by rules of their own; `size` is
    width and height in pixels.
    """

    data: bytearray
    size: tuple[int, int]


def plain_jpeg(content: bytes, *, upright: bool = False) -> PlainJpeg | None:
    """Return a plain JPEG: 8 bits, grey or three colours, Huffman-coded, and nothing turns it.

    Parameters
    ----------
    content : bytes
        A file's.
    upright : bool
        It is known that neither EXIF nor XMP turns it.

    Returns
    -------
    PlainJpeg or None
        None for every other file.
    """
    size, data, copied = None, bytearray(), 0
    for code, at in segments(content):
        if code in (*SEQUENTIAL, PROGRESSIVE):
            if size is not None or content[at + PRECISION] != 8 or content[at + COLOURS] not in (1, 3):
                return None
            height, width = (
                int.from_bytes(content[at + part.start : at + part.stop]) for part in (HEIGHT, WIDTH)
            )
            size = width, height
        elif code in FRAMES:
            return None
        elif code == APP1:
            end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
            if not upright and _turns(content[at + 4 : end]):
                return None
            data += content[copied:at]
            copied = end
        elif code == SCAN:
            return None if size is None else PlainJpeg(data + content[copied:], size)
    return None


def _turns(segment: bytes) -> bool:
    """Return whether EXIF or XMP may say that the picture is to be turned."""
    if not segment.startswith(EXIF):
        return b"Orientation" in segment  # XMP: Pillow looks there, too
    try:
        exif = Image.Exif()
        exif.load(segment)
        return bool(exif.get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # Pillow's EXIF parser raises whatever it stumbles over
        return True
