"""Traits of an image: its kind, its levels, whether it is flat."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from frostline.data.pixels import decoding
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.rendering import ALPHA, GREY, WHITE, Levels, Rendering, on_ground

# Levels of 255 between an image's darkest and brightest that pass for one colour: 1.6 %, below what is seen
# side by side, and above what JPEG does to a flat surface.
FLAT_LEVELS = 4


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of an image. The defaults are those of a plain opaque image of unknown size."""

    kind: str = ""  # "" = 8 bits and opaque; `rendering.ALPHA`; "uint16" … (`deep_pixels.kind_of`)
    flat: bool = False  # one colour, on any ground
    clear: bool = False  # has pixels that one sees through
    hidden_on_white: bool = False  # 8 bits: shows something, but not on white
    hidden_on_grey: bool = False
    several: bool = False  # several pages or frames; the first is used
    group: str = ""  # the patient that the file names
    levels: Levels | None = None  # of deep pixels that can be seen, once they were decoded
    width: int = 0  # in pixels, upright, as the header says; 0 = not known
    height: int = 0

    def text(self) -> str:
        """Return what `read` reads; "" for the default."""
        if self == PLAIN:
            return ""
        values = {name: value for name, value in asdict(self).items() if value != getattr(PLAIN, name)}
        return json.dumps(values, separators=(",", ":"))

    @staticmethod
    def read(text: str) -> Traits:
        """Read what `text` wrote. Raises `ValueError` or `TypeError` for anything else."""
        if not text:
            return PLAIN
        values: dict[str, Any] = json.loads(text)
        levels = values.pop("levels", None)
        if levels is not None:
            levels = {
                name: tuple(value) if isinstance(value, list) else value for name, value in levels.items()
            }
        return Traits(**values, levels=None if levels is None else Levels(**levels))

    @property
    def special(self) -> bool:
        """Return whether its pixels depend on how the study shows them."""
        return bool(self.kind)

    def flat_under(self, rendering: Rendering) -> bool:
        """Return whether the image is one colour as a study shows it."""
        if self.flat or self.levels is None:
            hidden = self.hidden_on_white if rendering.ground == WHITE else self.hidden_on_grey
            return self.flat or (hidden and rendering.ground in (WHITE, GREY))
        limits = rendering.range_of(self.kind)
        if limits is None:
            return False
        low, high = limits
        ends = [min(max(255 * (end - low) / (high - low), 0), 255) for end in self.levels.ends]
        ground = rendering.ground if self.clear else ()
        return max(*ends, *ground) - min(*ends, *ground) <= FLAT_LEVELS


PLAIN = Traits()


def with_decoded_traits(picture: Picture, header: Traits = PLAIN) -> Traits:
    """Return a header's traits with those of the decoded picture added."""
    header = replace(header, several=picture.several)
    if picture.deep is not None:
        levels, alpha = Levels.of(picture.deep), picture.deep.alpha
        clear = alpha is not None and bool((alpha < 255).any())
        shows = not clear or (alpha is not None and bool((alpha > 0).any()))
        flat = not shows or (levels.least == levels.most and not clear)
        return replace(header, kind=picture.kind, levels=levels, flat=flat, clear=clear)
    assert picture.image is not None
    if picture.kind != ALPHA:
        return replace(header, kind="", flat=is_flat(picture.image))
    white, grey = (is_flat(on_ground(picture.image, ground)) for ground in (WHITE, GREY))
    both = white and grey
    return replace(
        header,
        kind=ALPHA,
        clear=picture.image.getchannel("A").getextrema() != (255, 255),
        flat=both,
        hidden_on_white=white and not both,
        hidden_on_grey=grey and not both,
    )


def is_flat(image: Any) -> bool:
    """Return whether no channel of an RGB image has more than `FLAT_LEVELS` between its extremes."""
    return all(most - least <= FLAT_LEVELS for least, most in image.getextrema())


def recheck_if_shrunk(content: Any, picture: Picture, traits: Traits) -> Traits:
    """Look once more at the whole of what a picture shrunk on the way in showed to be flat."""
    hidden = traits.flat or traits.hidden_on_white or traits.hidden_on_grey
    return with_decoded_traits(decoding.picture(content), traits) if hidden and picture.shrunk else traits
