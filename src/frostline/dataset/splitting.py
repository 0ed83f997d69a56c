"""Which part each unit goes to: by a hash of seed and content, so that an image keeps its side.

A unit (`folding.unit_ids`) is held out when its hash, uniform in [0, 1), lies below the fraction; who else is
there does not matter. Two exceptions, both by the same order of hashes: where a class's held-out share strays
below half or above twice what was asked, the units nearest the threshold move; and few groups that span the
classes (six speakers) are shared out whole, as evenly as they allow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Below this many units of equal weight (Kish's effective number, n²/Σsize²) a threshold alone is too uneven:
# at 50 units and a fifth held out, the share's standard deviation is .06, a third of itself.
FEW_UNITS = 50

# A class's held-out share may stray by chance between these multiples of what was asked before units move.
# Wide on purpose: each move is an image that may change sides when others come or go.
SHARE_LOW, SHARE_HIGH = 0.5, 2.0


@dataclass(slots=True)
class Shares:
    """How many images of each of C classes each of U units holds, and which units are held out so far."""

    rows: np.ndarray  # (M, 3) unit, class, images; sorted by unit
    held: np.ndarray  # (U,) bool
    images: np.ndarray  # (C,)
    held_images: np.ndarray  # (C,)

    @classmethod
    def of(cls, targets: np.ndarray, units: np.ndarray) -> Shares:
        """Count images; nothing is held out yet. `targets` and `units` are (N,)."""
        pairs, counts = np.unique(np.stack([units, targets], 1), axis=0, return_counts=True)
        images = np.bincount(targets)
        held = np.zeros(int(units.max()) + 1, dtype=bool)
        return cls(np.column_stack([pairs, counts]), held, images, np.zeros_like(images))

    @property
    def sizes(self) -> np.ndarray:
        """Images in each unit: (U,)."""
        return np.bincount(self.rows[:, 0], self.rows[:, 2]).astype(np.int64)

    def move(self, unit: int, into: bool, but: int = -1) -> bool:
        """Move a unit to the held-out side, or back, unless that empties a class of its other than `but`."""
        start, stop = np.searchsorted(self.rows[:, 0], [unit, unit + 1])
        labels, counts = self.rows[start:stop, 1], self.rows[start:stop, 2]
        behind = (self.images - self.held_images if into else self.held_images)[labels] - counts
        if self.held[unit] == into or ((behind <= 0) & (labels != but)).any():
            return False
        self.put(unit, into)
        return True

    def put(self, unit: int, into: bool) -> None:
        """Move a unit whatever it leaves behind."""
        start, stop = np.searchsorted(self.rows[:, 0], [unit, unit + 1])
        if self.held[unit] != into:
            self.held[unit] = into
            self.held_images[self.rows[start:stop, 1]] += self.rows[start:stop, 2] * (1 if into else -1)


def unit_keys(units: np.ndarray, groups: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Return a name per unit 0 … U-1: its first group's, else its smallest digest."""
    names: dict[int, str] = {}
    for unit, group, digest in zip(units.tolist(), groups, digests, strict=True):
        name = f"group {group}" if group else f"image {digest}"  # "group" sorts before "image"
        names[unit] = min(names.get(unit, name), name)
    return [names[unit] for unit in range(len(names))]


def hold_out(
    targets: np.ndarray, units: np.ndarray, keys: Sequence[str], fraction: float, seed: int, part: str
) -> np.ndarray:
    """Return which images are held out for `part`: (N,) bool.

    `targets` (N,) are classes, `units` (N,) are 0 … U-1, `keys` (U,) their names (`unit_keys`). Every class
    with two units or more keeps an image on either side, unless its units are tied to other classes' scarce
    ones; `fraction` 0 holds out nothing.
    """
    if fraction <= 0 or not len(units):
        return np.zeros(len(units), dtype=bool)
    shares = Shares.of(targets, units)
    places = np.array([_place(seed, part, key) for key in keys])
    whole = shared_out_whole(shares)
    for unit in np.flatnonzero(_by_rank(shares.sizes, places, fraction) if whole else places < fraction):
        shares.put(int(unit), into=True)
    low, high = (0.0, np.inf) if whole else (SHARE_LOW * fraction, SHARE_HIGH * fraction)
    for label in np.argsort(shares.images, kind="stable"):  # rare classes first: they have the least choice
        _mend(shares, places, int(label), low, high)
    return np.asarray(shares.held[units])


def shared_out_whole(shares: Shares) -> bool:
    """Whether units are so few, and most of them so mixed, that they are shared out by rank."""
    sizes = shares.sizes
    effective = sizes.sum() ** 2 / (sizes**2).sum()
    mixed = sizes[np.bincount(shares.rows[:, 0]) > 1].sum()
    return bool(effective < FEW_UNITS and mixed > sizes.sum() / 2)


def _place(seed: int, part: str, key: str) -> float:
    """Return a unit's place in [0, 1), decided by nothing but the arguments."""
    text = f"{seed}\0{part}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56


def _by_rank(sizes: np.ndarray, places: np.ndarray, fraction: float) -> np.ndarray:
    """Hold out units in the order of their places while that brings the share nearer: (U,) bool."""
    held = np.zeros(len(sizes), dtype=bool)
    missing = fraction * sizes.sum()
    for unit in np.argsort(places, kind="stable"):
        if abs(missing - sizes[unit]) < abs(missing):
            held[unit] = True
            missing -= sizes[unit]
    return held


def _mend(shares: Shares, places: np.ndarray, label: int, low: float, high: float) -> None:
    """Move units of one class, nearest the threshold first, until its share held out is `low` to `high`."""
    mine = shares.rows[shares.rows[:, 1] == label]
    units, counts = mine[:, 0], mine[:, 2]
    if len(units) < 2:
        for unit in units:
            shares.put(int(unit), into=False)  # a class that is one unit can only train
        return
    images = int(counts.sum())
    least, most = max(1, int(low * images)), max(1, int(min(high, 1.0) * images))
    excess = shares.held_images[label] - least
    for at in np.lexsort((-places[units], counts > excess)):  # outward; what leaves too few comes last
        now = shares.held_images[label]
        if now <= most and now < images:
            break
        shares.move(int(units[at]), into=False, but=label)
    for at in np.lexsort((places[units], counts > most)):  # inward; what overshoots alone comes last
        now = shares.held_images[label]
        if now >= least:
            break
        if now == 0 or now + counts[at] <= most:
            shares.move(int(units[at]), into=True)
