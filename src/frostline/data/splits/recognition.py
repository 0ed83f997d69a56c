"""Which images a model has met before, by their file or their pixels, and which only look like those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frostline.data.digest_cache import Memory
from frostline.data.fingerprints import Fingerprints
from frostline.data.manifest import Manifest
from frostline.data.pixels import pixel_digest
from frostline.data.samples import Sample
from frostline.data.splits.near_duplicates import alike, hash_of


@dataclass(frozen=True)
class Recognised:
    """Images by digest: `sides` of those that were met before; `near` only look like one learned from."""

    sides: dict[str, str]
    near: frozenset[str]


def recognised(data: Manifest, met: Fingerprints) -> Recognised:
    """Find the images of `data` that were met before. Decodes those whose pixels were never digested."""
    digests = list(dict.fromkeys(sample.digest for sample in data.samples))
    by_file = _sides(digests, met.sides_of(digests, [b""] * len(digests)))
    rest = [digest for digest in digests if digest not in by_file]
    of_pixels = _pixel_digests(data, rest)
    by_pixels = _sides(rest, met.sides_of(rest, [of_pixels[digest] for digest in rest]))
    fresh = [digest for digest in rest if digest not in by_pixels]
    learned = [row.tobytes() for row in met.learned.hashes]
    like = alike(_hashes(fresh), learned)
    near = frozenset(digest for digest, is_like in zip(fresh, like, strict=True) if is_like)
    return Recognised(by_file | by_pixels, near)


def fingerprints_of(data: Manifest) -> Fingerprints:
    """Return the fingerprints of all images, each with its part for a side."""
    first: dict[str, Sample] = {}
    for sample in data.samples:
        first.setdefault(sample.digest, sample)
    of_pixels, sides = _pixel_digests(data, list(first)), [sample.split for sample in first.values()]
    return Fingerprints.of(list(first), [of_pixels[d] for d in first], _hashes(list(first)), sides)


def _sides(digests: Sequence[str], sides: Sequence[str]) -> dict[str, str]:
    return {digest: side for digest, side in zip(digests, sides, strict=True) if side}


def _pixel_digests(data: Manifest, digests: Sequence[str]) -> dict[str, bytes]:
    """Return each image's pixel digest by that of its file; decodes those that are not remembered."""
    memory = Memory()
    pixel_digest.write_waiting(memory)
    known = memory.pixels_of(digests)
    missing = set(digests) - set(known)
    for sample in data.samples:
        if sample.digest in missing:
            missing.discard(sample.digest)
            known[sample.digest] = data.pixel_digest(sample)
    return known


def _hashes(digests: Sequence[str]) -> list[bytes]:
    """Return each image's perceptual hash; zeros for one without detail, or that was never looked at."""
    seen = Memory().contents_of(digests)
    return [hash_of(seen[digest].mark) if digest in seen else b"" for digest in digests]
