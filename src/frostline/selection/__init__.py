"""`compare`: compare strategies within a time limit, and test their differences for significance.

backbone_screening (which backbones to train, by probes)
resampling (repeats and folds) · successive_halving (promotion, as data) · scoreboard, anytime (which run is
next within a time limit) · significance (paired tests)
candidates · earlier_runs (what was trained before) · trial_queue (Optuna) · trial_runner (makes the runs)
→ comparison (`compare`) → ranking (the winner) → conclusion (the winner trained, the result) ·
winner_evaluation (how it was judged) · early_stopping (`patience`)
"""

from frostline.errors import NoTime
from frostline.selection.anytime import expected_s
from frostline.selection.backbone_screening import SURVIVORS, Limits, ScreeningResult, screen
from frostline.selection.comparison import MEASURING, compare, demand_operating_point
from frostline.selection.comparison_result import Comparison
from frostline.selection.early_stopping import NothingToStop
from frostline.selection.resampling import FEW_IMAGES, NothingHeldOut, folds_of, pool
from frostline.selection.scoreboard import CandidateCost, Terms
from frostline.selection.trial_runner import ENDING_S, sub_study

__all__ = [
    "ENDING_S",
    "FEW_IMAGES",
    "MEASURING",
    "SURVIVORS",
    "CandidateCost",
    "Comparison",
    "Limits",
    "NoTime",
    "NothingHeldOut",
    "NothingToStop",
    "ScreeningResult",
    "Terms",
    "compare",
    "demand_operating_point",
    "expected_s",
    "folds_of",
    "pool",
    "screen",
    "sub_study",
]
