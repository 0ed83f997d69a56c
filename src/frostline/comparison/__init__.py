"""`compare`: strategies race under a budget and share one store; who won, and whether that means anything.

screening (which backbones are worth it, by probes)
cells (new splits, no test image) · race (who climbs, as data) · judging (paired, by images and repeats)
candidates (what races) · joining (what was trained before) · ledger (who runs what: Optuna)
→ comparing (`compare`) → concluding (who won) · evidence (how it was judged)
"""

from frostline.comparison.cells import (
    FEW_IMAGES,
    FOLDS,
    NothingHeldOut,
    folds_of,
    pool,
    spread_of_folds,
)
from frostline.comparison.comparing import compare
from frostline.comparison.concluding import Comparison, NoTime
from frostline.comparison.contest import sub_study
from frostline.comparison.screening import SURVIVORS, Limits, Screened, screen

__all__ = [
    "FEW_IMAGES",
    "FOLDS",
    "SURVIVORS",
    "Comparison",
    "Limits",
    "NoTime",
    "NothingHeldOut",
    "Screened",
    "compare",
    "folds_of",
    "pool",
    "screen",
    "spread_of_folds",
    "sub_study",
]
