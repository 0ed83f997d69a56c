"""Formats: which can be read here, which need another package, and what an unreadable file is.

A file's content says what it is; its name only says what it was meant to be.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import logging
import struct
from functools import cache
from importlib import metadata
from typing import Any

import PIL
from PIL import Image, TiffImagePlugin, _imaging

# Decoded in this process by well-tried code. Left out on purpose: EPS (starts Ghostscript) and TGA (has no
# signature, so noise passes for an image). HEIF is pillow-heif's, where that is installed.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
HEIF, DICOM = "HEIF", "DICOM"
PACKAGES = {HEIF: "pillow_heif", DICOM: "pydicom"}
ENDINGS = {HEIF: (".heic", ".heif", ".hif"), DICOM: (".dcm", ".dicom")}
# Names of pictures that none of these reads. They are listed, and refused with a reason.
FOREIGN_ENDINGS = (
    ".psd", ".svg", ".eps", ".tga", ".jxl", ".exr", ".nii", ".czi", ".nd2", ".lif", ".svs", ".ndpi",
    ".nef", ".cr2", ".cr3", ".arw", ".dng", ".raf", ".orf", ".rw2",
)  # fmt: skip
HEAD_BYTES = 160  # of a file, that tell what it is: DICOM's signature ends at 132

# ISO/IEC 23008-12: the brands with which HEIC files begin, at byte 8.
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# The signature of things that often end up under an image's name, and what to do about them.
IMPOSTORS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the image itself: run `git lfs pull`",
    b"<!doctype html": "is a web page, not an image",
    b"<html": "is a web page, not an image",
    b"<svg": "is a vector drawing (SVG): export it as PNG",
    b"<?xml": "is XML, not an image",
    b"%pdf": "is a PDF: export its pages as PNG",
    b"8bps": "is a Photoshop file: export it as PNG",
}
# TIFF 6.0; 254 says that a page is a smaller copy of another; DNG 1.4 for the last.
SMALLER_COPY, BITS, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 254, 258, 262, 277, 339, 50706
SAMPLE_FORMATS = {1: "whole numbers", 2: "whole numbers with a sign", 3: "floats"}
RAW = "is a camera's raw file; only its small preview could be read: export it as JPEG, PNG or TIFF"

# Pillow reports what it can't read to its logger as well, which without a handler prints it.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@cache
def readable() -> tuple[str, ...]:
    """Return Pillow's names of the formats that can be read here."""
    Image.init()
    _quieten_libtiff()
    if installed(HEIF):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _quieten_libtiff() -> None:
    """Keep libtiff from printing what it makes of damaged files; Pillow raises for them, in words.

    Its handlers are set where Pillow's own library finds them: everywhere but in Pillow's builds for Windows.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            getattr(library, name)(ctypes.c_void_p(None))


@cache
def installed(name: str) -> bool:
    """Return whether the package for `HEIF` or `DICOM` is there."""
    return importlib.util.find_spec(PACKAGES[name]) is not None


@cache
def decoder() -> str:
    """Name what decodes here: another version may read what this one can't, and the other way round."""
    more = [f"{name} {metadata.version(PACKAGES[name])}" for name in PACKAGES if installed(name)]
    return ", ".join([f"pillow {PIL.__version__}", *more])


@cache
def suffixes() -> frozenset[str]:
    """Return the endings of names that are meant for pictures, such as ".jpg"."""
    formats = set(readable())
    own = {end for end, name in Image.registered_extensions().items() if name in formats}
    return frozenset(own.union(*ENDINGS.values(), FOREIGN_ENDINGS))


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins so is DICOM."""
    return head[128:132] == b"DICM"


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins so is HEIF, as phones write it."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def is_picture(head: bytes) -> bool:
    """Return whether a file that begins so is meant for a picture, whatever its name."""
    if is_dicom(head) or is_heif(head):
        return True
    for name in readable():
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(head[:16]) is True:
            return True
    return False


def identified(file: Any) -> Image.Image | None:
    """Open a header as `Image.open` does, whose warnings of large images can't be silenced in threads.

    `None` where no plug-in knows it; raises whatever a plug-in does.
    """
    start = file.read(16)  # what plug-ins are shown, by Pillow's agreement with them
    for name in readable():
        factory, accepts = Image.OPEN[name]
        verdict = accepts is None or accepts(start)  # words where a plug-in lacks its library
        if verdict and not isinstance(verdict, str):
            file.seek(0)
            try:
                image: Image.Image = factory(file, "")
                return image
            except (SyntaxError, IndexError, TypeError, struct.error):  # as they say that it is not theirs
                continue
    return None


def several(image: Any) -> bool:
    """Return whether an opened file holds more pages or frames than the one that is read."""
    if image.format == "TIFF":
        return bool(getattr(image.tag_v2, "next", 0))
    if image.format in ("GIF", "PNG", "WEBP", "AVIF"):
        return bool(getattr(image, "is_animated", False))
    return False  # phones add previews and depth to JPEG and HEIF


def fault_of(image: Any) -> str:
    """Return why what an opened file shows is not what it holds, or return ""."""
    if image.format != "TIFF":
        return ""
    tags = image.tag_v2
    preview = int(tags.get(SMALLER_COPY, 0) or 0) & 1
    return RAW if preview or DNG_VERSION in tags else ""


def stranger(content: bytes) -> str:
    """Describe a file that no plug-in reads, by its content."""
    start = content[:HEAD_BYTES].lower().lstrip()
    description = next((description for sign, description in IMPOSTORS.items() if start.startswith(sign)), "")
    if description:
        return description
    if is_heif(content):
        return _needs(HEIF, "is a HEIC picture, as phones take them")
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _of_tiff(content)
    return f"is not an image in a format known here ({', '.join(readable())})"


def dicom_missing() -> str:
    """Say that pydicom is needed."""
    return _needs(DICOM, "is a DICOM image")


def _needs(name: str, description: str) -> str:
    if installed(name):
        package = PACKAGES[name].replace("_", "-")
        return f"{description}, and is damaged, or of a kind that {package} does not read"
    return f'{description}: pip install "frostline[formats]" reads it'


def _of_tiff(content: bytes) -> str:
    """Return which bands and depth a TIFF has that Pillow does not read."""
    if content[8:10] == b"CR":
        return RAW
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags.get(SAMPLES, 1)), sorted({int(b) for b in tags.get(BITS, (1,))})
        kinds = tags.get(SAMPLE_FORMAT, (1,))
        kind = SAMPLE_FORMATS.get(int(kinds[0]), "no numbers")
    except Exception:  # Pillow's parser raises whatever it stumbles over
        return "is a TIFF whose tags are damaged"
    depth = " and ".join(map(str, bits))
    return (
        f"is a TIFF with {bands} band(s) of {depth} bits ({kind}), which can't be read; expected 1 band of 1 "
        "to 32 bits, or 3 or 4 of 8 or 16: save the bands to use as separate files"
    )
