"""The one decoder: any image file becomes RGB, 8 bit, upright, or a reason in words why not.

Handled right: grey, palette, CMYK, 16-bit, transparency (laid on white), animation (its first frame),
EXIF rotation. Refused with a reason: empty, truncated, not an image, absurdly large, one pixel wide.
This file knows nothing about folders, labels or splits.
"""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from frostline import places
from frostline.errors import DamagedImage, DataError, did_you_mean

# Formats that are decoded in this process by well-tried code. Left out on purpose: EPS (starts Ghostscript)
# and TGA (has no signature, so noise passes for an image). HEIF counts where a plug-in registered it.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Pillow's own default, `Image.MAX_IMAGE_PIXELS`: a quarter of a gigabyte at three bytes a pixel.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

# A larger file is not read into memory: this holds MAX_PIXELS of four channels with 16 bits, uncompressed.
MAX_FILE_BYTES = MAX_PIXELS * 8

# Fewer pixels than this on a side is a tracking pixel or a rule, not a picture (the issue names 1×1).
MIN_SIDE_PIXELS = 2

# What transparent pixels are laid on: white, as a web browser's page, for which such images are drawn.
BACKGROUND = (255, 255, 255)

# The signature of things that often end up under an image's name, and what to do about them.
IMPOSTORS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the image itself: run `git lfs pull`",
    b"<!doctype html": "is a web page saved under an image's name",
    b"<html": "is a web page saved under an image's name",
    b"<svg": "is a vector drawing (SVG): export it as PNG",
    b"<?xml": "is XML, not an image",
    b"%pdf": "is a PDF: export its pages as PNG",
}

HIDDEN_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})  # left behind by file managers


