"""`compare`: strategies race under a budget and share one store; who won, and whether that means anything.

screening (which backbones are worth it, by probes)
cells (new splits, no test image) · race (who climbs, as data) · anytime, board (what is run next while
minutes last) · judging (paired, by images and repeats)
candidates (what races) · joining (what was trained before) · ledger (who runs what: Optuna)
→ comparing (`compare`) → settling (who won) → concluding (the winner trained, the result) · evidence
"""

from frostline.comparison.anytime import expected_s
from frostline.comparison.board import Entrant, Terms
from frostline.comparison.cells import (
    FEW_IMAGES,
    FOLDS,
    NothingHeldOut,
    folds_of,
    pool,
    spread_of_folds,
)
from frostline.comparison.comparing import MEASURING, compare
from frostline.comparison.concluding import Comparison, NoTime
from frostline.comparison.contest import ENDING_S, sub_study
from frostline.comparison.screening import SURVIVORS, Limits, Screened, screen

__all__ = [
    "ENDING_S",
    "FEW_IMAGES",
    "FOLDS",
    "MEASURING",
    "SURVIVORS",
    "Comparison",
    "Entrant",
    "Limits",
    "NoTime",
    "NothingHeldOut",
    "Screened",
    "Terms",
    "compare",
    "expected_s",
    "folds_of",
    "pool",
    "screen",
    "spread_of_folds",
    "sub_study",
]
