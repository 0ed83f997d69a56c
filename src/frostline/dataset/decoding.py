"""The one decoder: any image file becomes RGB, 8 bit, upright, or a reason in words why not.

Handled right: grey, palette, CMYK, deep pixels (`depth`), transparency, animation (its first frame), EXIF
rotation. Refused with a reason: empty, truncated, not an image, absurdly large, one pixel wide. What a study
decides of deep pixels and transparency is its `Rendering`. This file knows nothing of labels or splits.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from frostline.dataset import depth, rendering
from frostline.dataset.depth import Deep
from frostline.dataset.inflight import IN_FLIGHT, PILLOWS_LIMIT
from frostline.dataset.rendering import ALPHA, PLAIN, Rendering
from frostline.errors import DamagedImage, DataError, did_you_mean

# Formats that are decoded in this process by well-tried code. Left out on purpose: EPS (starts Ghostscript)
# and TGA (has no signature, so noise passes for an image). HEIF counts where a plug-in registered it.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# The largest sensors in use have 200 million pixels (phones) and 150 (medium format).
MAX_PIXELS = 200_000_000
# What has more pixels is halved on the way in. Pillow's own default, `Image.MAX_IMAGE_PIXELS`: a quarter of a
# gigabyte at three bytes a pixel. Above it Pillow warns of each crop.
MAX_HELD_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# Decoding holds a picture twice: as the decoder leaves it and as it is handed on, four bytes a pixel each;
# deep ones in two halves of 16 bits besides.
BYTES_A_PIXEL, DEEP_BYTES_A_PIXEL = 8, 16

# A larger file is not read into memory: this holds MAX_PIXELS of four channels with 16 bits, uncompressed.
MAX_FILE_BYTES = MAX_PIXELS * 8

# Fewer pixels than this on a side is a tracking pixel or a rule, not a picture (the issue names 1×1).
MIN_SIDE_PIXELS = 2

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


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, upright, before a study's rendering: `image` of 8 bits a channel, or `deep` pixels."""

    kind: str  # "" = opaque RGB; `ALPHA` = RGBA; else what `deep` holds
    image: Image.Image | None = None
    deep: Deep | None = None
    shrunk: bool = False  # on the way in, as was asked for

    def rgb(self, how: Rendering = PLAIN) -> Image.Image:
        """Return it as RGB."""
        if self.deep is not None:
            return how.picture(self.deep)
        assert self.image is not None
        return rendering.on_ground(self.image, how.ground) if self.kind == ALPHA else self.image


def open_image(source: str | Path | bytes, how: Rendering = PLAIN) -> Image.Image:
    """Decode a file, or a file's bytes, to an upright RGB image of 8 bits a channel.

    Deep pixels are spread, and transparent ones filled, as `how` says; without it, each image over its own
    range and on white.

    Raises:
        DamagedImage: it cannot be decoded; the message names the file and says why.
    """
    return open_picture(source).rgb(how)


def open_picture(source: str | Path | bytes) -> Picture:
    """Decode a file, or a file's bytes. Raises `DamagedImage`; the message names the file and says why."""
    if isinstance(source, bytes):
        return picture(source)
    try:
        return picture(read_bytes(Path(source)))
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


def picture(content: bytes | Image.Image) -> Picture:
    """Decode a file's bytes, or an image in memory. Raises `DamagedImage` with the reason alone."""
    if isinstance(content, Image.Image):
        with _words_for_faults(b"image"):
            return _picture(content, None)
    with _words_for_faults(content[:64]), _open(io.BytesIO(content)) as image:
        return _picture(image, lambda: _open(io.BytesIO(content)))


def decode(content: bytes | Image.Image, how: Rendering = PLAIN) -> Image.Image:
    """Decode to RGB like `open_image`. Raises `DamagedImage` with the reason alone."""
    return picture(content).rgb(how)


