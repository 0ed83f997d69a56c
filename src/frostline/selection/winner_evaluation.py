"""Record how a winner was evaluated, so that other runs of its study can be compared with it. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from frostline import metrics
from frostline.selection import resampling
from frostline.selection.compare_request import CompareRequest
from frostline.selection.resampling import Cell
from frostline.selection.significance import HeldOutPredictions
from frostline.studies.study_folder import digest_of


def evidence(
    request: CompareRequest, folds: int, predictions: HeldOutPredictions, ranked: bool
) -> dict[str, Any]:
    """Return what `best_of` reads of a winner: the settings of its runs, its folds and its scores.

    Only the settings if it was not `ranked` with its whole schedule on every fold of a repeat. `val` holds
    the scores on the study's own val set, and is `None` if its runs did not hold out all of it.
    """
    settings = {"settings": request.settings}
    if not ranked:
        return settings
    metric = request.metric
    split_digests = [
        resampling.split(request.data, Cell(0, fold), request.config.seed).split_digest
        for fold in range(folds)
    ]
    return {
        **settings,
        "folds": digest_of(split_digests)[:16],
        "score": predictions.score(metric),
        "accuracy": predictions.accuracy_interval()[0],
        "val": _on_val(request, predictions, metric),
    }


def _on_val(
    request: CompareRequest, predictions: HeldOutPredictions, metric: metrics.Metric
) -> dict[str, float] | None:
    """Return the scores on the val set, over the repeats that held out all of it."""
    is_val = np.array([sample.split == "val" for sample in resampling.pool(request.data)])
    on_val = is_val[predictions.images]
    complete = [
        r
        for r in np.unique(predictions.repeats)
        if (on_val & (predictions.repeats == r)).sum() == is_val.sum()
    ]
    if not is_val.any() or not complete:
        return None
    val_predictions = predictions.rows(on_val & np.isin(predictions.repeats, complete))
    return {"accuracy": val_predictions.accuracy_interval()[0], "goodness": val_predictions.score(metric)}
