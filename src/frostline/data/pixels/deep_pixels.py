"""Pixels of more than 8 bits: exact upright values, in any byte order.

Pillow keeps only the high byte of colours of 16 bits. What it unpacks a sample with ("RGB;16B", "RGB;16L")
takes the first or the second byte, so that decoding once with each gives both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.errors import DamagedImage

Values = NDArray[Any]  # (H, W) or (H, W, 3), of any integer or float type

# How Pillow calls the samples it unpacks to its mode "I" of 32 bits, where they are others in the file.
INTEGERS = {"I;16S": "int16", "I;16BS": "int16", "I;16NS": "int16", "I;32N": "uint32", "I;32": "uint32"}
WHITE_IS_ZERO, PHOTOMETRIC = 0, 262  # TIFF 6.0, page 37
ORIENTATION = 0x0112  # EXIF 2.3; 1 is upright

# What each EXIF orientation asks for, of an array (H, W, …).
TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.rot90(a),
}


@dataclass(frozen=True)
class Deep:
    """An image's own values, upright; `alpha`, (H, W) of uint8, where it has transparency."""

    kind: str  # what tells its range from others': "uint16", "uint16 RGB", "float32"
    values: Values
    alpha: NDArray[np.uint8] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as Pillow has them."""
        return self.values.shape[1], self.values.shape[0]


def of_array(values: Values) -> Deep:
    """Return what an array of integers, (H, W), (H, W, 3) or (H, W, 4), holds: as if a file held it.

    Raises `DamagedImage` where its transparency is ambiguous.
    """
    if values.ndim == 2:
        return Deep(values.dtype.name, values)
    kind, alpha = f"{values.dtype.name} RGB", None
    if values.shape[2] == 4:
        if values.dtype.kind != "u":
            raise DamagedImage(
                f"has a fourth channel of {values.dtype.name}, whose opaque value is unknown; "
                "expected uint8 or uint16. Convert it, or leave transparency out: image[..., :3]"
            )
        alpha = (values[..., 3] >> (8 * values.dtype.itemsize - 8)).astype(np.uint8)
    return Deep(kind, values[..., :3], alpha)


def kind_of(image: Image.Image) -> str:
    """Return what an image holds, by its header: "uint16", "uint16 RGB", "float32" …; "" for 8 bits."""
    unpacked, maximum = _unpacking(image)
    if image.mode == "F":
        return "float32"
    if image.mode.startswith("I;16"):
        return "uint16"
    if image.mode == "I":
        from_netpbm = image.format in ("PNG", "PPM")  # which know no wider integers
        return "uint16" if from_netpbm else INTEGERS.get(unpacked, "int32")
    if image.format == "PPM" and maximum > 255:
        return "uint16 RGB"
    if ";16" in unpacked and image.mode in ("LA", "RGB", "RGBA"):
        return "uint16" if unpacked.startswith("LA") else "uint16 RGB"
    return ""


def takes_two(image: Image.Image) -> bool:
    """Return whether only two decodings of the same file give all bits: 8 bits a channel hold no more."""
    return bool(kind_of(image)) and image.format != "PPM" and image.mode in ("LA", "RGB", "RGBA")


def read(image: Image.Image, again: Callable[[], Image.Image] | None) -> Deep:
    """Return the values of an image that `kind_of` names a kind for, not decoded yet or in memory.

    `again` opens the same file once more. Raises `DamagedImage`, and whatever Pillow raises.
    """
    kind, (unpacked, _) = kind_of(image), _unpacking(image)
    key = image.info.get("transparency")
    photometric = _tag(image, PHOTOMETRIC)
    if image.format == "PPM" and kind == "uint16 RGB":
        values, alpha = _of_netpbm(image), None
    elif takes_two(image):
        assert again is not None
        values, alpha = _of_colours(image, again(), unpacked)
    else:
        values, alpha = np.asarray(image), None
        if kind == "uint32":  # which Pillow reads as signed
            values = values.view(np.uint32)
        values = values.astype(np.dtype(kind), copy=False)
    if photometric == WHITE_IS_ZERO and kind == "uint16":
        values = np.asarray(65535 - values)
    elif photometric == WHITE_IS_ZERO:
        values = -values.astype(np.float64)
    if alpha is None and key is not None and not isinstance(key, bytes):
        clear = values == np.asarray(key)
        alpha = np.where(clear.all(-1) if values.ndim == 3 else clear, 0, 255).astype(np.uint8)
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise DamagedImage("holds no finite pixel value")
    turn = TURNS.get(_orientation(image), np.asarray)
    return Deep(kind, turn(values), None if alpha is None else turn(alpha))


def ranks(values: Values) -> NDArray[np.uint8]:
    """Return 0–255 by each value's rank among the image's own, which no range and no byte order changes."""
    flat = np.nan_to_num(values.astype(np.float64)).ravel()
    _, which, counts = np.unique(flat, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.asarray((255 * middle / len(flat)).round().astype(np.uint8)[which].reshape(values.shape))


def thinned(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the values at `side` places a side at most, evenly spread (the nearest of each)."""
    rows, columns = (
        ((np.arange(min(size, side)) + 0.5) * size / min(size, side)).astype(np.int64)
        for size in values.shape[:2]
    )
    return np.asarray(values[rows[:, None], columns[None, :]])


