"""Which images a model has seen, so that it is never evaluated on images it learned from.

`Fingerprints` travel with a model, `recognised` finds their images in new data. A fingerprint says as little
as it can: 64 bits of the file's SHA-256, 64 bits of the pixels', and a perceptual hash. No path, no label, no
picture.

A large JPEG that training decoded at a fraction has 64 bits of its first rows in place of all pixels. First
rows alone prove nothing (a banner, a sky): an image is known by them where its perceptual hash agrees, too.
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
from frostline.data.pixels import jpeg_digests, pixel_digest
from frostline.data.splits.near_duplicates import alike, bits_apart, hash_of, mark_of
from frostline.errors import StudyError
from frostline.system import directories

NAME = directories.FINGERPRINTS
SHORT_BYTES = 8  # of a SHA-256: among a million images two share 64 bits with a chance of 3 in 10⁸
HASH_BYTES = 32  # of `near_duplicates`' perceptual hash of 256 bits; zeros where an image has none
SIDES = ("train", "val", "test")
# Of 256. With the same first rows, bit by bit, a hash must only tell a banner from a copy: of one picture,
# decoded whole and at an eighth, hashes differ in 20 bits at most (docs/LOG.md), of unrelated ones in 128.
SAME_TOP_BITS = 64
COLUMNS = ("files", "pixels", "hashes", "sides", "tops")
LEARNED = ("train", "val")  # what chose the weights counts as learned from, too

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Fingerprints:
    """Images a model has seen: `files`, `pixels`, `tops` (n, 8), `hashes` (n, 32), `sides` (n,).

    Rows are sorted, so that their order tells nothing. `sides` are places in `SIDES`. Zeros stand for pixels
    that were not decoded: `tops` are of the first rows of pictures that were not decoded whole.
    """

    files: Bytes
    pixels: Bytes
    hashes: Bytes
    sides: Bytes
    tops: Bytes

    @classmethod
    def of(
        cls,
        files: Sequence[str],
        pixels: Sequence[bytes],
        hashes: Sequence[bytes],
        sides: Sequence[str],
        tops: Sequence[bytes] = (),
    ) -> Fingerprints:
        """Make fingerprints of images.

        Parameters
        ----------
        files : sequence of str
            SHA-256 of each file, in hex.
        pixels : sequence of bytes
            Digest of each image's pixels (`pixel_digest.digest_of`); b"" for one not decoded whole.
        hashes : sequence of bytes
            Perceptual hash of each (`near_duplicates.hash_of`); b"" for one without.
        sides : sequence of str
            What each was for, of `SIDES`.
        tops : sequence of bytes
            Digest of each image's first rows (`jpeg_digests.digest_of`); b"" for one without. Default: all.
        """
        return cls(
            _bytes_table([bytes.fromhex(digest) for digest in files], SHORT_BYTES),
            _bytes_table(pixels, SHORT_BYTES),
            _bytes_table(hashes, HASH_BYTES),
            np.array([SIDES.index(side) for side in sides], dtype=np.uint8),
            _bytes_table(tops or [b""] * len(files), SHORT_BYTES),
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
            np.concatenate([self.tops, other.tops]),
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

    def with_tops(self, tops: bytes) -> Fingerprints:
        """Return those of images with one of these digests of first rows, which stand one after another."""
        ours = np.ascontiguousarray(self.tops).view(np.uint64)[:, 0]
        return self._rows(np.isin(ours, np.frombuffer(tops, np.uint64)) & (ours != 0))

    def side_alike(self, perceptual_hash: bytes) -> str:
        """Return the side of an image whose hash differs in `SAME_TOP_BITS` at most; "" for none.

        Learned from wins over held out, as everywhere.
        """
        sides = self.sides[bits_apart(self.hashes, perceptual_hash) <= SAME_TOP_BITS]
        return SIDES[sides.min()] if len(sides) else ""

    def _table(self, digests: Bytes) -> dict[bytes, str]:
        """Return sides by digest; of two rows with one digest, learned from wins over held out."""
        order = np.argsort(self.sides, kind="stable")[::-1]
        return {digests[row].tobytes(): SIDES[self.sides[row]] for row in order}

    def _rows(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Fingerprints:
        return Fingerprints(*(values[rows] for values in self._columns().values()))

    def _columns(self) -> dict[str, Bytes]:
        return {name: getattr(self, name) for name in COLUMNS}

    def _unique(self) -> Fingerprints:
        """Return one row for each file, sorted; the side nearest to learning stays."""
        order = np.lexsort((self.sides, *self.files.T[::-1]))
        ordered = self.files[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        return self._rows(order[first])

    def write(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {name: np.ascontiguousarray(values) for name, values in self._columns().items()}
        directories.write_atomically(path, save(tensors))

    @staticmethod
    def read(folder: Path) -> Fingerprints | None:
        """Return what a folder carries; `None` where it carries none. Raises `StudyError` where damaged."""
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            tensors = load_file(path)
            if "tops" not in tensors:  # written before there were any
                tensors["tops"] = np.zeros_like(tensors["pixels"])
            fingerprints = Fingerprints(*(tensors[name] for name in COLUMNS))
            digests = (fingerprints.files, fingerprints.pixels, fingerprints.tops)
            shapes = {table.shape for table in digests} | {(len(fingerprints), SHORT_BYTES)}
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
    sample_of = {sample.digest: sample for sample in reversed(data.samples)}
    digests = list(dict.fromkeys(sample.digest for sample in data.samples))
    by_file = _sides(digests, fingerprints.sides_of(digests, [b""] * len(digests)))
    rest = [digest for digest in digests if digest not in by_file]
    hash_by_digest = dict(zip(rest, _hashes(rest), strict=True))
    of_pixels = _pixel_digests(data, rest)
    by_pixels = _sides(rest, fingerprints.sides_of(rest, [of_pixels[digest] for digest in rest]))
    unmatched = [digest for digest in rest if digest not in by_pixels]
    for digest, edges in _edges(data, unmatched if fingerprints.tops.any() else []).items():
        with_edge = fingerprints.with_tops(edges)
        if len(with_edge):
            own_hash = hash_by_digest[digest] or hash_of(mark_of(data.picture(sample_of[digest])))
            side = with_edge.side_alike(own_hash) if own_hash else ""
            by_pixels |= {digest: side} if side else {}
    unmatched = [digest for digest in unmatched if digest not in by_pixels]
    learned = [row.tobytes() for row in fingerprints.learned.hashes]
    like = alike([hash_by_digest[digest] for digest in unmatched], learned)
    near = frozenset(digest for digest, is_like in zip(unmatched, like, strict=True) if is_like)
    return Recognised(by_file | by_pixels, near)


def _edges(data: Manifest, digests: Sequence[str]) -> dict[str, bytes]:
    """Return the digests of each image's edges, one after another; decodes those that are not remembered."""
    cache = DigestCache()
    pixel_digest.write_waiting(cache)
    edges = cache.edges_of(digests)
    sample_of = {sample.digest: sample for sample in reversed(data.samples)}
    for digest in digests:
        if digest not in edges:
            edges[digest] = b"".join(jpeg_digests.candidates(data.picture(sample_of[digest])))
    return edges


