"""`evaluate`: finished models on labelled images, with intervals, apart from images they learned from.

loaded_models, other_predictions      whose predictions they are: models, and a table of another system's
aligned_predictions                   predictions aligned with labels, and the figures they give
results                               what `evaluate` returns
evaluating                            the function `evaluate`
"""

from __future__ import annotations

from frostline.pipelines.evaluation.evaluating import evaluate
from frostline.pipelines.evaluation.results import (
    Estimate,
    Evaluation,
    Figures,
    PairedDifference,
)

__all__ = ["Estimate", "Evaluation", "Figures", "PairedDifference", "evaluate"]
