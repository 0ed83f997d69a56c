"""The page of `frostline check`: what was found, with the pictures concerned."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from frostline.data import KINDS, PARTS, Finding, Manifest, open_image
from frostline.errors import DataError, FrostlineError
from frostline.reports.display_names import shortened, visible
from frostline.reports.page import policy, stylesheet, template
from frostline.reports.section import MOST_BARS
from frostline.system import directories

SIDE_PX, QUALITY = 256, 80  # of a picture: sharp at 128 px on a phone, about 10 kB


@dataclass(frozen=True)
class _Card:
    """One picture of a finding: its file, and what is known of it."""

    path: str
    whole_path: str
    label: str
    part: str
    picture: str | None  # an address of its data
    no_picture: str


def write(data: Manifest, name: str, target: Path) -> None:
    """Write the page, whole or not at all. Raises `DataError` where it can't be written."""
    try:
        directories.write_atomically(target, page(data, name))
    except OSError as error:
        raise DataError(
            f"The page cannot be written to {target} ({error.strerror}). Name another file with --page."
        ) from None


def page(data: Manifest, name: str) -> bytes:
    """Return the page of a manifest that is called `name`: self-contained HTML without a script."""
    trouble = [finding for finding in data.findings if finding.trouble]
    rows = [(label, *(data.counts[label][part] for part in PARTS)) for label in data.classes]
    samples = {sample.path: (sample.label, sample.split) for sample in data.samples}
    aside = {gone.path: (gone.label, gone.reason) for gone in data.set_aside}
    text: str = template("check.html.j2").render(
        policy=policy(()),
        version=metadata.version("frostline"),
        name=name,
        opening=_opening(trouble, len(data.samples)),
        facts=[
            ("images", f"{len(data.samples):,}"),
            ("classes", f"{len(data.classes):,}"),
            *((part, f"{len(data.part(part)):,}") for part in PARTS),
            ("set aside", f"{len(data.set_aside):,}"),
        ],
        lines=[finding.note for finding in data.findings if not finding.trouble],
        header=("class", *PARTS),
        rows=rows[:MOST_BARS],
        more_rows=max(0, len(rows) - MOST_BARS),
        sections=[
            (f"{finding.kind}-{n}", finding, _title(finding), _cards(data, finding, samples, aside))
            for n, finding in enumerate(trouble, start=1)
        ],
        style=stylesheet(),
    )
    return text.encode("utf-8", errors="replace")


def _title(finding: Finding) -> str:
    meaning = KINDS[finding.kind].meaning
    return f"{meaning[:1].upper()}{meaning[1:]}"


def _opening(trouble: Sequence[Finding], images: int) -> str:
    if not trouble:
        return f"Nothing was found that may be wrong with these {images:,} images"
    return f"{len(trouble)} thing{'s' if len(trouble) > 1 else ''} to look at in {images:,} images"


def _cards(
    data: Manifest,
    finding: Finding,
    samples: dict[str, tuple[str, str]],
    aside: dict[str, tuple[str, str]],
) -> list[_Card]:
    cards = []
    for path in finding.examples:
        label, part = samples.get(path, (aside.get(path, ("", ""))[0], "set aside"))
        picture, why = _picture(data, path), ""
        if picture is None:
            why = f"It {aside[path][1]}." if path in aside else "It can't be shown."
        cards.append(_Card(shortened(path), visible(path), visible(label), part, picture, visible(why)))
    return cards


def _picture(data: Manifest, path: str) -> str | None:
    """Return a small picture as an address of its data; None where it can't be had."""
    try:
        image = _image(data, path)
    except (FrostlineError, OSError):
        return None
    if image is None:
        return None
    image.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _image(data: Manifest, path: str) -> Any:
    """Return an image as the study would show it, also one that is set aside where it is a file."""
    sample = next((sample for sample in data.samples if sample.path == path), None)
    if sample is not None:
        return data.read(sample)
    return open_image(data.root / path) if data.root is not None and data.items is None else None
