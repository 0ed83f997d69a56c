"""A checkpoint's preprocessing: size, crop, interpolation, mean and standard deviation.

The picture-making part is timm's own evaluation transform, so it cannot drift from the one the checkpoint
was measured with. It is split in two because stored and augmented images are kept as bytes:
`crop` returns uint8, `normalise` returns the network's float input, and `evaluation` is both.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from frostline.errors import ModelError, UsageError, did_you_mean
from frostline.models import resizing
from frostline.system.device_transfers import to_device

# "floor" is "center" with the smaller half of an odd margin above and to the left, as transformers crops;
# torchvision rounds the half to the even number. The other three are timm's.
CROP_MODES = ("center", "squash", "border", "floor")
# How a picture becomes square: its middle is cut out, it is stretched, or it is fitted in and filled up.
RESIZES = ("crop", "squash", "pad")
RESIZE_OF = {"center": "crop", "floor": "crop", "squash": "squash", "border": "pad"}
# A choice: several times the side of timm's published classifiers; a batch of such images fits a memory.
MAX_SIDE_PIXELS = 4096
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input.

    Attributes
    ----------
    size : int
        Side in pixels.
    crop_pct : float
        Share of a side that the crop keeps, above 0 and at most 1.
    interpolation : str
        One of `INTERPOLATIONS`.
    mean, std : tuple of float
        Per channel, of values 0–1.
    crop_mode : str
        One of `CROP_MODES`.
    """

    size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.size <= MAX_SIDE_PIXELS:
            problems.append(f"size is {self.size}, expected 1 to {MAX_SIDE_PIXELS} pixels")
        if not 0 < self.crop_pct <= 1:
            problems.append(f"crop_pct is {self.crop_pct}, expected above 0 and at most 1")
        if self.interpolation not in INTERPOLATIONS:
            problems.append(f"interpolation is {self.interpolation!r}, expected one of {INTERPOLATIONS}")
        if self.crop_mode not in CROP_MODES:
            problems.append(f"crop_mode is {self.crop_mode!r}, expected one of {CROP_MODES}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            problems.append(
                f"mean is {self.mean} and std is {self.std}, expected three numbers each, std above 0"
            )
        if problems:
            raise ModelError("This preprocessing cannot be used: " + "; ".join(problems) + ".")

    def with_size(self, size: int) -> Preprocessing:
        """Return the same preprocessing for another input size; the same share is cropped.

        Parameters
        ----------
        size : int
            Side in pixels, 1 to 4096.

        Returns
        -------
        Preprocessing

        Raises
        ------
        ModelError
            `size` is out of range.
        """
        return replace(self, size=int(size))

    @property
    def resize(self) -> str:
        """The way a picture becomes square, one of `RESIZES`."""
        return RESIZE_OF[self.crop_mode]

    def with_resize(self, resize: str | None) -> Preprocessing:
        """Return the same preprocessing with another way of making images square.

        Parameters
        ----------
        resize : str or None
            "crop" is the checkpoint's own crop where it has one; "squash" and "pad" cut nothing away, and
            "pad" fills with the mean colour; None changes nothing.

        Raises
        ------
        UsageError
            `resize` is unknown.
        """
        if resize is None or (resize == "crop" and self.resize == "crop"):
            return self
        if resize not in RESIZES:
            raise UsageError(
                f"resize must be one of {', '.join(RESIZES)}, found {resize!r}."
                f"{did_you_mean(resize, RESIZES)}"
            )
        if resize == "crop":
            return replace(self, crop_mode="center")
        return replace(self, crop_mode="squash" if resize == "squash" else "border", crop_pct=1.0)

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour that "pad" fills up with, 0–255: the mean, as timm rounds it."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    @property
    def text(self) -> str:
        """A description of how a picture becomes square."""
        side, resized_side = f"{self.size} × {self.size} px", math.floor(self.size / self.crop_pct)
        middle = "" if resized_side == self.size else f"; the middle {side} is used"
        if self.resize == "squash":
            return f"stretched to {resized_side} × {resized_side} px whatever their shape{middle}"
        if self.resize == "pad":
            return (
                f"resized so that the longer side has {resized_side} px, and centred on {side} of the mean "
                f"colour {self.fill}{middle}"
            )
        return f"resized so that the shorter side has {resized_side} px; the middle {side} is used"

    def frame(self, width: int, height: int, side: int | None = None) -> tuple[int, int]:
        """Return the width and height that an image takes up in a square, in pixels.

        Less than the whole square only if `resize` is "pad".

        Parameters
        ----------
        width, height : int
            Of the image, in pixels.
        side : int or None
            Side of the square in pixels; None is `size`.

        Returns
        -------
        (int, int)
        """
        side = side or self.size
        if self.resize != "pad":
            return side, side
        ratio = max(width, height) / side
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """Return the preprocessing that `as_dict` described.

        Parameters
        ----------
        data : dict
            What `as_dict` returned.

        Returns
        -------
        Preprocessing

        Raises
        ------
        ModelError
            A field is missing or unknown, or a value is out of range.
        """
        try:
            return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ModelError(f"This is not a preprocessing ({error!r}): {str(data)[:200]}") from None

    def digest(self) -> str:
        """Return a sha256 that changes with any field."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def crop(self, image: Image.Image | Tensor, *, fast: bool = False) -> Tensor:
        """Return the resized, cropped RGB image.

        Parameters
        ----------
        image : PIL.Image.Image, or Tensor of uint8, shape (3, h, w)
            Of any size and mode; pixels only with `fast`.
        fast : bool
            Resize by torch, where `resizes_fast` says so.

        Returns
        -------
        Tensor of uint8, shape (3, size, size)
        """
        fast = fast and self.resizes_fast
        if isinstance(image, Image.Image) and image.mode != "RGB":
            image = image.convert("RGB")
        pixels: Tensor = _cropping(self, fast)(resizing.pixels_of(image) if fast else image)
        return pixels

    @property
    def resizes_fast(self) -> bool:
        """Whether `fast` makes a difference to resizing: torch has not every interpolation."""
        return self.interpolation in resizing.FAST_MODES

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to which an image is resized before its middle is cut out.

        Parameters
        ----------
        width, height : int
            Of the image, in pixels.

        Returns
        -------
        (int, int)
            In pixels.
        """
        side = math.floor(self.size / self.crop_pct)
        if self.resize != "crop":
            return self.frame(width, height, side)
        short, long = min(width, height), max(width, height)
        scaled = side, int(side * long / short)
        return scaled if width <= height else (scaled[1], scaled[0])

    def normalise(self, batch: Tensor) -> Tensor:
        """Return pixels scaled to 0–1, minus mean, over std.

        Parameters
        ----------
        batch : Tensor of uint8, shape (…, 3, h, w)

        Returns
        -------
        Tensor of float32, same shape
        """
        shape = (3, 1, 1)
        mean = to_device(torch.tensor(self.mean), batch.device).view(shape)
        std = to_device(torch.tensor(self.std), batch.device).view(shape)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def evaluation(self) -> Callable[[Image.Image], Tensor]:
        """Return the checkpoint's own evaluation transform: RGB image → float32 (3, size, size)."""
        return lambda image: self.normalise(self.crop(image))


