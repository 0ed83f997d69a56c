"""Units that must never be separated, and cross-validation folds that keep them whole.

A unit is what hangs together through a shared group, identical content or a strict near copy; an image with
none of these is a unit of its own. Units are dealt to folds in the order of a hash, each to the fold that has
least of its classes; those that had a fold before keep it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frostline.config import FOLDS
from frostline.data.splits.splitting import contents, place

Pairs = list[tuple[np.ndarray, np.ndarray]]  # positions to learn from and to hold out, for each fold


def unit_ids(
    groups: Sequence[str], digests: Sequence[str], near_copies: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return an id per image, (N,), int64: the connected components over groups, digests and pairs.

    `near_copies` holds positions. An empty group joins nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    anchors: dict[tuple[str, str], int] = {}
    edges = list(near_copies)
    for position, (group, digest) in enumerate(zip(groups, digests, strict=True)):
        edges.append((position, anchors.setdefault(("digest", digest), position)))
        if group:
            edges.append((position, anchors.setdefault(("group", group), position)))
    if not edges:
        return np.zeros(0, dtype=np.int64)
    ends = np.array(edges, dtype=np.int64)  # (edges, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(groups),) * 2)
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def fold_of(
    targets: np.ndarray,
    units: np.ndarray,
    keys: Sequence[str],
    k: int,
    seed: int,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fold that holds out each image: (N,) int64, 0 … folds-1, or empty where nothing fits.

    `targets` (N,) are classes, `units` (N,) are 0 … U-1, `keys` (U,) their names, `before` (N,) the fold that
    an image was in, -1 for one that is new. There are as many folds as before; at first `k`, or as many as
    the scarcest class has units, among classes with two or more. Of a class whose units hold no other, no two
    folds differ by more than a unit, as far as what was there before allows. A unit whose images were in
    several folds goes to the one that had most of them.
    """
    earlier = (
        np.full(len(targets), -1, dtype=np.int64) if before is None else np.where(before < k, before, -1)
    )
    k = _count(targets, units, k, earlier)
    if not k:
        return np.zeros(0, dtype=np.int64)
    unit_contents, sizes = contents(targets, units), np.bincount(units).tolist()
    images: list[int] = np.bincount(targets).tolist()
    load = [[0] * len(images) for _ in range(k)]  # images of each class that each fold has
    total = [0] * k
    fold = np.full(len(keys), -1, dtype=np.int64)

    def put(unit: int, into: int) -> None:
        fold[unit] = into
        total[into] += sizes[unit]
        for label, size in unit_contents[unit]:
            load[into][label] += size

    for unit, into in _remembered(units, earlier, k).items():
        put(unit, into)
    free = np.flatnonzero(fold < 0).tolist()
    rank = {unit: (-sizes[unit], place(seed, "fold", keys[unit])) for unit in free}
    for unit in sorted(free, key=rank.__getitem__):  # large ones first: small ones even out
        cost = [
            (
                sum(size * fold_load[label] / images[label] for label, size in unit_contents[unit]),
                total[at],
                at,
            )
            for at, fold_load in enumerate(load)
        ]
        put(unit, min(cost)[2])
    return np.asarray(fold[units])


def _count(targets: np.ndarray, units: np.ndarray, k: int, earlier: np.ndarray) -> int:
    """Return how many folds there are; 0 where nothing can be held out."""
    pairs = np.unique(np.stack([targets, units], 1), axis=0)
    per_class = np.bincount(pairs[:, 0]) if len(pairs) else np.zeros(1, dtype=np.int64)
    several = per_class[per_class > 1]
    if not len(several) or len(np.unique(units)) < 2:
        return 0
    most = int(earlier.max()) + 1
    return most if most > 1 else min(k, int(several.min()))


def _remembered(units: np.ndarray, earlier: np.ndarray, k: int) -> dict[int, int]:
    """Return the fold of each unit that had one: where most of its images were, the first of equals."""
    assigned = np.flatnonzero(earlier >= 0)
    unit_folds, votes = np.unique(units[assigned] * k + earlier[assigned], return_counts=True)
    order = np.lexsort((-unit_folds, votes))  # the last one of a unit wins
    return {int(unit_folds[at]) // k: int(unit_folds[at]) % k for at in order.tolist()}


def folds(
    targets: np.ndarray,
    units: np.ndarray,
    keys: Sequence[str],
    k: int,
    seed: int,
    before: np.ndarray | None = None,
) -> Pairs:
    """Return the pairs (learn, hold) of positions that `fold_of` makes, without a fold that holds nothing."""
    fold = fold_of(targets, units, keys, k, seed, before)
    pairs = [(np.flatnonzero(fold != at), np.flatnonzero(fold == at)) for at in np.unique(fold).tolist()]
    return pairs if len(pairs) > 1 else []


def numbered(pairs: Pairs, digests: Sequence[str]) -> dict[str, int]:
    """Return the fold that holds out each image; images held out in no fold are left out.

    Parameters
    ----------
    pairs : list of (learn, hold)
        Positions for each fold.
    digests : sequence of str
        Of the images, by position.

    Returns
    -------
    dict of str to int
        Fold by digest.
    """
    return {digests[at]: fold for fold, (_, hold) in enumerate(pairs) for at in hold.tolist()}


def spread_of_folds(folds: int) -> float:
    """Return by what factor a cross-validated accuracy's variance exceeds the variance over images.

    The models of different folds share most training images, so their errors are correlated. The factor is
    1 + folds × held-out share / training share (Nadeau and Bengio 2003).

    Parameters
    ----------
    folds
        Folds of a repeat; 1 for a hold-out.

    Returns
    -------
    float
        Factor of the variance, above 1.
    """
    share = 1 / folds if folds > 1 else 1 / FOLDS
    return 1 + folds * share / (1 - share)
