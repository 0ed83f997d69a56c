"""`compare`: strategies race under a budget and share one store; who won, and whether that means anything.

screening (which backbones are worth it, by probes)
cells (new splits, no test image) · race (who climbs, as data) · anytime, board (what is run next while
minutes last) · judging (paired, by images and repeats)
candidates (what races) · joining (what was trained before) · ledger (who runs what: Optuna)
→ comparing (`compare`) → settling (who won) → concluding (the winner trained, the result) · evidence
"""

from frostline.selection.anytime import expected_s
from frostline.selection.backbone_selection import SURVIVORS, Limits, ScreeningResult, screen
from frostline.selection.comparison import MEASURING, compare
from frostline.selection.conclusion import Comparison, NoTime
from frostline.selection.resampling import FEW_IMAGES, FOLDS, NothingHeldOut, folds_of, pool, spread_of_folds
from frostline.selection.runner import ENDING_S, sub_study
from frostline.selection.scoreboard import CandidateCost, Terms

__all__ = [
    "ENDING_S",
    "FEW_IMAGES",
    "FOLDS",
    "MEASURING",
    "SURVIVORS",
    "CandidateCost",
    "Comparison",
    "Limits",
    "NoTime",
    "NothingHeldOut",
    "ScreeningResult",
    "Terms",
    "compare",
    "expected_s",
    "folds_of",
    "pool",
    "screen",
    "spread_of_folds",
    "sub_study",
]
