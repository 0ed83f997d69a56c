"""Random transforms that draw on a generator they are given, so that several threads can draw views at once.

torchvision's own draw on torch's global state, which a thread would have to lock. The operations are
torchvision's; the parameters are drawn here, in the order in which torchvision draws them: one seed gives the
pixels that torchvision's transform gives (`tests/test_augment.py` compares them).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from frostline.models.resizing import picture_of, pixels_of, resized, resized_fast

# (image, or its pixels (3, h, w), and a generator) → image or pixels
RandomTransform = Callable[[Any, torch.Generator], Any]
Pixels = Image.Image | torch.Tensor

TRIES = 10  # draws of a rectangle that must fit into the picture, before the fallback: torchvision's
ASPECT_RATIO = (3 / 4, 4 / 3)  # of width to height in a random crop: torchvision's default
ERASED_SCALE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # of an erased patch: torchvision's defaults
BINS = 31  # magnitudes of an operation, evenly spread: arXiv 2103.10158, table 1


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Return a float32 number between `low` and `high`."""
    return torch.empty(1).uniform_(low, high, generator=generator).item()


def integer(end: int, generator: torch.Generator) -> int:
    """Return a whole number from 0 to `end` - 1."""
    return int(torch.randint(end, (1,), generator=generator))


def chance(probability: float, generator: torch.Generator) -> bool:
    """Return True with that probability."""
    return bool(torch.rand(1, generator=generator) < probability)


def crop_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    generator: torch.Generator,
    ratio: tuple[float, float] = ASPECT_RATIO,
) -> tuple[int, int, int, int]:
    """Draw a random part of a picture, as torchvision's `RandomResizedCrop` does.

    Parameters
    ----------
    width, height : int
        The picture's size in pixels.
    scale : tuple of float
        Smallest and largest share of the area, 0–1.
    generator : torch.Generator
    ratio : tuple of float
        Smallest and largest width over height.

    Returns
    -------
    tuple of int
        top, left, height and width in pixels.
    """
    for _ in range(TRIES):
        part_width, part_height = _sides(width * height, scale, ratio, generator)
        if 0 < part_width <= width and 0 < part_height <= height:
            top = integer(height - part_height + 1, generator)
            return top, integer(width - part_width + 1, generator), part_height, part_width
    part_width, part_height = width, height
    if width / height < ratio[0]:
        part_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        part_width = round(height * ratio[1])
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def _sides(
    area: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    part = area * uniform(*scale, generator)
    drawn = torch.empty(1).uniform_(*_logarithms(ratio), generator=generator)
    aspect = torch.exp(drawn).item()  # in float32, as torchvision's
    return round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))


@functools.lru_cache(maxsize=32)
def _logarithms(ratio: tuple[float, float]) -> tuple[float, float]:
    low, high = torch.log(torch.tensor(ratio)).tolist()
    return low, high


def size_of(image: Pixels) -> tuple[int, int]:
    """Return width and height in pixels."""
    return image.size if isinstance(image, Image.Image) else (image.shape[2], image.shape[1])


def _copied(pixels: torch.Tensor) -> torch.Tensor:
    """Return a copy in one piece: numpy makes it in this thread, torch would start threads of its own."""
    return torch.from_numpy(pixels.numpy().copy(order="C"))


def resized_crop(
    image: Pixels, box: tuple[int, int, int, int], size: tuple[int, int], mode: InterpolationMode, fast: bool
) -> Pixels:
    """Return a part (top, left, height, width in pixels), resized: with `fast` pixels, by torch."""
    top, left, height, width = box
    if fast:
        pixels = pixels_of(image)
        part = pixels[:, top : top + height, left : left + width]
        # Copied as the whole lies: torch resizes what lies in one piece in two thirds of the time.
        if pixels.is_contiguous():
            return resized_fast(_copied(part), size, mode)
        return resized_fast(_copied(part.permute(1, 2, 0)).permute(2, 0, 1), size, mode)
    assert isinstance(image, Image.Image)
    return resized(image.crop((left, top, left + width, top + height)), size, mode)


class RandomCrop:
    """torchvision's `RandomResizedCrop` to a square of `size` pixels; with `fast` by torch, to pixels."""

    def __init__(self, size: int, scale: float, mode: InterpolationMode, *, fast: bool = False) -> None:
        self._size, self._scale, self._mode, self._fast = (size, size), (scale, 1.0), mode, fast

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        """Return a part of the picture, resized."""
        box = crop_box(*size_of(image), self._scale, generator)
        return resized_crop(image, box, self._size, self._mode, self._fast)


def horizontal_flip(image: Pixels, generator: torch.Generator) -> Pixels:
    """Return the image, or its mirror image."""
    if not chance(0.5, generator):
        return image
    return _flipped(image, -1) if isinstance(image, torch.Tensor) else ImageOps.mirror(image)


def vertical_flip(image: Pixels, generator: torch.Generator) -> Pixels:
    """Return the image, or the same upside down."""
    if not chance(0.5, generator):
        return image
    return _flipped(image, -2) if isinstance(image, torch.Tensor) else ImageOps.flip(image)


def _flipped(pixels: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.flip(pixels.numpy(), axis)))


