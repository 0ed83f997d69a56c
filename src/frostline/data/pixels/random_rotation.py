"""Rotation by quarter turns, or by any angle without empty corners.

What a turned picture lacks in its corners is filled with its own reflection: black or any other one colour
would show the network how far a picture was turned.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

VERSION = 1  # raised when the same draw gives other pixels

# A picture is turned whole where what it is padded to has no more pixels: 12 MB of RGB, and an ordinary
# picture of 1,000 × 1,500. The canvas of a strip grows with the square of its length; it is turned piecewise.
MOST_CANVAS_PIXELS = 4_000_000
PIECE_PIXELS = 512  # a side of such pieces: each reads 728 × 728 pixels at most, half a million; a choice

QUARTERS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def quarter_turns(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """Return the image turned by 0, 90, 180 or 270 degrees: no pixel is lost or interpolated."""
    quarter = QUARTERS[int(torch.randint(4, (1,), generator=generator))]
    return image if quarter is None else image.transpose(quarter)


class AnyAngle:
    """Turns an image by any angle, in a frame of its own size.

    Pixels that are not shown are not turned: an image is first shrunk by a whole number, to no less than
    `side` pixels of its shorter side.
    """

    def __init__(self, side: float) -> None:
        self._side = side

    def __call__(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        """Return a turned image; the same size, but for the shrinking."""
        angle = float(torch.empty(1).uniform_(0.0, 360.0, generator=generator))
        shrink = int(min(image.size) / self._side)
        return turned(image.reduce(shrink) if shrink > 1 else image, angle)


def turned(image: Image.Image, angle: float) -> Image.Image:
    """Return an RGB image of the same size, turned by `angle` degrees and reflected at its edges."""
    width, height = image.size
    cos, sin = (abs(f(math.radians(angle))) for f in (math.cos, math.sin))
    needed = (width * cos + height * sin, width * sin + height * cos)  # to have the frame within the picture
    # two pixels more at each side for bicubic interpolation to read
    across, down = (
        max(0, math.ceil((need - has) / 2)) + 2 for need, has in zip(needed, image.size, strict=True)
    )
    if (width + 2 * across) * (height + 2 * down) > MOST_CANVAS_PIXELS:
        return _turned_in_pieces(image, angle)
    pixels = np.pad(np.asarray(image), ((down, down), (across, across), (0, 0)), mode="symmetric")
    rotated = Image.fromarray(pixels).rotate(angle, Image.Resampling.BICUBIC)
    return rotated.crop((across, down, across + width, down + height))


def _turned_in_pieces(image: Image.Image, angle: float) -> Image.Image:
    """Return what `turned` does, made piece by piece from the part of the reflected plane that each shows."""
    (width, height), pixels = image.size, np.asarray(image)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # from a place in the frame to the one in the picture, about the middle: y points down
    over_x = width / 2 - cos * width / 2 + sin * height / 2
    over_y = height / 2 - sin * width / 2 - cos * height / 2
    canvas = Image.new("RGB", image.size)
    for top in range(0, height, PIECE_PIXELS):
        for left in range(0, width, PIECE_PIXELS):
            size = min(PIECE_PIXELS, width - left), min(PIECE_PIXELS, height - top)
            at_x, at_y = cos * left - sin * top + over_x, sin * left + cos * top + over_y
            columns = _reach(at_x, (cos * size[0], -sin * size[1]))
            rows = _reach(at_y, (sin * size[0], cos * size[1]))
            part = Image.fromarray(pixels[_reflected(rows, height)[:, None], _reflected(columns, width)])
            matrix = (cos, -sin, at_x - columns[0], sin, cos, at_y - rows[0])
            piece = part.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
            canvas.paste(piece, (left, top))
    return canvas


def _reach(start: float, steps: tuple[float, float]) -> NDArray[np.int64]:
    """Return the places that a piece reads along one axis, with those that bicubic interpolation adds."""
    low, high = start + sum(min(0.0, step) for step in steps), start + sum(max(0.0, step) for step in steps)
    return np.arange(math.floor(low) - 2, math.ceil(high) + 2)


def _reflected(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return the pixels that lie at places of a picture repeated back and forth without end."""
    offsets = places % (2 * length)
    return np.minimum(offsets, 2 * length - 1 - offsets)
