"""How a study's images are rendered, decided from the training images; and notes on that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from frostline.data.findings import Finding, first_examples, name_few
from frostline.data.manifest_file import study_header
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.image_traits import Traits, is_flat
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


@dataclass(frozen=True)
class RenderingOptions:
    """The requested rendering; "" = as the study has it, else chosen from the images."""

    intensity_range: str = ""
    alpha_background: str = ""


def rendering_options(intensity_range: object, alpha_background: str | None) -> RenderingOptions:
    """Return the requested rendering options, checked. Raises `UsageError`."""
    if alpha_background not in (None, AUTO):
        parsed_ground(str(alpha_background))
    return RenderingOptions(
        "" if intensity_range is None else checked_range(intensity_range), alpha_background or ""
    )


def study_rendering(study: str | Path | None) -> Rendering | None:
    """Return the rendering that a study began with; `None` where it has no manifest yet.

    Raises `DataError` where what it says is of no use.
    """
    header = study_header(study)
    return Rendering.from_dict(header.get("rendering")) if header else None


def choose_rendering(
    training: Sequence[Traits], options: RenderingOptions, earlier: Rendering | None
) -> Rendering:
    """Return the study's rendering: as requested, as it is already, or as the training images suggest.

    An `earlier` range stays, so that a trained model keeps the values it has learned from.
    """
    before = earlier or PLAIN
    intensity_range = options.intensity_range or before.intensity_range
    ranges = before.ranges if intensity_range == before.intensity_range else ()
    if intensity_range == AUTO:
        own = ranges_of((traits.kind, traits.levels) for traits in training if traits.levels)
        ranges = (*ranges, *(row for row in own if row[0] not in {kind for kind, *_ in ranges}))
    background = options.alpha_background or before.alpha_background
    if background != AUTO:
        ground = parsed_ground(background)
    elif earlier and earlier.alpha_background == AUTO:
        ground = earlier.ground
    else:
        ground = WHITE
    ranges = tuple(sorted(ranges)) if intensity_range == AUTO else ()
    kinds = _training_kinds(training, before, intensity_range) if ranges or intensity_range != AUTO else ()
    rendering = Rendering(intensity_range, ranges, background, ground, kinds)
    undecided = background == AUTO and not (earlier and earlier.alpha_background == AUTO)
    return _on_better_ground(training, rendering) if undecided else rendering


def _training_kinds(training: Sequence[Traits], before: Rendering, intensity_range: str) -> tuple[str, ...]:
    """Return what training images hold, and earlier ones held; none where an older study has none."""
    if (
        before.intensity_range == intensity_range
        and not before.kinds
        and (before.ranges or intensity_range != AUTO)
    ):
        return ()
    return tuple(
        sorted({*before.kinds, *("" if traits.kind == ALPHA else traits.kind for traits in training)})
    )


def _on_better_ground(training: Sequence[Traits], rendering: Rendering) -> Rendering:
    """Return the rendering on white, or on mid-grey where that hides fewer images."""
    on_white, on_grey = (replace(rendering, ground=ground) for ground in (WHITE, GREY))
    return on_grey if _flat_under(training, on_grey) < _flat_under(training, on_white) else on_white


def _flat_under(images: Sequence[Traits], rendering: Rendering) -> int:
    return sum(traits.flat_under(rendering) for traits in images)


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """The rendering of one image for prediction."""

    name: str
    kind: str = ""
    saturated: bool = False  # over `MOST_SATURATED` of its pixels lie outside the range
    flat: bool = False
    several: bool = False  # several pages or frames; the first was used


def rendered_from_picture(
    name: str, picture: Picture, image: Image.Image, rendering: Rendering
) -> RenderedImage:
    """Return how a decoded picture was rendered as `image`.

    Parameters
    ----------
    name : str
    picture : Picture
    image : PIL.Image.Image
        The rendered RGB image.
    rendering : Rendering

    Returns
    -------
    RenderedImage
    """
    saturated = picture.deep is not None and rendering.saturates(picture.deep)
    return RenderedImage(name, picture.kind, saturated, is_flat(image), picture.several)


def rendered_from_traits(name: str, traits: Traits, rendering: Rendering) -> RenderedImage:
    """Return how an image is rendered, from its traits."""
    limits = rendering.range_of(traits.kind)
    saturated = bool(limits and traits.levels and traits.levels.saturates(*limits))
    return RenderedImage(name, traits.kind, saturated, traits.flat_under(rendering), traits.several)


def notes_on(
    images: Sequence[RenderedImage], rendering: Rendering, other_files: Sequence[str] = ()
) -> list[str]:
    """Return notes on how images were rendered for a model.

    Parameters
    ----------
    images : sequence of RenderedImage
    rendering : Rendering
    other_files : sequence of str
        Files that are not images.

    Returns
    -------
    list of str
    """
    notes = []
    if other_files:
        notes.append(
            f"{len(other_files)} file(s) are not images by name or content, and were skipped: "
            f"{name_few(other_files)}."
        )
    deep = [image for image in images if image.kind not in ("", ALPHA)]
    cut = [image.name for image in deep if image.saturated]
    if cut:
        whose = (
            "the range of the training images" if rendering.intensity_range == AUTO else "the study's range"
        )
        notes.append(f"In {len(cut)} image(s) over 1 % of the pixels lie outside {whose}: {name_few(cut)}.")
    learned = rendering.learned
    judged = bool(learned) or rendering.intensity_range == AUTO  # else an older study does not say
    for kind in sorted({image.kind for image in deep if judged and image.kind not in learned}):
        names = [image.name for image in deep if image.kind == kind]
        own = rendering.range_of(kind) is None
        how = "its own range" if own else f"the study's range, {rendering.intensity_range}"
        notes.append(
            f"{len(names)} image(s) hold {kind} values, which no training image did; each was spread over "
            f"{how}: {name_few(names)}."
        )
    plain = [image.name for image in images if image.kind in ("", ALPHA)]
    if plain and learned and "" not in learned:
        notes.append(
            f"{len(plain)} image(s) hold 8 bits, and the model learned from {learned[0]} values: "
            f"{name_few(plain)}."
        )
    odd = [
        *_about_flat([image.name for image in images if image.flat]),
        *_about_pages([image.name for image in images if image.several]),
    ]
    return notes + [finding.note for finding in odd]


def kinds_of(traits_of: Mapping[str, Traits]) -> dict[str, str]:
    """Return by digest the kinds of the images whose pixels depend on a rendering."""
    return {digest: traits.kind for digest, traits in traits_of.items() if traits.special}


def findings(images: Sequence[tuple[str, Traits]], rendering: Rendering) -> list[Finding]:
    """Return findings from every image's path and traits."""
    return [
        *_about_depth([(path, traits) for path, traits in images if traits.levels], len(images), rendering),
        *_about_ground([traits for _, traits in images if traits.clear], rendering),
        *_about_flat([path for path, traits in images if traits.flat_under(rendering)]),
        *_about_pages([path for path, traits in images if traits.several]),
    ]


