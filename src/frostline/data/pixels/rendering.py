"""How stored values become 8-bit RGB: the range of deep pixels, and the background of transparent ones.

Decided once for a study, from its training images, and kept: the same value must mean the same grey in
training, in every prediction, and in exports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.pixels import deep_pixels
from frostline.data.pixels.deep_pixels import Deep, Values
from frostline.errors import DataError, UsageError

ALPHA = "alpha"  # the kind of an 8-bit image with transparency
WHITE = (255, 255, 255)  # as a web browser's page, for which such images are drawn
GREY = (128, 128, 128)  # as far from black as from white
GROUNDS = {"white": WHITE, "grey": GREY, "black": (0, 0, 0)}

AUTO, PER_IMAGE = "auto", "per-image"

# What of an image is left outside its range at either end: far less than the 0.35 % in all that ImageJ's
# automatic contrast cuts off, or nnU-Net's 0.5 % at either end, and more than a few hot pixels.
TAIL = 0.001
# An image with more pixels than this outside the range, both ends together, is named: a choice.
MOST_SATURATED = 0.01
# Shares of an image at either end whose values are remembered, so that any range can be judged later: a tenth
# of `MOST_SATURATED` apart, that is, to 0.1 % of the pixels at either end.
STEPS = tuple(MOST_SATURATED * step / 10 for step in range(1, 11))
# Places a side at which an image is looked at for its range: percentiles of 65,536 values are good to 0.01 %.
SIDE = 256
# Of 20 images or more, so many are left out of account at either end: one broken picture among them, which a
# range over all would follow. A choice.
DISREGARDED, FEWEST_TO_DISREGARD = 0.01, 20
# Pixels spread at once: keeps what is needed besides the image itself to a few megabytes.
STRIP_PIXELS = 1_000_000


@dataclass(frozen=True)
class Levels:
    """What must be known of an image's values to choose a range: extremes, and what lies within the tails.

    `low` and `high` leave `TAIL` of the pixels outside at either end; `darkest` and `brightest` the shares
    in `STEPS`, the smallest first.
    """

    least: float
    low: float
    high: float
    most: float
    darkest: tuple[float, ...]
    brightest: tuple[float, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """The extremes."""
        return self.least, self.most

    def saturates(self, low: float, high: float) -> bool:
        """Tell if over `MOST_SATURATED` of the pixels that can be seen lie outside, both ends together."""
        below, above = sum(end < low for end in self.darkest), sum(end > high for end in self.brightest)
        return below + above >= len(STEPS)

    @staticmethod
    def of(deep: Deep) -> Levels:
        """Look at an image's values: at those that can be seen, where there are such."""
        values = deep_pixels.thinned(deep.values, SIDE)
        if deep.alpha is not None:
            visible = deep_pixels.thinned(deep.alpha, SIDE) > 0
            values = values[visible] if visible.any() else values
        values = values[np.isfinite(values)].astype(np.float64)
        if not len(values):
            values = deep.values[np.isfinite(deep.values)].astype(np.float64)
        # the nearest value further in: among few pixels, an interpolated one would follow a single hot one
        low, *darkest = np.quantile(values, [TAIL, *STEPS], method="higher").tolist()
        upper = [1 - share for share in (TAIL, *STEPS)]
        high, *brightest = np.quantile(values, upper, method="lower").tolist()
        return Levels(float(values.min()), low, high, float(values.max()), tuple(darkest), tuple(brightest))


