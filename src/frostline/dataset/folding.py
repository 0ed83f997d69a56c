"""Units that must never be separated, and cross-validation folds that keep them whole.

A unit is what hangs together through a shared group, identical content or a strict near copy; an image with
none of these is a unit of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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


def folds(targets: np.ndarray, units: np.ndarray, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to `k` pairs (learn, hold) of positions: stratified by class, units kept whole.

    `targets` and `units` are (N,). As many folds as the scarcest class has units, among classes with two or
    more; a class that is a single unit cannot be on both sides and does not count. Empty where nothing fits.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    per_class = {label: len(np.unique(units[targets == label])) for label in np.unique(targets)}
    k = min([k, *(count for count in per_class.values() if count > 1)])
    if k < 2 or len(np.unique(units)) < 2 or max(per_class.values()) < 2:
        return []
    strata = _merge_scarce(targets, per_class, k)
    alone = len(np.unique(units)) == len(units)
    maker = (StratifiedKFold if alone else StratifiedGroupKFold)(k, shuffle=True, random_state=seed)
    pairs = maker.split(np.zeros(len(targets)), strata, None if alone else units)
    return [(learn, hold) for learn, hold in pairs if len(learn) and len(hold)]


def _merge_scarce(targets: np.ndarray, per_class: dict[int, int], k: int) -> np.ndarray:
    """Count classes with fewer than `k` units to the commonest one, which only stratification sees: (N,)."""
    commonest = max(per_class, key=lambda label: per_class[label])
    scarce = [label for label, count in per_class.items() if count < k]
    return np.where(np.isin(targets, scarce), commonest, targets)
