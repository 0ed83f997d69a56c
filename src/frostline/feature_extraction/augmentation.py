"""Augmentation as data (`Policy`) and as a transform.

View 0 of an image is the evaluation transform; view 1, 2, … are seeded augmentations. A view is a pure
function of (policy, seed, image digest, view): the same in every thread, process, epoch and run, since it
draws on a generator of its own. The transforms themselves are torchvision's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from frostline.config import AUGMENTS
from frostline.data.pixels import random_rotation
from frostline.errors import UsageError, did_you_mean, option
from frostline.feature_extraction import random_transforms
from frostline.feature_extraction.random_transforms import Pixels, RandomTransform
from frostline.models import Preprocessing
from frostline.models.resizing import picture_of
from frostline.system.seeds import derive

FLIPS = ("auto", "none", "horizontal", "both")
ROTATIONS = ("auto", "none", "90", "any")

VERSION = 1  # raised when a policy of one name becomes another transform
FRAMED_VERSION = 1  # likewise, of crops where pictures are squashed or padded

# Smallest share of the area that a random crop keeps. ImageNet's recipe goes down to 0.08 (torchvision
# references); with few images the object should stay in view. A choice, not yet tuned.
CROP_SCALE = {"light": 0.7, "standard": 0.35, "strong": 0.25, "randaugment": 0.35}
ERASED_SHARE = 0.25  # of the images get a black patch with "strong": timm's --reprob


@dataclass(frozen=True)
class Policy:
    """What augmentation does: `name` of AUGMENTS or `custom`, flips and rotation (`auto` already decided).

    `min_crop` is the smallest share of a picture's area that a random crop shows; `None` is the name's own.
    """

    name: str = "standard"
    flip: str = "none"
    min_crop: float | None = None
    rotate: str = "none"

    def __post_init__(self) -> None:
        for value, choices in (
            (self.name, (*AUGMENTS, "custom")),
            (self.flip, FLIPS[1:]),
            (self.rotate, ROTATIONS[1:]),
        ):
            if value not in choices:
                raise UsageError(
                    f"Unknown augmentation {value!r}.{did_you_mean(value, choices)} Expected one of "
                    f"{', '.join(choices)}."
                )
        if self.min_crop is None:
            return
        if not 0 < self.min_crop <= 1:  # nan is neither
            raise UsageError(
                f"{option('min_crop')} is {self.min_crop!r}, expected a share of a picture's area: above "
                "0, at most 1."
            )
        if self.name not in CROP_SCALE:
            raise UsageError(
                f"The augmentation {self.name} takes no random crops, so "
                f"{option('min_crop', self.min_crop)} has no effect. Expected "
                f"{', '.join(CROP_SCALE)}, or no {option('min_crop')}."
            )

    @property
    def still(self) -> bool:
        """Return whether every view is view 0."""
        return self.name == self.flip == self.rotate == "none"

    @property
    def crop_scale(self) -> float | None:
        """The smallest share of the area that a random crop shows; `None` where there are no such crops."""
        return CROP_SCALE.get(self.name) if self.min_crop is None else self.min_crop

    @property
    def smallest_side(self) -> float:
        """The smallest side of a random crop, as a share of the picture's shorter side; 1 without crops."""
        narrowest = random_transforms.ASPECT_RATIO[0]
        return 1.0 if self.crop_scale is None else math.sqrt(self.crop_scale * narrowest)

    def describe(self, preprocessing: Preprocessing) -> str:
        """Name what is done to images with that preprocessing: equal words, equal transforms."""
        framed = preprocessing.resize != "crop" and self.crop_scale is not None
        return (
            f"{self.name} {VERSION} crop {self.crop_scale or 1.0} flip {self.flip}"
            + (f" rotate {self.rotate} {random_rotation.VERSION}" if self.rotate != "none" else "")
            + (f" framed {FRAMED_VERSION}" if framed else "")
        )


def check_options(name: str, min_crop: float | None, rotate: str) -> None:
    """Raise `UsageError` where an augmentation by name can't be had with these options."""
    if rotate not in ROTATIONS:
        raise UsageError(
            f"rotate must be one of {', '.join(ROTATIONS)}, found {rotate!r}."
            f"{did_you_mean(rotate, ROTATIONS)}"
        )
    Policy(name, min_crop=min_crop)


class Transform:
    """From an RGB image, or its pixels (3, h, w), to uint8 of shape (3, size, size), drawing on a generator.

    Where images are rotated, or `custom` is given, it takes no pixels.
    `custom` maps an RGB image to an RGB image, which then gets flips and the checkpoint's resize and crop.
    With `fast` torch resizes, and pixels stay a tensor.
    """

    def __init__(
        self,
        policy: Policy,
        preprocessing: Preprocessing,
        custom: Callable[[Image.Image], Any] | None = None,
        *,
        fast: bool = False,
    ) -> None:
        if (policy.name == "custom") != (custom is not None):
            raise UsageError("The augmentation 'custom' and a callable from image to image go together.")
        self._custom = custom
        self._preprocessing, self._fast = preprocessing, fast
        self._crops = policy.crop_scale is not None
        self._steps = [
            *_rotation(policy, preprocessing),
            *_crop(policy, preprocessing, fast),
            *_flips(policy),
        ]
        if policy.name == "strong":
            self._steps.append(random_transforms.trivial_augment)
        elif policy.name == "randaugment":
            self._steps.append(random_transforms.rand_augment)
        if self._crops:
            self._steps.append(random_transforms.to_tensor)
        if policy.name == "strong":
            self._steps.append(random_transforms.RandomErasing(ERASED_SHARE))

    def __call__(self, image: Pixels, seed: int) -> torch.Tensor:
        """Return the augmented view of that seed."""
        generator = torch.Generator().manual_seed(seed)
        value: Any = image
        if self._custom is not None:
            assert isinstance(image, Image.Image)
            value = _image(_seeded_globally(self._custom, image, seed))
        for step in self._steps:
            value = step(value, generator)
        pixels: torch.Tensor = value if self._crops else self._preprocessing.crop(value, fast=self._fast)
        return pixels


