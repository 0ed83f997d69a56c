"""Which images a model has seen, so that it is never evaluated on images it learned from.

`Fingerprints` travel with a model, `recognised` finds their images in new data. A fingerprint says as little
as it can: 64 bits of the file's SHA-256, 64 bits of the pixels', and a perceptual hash. No path, no label, no
picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from frostline.data.digest_cache import DigestCache
from frostline.data.manifest import Manifest
from frostline.data.manifest_entries import Sample
from frostline.data.pixels import pixel_digest
from frostline.data.splits.near_duplicates import alike, hash_of
from frostline.errors import StudyError
from frostline.system import directories

NAME = directories.FINGERPRINTS
SHORT_BYTES = 8  # of a SHA-256: among a million images two share 64 bits with a chance of 3 in 10⁸
HASH_BYTES = 32  # of `near_duplicates`' perceptual hash of 256 bits; zeros where an image has none
SIDES = ("train", "val", "test")
LEARNED = ("train", "val")  # what chose the weights counts as learned from, too

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Fingerprints:
    """Images a model has seen: `files`, `pixels` (n, 8), `hashes` (n, 32), `sides` (n,), places in `SIDES`.

    Rows are sorted, so that their order tells nothing. Zeros stand for pixels that were not decoded.
    """

    files: Bytes
    pixels: Bytes
    hashes: Bytes
    sides: Bytes

    @classmethod
    def of(
        cls, files: Sequence[str], pixels: Sequence[bytes], hashes: Sequence[bytes], sides: Sequence[str]
    ) -> Fingerprints:
        """Make fingerprints of images: SHA-256 of files in hex, of pixels in bytes, hashes, and sides."""
        short = b"".join(bytes.fromhex(digest)[:SHORT_BYTES] for digest in files)
        pixel_bytes = b"".join(digest[:SHORT_BYTES].ljust(SHORT_BYTES, b"\0") for digest in pixels)
        marks = b"".join(mark[:HASH_BYTES].ljust(HASH_BYTES, b"\0") for mark in hashes)
        return cls(
            np.frombuffer(short, np.uint8).reshape(-1, SHORT_BYTES),
            np.frombuffer(pixel_bytes, np.uint8).reshape(-1, SHORT_BYTES),
            np.frombuffer(marks, np.uint8).reshape(-1, HASH_BYTES),
            np.array([SIDES.index(side) for side in sides], dtype=np.uint8),
        )._unique()

    def __len__(self) -> int:
        return len(self.sides)

    def __add__(self, other: Fingerprints) -> Fingerprints:
        """Return both; an image that one of them learned from is learned from."""
        return Fingerprints(
            np.concatenate([self.files, other.files]),
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.sides, other.sides]),
        )._unique()

    @property
    def learned(self) -> Fingerprints:
        """Those of images that were learned from."""
        return self._rows(np.isin(self.sides, [SIDES.index(side) for side in LEARNED]))

    def sides_of(self, files: Iterable[str], pixels: Iterable[bytes]) -> list[str]:
        """Return each image's side, by its file's or its pixels' digest; "" for one that was never met."""
        by_file = self._table(self.files)
        by_pixels = self._table(self.pixels)
        by_pixels.pop(b"\0" * SHORT_BYTES, None)
        return [
            by_file.get(bytes.fromhex(file)[:SHORT_BYTES]) or by_pixels.get(pixel_digest[:SHORT_BYTES], "")
            for file, pixel_digest in zip(files, pixels, strict=True)
        ]

    def _table(self, digests: Bytes) -> dict[bytes, str]:
        """Return sides by digest; of two rows with one digest, learned from wins over held out."""
        order = np.argsort(self.sides, kind="stable")[::-1]
        return {digests[row].tobytes(): SIDES[self.sides[row]] for row in order}

    def _rows(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Fingerprints:
        return Fingerprints(self.files[rows], self.pixels[rows], self.hashes[rows], self.sides[rows])

    def _unique(self) -> Fingerprints:
        """Return one row for each file, sorted; the side nearest to learning stays."""
        order = np.lexsort((self.sides, *self.files.T[::-1]))
        ordered = self.files[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        return self._rows(order[first])

    def write(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {"files": self.files, "pixels": self.pixels, "hashes": self.hashes, "sides": self.sides}
        directories.write_atomically(
            path, save({name: np.ascontiguousarray(values) for name, values in tensors.items()})
        )

    @staticmethod
    def read(folder: Path) -> Fingerprints | None:
        """Return what a folder carries; `None` where it carries none. Raises `StudyError` where damaged."""
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            tensors = load_file(path)
            fingerprints = Fingerprints(*(tensors[name] for name in ("files", "pixels", "hashes", "sides")))
            shapes = {fingerprints.files.shape, fingerprints.pixels.shape} | {
                (len(fingerprints), SHORT_BYTES)
            }
            plain = all(values.dtype == np.uint8 for values in tensors.values())
            if not plain or len(shapes) > 1 or fingerprints.hashes.shape != (len(fingerprints), HASH_BYTES):
                raise ValueError("its tables have other shapes")
            if len(fingerprints) and fingerprints.sides.max() >= len(SIDES):
                raise ValueError("it names a side that there is not")
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise StudyError(
                f"{path} is damaged ({error}): which images the model learned from is unknown. Train it "
                "again, or delete the file to continue without that record."
            ) from None
        return fingerprints


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