@lru_cache(maxsize=32)
def _cropping(preprocessing: Preprocessing, fast: bool = False) -> Callable[[Any], Tensor]:
    """Return timm's evaluation transform up to, and without, scaling and normalisation.

    It takes RGB images, with `fast` pixels (3, h, w).
    """
    from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import CenterCrop, Resize

    floor = preprocessing.crop_mode == "floor"
    transform = create_transform(
        (3, preprocessing.size, preprocessing.size),
        is_training=False,
        use_prefetcher=True,  # timm's name for "answer uint8, normalisation comes later"
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode="center" if floor else preprocessing.crop_mode,
    )
    steps: list[Callable[[Any], Any]] = []
    for step in transform.transforms:
        if isinstance(step, ResizeKeepRatio | Resize):
            steps.append(_resizing(preprocessing, fast))
        elif floor and isinstance(step, CenterCrop):
            steps += [*([resizing.picture_of] if fast else []), _floor_crop(preprocessing.size)]
        elif fast and isinstance(step, CenterCropOrPad):  # pads with a colour, which only images bear
            steps += [resizing.picture_of, step]
        else:
            steps.append(step)
    transform.transforms = steps
    cropping: Callable[[Any], Tensor] = transform
    return cropping


def _resizing(preprocessing: Preprocessing, fast: bool) -> Callable[[Any], Any]:
    """Return timm's resize; with "border" it leaves pictures that are very long a pixel of width."""
    from torchvision.transforms import InterpolationMode

    mode = InterpolationMode(preprocessing.interpolation)

    def resize(image: Image.Image) -> Image.Image:
        width, height = preprocessing.resized_size(*image.size)
        return resizing.resized(image, (height, width), mode)

    def resize_fast(pixels: Tensor) -> Tensor:
        width, height = preprocessing.resized_size(pixels.shape[2], pixels.shape[1])
        return resizing.resized_fast(pixels, (height, width), mode)

    return resize_fast if fast else resize


def _floor_crop(size: int) -> Callable[[Image.Image], Image.Image]:
    """Return a crop of `size` × `size` pixels from the middle, the smaller half of the margin first."""

    def crop(image: Image.Image) -> Image.Image:
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))

    return crop
