"""How a winner was judged, so that other runs of its study can be set beside it. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from frostline.selection import resampling
from frostline.selection.request import CompareRequest
from frostline.selection.resampling import Cell
from frostline.selection.significance import Held
from frostline.studies.study_folder import digest_of


def evidence(request: CompareRequest, folds: int, mine: Held, seen: bool) -> dict[str, Any]:
    """Return what `best_of` reads of a winner: the settings of its runs, its folds, its figures.

    The settings alone where it was not `seen` with its whole schedule on every fold of a repeat. `val` is of
    the study's own val part, whose images its runs had held out; null where they had not, or there is none.
    """
    settings = {"settings": request.settings}
    if not seen:
        return settings
    metric = request.config.metric
    parts = [
        resampling.split(request.data, Cell(0, fold), request.config.seed).split_digest
        for fold in range(folds)
    ]
    return {
        **settings,
        "folds": digest_of(parts)[:16],
        "score": mine.score(metric),
        "accuracy": mine.accuracy_interval()[0],
        "val": _on_val(request, mine, metric),
    }


def _on_val(request: CompareRequest, mine: Held, metric: str) -> dict[str, float] | None:
    """Return the figures on the val part, over the repeats that held out all of it."""
    part = np.array([sample.split == "val" for sample in resampling.pool(request.data)])
    there = part[mine.images]
    whole = [r for r in np.unique(mine.repeats) if (there & (mine.repeats == r)).sum() == part.sum()]
    if not part.any() or not whole:
        return None
    held = mine.rows(there & np.isin(mine.repeats, whole))
    return {"accuracy": held.accuracy_interval()[0], "goodness": held.score(metric)}
