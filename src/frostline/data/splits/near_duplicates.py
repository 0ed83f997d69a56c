"""Near copies: the same picture re-encoded, resized or slightly re-toned, found without comparing all pairs.

Each image gets a mark: a perceptual hash of 256 bits (ImageHash's `phash`) and a colour thumbnail of 8 × 8.
Two images are *suspects* when their hashes differ in few bits; they are *near copies*, which no split may
subset, when they differ in fewer and the thumbnails agree too. Flat images are ignored: their hash is noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from frostline.data.pixels import deep_pixels
from frostline.data.pixels.decoding import Picture
from frostline.data.pixels.rendering import WHITE, Rendering

HASH_SIDE = 16  # 256 bits: with ImageHash's usual 64, plain icons of one class fall together
THUMB_SIDE = 8
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8
MARK_BYTES = HASH_BYTES + THUMB_SIDE * THUMB_SIDE * 3

# Shrink JPEGs no further than this on the way in: twice the 64 px from which `phash` takes its frequencies.
DECODE_SIDE_PIXELS = 128

# Measured on six real sets (photographs, clip art, 28-px icons, hands, spectrograms; 13,653 images) and on
# 1,797 digits of 8 × 8 px: re-encoding at quality 50 or halving the size moves 9 photographs in 10 by 6 bits
# at most; only families of look-alikes come within 14; the nearest different pairs (two digits drawn in
# blocks, two icons) lie at 16 and 18.
SUSPECT_BITS = 14
NEAR_BITS = 12

# Correlation of the thumbnails. The same measurement: re-encoded and resized copies .96 and up (median .999),
# one drawing in two colours .36 to .91, which is a family and not a copy.
NEAR_CORRELATION = 0.98

# Standard deviation of the thumbnail, in levels of 255: below it an image is a blank page to the hash.
FLAT_LEVELS = 4.0

# The hash is cut into this many words: two that differ in fewer bits than that share a word for certain.
WORDS = 16

# Comparing is quadratic in the images that share a word; beyond this many, each is compared with its nearest
# in the order of the whole hash only. Thousands of frames of a fixed camera get here, no ordinary set does.
CROWD_IMAGES = 200

# More look-alikes than a person reads through; a family of near copies is kept together however large.
MAX_SUSPECTS = 10_000

BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def mark_of(picture: Picture, ground: tuple[int, int, int] = WHITE) -> bytes:
    """Return an image's mark, `MARK_BYTES` long.

    Deep pixels count by their rank within the image, so that no range has a say in what is a copy.
    """
    import imagehash

    if picture.deep is None:
        image = picture.rgb(Rendering(ground=ground))
    else:
        small = deep_pixels.averaged(picture.deep.values, DECODE_SIDE_PIXELS)
        image = Image.fromarray(deep_pixels.ranks(small)).convert("RGB")
    bits = imagehash.phash(image, hash_size=HASH_SIDE).hash
    thumb = image.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    return np.packbits(bits).tobytes() + thumb.tobytes()


def hash_of(mark: bytes) -> bytes:
    """Return the perceptual hash within a mark; nothing for an image without detail, or an empty mark."""
    if len(mark) != MARK_BYTES or np.frombuffer(mark[HASH_BYTES:], np.uint8).std() < FLAT_LEVELS:
        return b""
    return mark[:HASH_BYTES]


def alike(hashes: Sequence[bytes], references: Sequence[bytes]) -> list[bool]:
    """Return for each hash whether one of the others is a near copy's; empty ones and zeros never are."""
    none = {b"", bytes(HASH_BYTES)}
    own_positions = [place for place, value in enumerate(hashes) if value not in none]
    other_hashes = [value for value in references if value not in none]
    is_near = np.zeros(len(hashes), dtype=bool)
    table = np.frombuffer(b"".join([*(hashes[place] for place in own_positions), *other_hashes]), np.uint8)
    table = table.reshape(-1, HASH_BYTES)
    for pairs in _candidates(table):
        across = pairs[(pairs[:, 0] < len(own_positions)) & (pairs[:, 1] >= len(own_positions))]
        near = across[_distance(table, across) <= NEAR_BITS]
        is_near[[own_positions[place] for place in near[:, 0].tolist()]] = True
    return [bool(value) for value in is_near]


