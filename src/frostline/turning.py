"""Pictures without an up, turned: by quarter turns, or by any angle with no empty corner in sight.

What a turned picture lacks in its corners is filled with its own reflection: black or any other one colour
would show the network how far a picture was turned. Draws on torch's random state.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

VERSION = 1  # raised when the same draw gives other pixels

QUARTERS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def quarter_turns(image: Image.Image) -> Image.Image:
    """Return the image turned by 0, 90, 180 or 270 degrees: no pixel is lost or interpolated."""
    quarter = QUARTERS[int(torch.randint(4, (1,)))]
    return image if quarter is None else image.transpose(quarter)


class AnyAngle:
    """Turns an image by any angle, in a frame of its own size.

    Pixels that nobody will see are not turned: an image is first shrunk by a whole number, to no less than
    `side` pixels of its shorter side.
    """

    def __init__(self, side: float) -> None:
        self._side = side

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return a turned image; the same size, but for the shrinking."""
        angle = float(torch.empty(1).uniform_(0.0, 360.0))
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
    pixels = np.pad(np.asarray(image), ((down, down), (across, across), (0, 0)), mode="symmetric")
    whole = Image.fromarray(pixels).rotate(angle, Image.Resampling.BICUBIC)
    return whole.crop((across, down, across + width, down + height))