def averaged(values: Values, side: int) -> Values:
    """Return means over square blocks, so that about `side` to twice that are left on the shorter side."""
    block = max(1, min(values.shape[:2]) // side)
    if block == 1:
        return values
    height, width = (size // block * block for size in values.shape[:2])
    blocks = values[:height, :width].reshape(height // block, block, width // block, block, -1)
    means = blocks.mean(axis=(1, 3), dtype=np.float32 if values.dtype.itemsize < 4 else np.float64)
    return np.asarray(means.reshape(*means.shape[:2], *values.shape[2:]))


def halved(deep: Deep) -> Deep:
    """Return an image of half the size a side: means of four values each, of the kind they were."""
    height, width = (size // 2 * 2 for size in deep.values.shape[:2])
    values = deep.values
    wide = values.dtype if values.dtype.kind == "f" else np.int64
    pixels = np.empty((height // 2, width // 2, *values.shape[2:]), dtype=values.dtype)
    for row in range(0, height, 2):  # line by line, so that no wide copy of all is held
        lines = values[row : row + 2, :width].astype(wide).sum(axis=0)
        pixels[row // 2] = (
            (lines[0::2] + lines[1::2]) / 4 if wide != np.int64 else (lines[0::2] + lines[1::2]) // 4
        )
    alpha = None if deep.alpha is None else deep.alpha[:height:2, :width:2]
    return Deep(deep.kind, pixels, alpha)


def _of_colours(
    image: Image.Image, reopened: Image.Image, unpacked: str
) -> tuple[Values, NDArray[Any] | None]:
    """Return colours of 16 bits and their transparency from two decodings, or one where that holds all."""
    if unpacked.startswith("LA"):  # four bytes a pixel, as RGBA has
        both = _decoded(reopened, "RGBA", mode="RGBA").astype(np.uint16)
        return both[..., 0] << 8 | both[..., 1], both[..., 2].astype(np.uint8)
    # premultiplied colours are unpacked as they are, and divided here
    own = unpacked.replace("RGBa", "RGBA").replace(";16N", ";16L" if _little() else ";16B")
    swapped = own.replace(";16L", ";16X").replace(";16B", ";16L").replace(";16X", ";16B")
    high, low = _decoded(image, own).astype(np.uint16), _decoded(reopened, swapped)
    samples = high << 8 | low
    colours, alpha = samples[..., :3], high[..., 3].astype(np.uint8) if samples.shape[-1] == 4 else None
    if "RGBa" in unpacked:
        share = np.maximum(samples[..., 3:], 1) / 65535
        colours = np.minimum(colours / share, 65535).round().astype(np.uint16)
    return colours, alpha


def _decoded(image: Image.Image, unpack: str, mode: str = "") -> NDArray[np.uint8]:
    """Decode an image with another unpacking than its plug-in chose."""
    if mode:
        image._mode = mode  # older versions of Pillow open grey with transparency as "LA"
    tiles: list[Any] = getattr(image, "tile", [])
    for at, (*tile_head, args) in enumerate(tiles):
        changed = (unpack, *args[1:]) if isinstance(args, tuple) else unpack
        tiles[at] = (
            type(tiles[at])(*tile_head, changed) if hasattr(tiles[at], "args") else (*tile_head, changed)
        )
    return np.asarray(image)


def _of_netpbm(image: Any) -> Values:
    """Return the binary samples of a PPM: big-endian, and not spread over another range."""
    codec, _, offset, _ = image.tile[0]
    image.fp.seek(offset)
    width, height = image.size
    data = image.fp.read(6 * width * height)
    if codec != "ppm" or len(data) < 6 * width * height:
        raise DamagedImage("is truncated, or written as text: the file ends before the image does")
    return np.frombuffer(data, dtype=">u2").reshape(height, width, 3).astype(np.uint16)


def _unpacking(image: Any) -> tuple[str, int]:
    """Return what Pillow will unpack samples with, and the largest value that a PPM says it has."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return "", 0
    args = tiles[0][3]
    args = args if isinstance(args, tuple) else (args,)
    rawmode = args[0] if args and isinstance(args[0], str) else ""
    maximum = args[1] if len(args) > 1 and isinstance(args[1], int) else 0
    return rawmode, maximum


def _tag(image: Any, number: int) -> Any:
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(number)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is left to be done: Pillow does a TIFF's while decoding."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises whatever it stumbles over
        return 1


def _little() -> bool:
    return bool(np.dtype(np.uint16).newbyteorder("<") == np.dtype(np.uint16))
