"""The share of each image's area that a square crop removes, from image sizes alone.

No pixel is decoded for it: sizes are read from headers and remembered with the images' other traits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from frostline.data.findings import Finding
from frostline.errors import UsageError, did_you_mean
from frostline.sentences import percent

Size = tuple[int, int]  # width and height in pixels, upright

# Cameras give 4:3 and 3:2, of which a square cuts a third away: it is what lies above that people don't
# expect. The issue names 1.5:1.
MOST_ASPECT = 1.5
# 3:2 within the rounding of a pixel or two: 640 × 426 is no wider than a camera meant it.
ROUNDING = 0.01

# `Preprocessing.crop_mode` and the words of `--resize`, as the latter.
RESIZE_OF = {
    "crop": "crop",
    "center": "crop",
    "floor": "crop",
    "squash": "squash",
    "pad": "pad",
    "border": "pad",
}

# How each note ends. Smaller matters: clothes in the middle of tall photographs were recognised less often
# (docs/LOG.md 2026-11-28).
ADVICE = "--resize squash or pad (resize= in Python) shows every picture whole, and things in it smaller."


@dataclass(frozen=True)
class CutAway:
    """The area of images that preprocessing removes. Shares are of an image's area, 0–1."""

    resize: str  # crop, squash or pad
    crop_pct: float  # share of a side that the crop keeps
    images: int  # with a known size
    long: int  # of these, wider or taller than `MOST_ASPECT` to 1
    mean: float  # share cut away, mean over all
    mean_long: float  # mean over the long ones
    most: float  # of the one that loses most
    worst: str  # its name; "" where none was given

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @property
    def note(self) -> str:
        """The finding as a sentence; "" where there is none."""
        return "" if self.finding is None else self.finding.note

    @property
    def finding(self) -> Finding | None:
        """The finding; None where too little is removed to matter."""
        if not self.long or self.resize != "crop":
            return None
        or_more = "" if self.crop_pct < 1 else " or more"
        more = self.worst and percent(self.most) != percent(self.mean_long)
        worst = f", of {self.worst} {percent(self.most)}" if more else ""
        message = (
            f"{self.long} of {self.images} image(s) are wider or taller than {MOST_ASPECT:g}:1. A centre "
            f"crop removes {percent(self.mean_long)} of their area{or_more}{worst}: what lies there "
            "does not affect any prediction."
        )
        return Finding("cut_away", self.long, message, ADVICE, (self.worst,) if self.worst else ())


def cut_away(
    sizes: Mapping[str, Size] | Sequence[Size], resize: str = "crop", crop_pct: float = 1.0
) -> CutAway:
    """Return how much of images of these sizes a preprocessing removes.

    Parameters
    ----------
    sizes : mapping or sequence of (width, height)
        Upright sizes in pixels, by name if there is one; unknown sizes, (0, 0), are ignored.
    resize : str
        "crop", "squash" or "pad", or a `Preprocessing`'s `crop_mode`.
    crop_pct : float
        Share of a side that the crop keeps, 0–1.

    Returns
    -------
    CutAway

    Raises
    ------
    UsageError
        `resize` is unknown.
    """
    if resize not in RESIZE_OF:
        raise UsageError(
            f"Unknown resize {resize!r}.{did_you_mean(resize, RESIZE_OF)} Expected crop, squash or pad."
        )
    mode = RESIZE_OF[resize]
    named_sizes = list(sizes.items()) if isinstance(sizes, Mapping) else [("", size) for size in sizes]
    named_sizes = [(name, size) for name, size in named_sizes if min(size) > 0]
    lost = [share_cut_away(size, mode, crop_pct) for _, size in named_sizes]
    long = [share for share, (_, size) in zip(lost, named_sizes, strict=True) if is_long(size)]
    worst = max(range(len(lost)), key=lost.__getitem__, default=None)
    return CutAway(
        mode,
        crop_pct,
        len(named_sizes),
        len(long),
        sum(lost) / len(lost) if lost else 0.0,
        sum(long) / len(long) if long else 0.0,
        0.0 if worst is None else lost[worst],
        "" if worst is None else named_sizes[worst][0],
    )


def is_long(size: Size) -> bool:
    """Return whether a picture is wider or taller than `MOST_ASPECT` to 1."""
    return max(size) > MOST_ASPECT * min(size) * (1 + ROUNDING)


def share_cut_away(size: Size, resize: str = "crop", crop_pct: float = 1.0) -> float:
    """Return the share of a picture's area that is never seen."""
    short = min(size) / max(size)
    if RESIZE_OF[resize] == "crop":
        return 1 - crop_pct**2 * short
    if RESIZE_OF[resize] == "squash":
        return 1 - crop_pct**2
    return 1 - crop_pct * min(1.0, crop_pct / short)  # the long side fills the square, the short one need not
