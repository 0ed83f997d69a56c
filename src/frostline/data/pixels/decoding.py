"""The one decoder: any image file to upright 8-bit RGB, or the reason why not.

Handled: grey, palette, CMYK, deep pixels (`deep_pixels`), transparency, animation (its first frame), EXIF
rotation. Refused with a reason: empty, truncated, not an image, absurdly large, one pixel wide. What a study
decides of deep pixels and transparency is its `Rendering`. `formats` lists the formats.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from frostline.data.pixels import deep_pixels, dicom, formats, rendering
from frostline.data.pixels.decode_limit import FILES_IN_FLIGHT, IN_FLIGHT, PILLOWS_LIMIT
from frostline.data.pixels.deep_pixels import Deep
from frostline.data.pixels.jpeg_segments import plain_jpeg
from frostline.data.pixels.rendering import ALPHA, PLAIN, Rendering
from frostline.errors import DamagedImage, MissingImage

# From a plain JPEG's data to uint8 of shape (height, width, 3). Raises `RuntimeError` where it can't.
JpegDecoder = Callable[[bytearray], NDArray[np.uint8]]

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

# EXIF orientations that exchange width and height (Exif 2.32, 4.6.4).
LYING = (5, 6, 7, 8)
TURNED = (2, 3, 4, *LYING)  # or mirrored

# A JPEG's blocks of 8 × 8 pixels can be decoded to 4, 2 or 1 a side (Pillow's `draft`).
FRACTIONS = (8, 4, 2)
JPEG_NAMES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Fewer pixels than this on a side is a tracking pixel or a rule, not a picture (the issue names 1×1).
MIN_SIDE_PIXELS = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, upright, before a study's rendering: `image` of 8 bits a channel, or `deep` pixels.

    What another decoder than Pillow made of a JPEG are `pixels`, uint8 of shape (height, width, 3).
    """

    kind: str  # "" = opaque RGB; `ALPHA` = RGBA; else what `deep` holds
    image: Image.Image | None = None
    deep: Deep | None = None
    pixels: NDArray[np.uint8] | None = None
    shrunk: bool = False  # while decoding, as requested
    several: bool = False  # the file holds more pages or frames, which are not looked at

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if self.pixels is not None:
            return self.pixels.shape[1], self.pixels.shape[0]
        return self.rgb().size

    def rgb(self, how: Rendering = PLAIN) -> Image.Image:
        """Return it as RGB."""
        if self.deep is not None:
            return how.picture(self.deep)
        if self.pixels is not None:
            return Image.fromarray(np.ascontiguousarray(self.pixels))
        assert self.image is not None
        return rendering.on_ground(self.image, how.ground) if self.kind == ALPHA else self.image


def open_image(source: str | Path | bytes, how: Rendering = PLAIN) -> Image.Image:
    """Decode a file, or a file's bytes, to an upright 8-bit RGB image.

    Parameters
    ----------
    source : str, Path or bytes
    how : Rendering
        Intensity range of deep pixels and background of transparent ones; by default each image uses its
        own range, and white.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    DamagedImage
        It cannot be decoded; the message names the file and the reason.
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
        raise fault
    try:
        with FILES_IN_FLIGHT.room_for(path.stat().st_size):
            return path.read_bytes()
    except OSError as error:
        raise DamagedImage(f"cannot be read ({error.strerror or error})") from error


def file_fault(path: Path) -> DamagedImage | None:
    """Return why `path` is no file one can read (missing, a folder, a pipe, a device); `None` if it is."""
    try:
        if path.is_file():
            return _too_large(path.stat().st_size)
        if path.is_dir():
            return DamagedImage(
                "is a folder, not a file"
                if os.access(path, os.R_OK | os.X_OK)
                else "is a folder that cannot be opened"
            )
        if path.exists():
            return DamagedImage("is a pipe or a device, not a file")
        return MissingImage("is a link that leads nowhere" if path.is_symlink() else "does not exist")
    except (OSError, ValueError) as error:  # a loop of symbolic links, a NUL in the name
        return DamagedImage(f"cannot be read ({error})")


def _too_large(size_bytes: int) -> DamagedImage | None:
    if size_bytes <= MAX_FILE_BYTES:
        return None
    return DamagedImage(f"has {size_bytes:,} bytes; more than {MAX_FILE_BYTES:,} cannot be decoded")


@dataclass(frozen=True, slots=True)
class Header:
    """The traits in a file's header."""

    fault: str = ""  # why it is no image
    kind: str = ""  # as a `Picture`'s
    several: bool = False  # holds more pages or frames than the first
    group: str = ""  # the patient that the file names
    size: tuple[int, int] = (0, 0)  # width and height in pixels, upright