def to_tensor(image: Pixels, _: torch.Generator) -> torch.Tensor:
    """Return uint8 of shape (3, height, width)."""
    if isinstance(image, torch.Tensor):
        return image
    pixels: torch.Tensor = tv.pil_to_tensor(image)
    return pixels


class RandomErasing:
    """torchvision's `RandomErasing`: one patch becomes black, in a share `probability` of the images."""

    def __init__(self, probability: float) -> None:
        self._probability = probability

    def __call__(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the pixels (3, height, width), with a black patch or as they are."""
        if not chance(self._probability, generator):
            return pixels
        height, width = pixels.shape[-2:]
        for _ in range(TRIES):
            down, across = _sides(height * width, ERASED_SCALE, ERASED_RATIO, generator)
            if down < height and across < width:
                top = integer(height - down + 1, generator)
                left = integer(width - across + 1, generator)
                erased = _copied(pixels)
                erased.numpy()[:, top : top + down, left : left + across] = 0
                return erased
        return pixels


def _affine(image: Image.Image, shift: tuple[int, int] = (0, 0), **more: Any) -> Image.Image:
    options = {"angle": 0.0, "scale": 1.0, "shear": [0.0, 0.0], **more}
    moved: Image.Image = tv.affine(image, translate=list(shift), **options)
    return moved


def _sheared(image: Image.Image, along: float = 0.0, down: float = 0.0) -> Image.Image:
    degrees = [math.degrees(math.atan(slope)) for slope in (along, down)]
    return _affine(image, shear=degrees, center=[0, 0])


# arXiv 2103.10158, table 1 ("wide"), as torchvision has it: the least and greatest magnitude of an operation
# (None: it has none), whether its sign is drawn, and the operation.
Operation = tuple[tuple[float, float] | None, bool, Callable[[Image.Image, float], Any]]
OPERATIONS: tuple[Operation, ...] = (
    (None, False, lambda image, _: image),
    ((0.0, 0.99), True, lambda image, m: _sheared(image, along=m)),
    ((0.0, 0.99), True, lambda image, m: _sheared(image, down=m)),
    ((0.0, 32.0), True, lambda image, m: _affine(image, (int(m), 0))),
    ((0.0, 32.0), True, lambda image, m: _affine(image, (0, int(m)))),
    ((0.0, 135.0), True, tv.rotate),
    ((0.0, 0.99), True, lambda image, m: tv.adjust_brightness(image, 1.0 + m)),
    ((0.0, 0.99), True, lambda image, m: tv.adjust_saturation(image, 1.0 + m)),
    ((0.0, 0.99), True, lambda image, m: tv.adjust_contrast(image, 1.0 + m)),
    ((0.0, 0.99), True, lambda image, m: tv.adjust_sharpness(image, 1.0 + m)),
    ((8.0, 2.0), False, lambda image, m: tv.posterize(image, round(m))),
    ((1.0, 0.0), False, lambda image, m: tv.solarize(image, 255.0 * m)),
    (None, False, lambda image, _: tv.autocontrast(image)),
    (None, False, lambda image, _: tv.equalize(image)),
)


# Magnitudes of the same operations in RandAugment, arXiv 1909.13719, as torchvision has them; shifts are
# shares of the side.
RAND_MAGNITUDES: tuple[tuple[float, float] | None, ...] = (
    *(None, (0.0, 0.3), (0.0, 0.3), (0.0, 150 / 331), (0.0, 150 / 331), (0.0, 30.0)),
    *((0.0, 0.9), (0.0, 0.9), (0.0, 0.9), (0.0, 0.9), (8.0, 4.0), (1.0, 0.0), None, None),
)
SHIFTS = {3: 0, 4: 1}  # operations that shift, and the axis (of width and height) that they shift along
RAND_OPERATIONS, RAND_MAGNITUDE = 2, 9  # how many, and of the `BINS` magnitudes: torchvision's defaults


def rand_augment(pixels: Pixels, generator: torch.Generator) -> Image.Image:
    """Return the image after two of `OPERATIONS`: torchvision's `RandAugment`."""
    image = picture_of(pixels)
    for _ in range(RAND_OPERATIONS):
        number = integer(len(OPERATIONS), generator)
        (_, signed, operation), magnitudes = OPERATIONS[number], RAND_MAGNITUDES[number]
        magnitude = 0.0
        if magnitudes is not None:
            low, high = magnitudes
            side = image.size[SHIFTS[number]] if number in SHIFTS else 1
            magnitude = torch.linspace(low, high * side, BINS)[RAND_MAGNITUDE].item()
            if signed and torch.rand(1, generator=generator) <= 0.5:
                magnitude = -magnitude
        image = operation(image, magnitude)
    return image


def trivial_augment(pixels: Pixels, generator: torch.Generator) -> Image.Image:
    """Return the image after one of `OPERATIONS`: torchvision's `TrivialAugmentWide`."""
    image = picture_of(pixels)
    magnitudes, signed, operation = OPERATIONS[integer(len(OPERATIONS), generator)]
    magnitude = 0.0
    if magnitudes is not None:
        magnitude = torch.linspace(*magnitudes, BINS)[integer(BINS, generator)].item()
        if signed and torch.rand(1, generator=generator) <= 0.5:
            magnitude = -magnitude
    changed: Image.Image = operation(image, magnitude)
    return changed