def bits_apart(hashes: np.ndarray, other: bytes) -> np.ndarray:
    """Return in how many bits each hash, (n, 32), differs from another: (n,)."""
    return np.asarray(BITS_SET[hashes ^ np.frombuffer(other, np.uint8)].sum(1, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Likeness:
    """Contents that look alike, as sorted pairs of digests."""

    near: list[tuple[str, str]]  # joins every family of near copies; within a family not every pair is listed
    suspects: list[tuple[str, str]]  # `near` included
    cut_short: bool = False  # there are more than `MAX_SUSPECTS`


NOTHING_ALIKE = Likeness([], [])


def likeness(marks: Mapping[str, bytes]) -> Likeness:
    """Find what looks alike among contents, given their marks by digest; an empty mark takes no part.

    Time and memory are bounded whatever the images.
    """
    digests, table = _table(marks)
    families = _Families(len(digests))
    suspects: set[tuple[int, int]] = set()
    for pairs in _candidates(table[:, :HASH_BYTES]):
        pairs = families.apart(pairs)
        distance = _distance(table, pairs)
        pairs, distance = pairs[distance <= SUSPECT_BITS], distance[distance <= SUSPECT_BITS]
        close = (distance <= NEAR_BITS) & (_correlation(table, pairs) >= NEAR_CORRELATION)
        families.join(pairs[close])
        room = max(0, MAX_SUSPECTS + 1 - len(suspects))
        suspects.update((i, j) for i, j in pairs[~close][:room].tolist())
    near = sorted((digests[i], digests[j]) for i, j in families.joints)
    suspect_pairs = sorted((digests[i], digests[j]) for i, j in suspects)[:MAX_SUSPECTS]
    return Likeness(near, sorted(near + suspect_pairs), len(suspects) > MAX_SUSPECTS)


def _table(marks: Mapping[str, bytes]) -> tuple[list[str], np.ndarray]:
    """Return the digests of images with detail in them, sorted, and their marks: (N, MARK_BYTES)."""
    digests = sorted(digest for digest, mark in marks.items() if len(mark) == MARK_BYTES)
    table = np.frombuffer(b"".join(marks[name] for name in digests), np.uint8).reshape(
        len(digests), MARK_BYTES
    )
    detailed = np.flatnonzero(np.array([row[HASH_BYTES:].std() for row in table]) >= FLAT_LEVELS)
    return [digests[i] for i in detailed], table[detailed]


class _Families:
    """Families of near copies; keeps only the pairs that joined two of them, fewer than there are images."""

    def __init__(self, images: int) -> None:
        self.parent = np.arange(images)  # (N,): a chain from each image to its family's first
        self.joints: list[tuple[int, int]] = []

    def apart(self, pairs: np.ndarray) -> np.ndarray:
        """Return those of the pairs, (M, 2), whose images are not in one family yet."""
        while (self.parent[self.parent] != self.parent).any():
            self.parent = self.parent[self.parent]
        return np.asarray(pairs[self.parent[pairs[:, 0]] != self.parent[pairs[:, 1]]])

    def join(self, pairs: np.ndarray) -> None:
        """Join the families of each pair, (M, 2)."""
        for i, j in pairs.tolist():
            root_a, root_b = self._first(i), self._first(j)
            if root_a != root_b:
                self.parent[max(root_a, root_b)] = min(root_a, root_b)
                self.joints.append((i, j))

    def _first(self, image: int) -> int:
        while self.parent[image] != image:
            image = int(self.parent[image])
        return image


def _candidates(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield arrays (M, 2) of positions i < j whose hashes, (N, 32), share one of their `WORDS` words."""
    if len(hashes) < 2:
        return
    hash_words = np.ascontiguousarray(hashes).view(np.uint16)  # (N, 16)
    by_hash = np.lexsort(hash_words.T)  # so that a crowd's neighbours are those with like hashes
    for word in range(WORDS):
        order = by_hash[np.argsort(hash_words[by_hash, word], kind="stable")]
        value = hash_words[order, word]
        for step in range(1, min(len(order), CROWD_IMAGES)):
            together = np.flatnonzero(value[step:] == value[:-step])
            if not len(together):
                break
            pairs = np.stack([order[together], order[together + step]], axis=1)
            yield np.sort(pairs, axis=1)


def _distance(table: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return in how many bits the hashes of each pair differ: (M,)."""
    left, right = (table[pairs[:, side], :HASH_BYTES] for side in (0, 1))
    return np.asarray(BITS_SET[left ^ right].sum(1, dtype=np.int64))


def _correlation(table: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of the thumbnails of each pair, (M,)."""
    left, right = (_centred(table[pairs[:, side], HASH_BYTES:]) for side in (0, 1))
    lengths = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return np.asarray((left * right).sum(1) / np.maximum(lengths, 1e-9))


def _centred(thumbs: np.ndarray) -> np.ndarray:
    values = thumbs.astype(np.float32)
    return np.asarray(values - values.mean(1, keepdims=True))
