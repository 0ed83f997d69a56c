"""How a study's images are shown, decided from the training images; and what a person should know of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from frostline.data.findings import Finding, some
from frostline.data.findings import shown as shown_first
from frostline.data.manifest_file import kept_header
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.rendering import (
    ALPHA,
    AUTO,
    GREY,
    PER_IMAGE,
    PLAIN,
    WHITE,
    Rendering,
    checked_range,
    parsed_ground,
    ranges_of,
)
from frostline.data.pixels.traits import Traits, is_flat


@dataclass(frozen=True)
class Wish:
    """What was asked for; "" = as the study has it, else as the images suggest."""

    intensity_range: str = ""
    alpha_background: str = ""


def wished(intensity_range: object, alpha_background: str | None) -> Wish:
    """Return what was asked for, checked. Raises `UsageError`."""
    if alpha_background not in (None, AUTO):
        parsed_ground(str(alpha_background))
    return Wish("" if intensity_range is None else checked_range(intensity_range), alpha_background or "")


def kept_in(study: str | Path | None) -> Rendering | None:
    """Return the rendering that a study began with; `None` where it has no manifest yet.

    Raises `DataError` where what it says is of no use.
    """
    header = kept_header(study)
    return Rendering.from_dict(header.get("rendering")) if header else None


def decided(training: Sequence[Traits], wish: Wish, earlier: Rendering | None) -> Rendering:
    """Return the study's rendering: what was asked for, what it has already, or what training images suggest.

    An `earlier` range stays, so that what was trained goes on seeing what it has learned from.
    """
    before = earlier or PLAIN
    asked = wish.intensity_range or before.intensity_range
    ranges = before.ranges if asked == before.intensity_range else ()
    if asked == AUTO:
        own = ranges_of((one.kind, one.levels) for one in training if one.levels)
        ranges = (*ranges, *(row for row in own if row[0] not in {kind for kind, *_ in ranges}))
    background = wish.alpha_background or before.alpha_background
    if background != AUTO:
        ground = parsed_ground(background)
    elif earlier and earlier.alpha_background == AUTO:
        ground = earlier.ground
    else:
        ground = WHITE
    ranges = tuple(sorted(ranges)) if asked == AUTO else ()
    kinds = _training_kinds(training, before, asked) if ranges or asked != AUTO else ()
    made = Rendering(asked, ranges, background, ground, kinds)
    undecided = background == AUTO and not (earlier and earlier.alpha_background == AUTO)
    return _on_better_ground(training, made) if undecided else made


def _training_kinds(training: Sequence[Traits], before: Rendering, asked: str) -> tuple[str, ...]:
    """Return what training images hold, and earlier ones held; none where an older study has none."""
    if before.intensity_range == asked and not before.kinds and (before.ranges or asked != AUTO):
        return ()
    return tuple(sorted({*before.kinds, *("" if one.kind == ALPHA else one.kind for one in training)}))


def _on_better_ground(training: Sequence[Traits], rendering: Rendering) -> Rendering:
    """Return the rendering on white, or on mid-grey where that hides fewer images."""
    on_white, on_grey = (replace(rendering, ground=ground) for ground in (WHITE, GREY))
    return on_grey if _flat_under(training, on_grey) < _flat_under(training, on_white) else on_white


def _flat_under(images: Sequence[Traits], rendering: Rendering) -> int:
    return sum(one.flat_under(rendering) for one in images)


@dataclass(frozen=True, slots=True)
class Shown:
    """How one image was shown to a model that was asked about it."""

    name: str
    kind: str = ""
    saturated: bool = False  # over `MOST_SATURATED` of its pixels lie outside the range
    flat: bool = False
    several: bool = False  # pages or frames, of which the first was looked at


def shown_as(name: str, picture: Picture, image: Image.Image, rendering: Rendering) -> Shown:
    """Say how a picture became `image`."""
    saturated = picture.deep is not None and rendering.saturates(picture.deep)
    return Shown(name, picture.kind, saturated, is_flat(image), picture.several)


def shown_by(name: str, traits: Traits, rendering: Rendering) -> Shown:
    """Say how an image is shown, by what is known of it."""
    limits = rendering.range_of(traits.kind)
    saturated = bool(limits and traits.levels and traits.levels.saturates(*limits))
    return Shown(name, traits.kind, saturated, traits.flat_under(rendering), traits.several)


def notes_on(shown: Sequence[Shown], rendering: Rendering, others: Sequence[str] = ()) -> list[str]:
    """Return what a person should know of how images were shown to a model; `others` are no pictures."""
    said = []
    if others:
        said.append(
            f"{len(others)} file(s) are no pictures by name or content, and were left out: {some(others)}."
        )
    deep = [one for one in shown if one.kind not in ("", ALPHA)]
    cut = [one.name for one in deep if one.saturated]
    if cut:
        whose = "the training images had" if rendering.intensity_range == AUTO else "the study was given"
        said.append(
            f"In {len(cut)} image(s) over 1 % of the pixels lie outside the range that {whose}: {some(cut)}."
        )
    learned = rendering.learned
    judged = bool(learned) or rendering.intensity_range == AUTO  # else an older study does not say
    for kind in sorted({one.kind for one in deep if judged and one.kind not in learned}):
        names = [one.name for one in deep if one.kind == kind]
        own = rendering.range_of(kind) is None
        how = "its own range" if own else f"the study's range, {rendering.intensity_range}"
        said.append(
            f"{len(names)} image(s) hold {kind} values, which no training image did; each was spread over "
            f"{how}: {some(names)}."
        )
    plain = [one.name for one in shown if one.kind in ("", ALPHA)]
    if plain and learned and "" not in learned:
        said.append(
            f"{len(plain)} image(s) hold 8 bits, and the model learned from {learned[0]} values: "
            f"{some(plain)}."
        )
    odd = [
        *_about_flat([one.name for one in shown if one.flat]),
        *_about_pages([one.name for one in shown if one.several]),
    ]
    return said + [finding.note for finding in odd]


def kinds_of(traits: Mapping[str, Traits]) -> dict[str, str]:
    """Return by digest the kinds of the images whose pixels depend on a rendering."""
    return {digest: one.kind for digest, one in traits.items() if one.special}


def findings(images: Sequence[tuple[str, Traits]], rendering: Rendering) -> list[Finding]:
    """Return what a person should know, from every image's path and traits."""
    return [
        *_about_depth([(path, one) for path, one in images if one.levels], len(images), rendering),
        *_about_ground([one for _, one in images if one.clear], rendering),
        *_about_flat([path for path, one in images if one.flat_under(rendering)]),
        *_about_pages([path for path, one in images if one.several]),
    ]


