"""A manifest's text: JSON Lines, one header and then a sample a line; a study is read from it without images.

No pickle. It may come from a stranger, so that what it says is checked before a manifest is made of it.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.data.findings import KINDS, Finding
from frostline.data.manifest_entries import SUBSETS, Conflict, Sample, SkippedImage
from frostline.data.pixels.rendering import Rendering
from frostline.data.splits.saved_splits import DIGEST
from frostline.errors import DataError

if TYPE_CHECKING:
    from frostline.data.manifest import Manifest

VERSION = 2  # raised when a line changes its keys or its meaning


def text_of(manifest: Manifest) -> str:
    """Return the text of a manifest: ASCII, newline-terminated lines. `items` is left out."""
    plain_fields = ("classes", "near_copies", "suspects", "predefined", "shares", "seed")
    header = {
        "root": None if manifest.root is None else str(manifest.root),
        "digest": manifest.digest,
        "split_digest": manifest.split_digest,
        "skipped": [astuple(gone) for gone in manifest.skipped],
        "conflicts": [astuple(conflict) for conflict in manifest.conflicts],
        **{name: getattr(manifest, name) for name in plain_fields},
        "findings": [astuple(finding) for finding in manifest.data_findings],
        **({"reading": dict(manifest.reading)} if manifest.reading else {}),
        **({} if manifest.rendering.plain else {"rendering": manifest.rendering.as_dict()}),
        **({"kinds": dict(sorted(manifest.kinds.items()))} if manifest.kinds else {}),
        **({"learned": sorted(manifest.learned)} if manifest.learned else {}),
    }
    lines = [{"frostline_manifest": VERSION, **header}, *map(astuple, manifest.samples)]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def parse(text: str) -> tuple[dict[str, Any], list[list[str]]]:
    """Return the header and the rows of `text_of`'s output. Raises `DataError` where it is something else."""
    try:
        header, *rows = [json.loads(line) for line in text.splitlines()]
        version = header["frostline_manifest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"This is not a manifest ({error!r}); expected a study's manifest.jsonl.") from error
    if version != VERSION:
        raise DataError(f"This manifest has format {version}; expected {VERSION}. Load the data again.")
    return header, rows


def fields_of(header: dict[str, Any], rows: list[list[str]]) -> dict[str, Any]:
    """Return the fields of a manifest from its lines, as `parse` returns them; unchecked."""
    return {
        "root": None if header["root"] is None else Path(header["root"]),
        "samples": tuple(Sample(*row) for row in rows),
        "classes": tuple(header["classes"]),
        "skipped": tuple(SkippedImage(*row) for row in header["skipped"]),
        "conflicts": tuple(
            Conflict(name, tuple(paths), tuple(labels)) for name, paths, labels in header["conflicts"]
        ),
        "near_copies": tuple((path_a, path_b) for path_a, path_b in header["near_copies"]),
        "suspects": tuple((path_a, path_b) for path_a, path_b in header["suspects"]),
        "data_findings": tuple(Finding.from_row(row) for row in header["findings"]),
        "predefined": tuple(header.get("predefined", ())),
        "reading": dict(header.get("reading", {})),
        "shares": (header["shares"][0], header["shares"][1]) if header.get("shares") else None,
        "seed": header.get("seed"),
        "rendering": Rendering.from_dict(header.get("rendering")),
        "kinds": dict(header.get("kinds", {})),
        "learned": frozenset(header.get("learned", ())),
    }


def demand_plain(manifest: Manifest) -> None:
    """Raise `ValueError` for what JSON can say and a manifest can't: it may come from a stranger."""
    texts = [text for sample in manifest.samples for text in astuple(sample)]
    texts += [text for gone in manifest.skipped for text in astuple(gone)]
    texts += [*manifest.kinds, *manifest.kinds.values()]
    texts += [
        *manifest.classes,
        *manifest.predefined,
        *manifest.learned,
        *manifest.reading,
        *manifest.reading.values(),
    ]
    texts += [text for pair in (*manifest.near_copies, *manifest.suspects) for text in pair]
    texts += [
        text
        for conflict in manifest.conflicts
        for text in (conflict.digest, *conflict.paths, *conflict.labels)
    ]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a number or a list stands where a text is expected")
    if strange := {gone.kind for gone in manifest.skipped} - set(KINDS):
        raise ValueError(f"it skips images as {sorted(strange)[:5]}")
    if not isinstance(manifest.seed, int | None):
        raise ValueError(f"its seed is {manifest.seed!r}, expected a whole number")
    if not all(DIGEST.fullmatch(digest) for digest in manifest.learned):
        raise ValueError("it names images learned from by something else than digests")
    if not all(isinstance(share, int | float) for share in manifest.shares or ()):
        raise ValueError(f"its shares are {manifest.shares!r}, expected two numbers")
    for sample in manifest.samples:
        if not DIGEST.fullmatch(sample.digest) or sample.split not in SUBSETS:
            raise ValueError(f"{sample.path!r} has digest {sample.digest[:20]!r} and subset {sample.split!r}")
    if strange := {sample.label for sample in manifest.samples} - set(manifest.classes):
        raise ValueError(f"its classes leave out {sorted(strange)[:5]}")


def study_header(study: str | Path | None) -> dict[str, Any]:
    """Return the header of the manifest that a study began with; empty where it has none yet.

    Raises `DataError` where it is damaged.
    """
    path = None if study is None else Path(study) / "manifest.jsonl"
    if path is None or not path.is_file():
        return {}
    try:
        with open(path, encoding="ascii") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}): how the study reads and renders images is unknown."
        ) from None
    if not isinstance(header, dict) or not isinstance(header.get("reading", {}), dict):
        raise DataError(f"{path} is damaged: its first line reads {str(header)[:80]!r}.")
    return header


def read_text(path: Path) -> str:
    """Return a manifest file's text. Raises `DataError` where it is missing or not one."""
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected a study's manifest.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a manifest: it is not ASCII text.") from error