def _about_depth(deep: Sequence[tuple[str, Traits]], of: int, rendering: Rendering) -> list[Finding]:
    findings = []
    for kind, count in sorted(Counter(traits.kind for _, traits in deep).items()):
        limits = rendering.range_of(kind)
        if limits is None:
            why = "as requested" if rendering.intensity_range == PER_IMAGE else "since none is in train"
            message = f"{count} image(s) hold {kind} values, each spread over its own range, {why}."
            findings.append(Finding("depth", count, message))
            continue
        low, high = limits
        how = "from the training images" if rendering.intensity_range == AUTO else "as requested"
        range_ = (
            f"{count} image(s) hold {kind} values: {low:g} becomes black and {high:g} white, {how}; "
            "the study keeps that range, and --intensity-range sets another."
        )
        findings.append(Finding("depth", count, range_))
        cut = [
            p
            for p, traits in deep
            if traits.kind == kind and traits.levels and traits.levels.saturates(low, high)
        ]
        if cut:
            outside = f"In {len(cut)} of them over 1 % of the pixels lie outside it: {name_few(cut)}."
            findings.append(Finding("saturated", len(cut), outside, examples=first_examples(cut)))
    plain = of - len(deep)
    if deep and plain:
        mixed = (
            f"{plain} image(s) hold 8 bits and {len(deep)} hold more: if depth goes with the class, the "
            "model may learn the camera instead."
        )
        findings.append(Finding("mixed_depth", min(plain, len(deep)), mixed))
    return findings


def _about_ground(clear: Sequence[Traits], rendering: Rendering) -> list[Finding]:
    if not clear or rendering.ground == WHITE or rendering.alpha_background != AUTO:
        return []
    hidden = _flat_under(clear, replace(rendering, ground=WHITE)) - _flat_under(clear, rendering)
    message = (
        f"{len(clear)} image(s) with transparency are composited on mid-grey, since white would hide "
        f"{hidden} of them; --alpha-background sets another background."
    )
    return [Finding("transparent", len(clear), message)]


def _about_flat(flat: Sequence[str]) -> list[Finding]:
    message = f"{len(flat)} image(s) are one flat colour: {name_few(flat)}."
    return [Finding("flat", len(flat), message, examples=first_examples(flat))] if flat else []


def _about_pages(several: Sequence[str]) -> list[Finding]:
    if not several:
        return []
    message = (
        f"{len(several)} file(s) hold several pages or frames; the first of each is used: "
        f"{name_few(several)}."
    )
    return [Finding("pages", len(several), message, examples=first_examples(several))]
