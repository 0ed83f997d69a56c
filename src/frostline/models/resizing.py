"""Resizing a picture in either class of pixels: Pillow's way is the reference, torch's the fast one.

torch resizes 8-bit pixels as Pillow does, but with fewer bits a weight: several times as fast where the
processor has vector instructions, and one level off in about one value of a hundred (docs/LOG.md 2026-11-30).
Both round to 8 bits between a pass along rows and one along columns. torch begins with rows. Pillow 13 begins
with columns where the height shrinks by more than twice what the width does; so does `resized` (up to 25
levels lie between the two orders).

Fast pixels are tensors from the decoder to the batch. Threads that decode hold the interpreter's lock a third
as long as with Pillow's images, whose pixels are copied under it (docs/LOG.md 2026-11-30).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:  # who builds no network needs no torchvision
    from torchvision.transforms import InterpolationMode

FAST_MODES = ("bicubic", "bilinear")  # that torch has for 8-bit pixels
VERSION = 1  # of what `resized_fast` returns; raised when the pixels change


def resized(image: Image.Image, size: tuple[int, int], mode: InterpolationMode) -> Image.Image:
    """Return an RGB image resized as torchvision's `resize` does, with antialiasing: by Pillow.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.
    size : (int, int)
        Height and width in pixels.
    mode : InterpolationMode

    Returns
    -------
    PIL.Image.Image
    """
    from torchvision.transforms.v2 import functional

    by_pillow: Image.Image = functional.resize(image, list(size), mode, antialias=True)
    return by_pillow


def resized_fast(pixels: Tensor, size: tuple[int, int], mode: InterpolationMode) -> Tensor:
    """Return pixels resized by torch, with antialiasing.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (3, h, w)
    size : (int, int)
        Height and width in pixels.
    mode : InterpolationMode
        One of `FAST_MODES`.

    Returns
    -------
    Tensor of uint8, shape (3, height, width)
    """
    from torchvision.transforms.v2 import functional

    (height, width), (high, wide) = size, pixels.shape[1:]
    if 1 in (height, width, high, wide):  # torch mistakes one layout for another, but not an image's
        pixels = pixels_of(picture_of(pixels))
    if high > height and high - height > 2 * (wide - width):
        pixels = functional.resize_image(pixels, [height, wide], mode, antialias=True)
    resized_pixels: Tensor = functional.resize_image(pixels, [height, width], mode, antialias=True)
    return resized_pixels


def pixels_of(image: Image.Image | Tensor) -> Tensor:
    """Return an RGB image's pixels, uint8 of shape (3, h, w); a tensor is returned as it is."""
    if isinstance(image, Tensor):
        return image
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def picture_of(pixels: Image.Image | Tensor) -> Image.Image:
    """Return uint8 pixels (3, h, w) as an RGB image; an image is returned as it is."""
    if isinstance(pixels, Image.Image):
        return pixels
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def fast_name() -> str:
    """Return what stands in the key of a row of `resized_fast`'s pixels: kernels differ by processor."""
    return f"resized by torch {VERSION} {torch.backends.cpu.get_cpu_capability()}"
