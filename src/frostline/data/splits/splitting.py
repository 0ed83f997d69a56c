"""Which units are held out: class by class those of the lowest hashes, up to the rounded share.

A unit (`folding.unit_ids`) has a place in [0, 1) by a hash of the seed and its content. Walked in that order,
a unit is taken where that brings the classes that it holds nearer to their share. For units of one class that
is the rounded share of each class, within half a unit; where units span classes it is a greedy choice. Units
may be pinned to a side beforehand: they count, and never move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def unit_keys(units: np.ndarray, groups: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Return a name per unit 0 … U-1: its first group's, else its smallest digest."""
    names: dict[int, str] = {}
    for unit, group, digest in zip(units.tolist(), groups, digests, strict=True):
        name = f"group {group}" if group else f"image {digest}"  # "group" sorts before "image"
        current = names.get(unit)
        if current is None or name < current:
            names[unit] = name
    return [names[unit] for unit in range(len(names))]


def place(seed: int, purpose: str, key: str) -> float:
    """Return a unit's place in [0, 1), decided by nothing but the arguments."""
    text = f"{seed}\0{purpose}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56


def contents(targets: np.ndarray, units: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return what each of U units holds, as pairs (class, images). `targets` and `units` are (N,)."""
    classes = int(targets.max()) + 1
    pairs, counts = np.unique(units * classes + targets, return_counts=True)
    unit_contents: list[list[tuple[int, int]]] = [[] for _ in range(int(units.max()) + 1)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        unit_contents[pair // classes].append((pair % classes, count))
    return unit_contents


def hold_out(
    targets: np.ndarray,
    units: np.ndarray,
    keys: Sequence[str],
    fraction: float,
    seed: int,
    subset: str,
    pinned: np.ndarray | None = None,
) -> np.ndarray:
    """Return which images are held out for `subset`: (N,) bool.

    `targets` (N,) are classes, `units` (N,) are 0 … U-1, `keys` (U,) their names (`unit_keys`), `pinned` (U,)
    says of each unit 1: held out, -1: not, 0: to be decided. No class is emptied; each that has units to
    decide on gets one held out, unless that would empty a class. `fraction` 0 holds out what is pinned.
    """
    if not len(units):
        return np.zeros(0, dtype=bool)
    fixed = np.zeros(len(keys), dtype=np.int64) if pinned is None else pinned
    held_out = fixed == 1
    if fraction > 0:
        images = np.bincount(targets)
        counts = np.bincount(targets[held_out[units]], minlength=len(images))
        places = {unit: place(seed, subset, keys[unit]) for unit in np.flatnonzero(fixed == 0).tolist()}
        choice = _Choice(contents(targets, units), images, counts, fraction)
        held_out[choice.chosen_units(sorted(places, key=places.__getitem__))] = True
    return np.asarray(held_out[units])


class _Choice:
    """Chooses the units to hold out; tracks what each of C classes still misses of its share."""

    def __init__(
        self, units: list[list[tuple[int, int]]], images: np.ndarray, counts: np.ndarray, fraction: float
    ) -> None:
        """Begin with `counts` of the `images` of each class held out, both (C,)."""
        self._units = units
        self._images: list[int] = images.tolist()
        self._missing: list[float] = (fraction * images - counts).tolist()
        self._left: list[int] = (images - counts).tolist()  # not held out
        self._bare = {label for label, count in enumerate(counts.tolist()) if not count}

    def chosen_units(self, order: Sequence[int]) -> list[int]:
        """Return the units to hold out, of those in `order`."""
        chosen = []
        for unit in order:
            if self._gain(unit) > 0 and self._leaves_some(unit):
                self._take(unit)
                chosen.append(unit)
        return chosen + self._one_of_each(order)

    def _one_of_each(self, order: Sequence[int]) -> list[int]:
        """Take the unit that costs least for each class that has none held out, rare classes first."""
        holding: dict[int, list[int]] = {label: [] for label in self._bare}
        for unit in order if holding else ():
            for label, _ in self._units[unit]:
                if label in holding:
                    holding[label].append(unit)
        chosen = []
        for label in sorted(holding, key=self._images.__getitem__):
            fit = [unit for unit in holding[label] if label in self._bare and self._leaves_some(unit)]
            if fit:
                chosen.append(max(fit, key=self._gain))
                self._take(chosen[-1])
        return chosen

    def _gain(self, unit: int) -> float:
        """Return how much nearer a unit brings classes to their shares: the fall of Σ missing² / images."""
        missing, images = self._missing, self._images
        if len(self._units[unit]) == 1:  # nearly all of them, and there may be many
            label, size = self._units[unit][0]
            return size * (2 * missing[label] - size) / images[label]
        return sum(size * (2 * missing[label] - size) / images[label] for label, size in self._units[unit])

    def _leaves_some(self, unit: int) -> bool:
        return all(size < self._left[label] for label, size in self._units[unit])

    def _take(self, unit: int) -> None:
        for label, size in self._units[unit]:
            self._missing[label] -= size
            self._left[label] -= size
            self._bare.discard(label)
