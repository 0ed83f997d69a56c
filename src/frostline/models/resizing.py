"""Resizing a picture in either class of pixels: Pillow's way is the reference, torch's the fast one.

torch resizes 8-bit pixels as Pillow does, but with fewer bits a weight: several times as fast where the
processor has vector instructions, and one level off in about one value of a hundred (docs/LOG.md 2026-11-30).
Both round to 8 bits between a pass along rows and one along columns. torch begins with rows. Pillow 13 begins
with columns where the height shrinks by more than twice what the width does; so does `resized` (up to 25
levels lie between the two orders).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:  # who builds no network needs no torchvision
    from torchvision.transforms import InterpolationMode

FAST_MODES = ("bicubic", "bilinear")  # that torch has for 8-bit pixels
VERSION = 1  # of what `fast=True` returns; raised when the pixels change


def resized(
    image: Image.Image, size: tuple[int, int], mode: InterpolationMode, *, fast: bool = False
) -> Image.Image:
    """Return an RGB image resized as torchvision's `resize` does, with antialiasing.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.
    size : (int, int)
        Height and width in pixels.
    mode : InterpolationMode
    fast : bool
        By torch, where it has that mode; else by Pillow.

    Returns
    -------
    PIL.Image.Image
    """
    from torchvision.transforms.v2 import functional

    if not fast or mode.value not in FAST_MODES:
        by_pillow: Image.Image = functional.resize(image, list(size), mode, antialias=True)
        return by_pillow
    (height, width), pixels = size, torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if image.height > height and image.height - height > 2 * (image.width - width):
        pixels = functional.resize(pixels, [height, image.width], mode, antialias=True)
    pixels = functional.resize(pixels, [height, width], mode, antialias=True)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def resized_crop(
    image: Image.Image,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    mode: InterpolationMode,
    *,
    fast: bool = False,
) -> Image.Image:
    """Return a part of an RGB image (top, left, height, width in pixels), resized as `resized` does."""
    top, left, height, width = box
    part = image.crop((left, top, left + width, top + height))
    return resized(part, size, mode, fast=fast)


def fast_name() -> str:
    """Return what stands in the key of a row that was resized with `fast`: kernels differ by processor."""
    return f"resized by torch {VERSION} {torch.backends.cpu.get_cpu_capability()}"