def _crop(policy: Policy, preprocessing: Preprocessing, fast: bool) -> list[RandomTransform]:
    if policy.crop_scale is None:
        return []
    if preprocessing.resize != "crop":
        return [_FramedCrop(policy.crop_scale, preprocessing, fast)]
    mode = InterpolationMode(preprocessing.interpolation)
    return [random_transforms.RandomCrop(preprocessing.size, policy.crop_scale, mode, fast=fast)]


class _FramedCrop:
    """A random crop where pictures are squashed or padded: a part of a picture takes the place of the whole.

    The place of the whole is the square, or the strip of it that a wide or tall picture fills. The part has
    the whole's proportions, give or take as much as `RandomResizedCrop` gives and takes, so that things are
    stretched as they will be at prediction; and none of it is spent on padding.
    """

    def __init__(self, scale: float, preprocessing: Preprocessing, fast: bool) -> None:
        self._scale = (scale, 1.0)
        self._preprocessing, self._fast = preprocessing, fast
        self._mode = InterpolationMode(preprocessing.interpolation)

    def __call__(self, image: Pixels, generator: torch.Generator) -> Pixels:
        preprocessing, (width, height) = self._preprocessing, random_transforms.size_of(image)
        own, (least, most) = width / height, random_transforms.ASPECT_RATIO
        box = random_transforms.crop_box(width, height, self._scale, generator, (least * own, most * own))
        across, down = preprocessing.frame(width, height)
        part = random_transforms.resized_crop(image, box, (down, across), self._mode, self._fast)
        if (across, down) == (preprocessing.size, preprocessing.size):
            return part
        canvas = Image.new("RGB", (preprocessing.size, preprocessing.size), preprocessing.fill)
        place = ((preprocessing.size - across) // 2, (preprocessing.size - down) // 2)
        canvas.paste(picture_of(part), place)
        return canvas


def _rotation(policy: Policy, preprocessing: Preprocessing) -> list[RandomTransform]:
    """Turn the picture before anything is cut out of it."""
    if policy.rotate == "90":
        return [random_rotation.quarter_turns]
    if policy.rotate == "any":
        return [random_rotation.AnyAngle(preprocessing.size / math.sqrt(policy.crop_scale or 1.0))]
    return []


def _flips(policy: Policy) -> list[RandomTransform]:
    horizontal = [random_transforms.horizontal_flip] if policy.flip in ("horizontal", "both") else []
    return [*horizontal, *([random_transforms.vertical_flip] if policy.flip == "both" else [])]


def _image(value: Any) -> Image.Image:
    if not isinstance(value, Image.Image):
        raise UsageError(
            f"The augmentation returned {type(value).__name__}, expected a PIL image. "
            "Return the augmented image; resizing and normalising are done afterwards."
        )
    return value.convert("RGB")


def _seeded_globally(custom: Callable[[Image.Image], Any], image: Image.Image, seed: int) -> Any:
    """Call a person's own augmentation with every global random state seeded, and put back what they were.

    It may draw on torch, `random` and numpy: no two threads may be in here, nor one beside a training step.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        return custom(image)
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


class SeededView:
    """Draws view `view` of an image under `seed`, leaving every random state as it was."""

    def __init__(self, transform: Transform, seed: int) -> None:
        self._transform = transform
        self._seed = seed

    def __call__(self, image: Pixels, digest: str, view: int) -> torch.Tensor:
        """Return uint8 of shape (3, size, size)."""
        return self._transform(image, derive(self._seed, "view", digest, view))


def brightness(z: torch.Tensor, strength: float) -> torch.Tensor:
    """Return frozen features (n, c, …) with each image's channels made brighter or darker.

    Each channel of each image is shifted by up to `strength` of that image's range, and kept within it: the
    per-channel brightness that did best in FroFA (Bär et al., arXiv 2403.10519). Draws on torch's random
    state; 0 returns `z` itself.
    """
    if strength == 0:
        return z
    flat = z.flatten(1)
    shape = (len(z), *[1] * (z.ndim - 1))
    low, high = flat.amin(1).view(shape), flat.amax(1).view(shape)
    shift = torch.empty(*z.shape[:2], *[1] * (z.ndim - 2), dtype=z.dtype, device=z.device).uniform_(-1, 1)
    return torch.maximum(torch.minimum(z + strength * (high - low) * shift, high), low)