def fingerprints_of(data: Manifest) -> Fingerprints:
    """Return the fingerprints of all images, each with its subset.

    Parameters
    ----------
    data : Manifest
        Images without a cached digest of their pixels or first rows are decoded: large JPEGs that have a
        perceptual hash as far as their first rows, others whole.

    Returns
    -------
    Fingerprints
    """
    sample_of: dict[str, Sample] = {}
    for sample in data.samples:
        sample_of.setdefault(sample.digest, sample)
    digests, hashes = list(sample_of), _hashes(list(sample_of))
    cache = DigestCache()
    pixel_digest.write_waiting(cache)
    of_pixels, of_tops = cache.pixels_of(digests), cache.tops_of(digests)
    for digest, own_hash in zip(digests, hashes, strict=True):
        if digest not in of_pixels and own_hash and digest not in of_tops:
            of_tops[digest] = data.top_digest(sample_of[digest])
    tops = {
        digest: of_tops[digest]
        for digest, own_hash in zip(digests, hashes, strict=True)
        if digest not in of_pixels and own_hash and of_tops[digest]
    }
    of_pixels |= _pixel_digests(data, [digest for digest in digests if digest not in tops])
    return Fingerprints.of(
        digests,
        [of_pixels.get(digest, b"") for digest in digests],
        hashes,
        [sample.split for sample in sample_of.values()],
        [tops.get(digest, b"") for digest in digests],
    )


def _bytes_table(rows: Sequence[bytes], width: int) -> Bytes:
    """Return the first `width` bytes of each row, zeros after shorter ones: (n, width)."""
    cut = b"".join(row[:width].ljust(width, b"\0") for row in rows)
    return np.frombuffer(cut, np.uint8).reshape(-1, width)


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
