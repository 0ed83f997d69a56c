"""Images that a model has seen before, by file or pixel digest, and images that look like those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frostline.data.digest_cache import DigestCache
from frostline.data.fingerprints import Fingerprints
from frostline.data.manifest import Manifest
from frostline.data.pixels import pixel_digest
from frostline.data.samples import Sample
from frostline.data.splits.near_duplicates import alike, hash_of


@dataclass(frozen=True)
class Recognised:
    """Images by digest: `sides` of those seen before; `near` only look like one that was learned from."""

    sides: dict[str, str]
    near: frozenset[str]


def recognised(data: Manifest, fingerprints: Fingerprints) -> Recognised:
    """Return which images a model has seen before, by file or pixel digest, and which look alike.

    Parameters
    ----------
    data : Manifest
    fingerprints : Fingerprints
        Of the images the model has seen.

    Returns
    -------
    Recognised
    """
    digests = list(dict.fromkeys(sample.digest for sample in data.samples))
    by_file = _sides(digests, fingerprints.sides_of(digests, [b""] * len(digests)))
    rest = [digest for digest in digests if digest not in by_file]
    of_pixels = _pixel_digests(data, rest)
    by_pixels = _sides(rest, fingerprints.sides_of(rest, [of_pixels[digest] for digest in rest]))
    unmatched = [digest for digest in rest if digest not in by_pixels]
    learned = [row.tobytes() for row in fingerprints.learned.hashes]
    like = alike(_hashes(unmatched), learned)
    near = frozenset(digest for digest, is_like in zip(unmatched, like, strict=True) if is_like)
    return Recognised(by_file | by_pixels, near)


def fingerprints_of(data: Manifest) -> Fingerprints:
    """Return the fingerprints of all images, each with its part.

    Parameters
    ----------
    data : Manifest
        Images without cached pixel digests are decoded.

    Returns
    -------
    Fingerprints
    """
    first_samples: dict[str, Sample] = {}
    for sample in data.samples:
        first_samples.setdefault(sample.digest, sample)
    of_pixels, sides = (
        _pixel_digests(data, list(first_samples)),
        [sample.split for sample in first_samples.values()],
    )
    return Fingerprints.of(
        list(first_samples), [of_pixels[d] for d in first_samples], _hashes(list(first_samples)), sides
    )


def _sides(digests: Sequence[str], sides: Sequence[str]) -> dict[str, str]:
    return {digest: side for digest, side in zip(digests, sides, strict=True) if side}


def _pixel_digests(data: Manifest, digests: Sequence[str]) -> dict[str, bytes]:
    """Return each image's pixel digest by that of its file; decodes those that are not remembered."""
    cache = DigestCache()
    pixel_digest.write_waiting(cache)
    pixel_digests = cache.pixels_of(digests)
    missing = set(digests) - set(pixel_digests)
    for sample in data.samples:
        if sample.digest in missing:
            missing.discard(sample.digest)
            pixel_digests[sample.digest] = data.pixel_digest(sample)
    return pixel_digests


def _hashes(digests: Sequence[str]) -> list[bytes]:
    """Return each image's perceptual hash; zeros for one without detail, or that was never looked at."""
    contents = DigestCache().contents_of(digests)
    return [hash_of(contents[digest].mark) if digest in contents else b"" for digest in digests]