def open_image(source: str | Path | bytes) -> Image.Image:
    """Decode a file, or a file's bytes, to an upright RGB image of 8 bits a channel.

    Raises:
        DamagedImage: it cannot be decoded; the message names the file and says why.
    """
    if isinstance(source, bytes):
        return decode(source)
    try:
        return decode(read_bytes(Path(source)))
    except DamagedImage as error:
        raise DamagedImage(f"{source} {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return a regular file's bytes. Raises `DamagedImage` with the reason alone."""
    fault = file_fault(path)
    if fault:
        raise DamagedImage(fault)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedImage(f"cannot be read ({error.strerror or error})") from error


def file_fault(path: Path) -> str:
    """Say why `path` is no file one can read (missing, a folder, a pipe, a device), or return ""."""
    try:
        if path.is_file():
            return _too_large(path.stat().st_size)
        if path.is_dir():
            return (
                "is a folder, not a file"
                if os.access(path, os.R_OK | os.X_OK)
                else "is a folder that cannot be opened"
            )
        if path.exists():
            return "is a pipe or a device, not a file"
        return "is a link that leads nowhere" if path.is_symlink() else "does not exist"
    except (OSError, ValueError) as error:  # a loop of symbolic links, a NUL in the name
        return f"cannot be read ({error})"


def _too_large(size_bytes: int) -> str:
    if size_bytes <= MAX_FILE_BYTES:
        return ""
    return f"has {size_bytes:,} bytes; more than {MAX_FILE_BYTES:,} are no image that could be decoded"


def decode(content: bytes | Image.Image) -> Image.Image:
    """Decode a file's bytes, or an image in memory. Raises `DamagedImage` with the reason alone."""
    if isinstance(content, Image.Image):
        with _words_for_faults(b"image"):
            return to_rgb(content)
    with _words_for_faults(content[:64]), _open(io.BytesIO(content)) as image:
        return to_rgb(image)


def decode_small(data: bytes, side_pixels: int) -> Image.Image:
    """Decode like `decode`, but let a JPEG be shrunk on the way to no less than `side_pixels` a side.

    The whole file is read either way, so a truncated one is found out. Several times as fast on photographs.
    """
    with _words_for_faults(data[:64]), _open(io.BytesIO(data)) as image:
        image.draft(None, (side_pixels, side_pixels))
        return to_rgb(image)


def header_fault(file: io.BufferedIOBase) -> str:
    """Say what a file's header alone gives away, or return "". Pixel data is not looked at."""
    start = file.read(64)
    file.seek(0)
    try:
        with _words_for_faults(start), _open(file):
            return ""
    except DamagedImage as error:
        return str(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in memory as upright RGB, 8 bits a channel, decoding what is not decoded yet."""
    image.load()
    upright = _upright(image)
    if upright.mode.startswith(("I", "F")):
        upright = Image.fromarray(_to_eight_bits(np.asarray(upright)))
    if upright.has_transparency_data:
        page = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(page, upright.convert("RGBA"))
    rgb = upright.convert("RGB")
    rgb.info = {}  # colour profiles and comments have no say from here on
    return rgb


def size_fault(width: int, height: int) -> str:
    """Say why an image of this size is not taken, or return ""."""
    if width * height > MAX_PIXELS:
        return f"has {width}×{height} pixels; more than {MAX_PIXELS:,} are taken for a decompression bomb"
    if min(width, height) < MIN_SIDE_PIXELS:
        return f"has only {width}×{height} pixels"
    return ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder name belongs to the system rather than to the person."""
    return name.startswith(".") or name.lower() in HIDDEN_NAMES


def own(folder: Path) -> str:
    """Say what a folder of frostline's own is, "study" or "export": it holds no data. Empty for any other."""
    if (folder / "study.json").is_file() and ((folder / "runs").is_dir() or (folder / "splits").is_dir()):
        return "study"
    return "export" if places.exported_as(folder) else ""


def is_study(folder: Path) -> bool:
    """Whether a folder is a study."""
    return own(folder) == "study"


def find_images(path: str | Path) -> list[Path]:
    """List the image files of a folder (flat or by class, however deep), or `[path]` for a single file.

    Hidden files and files without an image's suffix are left out. Raises `DataError` where there is none.
    """
    path = Path(path).expanduser()
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(missing_message(path))
    except OSError as error:  # a name of 300 characters
        raise DataError(f"{str(path)[:200]!r} cannot be opened ({error.strerror}).") from None
    found = sorted(file for file in walk_files(path) if file.suffix.lower() in suffixes())
    if not found:
        raise DataError(
            f"{path} holds no image files; expected files ending in {', '.join(sorted(suffixes()))}."
        )
    return found


def walk_files(folder: Path, skipped: list[tuple[Path, str]] | None = None) -> list[Path]:
    """List every file below `folder` that is not hidden, sorted; a folder that cannot be opened is one.

    Links are followed, but no folder is walked twice and none that `folder` lies in. Folders of frostline's
    own are left out, and added to `skipped` with what they are.
    """
    files: list[Path] = []
    waiting, seen = [folder], {parent.resolve() for parent in folder.resolve().parents}
    while waiting:
        here = waiting.pop()
        target = here.resolve()
        if target in seen:
            continue
        seen.add(target)
        try:
            entries = [entry for entry in here.iterdir() if not is_hidden(entry.name)]
        except OSError:
            files.append(here)
            continue
        folders = [entry for entry in entries if entry.is_dir()]
        ours = {entry: kind for entry in folders if (kind := own(entry))}
        if skipped is not None:
            skipped += ours.items()
        waiting += [entry for entry in folders if entry not in ours]
        files += sorted(set(entries) - set(folders))
    return sorted(files)


def missing_message(path: Path) -> str:
    """Say that a path is not there, with the nearest name that is."""
    parent = path.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    where = "" if parent.is_dir() else f", nor does {parent}"
    return (
        f"{path} does not exist{where}; expected a folder or file of images.{did_you_mean(path.name, names)}"
    )


@cache
def suffixes() -> frozenset[str]:
    """Return the file-name endings of the formats that can be read here, such as ".jpg"."""
    formats = set(_readable_formats())
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


@cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(file: Any) -> Image.Image:
    """Open an image's header, refusing what is too large or too small to be one."""
    image = Image.open(file, formats=_readable_formats())
    fault = size_fault(*image.size)
    if fault:
        image.close()
        raise DamagedImage(fault)
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; leave it where the EXIF block cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's EXIF parser raises whatever it stumbles over
        return image


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale integer or float pixels, (H, W), to uint8 by the range they are stored in."""
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    low, high = float(np.min(pixels)), float(np.max(pixels))
    for top in (1.0, 255.0, 65535.0):  # floats in 0–1, bytes, 16 bits kept in a wider type
        if low >= 0 and high <= top and (top > 1.0 or pixels.dtype.kind == "f"):
            return np.round(pixels * (255.0 / top)).astype(np.uint8)
    raise DamagedImage(f"has pixel values from {low:g} to {high:g}; expected 0–1, 8 bit or 16 bit")


class _words_for_faults:
    """Turn whatever Pillow raises inside the block into `DamagedImage` with a reason in words."""

    def __init__(self, start: bytes) -> None:
        self.start = start  # the file's first bytes, which tell an empty file or a web page

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, DamagedImage) or not isinstance(error, Exception):
            return
        raise DamagedImage(_reason(error, self.start)) from error


def _reason(error: Exception, start: bytes) -> str:
    """Put an error of Pillow's in words."""
    if not start:
        return "is empty (0 bytes)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {MAX_PIXELS:,} pixels, which is taken for a decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        known = next(
            (words for sign, words in IMPOSTORS.items() if start.lower().lstrip().startswith(sign)), ""
        )
        return known or f"is not an image in a format known here ({', '.join(_readable_formats())})"
    if "truncated" in str(error).lower():
        return "is truncated: the file ends before the picture does"
    return f"cannot be decoded ({type(error).__name__}: {error})"