def picture(content: bytes | Image.Image | Deep) -> Picture:
    """Decode a file's bytes, or an image in memory. Raises `DamagedImage` with the reason alone."""
    if isinstance(content, Deep):
        large = content.size[0] * content.size[1] > MAX_HELD_PIXELS
        return Picture(content.kind, deep=deep_pixels.halved(content) if large else content)
    if isinstance(content, Image.Image):
        with _words_for_faults(lambda: b"image"):
            return _of_image(content)
    if formats.is_dicom(content):
        return _dicom_picture(content)
    with _words_for_faults(lambda: content), _open(io.BytesIO(content)) as image:
        return _picture(image, lambda: _open(io.BytesIO(content)))


def _of_image(image: Image.Image) -> Picture:
    """Decode an image that was handed over; one that must be decoded twice is opened anew, and left alone."""
    if not deep_pixels.takes_two(image):
        return _picture(image, None)
    data, page = _bytes_behind(image), image.tell()

    def opened() -> Image.Image:
        reopened = _open(io.BytesIO(data))
        reopened.seek(page)
        return reopened

    with opened() as opened_image:
        return _picture(opened_image, opened)


def _bytes_behind(image: Image.Image) -> bytes:
    """Return the bytes of the file that an image was opened from. Raises `DamagedImage`."""
    file, name = getattr(image, "fp", None), getattr(image, "filename", "")
    if file is not None and not file.closed and file.seekable():
        position = file.tell()
        file.seek(0)
        data: bytes = file.read()
        file.seek(position)
        return data
    if name and not file_fault(Path(os.fsdecode(name))):
        return read_bytes(Path(os.fsdecode(name)))
    raise DamagedImage(
        "holds 16 bits a colour (Pillow keeps 8), and its file is closed; expected one that is open. "
        "Pass the file's path or bytes instead"
    )


def _dicom_picture(content: bytes) -> Picture:
    _demand_pydicom()
    with _words_for_faults(lambda: content):
        about = _dicom_header(io.BytesIO(content))
        with IN_FLIGHT.room_for(about.width * about.height * DEEP_BYTES_A_PIXEL):
            pixels, frames = dicom.read(content)
    if isinstance(pixels, Deep):
        large = about.width * about.height > MAX_HELD_PIXELS
        return Picture(about.kind, deep=deep_pixels.halved(pixels) if large else pixels, several=frames > 1)
    return Picture("", Image.fromarray(pixels).convert("RGB"), several=frames > 1)


def _dicom_header(file: Any) -> dicom.DicomHeader:
    about = dicom.header(file)
    if fault := size_fault(about.width, about.height):
        raise DamagedImage(fault)
    return about


def _demand_pydicom() -> None:
    if not formats.installed(formats.DICOM):
        raise DamagedImage(formats.dicom_missing())


def decode(content: bytes | Image.Image | Deep, how: Rendering = PLAIN) -> Image.Image:
    """Decode to RGB like `open_image`. Raises `DamagedImage` with the reason alone."""
    return picture(content).rgb(how)


def picture_small(data: bytes, side_pixels: int) -> Picture:
    """Decode like `picture`, but let a JPEG be shrunk on the way to no less than `side_pixels` a side.

    The whole file is read either way, so a truncated one is found out. Several times as fast on photographs.
    """
    if formats.is_dicom(data):
        return _dicom_picture(data)
    with _words_for_faults(lambda: data), _open(io.BytesIO(data)) as image:
        shrunk = image.draft(None, (side_pixels, side_pixels)) is not None
        return replace(_picture(image, lambda: _open(io.BytesIO(data))), shrunk=shrunk)


def picture_by(decoder: JpegDecoder, content: bytes, *, upright: bool = False) -> Picture | None:
    """Decode by another decoder than Pillow; `None` for what is no plain JPEG, and for damaged ones.

    `upright` says that no EXIF is to be looked at.
    """
    jpeg = None if formats.is_dicom(content) else plain_jpeg(content, upright=upright)
    if jpeg is None or size_fault(*jpeg.size) or math.prod(jpeg.size) > MAX_HELD_PIXELS:
        return None
    try:
        with IN_FLIGHT.room_for(math.prod(jpeg.size) * BYTES_A_PIXEL):
            picture = Picture("", pixels=decoder(jpeg.data))
            return picture if picture.size == jpeg.size else None
    except RuntimeError:  # torch's, for all that it can't decode
        return None


