"""The page of `frostline check`: its findings, with the pictures concerned."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from frostline.data import KINDS, SUBSETS, Finding, Manifest, open_image
from frostline.errors import DataError, FrostlineError
from frostline.reports.display_names import shortened, visible
from frostline.reports.page import policy, stylesheet, template
from frostline.reports.section import MOST_BARS
from frostline.system import directories

SIDE_PX, QUALITY = 256, 80  # of a picture: sharp at 128 px on a phone, about 10 kB


@dataclass(frozen=True)
class _Card:
    """One picture of a finding, with its file, label and subset."""

    path: str
    whole_path: str
    label: str
    subset: str
    picture: str | None  # a data URL
    no_picture: str


def write(data: Manifest, name: str, target: Path) -> None:
    """Write the page atomically. Raises `DataError` where it can't be written."""
    try:
        directories.write_atomically(target, page(data, name))
    except OSError as error:
        raise DataError(
            f"The page cannot be written to {target} ({error.strerror}). Name another file with --page."
        ) from None


def page(data: Manifest, name: str) -> bytes:
    """Return the page of a manifest called `name`: self-contained HTML without a script."""
    findings = [finding for finding in data.findings if finding.trouble]
    rows = [(label, *(data.counts[label][subset] for subset in SUBSETS)) for label in data.classes]
    samples = {sample.path: (sample.label, sample.split) for sample in data.samples}
    skipped_files = {skipped.path: (skipped.label, skipped.reason) for skipped in data.skipped}
    text: str = template("check.html.j2").render(
        policy=policy(()),
        version=metadata.version("frostline"),
        name=name,
        opening=_opening(findings, len(data.samples)),
        facts=[
            ("images", f"{len(data.samples):,}"),
            ("classes", f"{len(data.classes):,}"),
            *((subset, f"{len(data.subset(subset)):,}") for subset in SUBSETS),
            ("skipped", f"{len(data.skipped):,}"),
        ],
        lines=[finding.note for finding in data.findings if not finding.trouble],
        header=("class", *SUBSETS),
        rows=rows[:MOST_BARS],
        more_rows=max(0, len(rows) - MOST_BARS),
        sections=[
            (f"{finding.kind}-{n}", finding, _title(finding), _cards(data, finding, samples, skipped_files))
            for n, finding in enumerate(findings, start=1)
        ],
        style=stylesheet(),
    )
    return text.encode("utf-8", errors="replace")


def _title(finding: Finding) -> str:
    meaning = KINDS[finding.kind].meaning
    return f"{meaning[:1].upper()}{meaning[1:]}"


def _opening(findings: Sequence[Finding], images: int) -> str:
    if not findings:
        return f"No problem was found in these {images:,} images"
    return f"{len(findings)} finding{'s' if len(findings) > 1 else ''} to check in {images:,} images"


def _cards(
    data: Manifest,
    finding: Finding,
    samples: dict[str, tuple[str, str]],
    skipped_files: dict[str, tuple[str, str]],
) -> list[_Card]:
    cards = []
    for path in finding.examples:
        label, subset = samples.get(path, (skipped_files.get(path, ("", ""))[0], "skipped"))
        picture, reason = _picture(data, path), ""
        if picture is None:
            reason = f"It {skipped_files[path][1]}." if path in skipped_files else "It can't be shown."
        cards.append(_Card(shortened(path), visible(path), visible(label), subset, picture, visible(reason)))
    return cards


def _picture(data: Manifest, path: str) -> str | None:
    """Return a small picture as a data URL; `None` where it can't be read."""
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
    """Return an image as the study would render it; a skipped one, too, where it is a file."""
    sample = next((sample for sample in data.samples if sample.path == path), None)
    if sample is not None:
        return data.read(sample)
    return open_image(data.root / path) if data.root is not None and data.items is None else None