def picture_small(data: bytes, side_pixels: int) -> Picture:
    """Decode like `picture`, but let a JPEG be shrunk on the way to no less than `side_pixels` a side.

    The whole file is read either way, so a truncated one is found out. Several times as fast on photographs.
    """
    with _words_for_faults(data[:64]), _open(io.BytesIO(data)) as image:
        shrunk = image.draft(None, (side_pixels, side_pixels)) is not None
        return replace(_picture(image, lambda: _open(io.BytesIO(data))), shrunk=shrunk)


def header(file: io.BufferedIOBase) -> tuple[str, str]:
    """Return what a file's header alone gives away: why it is no image, or "", and its kind."""
    start = file.read(64)
    file.seek(0)
    try:
        with _words_for_faults(start), _open(file) as image:
            return "", _kind(image)
    except DamagedImage as error:
        return str(error), ""


def _kind(image: Image.Image) -> str:
    return depth.kind_of(image) or (ALPHA if image.has_transparency_data else "")


def _picture(image: Image.Image, again: Callable[[], Image.Image] | None) -> Picture:
    """Decode an opened image, or look at one in memory; a very large one is halved."""
    kind, large = depth.kind_of(image), image.width * image.height > MAX_HELD_PIXELS
    if large and image.format in ("JPEG", "MPO"):  # which is never decoded whole
        image.draft(None, (image.width // 2, image.height // 2))
    size_bytes = image.width * image.height * (DEEP_BYTES_A_PIXEL if kind else BYTES_A_PIXEL)
    allowed = PILLOWS_LIMIT.raised_to(MAX_PIXELS) if large else nullcontext()
    with IN_FLIGHT.room_for(size_bytes), allowed:
        if kind:
            deep = depth.read(image, again)
            return Picture(kind, deep=depth.halved(deep) if large else deep)
        image.load()
        upright = _upright(_halved(image) if image.width * image.height > MAX_HELD_PIXELS else image)
        clear = upright.has_transparency_data
        plain = upright.convert("RGBA" if clear else "RGB")
        plain.info = {}  # colour profiles and comments have no say from here on
        return Picture(ALPHA if clear else "", plain)


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


def is_study(folder: Path) -> bool:
    """Whether a folder is a study of frostline's own, whose pictures are no data."""
    return (folder / "study.json").is_file() and (folder / "runs").is_dir()


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


def walk_files(folder: Path) -> list[Path]:
    """List every file below `folder` that is not hidden, sorted; a folder that cannot be opened is one.

    Links are followed, but no folder is walked twice and none that `folder` lies in.
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
            entries = [entry for entry in here.iterdir() if not is_hidden(entry.name) and not is_study(entry)]
        except OSError:
            files.append(here)
            continue
        folders = [entry for entry in entries if entry.is_dir()]
        waiting += folders
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
    image = _identified(file)
    fault = size_fault(*image.size)
    if fault:
        image.close()
        raise DamagedImage(fault)
    return image


def _halved(image: Image.Image) -> Image.Image:
    """Return an image of half the size a side, before anything else makes a copy of it."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return (image if image.mode in ("L", mode) else image.convert(mode)).reduce(2)


def _identified(file: Any) -> Image.Image:
    """Open a header as `Image.open` does, whose warnings of large images can't be silenced in threads.

    Raises `UnidentifiedImageError`, or whatever the plug-in does.
    """
    start = file.read(16)  # what plug-ins are shown, by Pillow's agreement with them
    for name in _readable_formats():
        factory, accepts = Image.OPEN[name]
        verdict = accepts is None or accepts(start)  # words where a plug-in lacks its library
        if verdict and not isinstance(verdict, str):
            file.seek(0)
            try:
                image: Image.Image = factory(file, "")
                return image
            except (
                SyntaxError,
                IndexError,
                TypeError,
                struct.error,
            ):  # as plug-ins say that it is not theirs
                continue
    raise UnidentifiedImageError("No plug-in knows it.")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; leave it where the EXIF block cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's EXIF parser raises whatever it stumbles over
        return image


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
