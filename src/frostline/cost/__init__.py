"""Predict the seconds and bytes of a run: arithmetic on measured rates. Imports no torch.

cache_tradeoff (views, and which features are cached) · decoding_overlap (decoding beside computing) → rates →
run_time (a run, step by step) · peak_memory → estimate (`predict`)

The rates come from `frostline.profiling.measure`, or from wherever `Rates.as_dict` was written.
"""

from frostline.cost.cache_tradeoff import Choice, RowRates, read_or_recompute
from frostline.cost.decoding_overlap import Bottleneck, Pipeline
from frostline.cost.estimate import Cost, predict
from frostline.cost.rates import Learning, Line, Peaks, Rates, StageRates

__all__ = [
    "Bottleneck",
    "Choice",
    "Cost",
    "Learning",
    "Line",
    "Peaks",
    "Pipeline",
    "Rates",
    "RowRates",
    "StageRates",
    "predict",
    "read_or_recompute",
]