def _about_depth(deep: Sequence[tuple[str, Traits]], of: int, rendering: Rendering) -> list[Finding]:
    said = []
    for kind, count in sorted(Counter(one.kind for _, one in deep).items()):
        limits = rendering.range_of(kind)
        if limits is None:
            why = "as was asked for" if rendering.intensity_range == PER_IMAGE else "since none trains"
            each = f"{count} image(s) hold {kind} values, each spread over its own range, {why}."
            said.append(Finding("depth", count, each))
            continue
        low, high = limits
        how = "by the training images" if rendering.intensity_range == AUTO else "as was asked for"
        range_ = (
            f"{count} image(s) hold {kind} values: {low:g} becomes black and {high:g} white, {how}; "
            "the study keeps that range, and --intensity-range sets another."
        )
        said.append(Finding("depth", count, range_))
        cut = [p for p, one in deep if one.kind == kind and one.levels and one.levels.saturates(low, high)]
        if cut:
            outside = f"In {len(cut)} of them over 1 % of the pixels lie outside it: {some(cut)}."
            said.append(Finding("saturated", len(cut), outside, examples=shown_first(cut)))
    plain = of - len(deep)
    if deep and plain:
        mixed = (
            f"{plain} image(s) hold 8 bits and {len(deep)} hold more: if depth goes with the class, the "
            "model learns the camera."
        )
        said.append(Finding("mixed_depth", min(plain, len(deep)), mixed))
    return said


def _about_ground(clear: Sequence[Traits], rendering: Rendering) -> list[Finding]:
    if not clear or rendering.ground == WHITE or rendering.alpha_background != AUTO:
        return []
    hidden = _flat_under(clear, replace(rendering, ground=WHITE)) - _flat_under(clear, rendering)
    said = (
        f"{len(clear)} image(s) with transparency are laid on mid-grey, since white would hide {hidden} of "
        "them; --alpha-background sets another ground."
    )
    return [Finding("transparent", len(clear), said)]


def _about_flat(flat: Sequence[str]) -> list[Finding]:
    said = f"{len(flat)} image(s) are one flat colour: {some(flat)}."
    return [Finding("flat", len(flat), said, examples=shown_first(flat))] if flat else []


def _about_pages(several: Sequence[str]) -> list[Finding]:
    if not several:
        return []
    said = f"{len(several)} file(s) hold several pages or frames; the first of each is used: {some(several)}."
    return [Finding("pages", len(several), said, examples=shown_first(several))]