@dataclass(frozen=True)
class Rendering:
    """How a study renders deep and transparent images as 8-bit RGB.

    An image of a kind without a range is spread over its own range.

    Attributes
    ----------
    intensity_range : str
        "auto", "per-image" or "LOW,HIGH", as requested.
    ranges : tuple of (kind, low, high)
        The range of each kind of deep image.
    alpha_background : str
        Background of transparent pixels, as requested.
    ground : tuple of int
        The background colour, RGB, 0–255.
    kinds : tuple of str
        Kinds of the training images, "" for 8 bits, where a range was chosen or requested.
    """

    intensity_range: str = AUTO
    ranges: tuple[tuple[str, float, float], ...] = ()
    alpha_background: str = AUTO
    ground: tuple[int, int, int] = WHITE
    kinds: tuple[str, ...] = ()

    @property
    def learned(self) -> tuple[str, ...]:
        """The kinds of the training images, as far as they are known."""
        return self.kinds or tuple(kind for kind, *_ in self.ranges)

    @property
    def plain(self) -> bool:
        """Return whether nothing had to be decided: 8 bits a channel, transparency on white."""
        return self == Rendering()

    def range_of(self, kind: str) -> tuple[float, float] | None:
        """Return the range of a kind, `None` where each image has its own."""
        if self.intensity_range not in (AUTO, PER_IMAGE):
            return parsed_range(self.intensity_range)
        return next(((low, high) for name, low, high in self.ranges if name == kind), None)

    def name_of(self, kind: str) -> str:
        """Name what is done to images of a kind: equal names, equal pixels; "" for nothing."""
        on = "" if self.ground == WHITE else f" on {self.ground}"
        if kind in ("", ALPHA):
            return on if kind else ""
        limits = self.range_of(kind)
        return (" per-image" if limits is None else f" {limits[0]!r} to {limits[1]!r}") + on

    def picture(self, deep: Deep) -> Image.Image:
        """Return deep pixels as an RGB image."""
        low, high = self.range_of(deep.kind) or _own_range(deep)
        image = Image.fromarray(spread(deep.values, low, high)).convert("RGB")
        if deep.alpha is None:
            return image
        image.putalpha(Image.fromarray(np.ascontiguousarray(deep.alpha)))
        return on_ground(image, self.ground)

    def saturates(self, deep: Deep) -> bool:
        """Tell if the range cuts off much of an image (`Levels.saturates`); its own range never does."""
        limits = self.range_of(deep.kind)
        return limits is not None and Levels.of(deep).saturates(*limits)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads."""
        return {**self.decisions, **({"kinds": list(self.kinds)} if self.kinds else {})}

    @property
    def decisions(self) -> dict[str, Any]:
        """The settings that determine pixels, as plain data."""
        return {
            "intensity_range": self.intensity_range,
            "ranges": {kind: [low, high] for kind, low, high in self.ranges},
            "alpha_background": self.alpha_background,
            "ground": list(self.ground),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Rendering:
        """Return the rendering that `as_dict` described; the plain one for `None`. Raises `DataError`."""
        if data is None:
            return PLAIN
        try:
            ranges = tuple(
                (str(kind), float(low), float(high)) for kind, (low, high) in data["ranges"].items()
            )
            ground = parsed_ground(",".join(str(int(level)) for level in data["ground"]))
            intensity_range, background = (
                checked_range(data["intensity_range"]),
                str(data["alpha_background"]),
            )
            if background != AUTO:
                parsed_ground(background)
            if not all(math.isfinite(low) and low < high < math.inf for _, low, high in ranges):
                raise ValueError("a range is empty or not finite")
            kinds = tuple(str(kind) for kind in data.get("kinds", ()))
            return cls(intensity_range, ranges, background, ground, kinds)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
            raise DataError(
                f"This does not describe how pixels were rendered ({error!r}): {str(data)[:200]}"
            ) from None


PLAIN = Rendering()


def as_options(how: Rendering) -> dict[str, str | None]:
    """Return a rendering as `load_data`'s arguments; None for options left to their default."""
    options = {"intensity_range": how.intensity_range, "alpha_background": how.alpha_background}
    return {name: None if value == AUTO else value for name, value in options.items()}


def checked_range(text: Any) -> str:
    """Return an intensity range as it is kept: "auto", "per-image", or "LOW,HIGH". Raises `UsageError`."""
    if isinstance(text, tuple | list):
        text = ",".join(str(end) for end in text)
    if text in (AUTO, PER_IMAGE):
        return str(text)
    low, high = parsed_range(str(text))
    return f"{low:.15g},{high:.15g}"


def parsed_range(text: str) -> tuple[float, float]:
    """Return the two ends of "LOW,HIGH". Raises `UsageError`."""
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"The intensity range is {text!r}; expected auto, per-image, or LOW,HIGH such as 0,4095: the "
            "values that become black and white."
        )
    return low, high


def parsed_ground(text: str) -> tuple[int, int, int]:
    """Return the colour of a name in `GROUNDS` or of "R,G,B". Raises `UsageError`."""
    if text in GROUNDS:
        return GROUNDS[text]
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        levels = [256]
    else:
        levels = [int(part[:9]) for part in parts]
    if max(levels) > 255:
        raise UsageError(
            f"The background is {text[:40]!r}; expected auto, {', '.join(GROUNDS)}, or R,G,B with 0–255 each."
        )
    return levels[0], levels[1], levels[2]


def spread(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Return values as 0–255 between `low` and `high`; values outside are clipped, NaN becomes 0."""
    pixels = np.empty(values.shape, dtype=np.uint8)
    wide = np.float64 if values.dtype.itemsize > 2 else np.float32
    rows = max(1, STRIP_PIXELS // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        strip: NDArray[Any] = values[start : start + rows].astype(wide)
        strip = (strip - low) * (255 / (high - low))
        pixels[start : start + rows] = np.nan_to_num(strip, nan=0.0).clip(0, 255).round()
    return pixels


def on_ground(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """Return an image with transparency laid on a colour, as RGB."""
    page = Image.new("RGBA", image.size, (*ground, 255))
    return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")


def ranges_of(levels: Iterable[tuple[str, Levels]]) -> tuple[tuple[str, float, float], ...]:
    """Choose one range for each kind, from the levels of its images."""
    by_kind: dict[str, list[Levels]] = {}
    for kind, image_levels in levels:
        by_kind.setdefault(kind, []).append(image_levels)
    return tuple((kind, *_range_of(kind_levels)) for kind, kind_levels in sorted(by_kind.items()))


def _range_of(levels: list[Levels]) -> tuple[float, float]:
    """Return where the lowest values begin and the highest end, but for the tails and a few images."""
    few = len(levels) < FEWEST_TO_DISREGARD
    without = 0 if few else math.ceil(DISREGARDED * len(levels))
    lows, highs = (
        sorted(image_levels.low for image_levels in levels),
        sorted(image_levels.high for image_levels in levels),
    )
    return _apart(lows[without], highs[-1 - without])


def _own_range(deep: Deep) -> tuple[float, float]:
    own = Levels.of(deep)
    return _apart(own.low, own.high)


def _apart(low: float, high: float) -> tuple[float, float]:
    """Return a range that is one: of a single value, or ends in the wrong order, it begins at the lower."""
    low, high = min(low, high), max(low, high)
    return (low, high) if high > low else (low, low + max(1.0, abs(low) * 1e-6))