def jpeg_fraction(size: tuple[int, int], side_pixels: int) -> int:
    """Return n where `picture_small` decodes a JPEG of that size at 1/n: 1, 2, 4 or 8."""
    return next((n for n in FRACTIONS if min(size) // side_pixels >= n), 1)


def header(file: BinaryIO) -> Header:
    """Look at what a file's header alone gives away. Pixel data is not looked at."""

    def all_bytes() -> bytes:
        file.seek(0)
        return file.read(MAX_FILE_BYTES)

    head = file.read(formats.HEAD_BYTES)
    file.seek(0)
    try:
        with _words_for_faults(all_bytes):
            if formats.is_dicom(head):
                _demand_pydicom()
                about = _dicom_header(file)
                return Header("", about.kind, about.frames > 1, about.group, (about.width, about.height))
            with _open(file) as image:
                return Header("", _kind(image), formats.several(image), size=upright_size(image))
    except DamagedImage as error:
        return Header(str(error))


def _kind(image: Image.Image) -> str:
    return deep_pixels.kind_of(image) or (ALPHA if image.has_transparency_data else "")


def _picture(image: Image.Image, again: Callable[[], Image.Image] | None) -> Picture:
    """Decode an opened image, or look at one in memory; a very large one is halved."""
    several = formats.several(image)
    kind, large = deep_pixels.kind_of(image), image.width * image.height > MAX_HELD_PIXELS
    if large and image.format in ("JPEG", "MPO"):  # which is never decoded whole
        image.draft(None, (image.width // 2, image.height // 2))
    size_bytes = image.width * image.height * (DEEP_BYTES_A_PIXEL if kind else BYTES_A_PIXEL)
    allowed = PILLOWS_LIMIT.raised_to(MAX_PIXELS) if large else nullcontext()
    with IN_FLIGHT.room_for(size_bytes), allowed:
        if kind:
            deep = deep_pixels.read(image, again)
            return Picture(kind, deep=deep_pixels.halved(deep) if large else deep, several=several)
        image.load()
        turned = upright(_halved(image) if image.width * image.height > MAX_HELD_PIXELS else image)
        clear = turned.has_transparency_data
        mode = "RGBA" if clear else "RGB"
        # A copy of 12 megapixels costs half as much as decoding them: a JPEG that was opened here needs none.
        own = turned is not image or (again is not None and image.format == "JPEG")
        plain = turned if own and turned.mode == mode else turned.convert(mode)
        plain.info = {}  # colour profiles and comments have no say from here on
        return Picture(ALPHA if clear else "", plain, several=several)


def size_fault(width: int, height: int) -> str:
    """Return why an image of this size is not taken, or return ""."""
    if width * height > MAX_PIXELS:
        return f"has {width}×{height} pixels; more than {MAX_PIXELS:,} are refused as a decompression bomb"
    if min(width, height) < MIN_SIDE_PIXELS:
        return f"has only {width}×{height} pixels"
    return ""


def _open(file: Any) -> Image.Image:
    """Open an image's header, refusing what is too large or too small to be one."""
    image = formats.identified(file)
    if image is None:
        raise UnidentifiedImageError("No plug-in knows it.")
    fault = size_fault(*image.size) or formats.fault_of(image)
    if fault:
        image.close()
        raise DamagedImage(fault)
    return image


def _halved(image: Image.Image) -> Image.Image:
    """Return an image of half the size a side, before anything else makes a copy of it."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return (image if image.mode in ("L", mode) else image.convert(mode)).reduce(2)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height as they are once `upright` has turned the image; nothing is decoded."""
    if image.format == "TIFF":  # Pillow gives the size that decoding, which turns it, will lead to
        return image.size
    try:
        lying = image.getexif().get(ExifTags.Base.Orientation) in LYING
    except Exception:  # as in `upright`
        lying = False
    return (image.height, image.width) if lying else image.size


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says; itself, where it says nothing that can be read."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # Pillow's EXIF parser raises whatever it stumbles over
        return image


class _words_for_faults:
    """Turn whatever a decoder raises inside the block into `DamagedImage` with a reason in words."""

    def __init__(self, content: Callable[[], bytes]) -> None:
        self.content = content  # which tells an empty file, a web page, or a format that can't be read

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, DamagedImage) or not isinstance(error, Exception):
            return
        raise DamagedImage(_reason(error, self.content)) from error


def _reason(error: Exception, content: Callable[[], bytes]) -> str:
    """Put an error of a decoder's in words."""
    if isinstance(error, UnidentifiedImageError):
        data = content()
        return formats.stranger(data) if data else "is empty (0 bytes)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {MAX_PIXELS:,} pixels, which is refused as a decompression bomb"
    if "truncated" in str(error).lower():
        return "is truncated: the file ends before the image does"
    lines = str(error).splitlines()
    return f"cannot be decoded ({type(error).__name__}: {lines[0] if lines else ''})"
